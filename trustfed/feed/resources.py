"""One resource for istiod, judged again by the feed: whoever wrote it, it is what its key and its version say. Pure.

1. its key is KIND/NAMESPACE/NAME: a kind that is rendered, DNS names, a name of ours (`trustfed-…`)
2. its manifest is at most MAX_MANIFEST bytes, all of them printable ASCII, and its version is their SHA-256 in lower-case hex
3. its manifest is one JSON object of one meaning, whose apiVersion, kind, namespace and name are the key's
4. its labels and annotations are strings, and its label says that it is ours
5. its spec has the form of that kind: no unknown field, no value of another type
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from trustfed.errors import Invalid
from trustfed.proto.istio_kinds import KINDS, plain
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import shown

PREFIX = "trustfed-"
MAX_MANIFEST = 1024 * 1024
MAX_RESOURCES = 20_000
MAX_BYTES = 64 * 1024 * 1024
"""Of all manifests together."""
LABEL = ("app.kubernetes.io/managed-by", "trustfed")
"""What every resource of ours carries: by it and its name a file is known to be ours."""
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"trustfed-[a-z0-9]([a-z0-9.-]{0,242}[a-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MEMBERS = {"apiVersion", "kind", "metadata", "spec"}


@dataclass(frozen=True, slots=True)
class Resource:
    """One Kubernetes object: its key, the SHA-256 of its bytes, when it was first rendered (Unix ms), its bytes."""

    key: str
    version: str
    created_ms: int
    manifest: bytes

    @property
    def kind(self) -> str:
        """As in `kind:`."""
        return self.key.partition("/")[0]

    @property
    def place(self) -> str:
        """NAMESPACE/NAME, as MCP calls it."""
        return self.key.partition("/")[2]


def accept(key: str, version: str, created_ms: int, manifest: bytes) -> Resource:
    """The resource, if it is one. Raises Invalid naming what is wrong with it."""
    resource = whole(key, version, created_ms, manifest)
    parsed(resource)
    return resource


def whole(key: str, version: str, created_ms: int, manifest: bytes) -> Resource:
    """Steps 1 and 2 only: for what this feed accepted before and kept itself. Raises Invalid."""
    check_key(key)  # 1
    what = f"resource {key}"
    if len(manifest) > MAX_MANIFEST:  # 2
        raise Invalid(f"{what} has {len(manifest)} bytes; at most {MAX_MANIFEST} are taken")
    if not plain(manifest):
        raise Invalid(f"{what}: its manifest has other characters than printable ASCII")
    if not _VERSION.fullmatch(version) or hashlib.sha256(manifest).hexdigest() != version:
        raise Invalid(f"{what}: its version is not the SHA-256 of its manifest")
    if not 0 <= created_ms < 2**53:
        raise Invalid(f"{what}: {created_ms} is not a time in Unix milliseconds")
    return Resource(key, version, created_ms, bytes(manifest))


def check_key(key: str) -> None:
    """Raise Invalid unless `key` can be one of ours."""
    kind, _, rest = key.partition("/")
    namespace, _, name = rest.partition("/")
    if kind not in KINDS:
        raise Invalid(f"resource {shown(key)}: {shown(kind)} is none of {', '.join(KINDS)}")
    if not _NAMESPACE.fullmatch(namespace) or not _NAME.fullmatch(name) or ".." in name:
        raise Invalid(f"resource {shown(key)}: its namespace or its name is not allowed", hint=f"names begin {PREFIX}")


def parsed(resource: Resource) -> tuple[dict[str, Any], Message]:
    """Steps 3 to 5: the metadata, and the spec as a message. Raises Invalid."""
    what = f"resource {resource.key}"
    manifest = strict_json.parse_object(resource.manifest, what=what, limit=MAX_MANIFEST)  # 3
    kind = KINDS[resource.kind]
    metadata, spec = manifest.get("metadata"), manifest.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict) or manifest.keys() - _MEMBERS:
        raise Invalid(f"{what}: it must have apiVersion, kind, metadata and spec, and nothing else")
    said = (manifest.get("apiVersion"), manifest.get("kind"), f"{metadata.get('namespace')}/{metadata.get('name')}")
    if said != (kind.api_version, kind.name, resource.place):
        raise Invalid(f"{what}: its manifest says that it is {shown('/'.join(map(str, said)))}")
    for part in ("labels", "annotations"):  # 4
        texts = metadata.get(part, {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise Invalid(f"{what}: its {part} are not all texts")
    if metadata.get("labels", {}).get(LABEL[0]) != LABEL[1]:
        raise Invalid(f"{what}: it lacks the label {LABEL[0]}: {LABEL[1]}")
    try:
        return metadata, ParseDict(spec, kind.message())  # 5
    except ParseError as error:
        raise Invalid(f"{what}: its spec is no {kind.name}: {shown(str(error))}") from None
