"""What is rendered, byte by byte, and what is refused rather than rendered."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle_publisher.istio import exported, imported
from bundle_publisher.istio.exported import ANY_SPIFFE_ID, Exported
from bundle_publisher.istio.imported import Entrance, Imported, Remote
from bundle_publisher.istio.names import elsewhere, in_its_namespace
from bundle_publisher.istio.resource import MAX_MANIFEST, Resource, seal
from bundle_publisher.istio.settings import Settings
from trustfed.errors import Invalid
from trustfed.federation.mesh import Export, Gateway, ServicePort
from trustfed.proto.istio_kinds import ASKED, KINDS

HOST = "payments.ns.svc.cluster.local"
AT = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
WEST, EAST = "prod-us-west", "prod-eu-west"
SETTINGS = Settings(WEST)
ANSWER = f"spiffe://{EAST}/ns/ns/sa/payments"


def export(**more: object) -> Export:
    fields: dict[str, object] = {
        "host": HOST,
        "ports": (ServicePort(8080, "http", "HTTP"),),
        "answers": (ANSWER,),
        "callers": (f"spiffe://{WEST}/ns/ns/sa/checkout",),
        "workload": {"app": "payments"},
    }
    return Export(**{**fields, **more})  # type: ignore[arg-type]


def entrance(name: str = "g", address: str = "203.0.113.20", measured: int = 100, **more: object) -> Entrance:
    fields: dict[str, object] = {"port": 15443, "network": EAST, "locality": "eu-west-1/eu-west-1a", "weight": 3}
    return Entrance(Gateway(name, address, **{**fields, **more}), measured)  # type: ignore[arg-type]


def whole(*remotes: Remote, present: bool = False, answers: tuple[str, ...] = ()) -> Imported:
    return Imported(HOST, remotes or (Remote(EAST, export(), AT, (entrance(),)),), present, answers, ("us-west-2",))


def spec(resource: Resource) -> Any:
    return json.loads(resource.manifest)["spec"]


def test_a_service_entry_is_these_bytes() -> None:
    found = imported.service_entry(whole(), SETTINGS)
    assert found.key == "ServiceEntry/ns/trustfed-payments"
    assert (
        found.manifest
        == (
            b'{"apiVersion":"networking.istio.io/v1","kind":"ServiceEntry","metadata":{"creationTimestamp":"2026-03-01T12:00:00Z",'
            b'"labels":{"app.kubernetes.io/managed-by":"trustfed"},"name":"trustfed-payments","namespace":"ns"},'
            b'"spec":{"addresses":["%s"],"endpoints":[{"address":"203.0.113.20","labels":{"security.istio.io/tlsMode":"istio"},'
            b'"locality":"eu-west-1/eu-west-1a","network":"prod-eu-west","ports":{"http":15443},"weight":3}],'
            b'"hosts":["payments.ns.svc.cluster.local"],"location":"MESH_INTERNAL",'
            b'"ports":[{"name":"http","number":8080,"protocol":"HTTP"}],"resolution":"STATIC",'
            b'"subjectAltNames":["spiffe://prod-eu-west/ns/ns/sa/payments"]}}'
        )
        % imported.address(HOST).encode()
    )
    assert re.fullmatch("[0-9a-f]{64}", found.version)
    assert found.created_at == AT.replace(microsecond=0)


def test_a_destination_rule_is_these_bytes() -> None:
    own = (f"spiffe://{WEST}/ns/ns/sa/payments",)
    found = imported.destination_rule(whole(present=True, answers=own), SETTINGS)
    assert found.key == "DestinationRule/ns/trustfed-payments"
    assert found.manifest.partition(b'"spec":')[2] == (
        b'{"host":"payments.ns.svc.cluster.local","trafficPolicy":{"connectionPool":{"tcp":{"maxConnectionDuration":"3600s"}},'
        b'"loadBalancer":{"localityLbSetting":{"enabled":true,"failoverPriority":["rank.trustfed/8=","rank.trustfed/7=",'
        b'"rank.trustfed/6=","rank.trustfed/5=","rank.trustfed/4=","rank.trustfed/3=","rank.trustfed/2=","rank.trustfed/1="]}},'
        b'"outlierDetection":{"baseEjectionTime":"30s","consecutive5xxErrors":5,"interval":"5s","maxEjectionPercent":100,"minHealthPercent":1},'
        b'"tls":{"mode":"ISTIO_MUTUAL","subjectAltNames":["spiffe://prod-eu-west/ns/ns/sa/payments",'
        b'"spiffe://prod-us-west/ns/ns/sa/payments"]}}}}'
    )


def test_failover_goes_from_here_to_the_nearest_region() -> None:
    near = Remote(EAST, export(), AT, (entrance("a", measured=40), entrance("b", locality="us-east-1", measured=90)))
    policy = imported.traffic_policy(whole(near), SETTINGS)
    assert policy["loadBalancer"]["localityLbSetting"] == {
        "enabled": True,
        "failover": [{"from": "us-west-2", "to": "us-east-1"}],
    }
    here = Remote(EAST, export(), AT, (entrance(locality="us-west-2/c"),))
    assert imported.traffic_policy(whole(here), SETTINGS)["loadBalancer"]["localityLbSetting"] == {"enabled": True}


def test_remote_endpoints_are_ranked_behind_local_ones_where_there_are_any() -> None:
    """Their labels are what `failoverPriority` looks for: a local endpoint has none of them, and is first."""
    far = Remote(EAST, export(), AT, (entrance("a", measured=40), entrance("b", locality="us-east-1", measured=90)))
    found = whole(far, present=True, answers=(f"spiffe://{WEST}/ns/ns/sa/payments",))
    setting = imported.traffic_policy(found, SETTINGS)["loadBalancer"]["localityLbSetting"]
    assert setting == {"enabled": True, "failoverPriority": [f"rank.trustfed/{rank}=" for rank in range(8, 0, -1)]}
    endpoints = spec(imported.service_entry(found, SETTINGS))["endpoints"]
    assert [sorted(one["labels"])[0] for one in endpoints] == ["rank.trustfed/2", "rank.trustfed/1"]


def test_no_domain_names_a_network_of_another_one() -> None:
    """A gateway that says our own network would be local for our east-west gateway, which then sends out what came in."""
    remote = Remote(EAST, export(), AT, (entrance("a"), entrance("b", network=WEST)))
    networks = [one["network"] for one in spec(imported.service_entry(whole(remote), SETTINGS))["endpoints"]]
    assert networks == [EAST, f"{EAST}.{WEST}"]


def test_weights_are_the_owners_times_the_measured_ones_in_lowest_terms_and_bounded() -> None:
    def weights(*entrances: Entrance) -> list[int]:
        endpoints = spec(imported.service_entry(whole(Remote(EAST, export(), AT, entrances)), SETTINGS))["endpoints"]
        return [one["weight"] for one in endpoints]

    assert weights(entrance("a", weight=3), entrance("b", weight=1)) == [3, 1]
    assert weights(entrance("a", weight=3), entrance("b", weight=3, measured=50)) == [6, 3]
    assert weights(entrance("a", weight=100, measured=99), entrance("b", weight=1, measured=1)) == [1000, 1]


def test_a_subset_holds_only_endpoints_that_lead_to_it() -> None:
    found = whole(
        Remote(EAST, export(subsets=("v1",)), AT, (entrance(),)), Remote("north", export(), AT, (entrance("n"),))
    )
    assert spec(imported.destination_rule(found, SETTINGS))["subsets"] == [
        {"name": "v1", "labels": {"subset.trustfed/v1": "true"}}
    ]
    first, second = spec(imported.service_entry(found, SETTINGS))["endpoints"]
    assert "subset.trustfed/v1" in first["labels"] and "subset.trustfed/v1" not in second["labels"]


def test_a_gateway_lists_one_exact_host() -> None:
    found = exported.gateway(Exported(export(), AT, ()), Settings(EAST, gateway_selector={"istio": "ew"}))
    assert found.key.startswith("Gateway/istio-system/trustfed-payments-")
    assert spec(found) == {
        "selector": {"istio": "ew"},
        "servers": [
            {
                "port": {"number": 15443, "name": "tls", "protocol": "TLS"},
                "tls": {"mode": "AUTO_PASSTHROUGH"},
                "hosts": [HOST],
            }
        ],
    }


def test_a_policy_refuses_whoever_has_a_spiffe_id_but_its_own_domain_and_the_agreed() -> None:
    callers = (f"spiffe://{WEST}/ns/ns/sa/checkout", "spiffe://prod-us-north")
    found = exported.workload_policy(Exported(export(), AT, callers), (), Settings(EAST, aliases=("cluster.local",)))
    assert found.key == "AuthorizationPolicy/ns/trustfed-payments"
    assert spec(found) == {
        "selector": {"matchLabels": {"app": "payments"}},
        "action": "DENY",
        "rules": [
            {
                "from": [
                    {
                        "source": {
                            "principals": list(ANY_SPIFFE_ID),
                            "notPrincipals": [
                                "prod-eu-west/*",
                                "cluster.local/*",
                                "prod-us-north/*",
                                "prod-us-west/ns/ns/sa/checkout",
                            ],
                        }
                    },
                    {
                        "source": {
                            "principals": ["prod-us-west/*"],
                            "notPrincipals": ["prod-us-west/ns/ns/sa/checkout"],
                        }
                    },
                ]
            },
            {
                "from": [
                    {
                        "source": {
                            "principals": list(ANY_SPIFFE_ID),
                            "notPrincipals": ["prod-eu-west/*", "cluster.local/*"],
                        }
                    }
                ],
                "when": [
                    {
                        "key": "connection.sni",
                        "values": ["outbound_.*"],
                        "notValues": [f"outbound_.8080_._.{HOST}"],
                    }
                ],
            },
        ],
    }


@given(st.from_regex(r"spiffe://[a-z0-9._-]{1,20}(/[A-Za-z0-9._-]{1,9}){1,3}", fullmatch=True))
def test_anybody_with_a_spiffe_id_is_among_those_refused_by_default(spiffe_id: str) -> None:
    rest = spiffe_id.removeprefix("spiffe://")
    assert any(rest.startswith(one.removesuffix("*")) for one in ANY_SPIFFE_ID)


def test_a_client_certificate_without_a_spiffe_id_matches_no_principal() -> None:
    """Istio puts spiffe:// before each of these, so that a DNS name or a subject, as an ingress gateway's client has, is none."""
    assert "*" not in ANY_SPIFFE_ID and all(len(one) == 2 for one in ANY_SPIFFE_ID)


