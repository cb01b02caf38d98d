"""DestinationRules of owners: which apply, what they lack, and that a rule with its patch lacks nothing."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import pytest

from bundle_publisher.istio import owners
from trustfed.errors import Invalid

HOST = "payments.shop.svc.cluster.local"
NAMES = ["spiffe://east/ns/shop/sa/payments", "spiffe://west/ns/shop/sa/payments"]
WANTED: dict[str, Any] = {
    "tls": {"mode": "ISTIO_MUTUAL", "subjectAltNames": NAMES},
    "outlierDetection": {"consecutive5xxErrors": 5},
    "loadBalancer": {"localityLbSetting": {"enabled": True}},
    "connectionPool": {"tcp": {"maxConnectionDuration": "3600s"}},
}


def rule(host: str = HOST, namespace: str = "shop", name: str = "owners", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": "2025-01-01T00:00:00Z", "uid": "1"}
    return {"kind": "DestinationRule", "metadata": metadata, "spec": {"host": host, **spec}}


@pytest.mark.parametrize(
    ("said", "namespace", "applies"),
    [
        (HOST, "shop", True),
        (HOST, "elsewhere", True),
        ("payments", "shop", True),
        ("payments", "elsewhere", False),
        ("*.shop.svc.cluster.local", "shop", True),
        ("*.local", "istio-system", True),
        ("*", "istio-system", True),
        ("*.other.svc.cluster.local", "shop", False),
        ("stock.shop.svc.cluster.local", "shop", False),
    ],
)
def test_a_rule_applies_as_istio_says(said: str, namespace: str, applies: bool) -> None:
    assert owners.matches(rule(said, namespace), HOST) is applies


def test_our_own_rule_is_no_owners() -> None:
    ours = rule(name="trustfed-payments")
    ours["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "trustfed"}
    assert owners.read(json.dumps([ours, rule("stock.shop.svc.cluster.local")]).encode(), HOST) == []


def test_a_patch_adds_what_lacks_and_keeps_what_an_owner_said() -> None:
    said = rule(
        trafficPolicy={
            "loadBalancer": {"simple": "ROUND_ROBIN"},
            "connectionPool": {"tcp": {"maxConnections": 10}, "http": {"http2MaxRequests": 5}},
            "outlierDetection": {"consecutive5xxErrors": 1},
        },
        subsets=[{"name": "v1", "labels": {"version": "v1"}}],
    )
    before = copy.deepcopy(said)
    (patch,) = owners.patches([said], HOST, WANTED)
    assert said == before and not patch.new and patch.namespace == "shop"
    assert patch.rule["metadata"] == {"name": "owners", "namespace": "shop"}
    assert patch.rule["spec"] == {
        "host": HOST,
        "trafficPolicy": {
            "tls": WANTED["tls"],
            "loadBalancer": {"simple": "ROUND_ROBIN", "localityLbSetting": {"enabled": True}},
            "connectionPool": {
                "tcp": {"maxConnections": 10, "maxConnectionDuration": "3600s"},
                "http": {"http2MaxRequests": 5},
            },
            "outlierDetection": {"consecutive5xxErrors": 1},
        },
        "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
    }
    assert owners.patches([dict(patch.rule)], HOST, WANTED) == []


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"trafficPolicy": None},
        {"trafficPolicy": {"tls": {"mode": "DISABLE"}}},
        {"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
        {"trafficPolicy": {**WANTED, "tls": {"mode": "ISTIO_MUTUAL", "subjectAltNames": NAMES[:1]}}},
        {"trafficPolicy": {**WANTED, "tls": {"mode": "MUTUAL", "subjectAltNames": NAMES}}},
        {"trafficPolicy": {**WANTED, "connectionPool": {"tcp": {"maxConnectionDuration": "2h"}}}},
        {"trafficPolicy": {**WANTED, "connectionPool": {"tcp": {"maxConnectionDuration": "0s"}}}},
        {"trafficPolicy": {**WANTED, "portLevelSettings": [{"port": {"number": 8080}}]}},
        {"trafficPolicy": WANTED, "subsets": [{"name": "v1", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}]},
    ],
)
def test_what_lacks_something_is_patched_until_it_lacks_nothing(spec: dict[str, Any]) -> None:
    (patch,) = owners.patches([rule(**spec)], HOST, WANTED)
    assert owners.patches([dict(patch.rule)], HOST, WANTED) == []
    tls = patch.rule["spec"]["trafficPolicy"]["tls"]
    assert tls["mode"] == "ISTIO_MUTUAL" and set(NAMES) <= set(tls["subjectAltNames"])


@pytest.mark.parametrize(
    "spec",
    [
        {"trafficPolicy": WANTED},
        {"trafficPolicy": {**WANTED, "connectionPool": {"tcp": {"maxConnectionDuration": "30m"}}}},
        {"trafficPolicy": {**WANTED, "tls": {"mode": "ISTIO_MUTUAL", "subjectAltNames": [*NAMES, "spiffe://west/x"]}}},
        {
            "trafficPolicy": WANTED,
            "subsets": [{"name": "v1", "trafficPolicy": {"loadBalancer": {"localityLbSetting": {}}}}],
        },
    ],
)
def test_what_holds_it_all_is_left_alone(spec: dict[str, Any]) -> None:
    assert owners.patches([rule(**spec)], HOST, WANTED) == []


def test_a_rule_for_many_hosts_is_not_touched_a_rule_beside_it_takes_all_that_it_says() -> None:
    many = rule("*.shop.svc.cluster.local", name="all", trafficPolicy={"loadBalancer": {"simple": "RANDOM"}})
    (patch,) = owners.patches([many], HOST, WANTED)
    assert patch.new and patch.name == "all-payments" and patch.rule["spec"]["host"] == HOST
    assert patch.rule["spec"]["trafficPolicy"]["loadBalancer"]["simple"] == "RANDOM"
    assert owners.patches([many, dict(patch.rule)], HOST, WANTED) == []


def test_the_most_specific_rule_of_each_namespace_counts_and_the_oldest_of_equal_ones() -> None:
    good = rule(trafficPolicy=WANTED)
    newer = rule(name="newer", trafficPolicy={"tls": {"mode": "DISABLE"}})
    newer["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert owners.patches([newer, good, rule("*", name="wild")], HOST, WANTED) == []
    other = rule(namespace="client", name="mine")
    assert [patch.namespace for patch in owners.patches([good, other], HOST, WANTED)] == ["client"]
    assert owners.in_the_way([good], HOST, "istio-system")
    assert owners.in_the_way([rule("*", "istio-system")], HOST, "istio-system")
    assert not owners.in_the_way([other], HOST, "istio-system")


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[1]",
        b"[",
        b'[{"metadata":{"name":"x"},"spec":{"host":"h"}}]',
        b'[{"kind":"Service","metadata":{"name":"x","namespace":"n"},"spec":{"host":"h"}}]',
        b'[{"metadata":{"name":"x","namespace":"n"},"spec":{"host":1}}]',
        b'[{"metadata":{"name":"x\\nkind: Pod","namespace":"n"},"spec":{"host":"h"}}]',
        b'[{"metadata":{"name":1,"namespace":"n"},"spec":{"host":"h"}}]',
        b'[{"metadata":{"name":"x","namespace":"n"},"spec":{"host":"h","trafficPolicy":[1]}}]',
        b'[{"metadata":{"name":"x","namespace":"n"},"spec":{"host":"h","trafficPolicy":{"tls":[1]}}}]',
        b'[{"metadata":{"name":"x","namespace":"n"},"spec":{"host":"h","trafficPolicy":{"tls":{"subjectAltNames":[1]}}}}]',
        b'[{"metadata":{"name":"x","namespace":"n"},"spec":{"host":"h","subsets":[1]}}]',
        b'[{"metadata":{"name":"x","namespace":"n"},"spec":{"host":"h","exportTo":[[1]]}}]',
        b'[{"metadata":{"name":"x","namespace":"n"},"spec":{"host":"h","trafficPolicy":{"loadBalancer":{"localityLbSetting":1}}}}]',
    ],
)
def test_what_is_no_list_of_rules_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(Invalid, match=HOST):
        owners.read(data, HOST)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 3600),
        ("1h30m", 5400),
        ("3600s", 3600),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("", None),
        ("x", None),
        (5, None),
    ],
)
def test_durations_are_read_as_istio_writes_them(text: object, seconds: float | None) -> None:
    assert owners.duration(text) == (None if seconds is None else timedelta(seconds=seconds))


RANKS = [f"rank.trustfed/{rank}=" for rank in range(8, 0, -1)]


@pytest.mark.parametrize(
    "setting",
    [
        {"enabled": False},
        {"enabled": False, "failoverPriority": RANKS},
        {"enabled": True},
        {"failoverPriority": ["topology.kubernetes.io/zone", *RANKS]},
        {"failoverPriority": RANKS[1:]},
        {"distribute": [{"from": "a/*", "to": {"a/*": 100}}]},
    ],
)
def test_where_a_service_is_here_too_a_rule_has_to_keep_remote_endpoints_last(setting: dict[str, Any]) -> None:
    """Otherwise they join the local ones in one priority, and an import draws local calls away."""
    wanted = {**WANTED, "loadBalancer": {"localityLbSetting": {"enabled": True, "failoverPriority": RANKS}}}
    said = rule(trafficPolicy={**WANTED, "loadBalancer": {"simple": "RANDOM", "localityLbSetting": setting}})
    (patch,) = owners.patches([said], HOST, wanted)
    balancer = patch.rule["spec"]["trafficPolicy"]["loadBalancer"]
    assert balancer["simple"] == "RANDOM" and balancer["localityLbSetting"]["failoverPriority"][:8] == RANKS
    assert [
        one for one in balancer["localityLbSetting"]["failoverPriority"] if one == "topology.kubernetes.io/zone"
    ] == [one for one in setting.get("failoverPriority", ()) if one == "topology.kubernetes.io/zone"]
    assert owners.patches([dict(patch.rule)], HOST, wanted) == []


@pytest.mark.parametrize(
    ("found", "some"),
    [
        (rule(), False),
        (rule(exportTo=["*"]), False),
        (rule(exportTo=["."]), True),
        (rule(exportTo=["shop", "till"]), True),
        (rule("*.local", "istio-system", exportTo=["shop"]), True),
        (rule(namespace="till", exportTo=["."]), False),  # a caller's own: seen by those callers alone anyway
        (rule(namespace="till", workloadSelector={"matchLabels": {"app": "x"}}), True),
    ],
)
def test_a_rule_that_holds_for_some_callers_only_is_known(found: dict[str, Any], some: bool) -> None:
    assert owners.partial([found], HOST, "istio-system") == ([found] if some else [])
