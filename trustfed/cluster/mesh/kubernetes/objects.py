"""What is kept of Kubernetes objects: the few members that decide something, with their types checked. Pure.

The API server vouches for their form, but a broken or hostile one shall not break this process: what does not have the
shape it must have counts as not said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trustfed.cluster.mesh.kubernetes.port import Object

ANNOTATION = "trustfed.io/"
SIDECAR, INIT = "istio-proxy", "istio-init"
OURS = "trustfed-"
"""What we render ourselves may have been applied to this cluster: it is no owner's rule."""
MAX_RULE_NAME = 253
_TRAFFIC = "traffic.sidecar.istio.io/"
ISTIOS = frozenset({15020, 15021, 15090})
"""Ports of a sidecar's own health and metrics: never redirected, and without TLS."""


@dataclass(frozen=True)
class Service:
    """A Service; `annotations` are ours only, without their prefix."""

    namespace: str
    name: str
    annotations: tuple[tuple[str, str], ...]
    selector: tuple[tuple[str, str], ...]
    ports: tuple[tuple[int, str, str, str, int | str], ...]  # number, name, protocol, appProtocol, the pods' own
    external: bool  # an alias of a name elsewhere

    @property
    def place(self) -> str:
        """How a person finds it."""
        return f"{self.namespace}/{self.name}"

    @property
    def said(self) -> dict[str, str]:
        """Its annotations for us."""
        return dict(self.annotations)


@dataclass(frozen=True)
class Pod:
    """A pod that may answer requests."""

    labels: frozenset[tuple[str, str]]
    account: str
    sidecar: bool
    included: frozenset[int] | None = None  # inbound ports that go through the sidecar; None: all
    excluded: frozenset[int] = ISTIOS  # but these
    ports: tuple[tuple[str, int], ...] = ()  # name and number

    def at(self, target: int | str) -> int:
        """The number of a Service's target port in this pod; 0 for a name that it does not have."""
        return target if isinstance(target, int) else next((n for name, n in self.ports if name == target), 0)

    def redirects(self, port: int) -> bool:
        """Whether what comes to this port goes through the sidecar."""
        return port not in self.excluded and (self.included is None or port in self.included)


@dataclass(frozen=True)
class Rule:
    """A DestinationRule that an owner wrote; `document` is what of it counts."""

    host: str  # as the rule writes it, made full
    subsets: tuple[str, ...]
    document: Mapping[str, Any]
    size: int  # bytes

    @property
    def place(self) -> str:
        """How a person finds it."""
        return f"{self.document['metadata']['namespace']}/{self.document['metadata']['name']}"


def service_of(item: Object) -> Service | None:
    """What is kept of a Service."""
    metadata, spec = mapping(item.get("metadata")), mapping(item.get("spec"))
    annotations = {
        key.removeprefix(ANNOTATION): value
        for key, value in texts(metadata.get("annotations")).items()
        if key.startswith(ANNOTATION)
    }
    ports = []
    for port in spec.get("ports") or () if isinstance(spec.get("ports"), list) else ():
        number = mapping(port).get("port")
        if type(number) is int:
            said, target = texts(port), port.get("targetPort")
            target = target if (type(target) is int or isinstance(target, str)) and target else number
            kind = said.get("protocol", "TCP")
            ports.append((number, said.get("name", ""), kind, said.get("appProtocol", ""), target))
    return Service(
        str(metadata.get("namespace")),
        str(metadata.get("name")),
        tuple(sorted(annotations.items())),
        tuple(sorted(texts(spec.get("selector")).items())),
        tuple(ports),
        spec.get("type") == "ExternalName",
    )


def pod_of(item: Object) -> Pod | None:
    """What is kept of a pod; None for one that has ended."""
    spec, phase = mapping(item.get("spec")), mapping(item.get("status")).get("phase")
    if phase in ("Succeeded", "Failed"):
        return None
    containers: list[object] = []
    for member in ("containers", "initContainers"):
        listed = spec.get(member)
        containers += listed if isinstance(listed, list) else ()
    sidecar = any(mapping(container).get("name") == SIDECAR for container in containers)
    metadata, account = mapping(item.get("metadata")), spec.get("serviceAccountName")
    return Pod(
        frozenset(texts(metadata.get("labels")).items()),
        account if isinstance(account, str) and account else "default",
        sidecar,
        *_redirected(texts(metadata.get("annotations")), containers, spec.get("hostNetwork") is True),
        _named_ports(containers),
    )