def test_callers_beyond_what_a_policy_holds_are_refused() -> None:
    many = [f"spiffe://{WEST}/ns/{'n' * 200}/sa/s{number:05}" for number in range(4_000)]
    kept, cut = exported.bounded(many)
    assert len(kept) + len(cut) == len(many) and kept and cut
    assert len(exported.mesh_policy(kept, AT, SETTINGS).manifest) < MAX_MANIFEST


def test_very_many_peers_leave_room_for_fewer_callers_and_never_for_none_of_the_policy() -> None:
    peers = tuple(f"domain-number-{number:05}.example" for number in range(3_000))
    kept, cut = exported.bounded([f"spiffe://{one}/ns/a/sa/{n}" for one in peers for n in range(4)], peers)
    assert kept and cut
    assert len(exported.mesh_policy(kept, AT, replace(SETTINGS, peers=peers)).manifest) < MAX_MANIFEST


@pytest.mark.parametrize("callers", [None, ()])
def test_a_policy_names_everybody_or_only_peers(callers: tuple[str, ...] | None) -> None:
    """Only peers while nothing is exported or imported: the mesh's own identities may be of a domain that nobody told of."""
    rules = spec(exported.mesh_policy(callers, AT, Settings(EAST, peers=(WEST,), aliases=("corp.example",))))["rules"]
    peers = {"source": {"principals": ["prod-us-west/*"]}}
    own = ["prod-eu-west/*", "corp.example/*"]
    everybody = {"source": {"principals": list(ANY_SPIFFE_ID), "notPrincipals": own}}
    assert rules == [
        {"from": [peers] if callers is None else [everybody, peers]},
        {"from": [peers], "when": [{"key": "source.principal", "values": own}]},
    ]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (HOST, "trustfed-payments"),
        (f"{'a' * 54}.ns.svc.cluster.local", "trustfed-" + "a" * 54),
        (f"{'a' * 55}.ns.svc.cluster.local", "trustfed-" + "a" * 37 + "-"),
        ("payments.ns.svc.other.example", "trustfed-payments-"),
    ],
)
def test_names_are_readable_and_hashed_only_where_they_must_be(host: str, expected: str) -> None:
    name = in_its_namespace(host)
    assert len(name) <= 63 and (name == expected or re.fullmatch(re.escape(expected) + "[0-9a-f]{16}", name))


