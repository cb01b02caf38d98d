"""What a directory of desired state says, checked whole: one error with file, line and field, or everything. Pure.

    apiVersion: trustfed/v1
    kind: Gateway                      # Gateway | Export | Import | Local
    metadata: {name: west-1, owner: team-net}
    spec: {address: 203.0.113.20, port: 15443, network: prod-us-west}

The name of an Export or a Local is the service's host. The members of `spec` are those of trustfed.federation.mesh; a
Local has sidecars, answers, rules (DestinationRules, as Kubernetes shows them) and ports (NUMBER:NAME).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trustfed.cluster.mesh.desired.files import MAX_BYTES, MAX_FILES, File, check_path
from trustfed.cluster.mesh.desired.tree import Node, documents
from trustfed.errors import Invalid
from trustfed.federation.mesh import Item, Unfit, item_of
from trustfed.spiffe.ids import shown

API_VERSION = "trustfed/v1"
MAX_DOCUMENTS = 20_000
KINDS: Mapping[str, str] = {"Gateway": "gateway", "Export": "export", "Import": "import", "Local": "local"}
_TOP = ("apiVersion", "kind", "metadata", "spec")
_LOCAL = ("sidecars", "answers", "rules", "ports")


@dataclass(frozen=True)
class Local:
    """What a document says of a host inside the cluster; checked when it is decided."""

    host: str
    sidecars: str
    answers: tuple[str, ...]
    rules: tuple[Mapping[str, Any], ...]
    ports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """One document: what it wants, and FILE:LINE for whoever is to mend it."""

    kind: str  # gateway | export | import | local
    name: str
    value: Item | Local
    where: str


def read_wanted(files: Sequence[File]) -> dict[tuple[str, str], Wanted]:
    """All documents by (kind, name). Raises Invalid for the first fault, in the order of the files."""
    if len(files) > MAX_FILES or sum(len(file.text) for file in files) > MAX_BYTES:
        raise Invalid(f"the desired state is larger than {MAX_FILES} files or {MAX_BYTES >> 20} MiB")
    found: dict[tuple[str, str], Wanted] = {}
    for file in files:
        check_path(file.path)
        for node in documents(file.path, file.text):
            one = _document(file.path, node)
            earlier = found.get((one.kind, one.name))
            if earlier is not None:
                raise Invalid(f"{one.where}: {one.kind} {one.name} is wanted twice", hint=f"first at {earlier.where}")
            found[one.kind, one.name] = one
            if len(found) > MAX_DOCUMENTS:
                raise Invalid(f"{one.where}: more than {MAX_DOCUMENTS} documents")
    return found


def _document(path: str, node: Node) -> Wanted:
    top = _members(path, node, "the document", _TOP)
    for name in _TOP:
        if name not in top:
            raise Invalid(f"{path}:{node.line}: the document lacks {name}", hint=f"it has {', '.join(_TOP)}")
    version, kind = top["apiVersion"], top["kind"]
    if version.value != API_VERSION:
        raise Invalid(f"{path}:{version.line}: apiVersion is {shown(version.value)}", hint=f"write {API_VERSION}")
    if not isinstance(kind.value, str) or kind.value not in KINDS:
        raise Invalid(f"{path}:{kind.line}: kind is {shown(kind.plain())}", hint=f"one of {', '.join(KINDS)}")
    allowed = ("name",) if kind.value == "Local" else ("name", "owner")
    metadata = _members(path, top["metadata"], "metadata", allowed)
    if "name" not in metadata:
        raise Invalid(f"{path}:{top['metadata'].line}: metadata lacks name")
    for name, one in metadata.items():
        if not isinstance(one.value, str):
            raise Invalid(f"{path}:{one.line}: metadata.{name} is no text", hint=f'quote it: {name}: "..."')
    said, word = str(metadata["name"].value), KINDS[kind.value]
    spec = _members(path, top["spec"], "spec", None)
    where = f"{path}:{node.line}"
    if word == "local":
        return Wanted(word, said, _local(path, top["spec"], spec, said), where)
    first = "host" if word == "export" else "name"
    for name in {first, "owner"} & set(spec):
        raise Invalid(f"{path}:{spec[name].line}: spec.{name} is not allowed", hint="that stands in metadata")
    body: dict[str, object] = {name: one.plain() for name, one in spec.items()}
    body[first] = said
    if "owner" in metadata:
        body["owner"] = metadata["owner"].value
    try:
        item = item_of(word, body)
    except Unfit as error:
        field, line = _place(error.member, first, metadata, spec, top["spec"].line)
        raise Invalid(f"{path}:{line}: {field}: {error.message}", hint=error.hint) from None
    except Invalid as error:
        raise Invalid(f"{where}: {error.message}", hint=error.hint) from None
    return Wanted(word, said, item, where)


def _place(
    member: str, first: str, metadata: Mapping[str, Node], spec: Mapping[str, Node], line: int
) -> tuple[str, int]:
    """The field of the document that a member of an item is, and its line."""
    if member == first and member not in spec:
        return "metadata.name", metadata["name"].line
    if member == "owner":
        return "metadata.owner", metadata["owner"].line
    return f"spec.{member}", spec[member].line if member in spec else line


def _local(path: str, node: Node, spec: Mapping[str, Node], host: str) -> Local:
    for name, one in spec.items():
        if name not in _LOCAL:
            raise Invalid(f"{path}:{one.line}: spec has the unknown field {shown(name)}", hint=f"{', '.join(_LOCAL)}")
    sidecars = spec.get("sidecars")
    if sidecars is None or not isinstance(sidecars.value, str):
        raise Invalid(
            f"{path}:{(sidecars or node).line}: spec.sidecars must say whether sidecars are there",
            hint="absent, all, some or none",
        )
    found: dict[str, list[Any]] = {}
    for name, kind in (("answers", str), ("rules", dict), ("ports", str)):
        listed = spec.get(name, Node([], node.line))
        if not isinstance(listed.value, list) or not all(isinstance(one.value, kind) for one in listed.value):
            raise Invalid(f"{path}:{listed.line}: spec.{name} is no list of {'texts' if kind is str else 'objects'}")
        found[name] = listed.plain()
    return Local(host, sidecars.value, *(tuple(found[name]) for name in ("answers", "rules", "ports")))


def _members(path: str, node: Node, what: str, known: Sequence[str] | None) -> Mapping[str, Node]:
    if not isinstance(node.value, dict):
        raise Invalid(f"{path}:{node.line}: {what} is no mapping", hint="NAME: VALUE, one a line")
    for name, one in node.value.items():
        if known is not None and name not in known:
            raise Invalid(
                f"{path}:{one.line}: {what} has the unknown field {shown(name)}", hint=f"it may have {', '.join(known)}"
            )
    return node.value