def _redirected(
    annotations: Mapping[str, str], containers: Iterable[object], host_network: bool
) -> tuple[frozenset[int] | None, frozenset[int]]:
    """Which ports go through the sidecar, and which of them not after all; none where that cannot be read.

    The annotations say it; where Istio's CNI is not used, so does the container that sets the redirection up, with the
    defaults of the mesh. What either leads past the sidecar counts.
    """
    included, excluded = None, ISTIOS
    names = (f"{_TRAFFIC}includeInboundPorts", f"{_TRAFFIC}excludeInboundPorts", "sidecar.istio.io/interceptionMode")
    for said, (include, exclude, mode) in ((annotations, names), (_init_arguments(containers), "bdm")):
        through, past = _port_list(said.get(include, "*")), _port_list(said.get(exclude, ""))
        none = said.get(mode, "").upper() == "NONE"
        if none or host_network or not all(isinstance(one, int) for one in past):
            return frozenset(), ISTIOS
        excluded |= {one for one in past if isinstance(one, int)}
        if "*" not in through:
            numbers = frozenset(one for one in through if isinstance(one, int))
            included = numbers if included is None else included & numbers
    return included, excluded


def _init_arguments(containers: Iterable[object]) -> dict[str, str]:
    """The arguments of istio-iptables, by the letter of their flag."""
    for container in map(mapping, containers):
        listed = container.get("args")
        if container.get("name") == INIT and isinstance(listed, list):
            given = [one if isinstance(one, str) else "" for one in listed]
            return {flag[1:]: said for flag, said in pairwise(given) if flag.startswith("-")}
    return {}


def _port_list(text: str) -> list[int | str]:
    parts = [part for part in map(str.strip, text.split(",")) if part]
    return [int(part) if part.isascii() and part.isdigit() and len(part) <= 5 else part for part in parts]


def _named_ports(containers: Iterable[object]) -> tuple[tuple[str, int], ...]:
    found = []
    for container in containers:
        listed = mapping(container).get("ports")
        for port in listed if isinstance(listed, list) else ():
            name, number = mapping(port).get("name"), mapping(port).get("containerPort")
            if isinstance(name, str) and type(number) is int:
                found.append((name, number))
    return tuple(found)


def rule_of(item: Object, cluster_domain: str) -> Rule | None:
    """What is kept of a DestinationRule; None for our own, and for one without a host."""
    metadata, spec = mapping(item.get("metadata")), mapping(item.get("spec"))
    name, namespace, host = str(metadata.get("name")), str(metadata.get("namespace")), spec.get("host")
    if name.startswith(OURS) or not isinstance(host, str) or not 0 < len(host) <= MAX_RULE_NAME:
        return None
    if "." not in host and host != "*":  # Istio takes a short name as one of the rule's own namespace
        host = f"{host}.{namespace}.svc.{cluster_domain}"
    listed = spec.get("subsets")
    subsets = [mapping(subset).get("name") for subset in (listed if isinstance(listed, list) else ())]
    about = {"name": name, "namespace": namespace}
    if isinstance(created := metadata.get("creationTimestamp"), str):
        about["creationTimestamp"] = created
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": about,
        "spec": dict(spec),
    }
    names = tuple(text for text in subsets if isinstance(text, str))
    try:
        size = len(json.dumps(document))
    except RecursionError:
        size = sys.maxsize
    return Rule(host.lower(), names, document, size)


class Rules:
    """The owners' rules, found by the host that they apply to."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[str, list[Rule]] = {}
        self._wide: list[Rule] = []
        for rule in rules:
            if rule.host.startswith("*"):
                self._wide.append(rule)
            else:
                self._exact.setdefault(rule.host, []).append(rule)

    def exact(self, host: str) -> list[Rule]:
        """Those for exactly this host."""
        return self._exact.get(host, [])

    def wide(self, host: str) -> list[Rule]:
        """Those for hosts that end as this one does."""
        return [rule for rule in self._wide if host.endswith(rule.host[1:])]

    def of(self, host: str) -> list[Rule]:
        """All that apply, in a fixed order."""
        return sorted([*self.exact(host), *self.wide(host)], key=lambda rule: rule.place)


def mapping(value: object) -> Mapping[str, Any]:
    """The object that it is; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def texts(value: object) -> dict[str, str]:
    """The members of an object that are texts."""
    return {key: text for key, text in mapping(value).items() if isinstance(text, str)}