@given(
    st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.[a-z]{1,3}", fullmatch=True), max_size=20, unique=True)
)
def test_no_two_hosts_share_a_name(services: list[str]) -> None:
    hosts = [f"{one}.svc.cluster.local" for one in services]
    names = [elsewhere(host) for host in hosts]
    assert len(set(names)) == len(hosts)
    assert all(re.fullmatch("trustfed-[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 63 for name in names)


@pytest.mark.parametrize(
    ("namespace", "name", "body", "message"),
    [
        ("NS", "trustfed-x", {}, "namespace"),
        ("ns", "x", {}, "name"),
        ("ns", "trustfed-a.b", {}, "name"),
        ("ns", "trustfed-" + "a" * 55, {}, "name"),
        ("ns", "trustfed-x", {"hosts": "not a list"}, "fit"),
        ("ns", "trustfed-x", {"hostz": []}, "fit"),
        ("ns", "trustfed-x", {"resolution": "MAGIC"}, "fit"),
        ("ns", "trustfed-x", {"ports": [{"number": -1}]}, "fit"),
        ("ns", "trustfed-x", {"hosts": ["x" * MAX_MANIFEST]}, "bytes"),
    ],
)
def test_what_istiod_would_not_take_is_refused(
    namespace: str, name: str, body: dict[str, object], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        seal("ServiceEntry", namespace, name, AT, body)


def test_the_same_items_make_the_same_bytes_and_another_time_other_ones() -> None:
    assert imported.service_entry(whole(), SETTINGS) == imported.service_entry(whole(), SETTINGS)
    later = replace(whole().remotes[0], since=AT + timedelta(days=1))
    assert imported.service_entry(whole(later), SETTINGS).version != imported.service_entry(whole(), SETTINGS).version


def test_every_kind_that_is_rendered_is_asked_for() -> None:
    assert {kind.type_url for kind in KINDS.values()} <= set(ASKED)
    assert KINDS["AuthorizationPolicy"].body_url == "type.googleapis.com/istio.security.v1beta1.AuthorizationPolicy"
    assert len(ASKED) == 14


@given(st.text(max_size=60).map(lambda text: f"{text}.ns.svc.cluster.local"))
def test_an_address_is_in_the_block_that_nothing_else_uses(host: str) -> None:
    first = int(imported.address(host).split(".")[0])
    assert 241 <= first <= 254
