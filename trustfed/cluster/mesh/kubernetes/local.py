"""What Kubernetes shows of a host inside this cluster, and how quickly it is believed. Pure.

What makes rendering more careful is believed at once: an endpoint without a sidecar, a further identity that answers, a
rule that an owner wrote. An endpoint whose sidecar takes no mTLS, or is passed by, counts as one without: "some". What makes
it bolder has to stay so for SETTLE_SECONDS: a pod that is replaced must not take its identity out of the lists of who may
answer and put it back a moment later. A Service whose pods are all gone for now keeps what was known of them; one that never
had any is as good as absent: nothing here answers. Rules that are too many or too large to be kept, which any tenant may
write for any host, leave the rules as they were known, and nothing else; so do policies that cannot be read the sidecars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trustfed.cluster.mesh.kubernetes.objects import Pod, Rules, Service
from trustfed.cluster.mesh.kubernetes.policies import Policies
from trustfed.cluster.mesh.own import MAX_RULES, MAX_RULES_BYTES, ports_of
from trustfed.errors import Invalid

SETTLE_SECONDS = 30.0
MAX_RULE_BYTES = 32_768
MAX_WIDE_BYTES = 8_192
_BOLDNESS = {"none": 0, "some": 1, "all": 2, "absent": 2}


@dataclass(frozen=True)
class Local:
    """What LocalSeen says, before it is an event."""

    sidecars: str
    answers: tuple[str, ...]
    rules: tuple[Mapping[str, Any], ...]
    ports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unknown:
    """Why nothing can be said of a host."""

    why: str


def selected(service: Service, pods: Iterable[Pod]) -> list[Pod]:
    """The pods behind a Service."""
    wanted = frozenset(service.selector)
    return [pod for pod in pods if wanted and wanted <= pod.labels]


def identities(service: Service, pods: Iterable[Pod], trust_domain: str) -> tuple[str, ...]:
    """The SPIFFE IDs of the pods behind a Service, as Istio names them."""
    accounts = {pod.account for pod in pods}
    return tuple(f"spiffe://{trust_domain}/ns/{service.namespace}/sa/{account}" for account in sorted(accounts))


def look(
    host: str,
    service: Service | None,
    pods: Sequence[Pod],
    rules: Rules,
    policies: Policies | str,
    trust_domain: str,
    held: Local | None,
) -> Local | Unknown:
    """What Kubernetes shows now.

    `pods` are those of the Service's namespace, `policies` the PeerAuthentications or why they are not known, `held` is
    what was recorded last.
    """
    applying = tuple(rule.document for rule in rules.of(host))
    if why := too_large(host, rules):
        if held is None:
            return Unknown(why)
        applying = tuple(held.rules)
    if service is None:
        return Local("absent", (), applying)
    if service.external:
        return Unknown("it is an alias of a name elsewhere (ExternalName)")
    if not service.selector:
        return Unknown("its Service selects no pods: its endpoints were made by hand")
    behind, ports = selected(service, pods), numbered(service)
    if not behind:
        return Local("absent", (), applying, ports) if held is None else replace(held, rules=applying, ports=ports)
    sidecars = _sidecars(service, behind, policies)
    if isinstance(sidecars, Unknown):
        if held is None:
            return sidecars
        sidecars = "all" if held.sidecars == "all" else "some"
    return Local(sidecars, identities(service, behind, trust_domain), applying, ports)


def numbered(service: Service) -> tuple[str, ...]:
    """The TCP ports of a Service as NUMBER:NAME; none if they are not what ports can be, or too many."""
    tcp = [f"{number}:{name}" for number, name, transport, _, _ in service.ports if transport == "TCP"]
    try:
        return ports_of(tcp, service.place)
    except Invalid:
        return ()


def _sidecars(service: Service, behind: Sequence[Pod], policies: Policies | str) -> str | Unknown:
    """Whether mTLS reaches all of them; what is known to be in its way counts before anything is unknown."""
    if not all(pod.sidecar for pod in behind):
        return "some" if any(pod.sidecar for pod in behind) else "none"
    targets = [target for _, _, transport, _, target in service.ports if transport == "TCP"]
    reached = {pod: frozenset(map(pod.at, targets)) for pod in behind}  # replicas that differ in nothing: once
    if not all(pod.redirects(port) for pod, ports in reached.items() for port in ports):
        return "some"
    if isinstance(policies, str):
        return Unknown(policies)
    return "all" if all(policies.take(service.namespace, pod, ports) for pod, ports in reached.items()) else "some"


def too_large(host: str, rules: Rules) -> str:
    """Why the rules of a host are not kept: what applies to every host would be kept for each of them; "" if they are."""
    for rule in rules.exact(host):
        if rule.size > MAX_RULE_BYTES:
            return f"the DestinationRule {rule.place} is longer than {MAX_RULE_BYTES} bytes"
    wide = rules.wide(host)
    if sum(rule.size for rule in wide) > MAX_WIDE_BYTES:
        named = ", ".join(sorted(rule.place for rule in wide)[:3])
        return f"the DestinationRules with a * that apply to it ({named}) are longer than {MAX_WIDE_BYTES} bytes"
    every = rules.of(host)
    if len(every) > MAX_RULES or sum(rule.size + 2 for rule in every) + 2 > MAX_RULES_BYTES:
        return f"{len(every)} DestinationRules apply to it, which are too many or too long"
    return ""


def careful(held: Local | None, found: Local) -> Local:
    """What may be said at once of `found`, where `held` was said last; the same as `found` when it is no bolder."""
    if held is None:
        return found
    bolder = _BOLDNESS[found.sidecars] > _BOLDNESS[held.sidecars]
    leaving = held.sidecars == "all" and found.sidecars == "absent"
    sidecars = held.sidecars if bolder or leaving else found.sidecars
    answers = tuple(sorted({*held.answers, *found.answers}))
    return Local(sidecars, answers, found.rules, held.ports if leaving else found.ports)
