"""Whether the sidecar of a pod takes Istio's mTLS at a port: what PeerAuthentications say, in Istio's order. Pure.

A rendered rule sends mTLS to every endpoint of its host, so that one that has it turned off would break. For a port of a pod
(https://istio.io/latest/docs/reference/config/security/peer_authentication/):

1. The policy that selects the pod in its own namespace: its portLevelMtls for that port, which is the pod's and not the
   Service's, else its mode.
2. Else the mode of the policy of the namespace, which selects nothing.
3. Else the mode of the policy of the root namespace, which selects nothing.
4. Else mTLS is taken.

UNSET, or no mode, asks the next step. Of several policies of one step the oldest counts; of several as old, any that turns
mTLS off. A mode that is not known here counts as off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from trustfed.cluster.mesh.kubernetes.objects import Pod, mapping, texts
from trustfed.cluster.mesh.kubernetes.port import Object

MAX_SELECTING = 256
"""Policies with a selector that are judged in one namespace: with more of them mTLS counts as off."""
_TAKEN = ("PERMISSIVE", "STRICT")
_UNSET = (None, "", "UNSET")


@dataclass(frozen=True)
class Policy:
    """A PeerAuthentication; whether mTLS is taken, None: it does not say."""

    namespace: str
    selector: frozenset[tuple[str, str]]
    created: str  # RFC 3339 in UTC, as Kubernetes writes it: its order is that of time
    taken: bool | None
    ports: tuple[tuple[int, bool | None], ...]


def policy_of(item: Object) -> Policy:
    """What is kept of a PeerAuthentication."""
    metadata, spec = mapping(item.get("metadata")), mapping(item.get("spec"))
    ports = {
        int(number): _taken(mtls)
        for number, mtls in mapping(spec.get("portLevelMtls")).items()
        if number.isascii() and number.isdigit() and len(number) <= 5
    }
    created = metadata.get("creationTimestamp")
    return Policy(
        str(metadata.get("namespace")),
        frozenset(texts(mapping(spec.get("selector")).get("matchLabels")).items()),
        created if isinstance(created, str) else "",
        _taken(spec.get("mtls")),
        tuple(sorted(ports.items())),
    )


class Policies:
    """The PeerAuthentications of a cluster, whose root namespace is `root`."""

    def __init__(self, policies: Iterable[Policy], root: str) -> None:
        self._root = root
        self._selecting: dict[str, list[Policy]] = {}
        wide: dict[str, list[Policy]] = {}
        for policy in policies:
            (self._selecting if policy.selector else wide).setdefault(policy.namespace, []).append(policy)
        self._selecting.pop(root, None)  # Istio gives those to nobody
        self._wide = {namespace: _most_careful(one.taken for one in _oldest(held)) for namespace, held in wide.items()}

    def take(self, namespace: str, pod: Pod, ports: Collection[int]) -> bool:
        """Whether mTLS is taken at all of these ports of a pod of this namespace."""
        selecting = self._selecting.get(namespace, [])
        if len(selecting) > MAX_SELECTING:
            return False
        wide = True  # 4.
        for place in (self._root, namespace):  # 3. and 2., the nearer last
            said = self._wide.get(place)
            wide = wide if said is None else said
        chosen = _oldest([policy for policy in selecting if policy.selector <= pod.labels])  # 1.
        return all(_taken_at(policy, wide, ports) for policy in chosen) if chosen else wide


def _taken_at(policy: Policy, wide: bool, ports: Collection[int]) -> bool:
    general = wide if policy.taken is None else policy.taken
    levels = dict(policy.ports)
    at_ports = [general if (level := levels.get(port)) is None else level for port in ports]
    return all(at_ports) if at_ports else general


def _taken(mtls: object) -> bool | None:
    mode = mapping(mtls).get("mode")
    return None if mode in _UNSET else mode in _TAKEN


def _oldest(policies: Collection[Policy]) -> list[Policy]:
    first = min((policy.created for policy in policies), default="")
    return [policy for policy in policies if policy.created == first]


def _most_careful(said: Iterable[bool | None]) -> bool | None:
    every = set(said)
    return False if False in every else True if True in every else None
