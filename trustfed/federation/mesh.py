"""What a domain says of its mesh: gateways that lead into it, services it exports, services it wants to import.

A value of `Gateway`, `Export` or `Import` is valid however it was made; what it may not be is said once, as Invalid. How
they travel, signed, is trustfed.federation.mesh_statement.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sized
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trustfed.errors import Denied, Invalid
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

MAX_BYTES = 65_536
MAX_PORTS = 32
MAX_IDS = 32
MAX_CALLERS = 256
MAX_LABELS = 8
MAX_SUBSETS = 32
MAX_GROUPS = 16
MAX_OWNER = 128
PORTS = (1, 65_535)
WEIGHTS = (1, 100)
PROTOCOLS = ("HTTP", "HTTP2", "GRPC", "TCP", "TLS", "HTTPS")
Kind: TypeAlias = Literal["gateway", "export", "import"]
KINDS: tuple[Kind, ...] = ("gateway", "export", "import")

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_LOCALITY = re.compile(r"[A-Za-z0-9._-]{1,63}(/[A-Za-z0-9._-]{1,63}){0,2}", re.ASCII)
_NETWORK = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?", re.ASCII)


class Unfit(Invalid):
    """An item that cannot be; `member` is the member of its document that is at fault."""

    def __init__(self, message: str, member: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.member = member


@dataclass(frozen=True)
class Gateway:
    """An east-west entry point of a domain: an IP address, because Istio drops endpoints that are names."""

    name: str
    address: str
    port: int
    network: str
    locality: str = ""
    weight: int = 1
    owner: str = ""

    def __post_init__(self) -> None:
        what = f"gateway {shown(self.name)}"
        _check(_LABEL, self.name, f"the name of {what}", "name", "a DNS label")
        try:
            canonical = str(ipaddress.ip_address(self.address))
        except ValueError:
            canonical = ""
        if not canonical or "%" in canonical:  # a zone is a link of one machine
            raise Unfit(
                f"{what} has the address {shown(self.address)}", "address", hint="an IP address; Istio drops names"
            )
        if canonical != self.address:
            raise Unfit(f"{what} has the address {shown(self.address)}", "address", hint=f"write {canonical}")
        _check_number(self.port, PORTS, f"the port of {what}", "port")
        _check(_NETWORK, self.network, f"the network of {what}", "network", "lower-case letters, digits, . _ and -")
        _check_locality(self.locality, what)
        _check_number(self.weight, WEIGHTS, f"the weight of {what}", "weight")
        _check_owner(self.owner, what)


@dataclass(frozen=True)
class ServicePort:
    """A port of an exported service: number and name must be the same wherever the service is called from."""

    number: int
    name: str
    protocol: str

    def __post_init__(self) -> None:
        what = f"port {shown(self.name)}"
        _check_number(self.number, PORTS, f"the number of {what}", "number")
        _check(_LABEL, self.name, f"the name of {what}", "name", "a DNS label")
        if self.protocol not in PROTOCOLS:
            raise Unfit(
                f"{what} has the protocol {shown(self.protocol)}", "protocol", hint=f"one of {', '.join(PROTOCOLS)}"
            )


@dataclass(frozen=True)
class Export:
    """A service offered to others.

    `answers` are the SPIFFE IDs that may answer, all of the exporting domain; `callers` who may call: exact SPIFFE IDs of
    other domains, or `spiffe://DOMAIN` for all of one. `workload` are the labels of the pods behind it. Nobody may call
    an export without callers.
    """

    host: str  # NAME.NAMESPACE.svc.SUFFIX
    ports: tuple[ServicePort, ...]
    answers: tuple[str, ...]
    callers: tuple[str, ...]
    workload: Mapping[str, str]
    subsets: tuple[str, ...] = ()
    locality: str = ""
    groups: tuple[str, ...] = ()
    owner: str = ""

    def __post_init__(self) -> None:
        what = f"export {shown(self.host)}"
        check_host(self.host, what)
        _check_count(self.ports, 1, MAX_PORTS, f"ports of {what}", "ports")
        _distinct([port.number for port in self.ports], f"a port number of {what}", "ports")
        _distinct([port.name for port in self.ports], f"a port name of {what}", "ports")
        _check_count(self.answers, 1, MAX_IDS, f"answers of {what}", "answers")
        _distinct(self.answers, f"an answering ID of {what}", "answers")
        answers = [_spiffe_id(text, "answers") for text in self.answers]
        domains = {id_.trust_domain for id_ in answers}
        if len(domains) != 1:
            raise Unfit(
                f"{what} is answered by identities of {len(domains)} trust domains",
                "answers",
                hint="only its own may answer",
            )
        for id_ in answers:
            if not id_.path or id_.is_reserved:
                raise Unfit(f"{what} is answered by {id_}, which is no workload's", "answers", hint="spiffe://TD/PATH")
        _check_count(self.callers, 0, MAX_CALLERS, f"callers of {what}", "callers")
        _distinct(self.callers, f"a caller of {what}", "callers")
        for caller in self.callers:
            if caller_domain(caller) in domains:
                raise Unfit(
                    f"{what} names the caller {shown(caller)} of its own domain",
                    "callers",
                    hint="those are not refused",
                )
        _check_count(self.workload, 1, MAX_LABELS, f"workload labels of {what}", "workload")
        for key, value in self.workload.items():
            _check(_KEY, key, f"a workload label of {what}", "workload", "a Kubernetes label key")
            _check(_VALUE, value, f"the workload label {shown(key)} of {what}", "workload", "a Kubernetes label value")
        for texts, most, name in ((self.subsets, MAX_SUBSETS, "subset"), (self.groups, MAX_GROUPS, "group")):
            _check_count(texts, 0, most, f"{name}s of {what}", f"{name}s")
            _distinct(texts, f"a {name} of {what}", f"{name}s")
            for text in texts:
                _check(_LABEL, text, f"a {name} of {what}", f"{name}s", "a DNS label")
        _check_locality(self.locality, what)
        _check_owner(self.owner, what)

    @property
    def name(self) -> str:
        """What tells exports of one domain apart."""
        return self.host

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace of the service."""
        return self.host.split(".")[1]


