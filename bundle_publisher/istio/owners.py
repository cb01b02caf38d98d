"""DestinationRules that owners wrote, and what one of them lacks before a remote host may join it.

Istio takes one rule for a host: of the caller's namespace, else of the service's, else of the root namespace; there the most
specific host. A rule of ours beside it would shadow it, or be shadowed. So the owner's rule stays the one, and what it must
say for endpoints in other clusters (who may answer, ejection, the bound on a connection, near first) is written as a patch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from bundle_publisher.istio.imported import RANK_LABEL
from bundle_publisher.istio.resource import MANAGED_BY, PREFIX
from trustfed.errors import Invalid
from trustfed.spiffe import strict_json

Rule: TypeAlias = Mapping[str, Any]
MAX_RULES_BYTES = 1_048_576
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_KEPT = ("name", "namespace", "labels", "annotations")


@dataclass(frozen=True)
class Patch:
    """What an owner's rule has to become; `new` when it is a rule beside one that speaks of many hosts."""

    namespace: str
    name: str
    rule: Rule
    new: bool


def read(data: bytes, host: str) -> list[Rule]:
    """The rules in a JSON list that apply to `host`, without our own. Raises Invalid."""
    what = f"the DestinationRules for {host}"
    listed = strict_json.parse_object(b'{"rules":' + data + b"}", what=what, limit=MAX_RULES_BYTES)["rules"]
    if not isinstance(listed, list):
        raise Invalid(f"{what} are no list")
    found: list[Rule] = []
    for rule in listed:
        try:
            metadata, spec = rule["metadata"], rule["spec"]
            texts = (metadata["name"], metadata["namespace"], spec["host"], rule.get("kind", "DestinationRule"))
            named = _NAME.fullmatch(texts[0]) and _NAME.fullmatch(texts[1])
            ours = (metadata.get("labels") or {}).items() >= MANAGED_BY.items() and texts[0].startswith(PREFIX)
            _check_form(spec)
        except (KeyError, TypeError, AttributeError):
            raise Invalid(f"{what}: one has no name, namespace or host, or is no Kubernetes object") from None
        if not named or not isinstance(texts[2], str) or texts[3] != "DestinationRule":
            raise Invalid(f"{what}: one is no DestinationRule")
        if not ours and matches(rule, host):
            found.append(rule)
    return found


def matches(rule: Rule, host: str) -> bool:
    """Whether Istio would take this rule for this host: exact, a short name in its own namespace, or a wildcard."""
    said: str = rule["spec"]["host"]
    if said.startswith("*"):
        return host.endswith(said[1:])
    if "." not in said:
        said = f"{said}.{rule['metadata']['namespace']}.svc.{host.split('.', 3)[3]}"
    return said == host


def partial(rules: Iterable[Rule], host: str, root_namespace: str) -> list[Rule]:
    """The rules that hold for some callers only: whom they are hidden from would have no rule at all, neither this nor ours."""
    return [
        rule
        for rule in rules
        if rule["spec"].get("workloadSelector")
        or (in_the_way([rule], host, root_namespace) and not {"*"} >= set(rule["spec"].get("exportTo") or ()))
    ]


def in_the_way(rules: Iterable[Rule], host: str, root_namespace: str) -> bool:
    """Whether a rule of ours in the service's namespace would meet one of these, or hide it."""
    return any(rule["metadata"]["namespace"] in (host.split(".")[1], root_namespace) for rule in rules)


def counted(rules: Iterable[Rule], host: str, root_namespace: str, since: datetime) -> list[Rule]:
    """The rules that an import of a host must respect, which is of `since`.

    One of another namespace holds for callers there alone. That it was there first is respected; that it came later takes
    no route away: anybody who may write in some namespace could do that to the whole mesh, with the host `*`.
    """
    return [
        rule
        for rule in rules
        if in_the_way([rule], host, root_namespace) or not _later(rule["metadata"].get("creationTimestamp"), since)
    ]


def _later(text: object, since: datetime) -> bool:
    """Whether the API server says that something was made after a moment; what says nothing was there before."""
    try:
        made = datetime.fromisoformat(str(text))
    except ValueError:
        return False
    return made.tzinfo is not None and made > since


def patches(rules: Sequence[Rule], host: str, wanted: Mapping[str, Any]) -> list[Patch]:
    """What is lacking in the rules that Istio would take, one per namespace, until they contain `wanted`, a trafficPolicy."""
    found = []
    for namespace in sorted({rule["metadata"]["namespace"] for rule in rules}):
        rule = _taken([rule for rule in rules if rule["metadata"]["namespace"] == namespace])
        after = _patched(rule, host, wanted)
        if after != rule:
            new = after["spec"]["host"] != rule["spec"]["host"]
            found.append(Patch(namespace, after["metadata"]["name"], _applicable(after), new))
    return found


def _applicable(rule: Mapping[str, Any]) -> Rule:
    """A rule as a person applies it: without what the API server writes."""
    metadata = {key: rule["metadata"][key] for key in _KEPT if key in rule["metadata"]}
    kind = {"apiVersion": rule.get("apiVersion", "networking.istio.io/v1"), "kind": "DestinationRule"}
    return {**kind, "metadata": metadata, "spec": rule["spec"]}


