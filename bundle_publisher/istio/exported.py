"""What an exporting cluster's istiod is told of its own: which hosts the east-west gateway passes, and who may call.

Istio, read at 1.29.6 (pilot/pkg/security/authz): a principal matches the URI SAN, else the DNS SAN, else the subject of the
client certificate; without a certificate none matches, so that a DENY of principals leaves callers in plain text alone where
PeerAuthentication is permissive. `principals: ["*"]` is the expression `.+`: mesh-wide it would also refuse clients of an
ingress gateway that show certificates without a SPIFFE ID. So anybody with a SPIFFE ID is spelled as what a trust domain can
begin with. OWN/* is never expanded by trustDomainAliases (only principals of five parts are), so aliases are spelled too.

Foreign anchors reach proxies with the grant, before anything is exported: from then on whoever is of a peer domain is refused
mesh-wide. Whoever is of any other domain is refused only while something is exported or imported, so that a mere grant harms
no mesh whose own identities have a name that nobody told of (Settings.aliases).

DENY because one ALLOW rule refuses everybody it does not name. A DENY of either policy denies: the mesh-wide one lists all
agreed callers, and so does a workload's for every export that leads to all of its pods.

AUTO_PASSTHROUGH passes every port of the Service, not only those that are exported: so a workload's policy also refuses
foreign callers that came in by a name (SNI) that gateways choose by and that is of no exported port.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bundle_publisher.istio.names import elsewhere, in_its_namespace
from bundle_publisher.istio.resource import MAX_MANIFEST, Resource, seal
from bundle_publisher.istio.settings import Settings
from trustfed.federation.mesh import Export

ANY_SPIFFE_ID = tuple(f"{first}*" for first in string.ascii_lowercase + string.digits + "-._")
"""Every principal that is a SPIFFE ID: what a trust domain's name can begin with."""
PASSED = "outbound_.*"
"""What an east-west gateway passes on: whoever comes in another way has another name, or none."""
MESH_POLICY = "trustfed-callers"
MAX_CALLER_BYTES = 320 * 1024
"""Of all agreed callers in one policy, which names each twice; further ones are refused, and shown."""
_REST_BYTES, _PEER_BYTES = 65_536, 96


@dataclass(frozen=True)
class Exported:
    """One own export, and those of its callers whose grants stand."""

    export: Export
    since: datetime
    callers: tuple[str, ...]


def gateway(exported: Exported, settings: Settings) -> Resource:
    """Opens the east-west gateway for this host and no other. Raises Invalid when what comes out may not be sent."""
    server = {
        "port": {"number": settings.gateway_port, "name": "tls", "protocol": "TLS"},
        "tls": {"mode": "AUTO_PASSTHROUGH"},
        "hosts": [exported.export.host],
    }
    spec = {"selector": dict(settings.gateway_selector), "servers": [server]}
    return seal("Gateway", settings.root_namespace, elsewhere(exported.export.host), exported.since, spec)


def workload_policy(exported: Exported, beside: Iterable[Exported], settings: Settings) -> Resource:
    """Refuses foreign callers of this workload but the agreed ones. `beside`: other exports that select all of its pods,
    whose callers must not be refused by this policy either.
    """
    export, others = exported.export, list(beside)
    agreed = {*exported.callers, *(caller for other in others for caller in other.callers)}
    names = {name for one in (exported, *others) for name in passed(one.export)}
    other_ports = {
        **_rules((), settings)[0],
        "when": [{"key": "connection.sni", "values": [PASSED], "notValues": sorted(names)}],
    }
    spec = {
        "selector": {"matchLabels": dict(export.workload)},
        "action": "DENY",
        "rules": [*_rules(sorted(agreed), settings), other_ports],
    }
    return seal("AuthorizationPolicy", export.namespace, in_its_namespace(export.host), exported.since, spec)


def passed(export: Export) -> list[str]:
    """By which names (SNI) a gateway passes the exported ports on, whole or in subsets."""
    return [
        f"outbound_.{port.number}_.{subset}_.{export.host}" for port in export.ports for subset in ("", *export.subsets)
    ]


def mesh_policy(callers: Sequence[str] | None, since: datetime, settings: Settings) -> Resource:
    """Refuses every foreign caller that no export agreed to, whatever an owner's rule admits. `callers` as `bounded` gave.

    None for `callers` while nothing is exported or imported: then peers alone are refused, of which there must be one.
    """
    foreign: dict[str, Any] = {"source": {"principals": [f"{domain}/*" for domain in settings.peers]}}
    rules = _rules(callers, settings) if callers is not None else [{"from": [foreign]}]
    if settings.peers:
        # Envoy's SPIFFE validator goes by the first URI SAN, RBAC by any: nobody is of two domains.
        rules.append({"from": [foreign], "when": [{"key": "source.principal", "values": _own(settings)}]})
    spec = {"action": "DENY", "rules": rules}
    return seal("AuthorizationPolicy", settings.root_namespace, MESH_POLICY, since, spec)


def bounded(callers: Iterable[str], peers: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Agreed callers in order, and those that do not fit into one policy beside its peers: they stay refused."""
    kept: list[str] = []
    room = MAX_MANIFEST - _REST_BYTES - sum(3 * len(domain) + _PEER_BYTES for domain in peers)
    left, ordered = min(MAX_CALLER_BYTES, room // 2), sorted(set(callers))
    for place, caller in enumerate(ordered):
        left -= len(caller) + 3
        if left < 0:
            return kept, ordered[place:]
        kept.append(caller)
    return kept, []


def principal(caller: str) -> str:
    """A caller as a policy spells it: a SPIFFE ID without its scheme, or DOMAIN/* for all of a domain."""
    rest = caller.removeprefix("spiffe://")
    return rest if "/" in rest else f"{rest}/*"


def _rules(callers: Sequence[str], settings: Settings) -> list[dict[str, Any]]:
    """One rule: anybody but our own and the agreed; and of each other domain anybody but its own agreed ones, so that a
    certificate with a further URI SAN of somebody else's is judged by the one whose CA made it, too.
    """
    own = _own(settings)
    admitted = [*own, *(principal(caller) for caller in callers)]
    sources: list[dict[str, Any]] = [{"principals": list(ANY_SPIFFE_ID), "notPrincipals": admitted}]
    agreed: dict[str, list[str]] = {}
    for one in admitted[len(own) :]:
        agreed.setdefault(one.split("/")[0], []).append(one)
    for domain, its in sorted(agreed.items()):
        if f"{domain}/*" not in its:
            sources.append({"principals": [f"{domain}/*"], "notPrincipals": its})
    if others := [f"{domain}/*" for domain in settings.peers if domain not in agreed]:
        sources.append({"principals": others})
    return [{"from": [{"source": source} for source in sources]}]


def _own(settings: Settings) -> list[str]:
    return [f"{domain}/*" for domain in (settings.trust_domain, *settings.aliases)]