@dataclass(frozen=True)
class Import:
    """That a domain wants to call services of another one: one host, all of a namespace, or all of a group."""

    name: str
    exporter: str
    host: str = ""
    namespace: str = ""
    group: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        what = f"import {shown(self.name)}"
        _check(_LABEL, self.name, f"the name of {what}", "name", "a DNS label")
        try:
            TrustDomain(self.exporter)
        except Invalid as error:
            raise Unfit(f"{what} has an exporter that is none: {error.message}", "exporter", hint=error.hint) from None
        if sum(map(bool, (self.host, self.namespace, self.group))) != 1:
            raise Unfit(f"{what} must name exactly one of host, namespace and group", "host")
        if self.host:
            check_host(self.host, what)
        for text, field_ in ((self.namespace, "namespace"), (self.group, "group")):
            if text:
                _check(_LABEL, text, f"the {field_} of {what}", field_, "a DNS label")
        _check_owner(self.owner, what)

    def wants(self, exporter: str, export: Export) -> bool:
        """Whether this is among what is wanted."""
        if exporter != self.exporter:
            return False
        return self.host == export.host or self.namespace == export.namespace or self.group in export.groups


Item: TypeAlias = Gateway | Export | Import


def kind_of(item: Item) -> Kind:
    """The kind that an item is."""
    return "gateway" if isinstance(item, Gateway) else "export" if isinstance(item, Export) else "import"


def write_item(item: Item) -> bytes:
    """The one spelling of an item: canonical JSON, members with empty values left out."""
    return strict_json.write(body_of(item))


def read_item(kind: str, data: bytes) -> Item:
    """The item in `data`. Raises Invalid, also for members that this kind does not have."""
    what = f"the {shown(kind)}"
    return item_of(kind, strict_json.parse_object(data, what=what, limit=MAX_BYTES))


def item_of(kind: str, body: Mapping[str, object]) -> Item:
    """The item that a parsed document describes (`ports` a list of {number, name, protocol}). Raises Invalid."""
    what = f"the {shown(kind)}"
    if kind == "gateway":
        found = _members(body, _GATEWAY, what)
        return Gateway(**found)  # type: ignore[arg-type]
    if kind == "export":
        found = _members(body, _EXPORT, what)
        ports = found.pop("ports", ())
        if not isinstance(ports, tuple) or not all(isinstance(port, dict) for port in ports):
            raise Unfit(f"ports of {what} must be a list of {{number, name, protocol}}", "ports")
        try:
            made = tuple(ServicePort(**_members(port, _PORT, f"a port of {what}")) for port in ports)  # type: ignore[arg-type]
        except Unfit as error:
            raise Unfit(error.message, "ports", hint=error.hint) from None
        return Export(ports=made, **found)  # type: ignore[arg-type]
    if kind == "import":
        return Import(**_members(body, _IMPORT, what))  # type: ignore[arg-type]
    raise Invalid(f"{shown(kind)} is no kind of a mesh statement", hint=f"one of {', '.join(KINDS)}")


def check_own(trust_domain: TrustDomain, item: Item) -> None:
    """Raise Denied if a domain may not say this: an export that another domain answers, an import from itself."""
    if isinstance(item, Export) and SpiffeId.parse(item.answers[0]).trust_domain != trust_domain:
        raise Denied(
            f"{trust_domain} exports {item.host}, answered by {item.answers[0]}", hint="only its own may answer"
        )
    if isinstance(item, Import) and item.exporter == trust_domain.name:
        raise Denied(f"{trust_domain} imports from itself")


def caller_domain(caller: str) -> TrustDomain:
    """The trust domain of a caller, which is a SPIFFE ID or `spiffe://DOMAIN`. Raises Invalid."""
    return _spiffe_id(caller, "callers").trust_domain