def _taken(rules: Sequence[Rule]) -> Rule:
    """The most specific host wins; of several for one host the oldest that has a policy at all."""
    specific = max(_specific(rule) for rule in rules)
    best = [rule for rule in rules if _specific(rule) == specific]
    age = {id(rule): (str(rule["metadata"].get("creationTimestamp", "")), rule["metadata"]["name"]) for rule in best}
    return min(best, key=lambda rule: (not rule["spec"].get("trafficPolicy"), age[id(rule)]))


def _specific(rule: Rule) -> tuple[bool, int]:
    said = rule["spec"]["host"]
    wild = said.startswith("*")
    return not wild, len(said) if wild else 0


def _patched(rule: Rule, host: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    after: dict[str, Any] = copy.deepcopy(dict(rule))
    spec = after["spec"]
    if spec["host"].startswith("*"):
        # Other hosts live by this rule too: a rule of its own for the one, with all that this one says.
        metadata = {key: value for key, value in after["metadata"].items() if key in _KEPT}
        after["metadata"] = metadata | {"name": f"{metadata['name'][:200]}-{host.split('.', maxsplit=1)[0]}"}
        after.pop("status", None)
        spec["host"] = host
    spec["trafficPolicy"] = policy = dict(spec.get("trafficPolicy") or {})
    _complete(policy, wanted, tuple(wanted))
    for port in policy.get("portLevelSettings") or ():  # of a port's settings nothing is inherited
        _complete(port, wanted, tuple(wanted))
    for subset in spec.get("subsets") or ():  # a subset's setting replaces the rule's, one by one
        own = subset.get("trafficPolicy") or {}
        _complete(own, wanted, tuple(key for key in wanted if key in own))
        for port in own.get("portLevelSettings") or ():
            _complete(port, wanted, tuple(wanted))
    return after


def _complete(policy: dict[str, Any], wanted: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Add what is lacking; what an owner said otherwise stays, as far as it does not let the wrong ones answer."""
    if "tls" in keys:
        tls, names = policy.get("tls") or {}, wanted["tls"]["subjectAltNames"]
        held = list(tls.get("subjectAltNames") or ()) if tls.get("mode") == "ISTIO_MUTUAL" else []
        if not set(names) <= set(held):
            kept = {"sni": tls["sni"]} if tls.get("mode") == "ISTIO_MUTUAL" and "sni" in tls else {}
            policy["tls"] = {**kept, "mode": "ISTIO_MUTUAL", "subjectAltNames": sorted({*held, *names})}
    if "outlierDetection" in keys and not policy.get("outlierDetection"):
        policy["outlierDetection"] = wanted["outlierDetection"]
    if "loadBalancer" in keys:
        balancer = policy.get("loadBalancer") or {}
        held_setting, setting = balancer.get("localityLbSetting"), wanted["loadBalancer"]["localityLbSetting"]
        if held_setting is None or not _last(held_setting, setting.get("failoverPriority", [])):
            further = [
                one for one in (held_setting or {}).get("failoverPriority") or () if not one.startswith(RANK_LABEL)
            ]
            if "failoverPriority" in setting:
                setting = {**setting, "failoverPriority": [*setting["failoverPriority"], *further]}
            policy["loadBalancer"] = {**balancer, "localityLbSetting": setting}
    if "connectionPool" in keys:
        pool = policy.get("connectionPool") or {}
        tcp, longest = pool.get("tcp") or {}, wanted["connectionPool"]["tcp"]["maxConnectionDuration"]
        held_for, most = duration(tcp.get("maxConnectionDuration")), duration(longest)
        assert most is not None
        if held_for is None or not timedelta(0) < held_for <= most:
            policy["connectionPool"] = {**pool, "tcp": {**tcp, "maxConnectionDuration": longest}}


def _last(setting: Mapping[str, Any], ranks: Sequence[str]) -> bool:
    """Whether remote endpoints come after all of those here: with anything else an import draws local calls away."""
    held = setting.get("failoverPriority") or []
    return not ranks or (setting.get("enabled", True) is not False and held[: len(ranks)] == list(ranks))


def duration(text: object) -> timedelta | None:
    """A duration as Istio writes it (1h, 1h30m, 3600s, 500ms); None for anything else."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) and 0 < len(text) <= 32 else None
    if found is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)


def _check_form(spec: Any) -> None:
    """Raise TypeError where what will be looked into is not what Kubernetes would hold there."""
    policies = [spec.get("trafficPolicy") or {}]
    policies += [subset.get("trafficPolicy") or {} for subset in spec.get("subsets") or ()]
    policies += [port for policy in list(policies) for port in policy.get("portLevelSettings") or ()]
    for policy in policies:
        tls, pool, balancer = (policy.get(key) or {} for key in ("tls", "connectionPool", "loadBalancer"))
        parts = (tls, pool, balancer, pool.get("tcp") or {}, policy.get("outlierDetection") or {})
        _check_texts(tls.get("subjectAltNames"))
        if not all(isinstance(part, dict) for part in (*parts, balancer.get("localityLbSetting") or {})):
            raise TypeError
        _check_texts((balancer.get("localityLbSetting") or {}).get("failoverPriority"))
    _check_texts(spec.get("exportTo"))


def _check_texts(texts: Any) -> None:
    if not isinstance(texts or [], list) or not all(isinstance(text, str) for text in texts or ()):
        raise TypeError
