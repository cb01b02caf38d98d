"""An annotated Service becomes an export, or one sentence on why not. Pure.

    trustfed.io/export: "true"           callers, answers, groups, subsets: lists, by commas or blanks
    trustfed.io/callers: spiffe://prod-us-west/ns/shop/sa/checkout, spiffe://prod-ap
    trustfed.io/groups: payments         locality: REGION/ZONE; owner, reason: text

Ports, labels and the identities that answer come from the Service and its pods; `answers` overrides the latter.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from trustfed.cluster.mesh.kubernetes.objects import ANNOTATION, Service
from trustfed.errors import Invalid
from trustfed.federation.mesh import Export, ServicePort
from trustfed.spiffe.ids import shown

KNOWN = ("export", "callers", "answers", "groups", "subsets", "locality", "owner", "reason")
MAX_REASON = 512
_PROTOCOLS = {
    "http": "HTTP",
    "http2": "HTTP2",
    "grpc": "GRPC",
    "https": "HTTPS",
    "tls": "TLS",
    "tcp": "TCP",
    "kubernetes.io/h2c": "HTTP2",
    "kubernetes.io/ws": "HTTP",
}


@dataclass(frozen=True)
class Offer:
    """What a Service asks for, and what its owner says of it."""

    export: Export
    reason: str


def wanted(service: Service) -> bool:
    """Whether a Service asks to be exported. Raises Invalid for an annotation that says neither."""
    said = service.said.get("export", "false")
    if said not in ("true", "false"):
        raise Invalid(
            f"{ANNOTATION}export of Service {service.place} is {shown(said)}", hint='"true" or "false", as a text'
        )
    return said == "true"


def offer_of(service: Service, host: str, answers: Iterable[str], subsets: Iterable[str]) -> Offer:
    """The export of an annotated Service; `answers` and `subsets` are what its pods and rules say. Raises Invalid."""
    said, what = service.said, f"Service {service.place}"
    if unknown := sorted(set(said) - set(KNOWN)):
        near = difflib.get_close_matches(unknown[0], KNOWN, 1)
        hint = f"did you mean {ANNOTATION}{near[0]}?" if near else f"known are {', '.join(KNOWN)}"
        raise Invalid(f"{what} has the unknown annotation {ANNOTATION}{shown(unknown[0])}", hint=hint)
    if service.external:
        raise Invalid(f"{what} is an alias of a name elsewhere (ExternalName)", hint="export the service it names")
    if not service.selector:
        raise Invalid(f"{what} selects no pods", hint="only what runs in this cluster can be exported")
    ports = _ports(service, what)
    ids = _list(said.get("answers", "")) or tuple(sorted(answers))
    if not ids:
        raise Invalid(
            f"{what} has no pods yet, so nobody knows who answers it", hint=f"name them with {ANNOTATION}answers"
        )
    reason = said.get("reason", "") or f"annotated in Kubernetes: Service {service.place}"
    if len(reason) > MAX_REASON:
        raise Invalid(f"{ANNOTATION}reason of {what} is too long", hint=f"at most {MAX_REASON} characters")
    export = Export(
        host,
        ports,
        ids,
        _list(said.get("callers", "")),
        dict(service.selector),
        _list(said.get("subsets", "")) or tuple(sorted(set(subsets))),
        said.get("locality", ""),
        _list(said.get("groups", "")),
        said.get("owner", ""),
    )
    return Offer(export, reason)


def _ports(service: Service, what: str) -> tuple[ServicePort, ...]:
    made = []
    for number, name, transport, app_protocol, _ in service.ports:
        if transport != "TCP":
            continue
        if not name:
            raise Invalid(
                f"port {number} of {what} has no name", hint="meshes join ports of one service by their names: name it"
            )
        protocol = _PROTOCOLS.get(app_protocol.lower()) if app_protocol else _PROTOCOLS.get(name.split("-")[0].lower())
        made.append(ServicePort(number, name, protocol or "TCP"))
    if not made:
        raise Invalid(f"{what} has no TCP port", hint="only TCP passes an east-west gateway")
    return tuple(made)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.replace(",", " ").split() if part)
