"""What a domain says of its mesh: gateways that lead into it, services it exports, services it wants to import.

A value of `Gateway`, `Export` or `Import` is valid however it was made; what it may not be is said once, as Invalid. How
they travel, signed, is trustfed.federation.mesh_statement.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
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
WEIGHTS = (1, 100)
PROTOCOLS = ("HTTP", "HTTP2", "GRPC", "TCP", "TLS", "HTTPS")
Kind: TypeAlias = Literal["gateway", "export", "import"]
KINDS: tuple[Kind, ...] = ("gateway", "export", "import")

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_LOCALITY = re.compile(r"[A-Za-z0-9._-]{1,63}(/[A-Za-z0-9._-]{1,63}){0,2}", re.ASCII)
_NETWORK = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?", re.ASCII)


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
        _check(_LABEL, self.name, f"the name of {what}", "a DNS label")
        try:
            canonical = str(ipaddress.ip_address(self.address))
        except ValueError:
            raise Invalid(
                f"{what} has the address {shown(self.address)}", hint="an IP address; Istio drops names"
            ) from None
        if canonical != self.address:
            raise Invalid(f"{what} has the address {shown(self.address)}", hint=f"write {canonical}")
        _check_port(self.port, what)
        _check(_NETWORK, self.network, f"the network of {what}", "lower-case letters, digits, . _ and -")
        _check_locality(self.locality, what)
        _check_number(self.weight, WEIGHTS, f"the weight of {what}")
        _check_owner(self.owner, what)


@dataclass(frozen=True)
class ServicePort:
    """A port of an exported service: number and name must be the same wherever the service is called from."""

    number: int
    name: str
    protocol: str

    def __post_init__(self) -> None:
        what = f"port {shown(self.name)}"
        _check_port(self.number, what)
        _check(_LABEL, self.name, f"the name of {what}", "a DNS label")
        if self.protocol not in PROTOCOLS:
            raise Invalid(f"{what} has the protocol {shown(self.protocol)}", hint=f"one of {', '.join(PROTOCOLS)}")


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
        _check_count(self.ports, 1, MAX_PORTS, f"ports of {what}")
        _distinct([port.number for port in self.ports], f"a port number of {what}")
        _distinct([port.name for port in self.ports], f"a port name of {what}")
        _check_count(self.answers, 1, MAX_IDS, f"answers of {what}")
        _distinct(self.answers, f"an answering ID of {what}")
        domains = {SpiffeId.parse(id_).trust_domain for id_ in self.answers}
        if len(domains) != 1:
            raise Invalid(
                f"{what} is answered by identities of {len(domains)} trust domains", hint="only its own may answer"
            )
        _check_count(self.callers, 0, MAX_CALLERS, f"callers of {what}")
        _distinct(self.callers, f"a caller of {what}")
        for caller in self.callers:
            if caller_domain(caller) in domains:
                raise Invalid(
                    f"{what} names the caller {shown(caller)} of its own domain", hint="those are not refused"
                )
        _check_count(self.workload, 1, MAX_LABELS, f"workload labels of {what}")
        for key, value in self.workload.items():
            _check(_KEY, key, f"a workload label of {what}", "a Kubernetes label key")
            _check(_VALUE, value, f"the workload label {shown(key)} of {what}", "a Kubernetes label value")
        for texts, most, name in ((self.subsets, MAX_SUBSETS, "subset"), (self.groups, MAX_GROUPS, "group")):
            _check_count(texts, 0, most, f"{name}s of {what}")
            _distinct(texts, f"a {name} of {what}")
            for text in texts:
                _check(_LABEL, text, f"a {name} of {what}", "a DNS label")
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
        _check(_LABEL, self.name, f"the name of {what}", "a DNS label")
        TrustDomain.parse(self.exporter)
        if sum(map(bool, (self.host, self.namespace, self.group))) != 1:
            raise Invalid(f"{what} must name exactly one of host, namespace and group")
        if self.host:
            check_host(self.host, what)
        for text, field_ in ((self.namespace, "namespace"), (self.group, "group")):
            if text:
                _check(_LABEL, text, f"the {field_} of {what}", "a DNS label")
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
            raise Invalid(f"ports of {what} must be a list of {{number, name, protocol}}")
        made = tuple(ServicePort(**_members(port, _PORT, f"a port of {what}")) for port in ports)  # type: ignore[arg-type]
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
    rest = caller.removeprefix("spiffe://")
    if rest != caller and "/" not in rest:
        return TrustDomain.parse(rest)
    return SpiffeId.parse(caller).trust_domain


def check_host(host: str, what: str) -> None:
    """Raise Invalid unless `host` is the full name of a Kubernetes Service: NAME.NAMESPACE.svc.SUFFIX, no wildcard."""
    labels = host.split(".") if len(host) <= 253 else []
    if len(labels) < 4 or labels[2] != "svc" or not all(_LABEL.fullmatch(label) for label in labels):
        raise Invalid(f"{what} has the host {shown(host)}", hint="NAME.NAMESPACE.svc.cluster.local, in lower case")


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
        raise Invalid(f"{what} has the unknown member {shown(unknown[0])}", hint=f"it may have {', '.join(known)}")
    if missing := [name for name in _NEEDED[id(known)] if name not in body]:
        raise Invalid(f"{what} lacks {missing[0]}")
    found: dict[str, object] = {}
    for name, value in body.items():
        if type(value) is not known[name]:
            raise Invalid(f"{name} of {what} is no {known[name].__name__}: {shown(value)}")
        if isinstance(value, list):
            if name != "ports" and not all(type(one) is str for one in value):
                raise Invalid(f"{name} of {what} is not a list of texts")
            value = tuple(value)  # noqa: PLW2901
        if isinstance(value, dict) and not all(type(t) is str for pair in value.items() for t in pair):
            raise Invalid(f"{name} of {what} does not map texts to texts")
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


def _check(pattern: re.Pattern[str], text: str, what: str, wanted: str) -> None:
    if not pattern.fullmatch(text):
        raise Invalid(f"{what} is {shown(text)}", hint=wanted)


def _check_port(port: int, what: str) -> None:
    _check_number(port, (1, 65_535), f"the port of {what}")


def _check_number(number: int, bounds: tuple[int, int], what: str) -> None:
    if type(number) is not int or not bounds[0] <= number <= bounds[1]:
        raise Invalid(f"{what} is {shown(number)}", hint=f"{bounds[0]} to {bounds[1]}")


def _check_locality(locality: str, what: str) -> None:
    if locality:
        _check(_LOCALITY, locality, f"the locality of {what}", "REGION, REGION/ZONE or REGION/ZONE/SUBZONE")


def _check_owner(owner: str, what: str) -> None:
    if len(owner) > MAX_OWNER or not owner.isprintable():
        raise Invalid(f"the owner of {what} is {shown(owner)}", hint=f"at most {MAX_OWNER} printable characters")


def _check_count(things: object, least: int, most: int, what: str) -> None:
    count = len(things)  # type: ignore[arg-type]
    if not least <= count <= most:
        raise Invalid(f"{what}: {count} are named", hint=f"{least} to {most}")


def _distinct(things: object, what: str) -> None:
    listed = list(things)  # type: ignore[call-overload]
    if len(set(listed)) != len(listed):
        raise Invalid(f"{what} is named twice")