def check_host(host: str, what: str) -> None:
    """Raise Invalid unless `host` is the full name of a Kubernetes Service: NAME.NAMESPACE.svc.SUFFIX, no wildcard."""
    labels = host.split(".") if len(host) <= 253 else []
    # istiod takes no host that ends in a number, and with one such document none of its directory.
    numeric = bool(labels) and labels[-1].isdigit()
    if len(labels) < 4 or labels[2] != "svc" or numeric or not all(_LABEL.fullmatch(label) for label in labels):
        raise Unfit(
            f"{what} has the host {shown(host)}", "host", hint="NAME.NAMESPACE.svc.cluster.local, in lower case"
        )


_GATEWAY: Mapping[str, type] = {
    "name": str, "address": str, "port": int, "network": str, "locality": str, "weight": int, "owner": str,
}  # fmt: skip
_PORT: Mapping[str, type] = {"number": int, "name": str, "protocol": str}
_EXPORT: Mapping[str, type] = {
    "host": str, "ports": list, "answers": list, "callers": list, "workload": dict, "subsets": list, "locality": str,
    "groups": list, "owner": str,
}  # fmt: skip
_IMPORT: Mapping[str, type] = {
    "name": str, "exporter": str, "host": str, "namespace": str, "group": str, "owner": str,
}  # fmt: skip
_NEEDED = {
    id(_GATEWAY): ("name", "address", "port", "network"),
    id(_PORT): ("number", "name", "protocol"),
    id(_EXPORT): ("host", "ports", "answers", "workload"),
    id(_IMPORT): ("name", "exporter"),
}


def _members(body: Mapping[str, object], known: Mapping[str, type], what: str) -> dict[str, object]:
    """The members of a document with their types checked; lists of texts become tuples."""
    if unknown := sorted(set(map(str, body)) - set(known)):
        hint = f"it may have {', '.join(known)}"
        raise Unfit(f"{what} has the unknown member {shown(unknown[0])}", unknown[0], hint=hint)
    if missing := [name for name in _NEEDED[id(known)] if name not in body]:
        raise Unfit(f"{what} lacks {missing[0]}", missing[0])
    found: dict[str, object] = {}
    for name, value in body.items():
        if type(value) is not known[name]:
            raise Unfit(f"{name} of {what} is no {known[name].__name__}: {shown(value)}", name)
        if isinstance(value, list):
            if name != "ports" and not all(type(one) is str for one in value):
                raise Unfit(f"{name} of {what} is not a list of texts", name)
            value = tuple(value)  # noqa: PLW2901
        if isinstance(value, dict) and not all(type(t) is str for pair in value.items() for t in pair):
            raise Unfit(f"{name} of {what} does not map texts to texts", name)
        found[name] = value
    if known is _EXPORT:
        found.setdefault("callers", ())
    return found


def body_of(item: Item) -> dict[str, object]:
    """The document that `item_of` reads; members with empty values are left out."""
    body: dict[str, object] = {}
    for name in _GATEWAY if isinstance(item, Gateway) else _EXPORT if isinstance(item, Export) else _IMPORT:
        value = getattr(item, name)
        if name == "ports":
            body[name] = [{"number": p.number, "name": p.name, "protocol": p.protocol} for p in value]
        elif isinstance(value, Mapping):
            body[name] = dict(value)
        elif value not in ("", ()):
            body[name] = list(value) if isinstance(value, tuple) else value
    return body


def _spiffe_id(text: str, member: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except Invalid as error:
        raise Unfit(error.message, member, hint=error.hint) from None


def _check(pattern: re.Pattern[str], text: str, what: str, member: str, wanted: str) -> None:
    if not pattern.fullmatch(text):
        raise Unfit(f"{what} is {shown(text)}", member, hint=wanted)


def _check_number(number: int, bounds: tuple[int, int], what: str, member: str) -> None:
    if type(number) is not int or not bounds[0] <= number <= bounds[1]:
        raise Unfit(f"{what} is {shown(number)}", member, hint=f"{bounds[0]} to {bounds[1]}")


def _check_locality(locality: str, what: str) -> None:
    if locality:
        _check(_LOCALITY, locality, f"the locality of {what}", "locality", "REGION, REGION/ZONE or REGION/ZONE/SUBZONE")


def _check_owner(owner: str, what: str) -> None:
    if len(owner) > MAX_OWNER or not owner.isprintable():
        raise Unfit(f"the owner of {what} is {shown(owner)}", "owner", hint=f"at most {MAX_OWNER} printable characters")


def _check_count(things: Sized, least: int, most: int, what: str, member: str) -> None:
    if not least <= len(things) <= most:
        raise Unfit(f"{what}: {len(things)} are named", member, hint=f"{least} to {most}")


def _distinct(things: Collection[object], what: str, member: str) -> None:
    if len(set(things)) != len(things):
        raise Unfit(f"{what} is named twice", member)
