"""Own items and local knowledge: who may say what, whose it is then, how many, and what is no news."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Struct

from trustfed.cluster import events as e
from trustfed.cluster import fold as folding
from trustfed.cluster.mesh import events as m
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation.mesh import Export, Gateway, Import, Item, ServicePort, kind_of, write_item

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
HOST = "payments.shop.svc.cluster.local"
GATEWAY = Gateway("west-1", "203.0.113.20", 15443, "prod-us-west")
EXPORT = Export(
    HOST, (ServicePort(8080, "http", "HTTP"),), ("spiffe://prod-us-west/ns/shop/sa/payments",), (), {"app": "payments"}
)
IMPORT = Import("stock", "prod-eu-central", host="stock.shop.svc.cluster.local")
ITEMS: tuple[Item, ...] = (GATEWAY, EXPORT, IMPORT)
ANSWER = "spiffe://prod-us-west/ns/shop/sa/stock"
RULE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "stock", "namespace": "shop", "resourceVersion": "7", "managedFields": [{}]},
    "spec": {"host": "stock.shop.svc.cluster.local", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
}


def state_of(*events: Struct) -> ClusterState:
    state = folding.apply(ClusterState(), e.Keyed("i", "prod-us-west", "k", b"key", NOW))
    return after(state, events)


def after(state: ClusterState, events: Sequence[Struct]) -> ClusterState:
    for event in events:
        state = folding.apply(state, event)
    return state


def put(state: ClusterState, *items: Item, source: str = "command") -> ClusterState:
    for item in items:
        state = after(state, own.put(state, item, source, NOW))
    return state


@pytest.mark.parametrize("item", ITEMS, ids=kind_of)
@pytest.mark.parametrize("source", own.SOURCES)
def test_what_is_put_is_held_and_what_is_the_same_is_no_news(item: Item, source: str) -> None:
    state = put(state_of(), item, source=source)
    (held,) = state.mesh.own.values()
    assert (held.kind, held.name, held.item, held.source) == (kind_of(item), item.name, write_item(item), source)
    assert own.put(state, item, source, LATER) == []
    (changed,) = own.put(state, replace(item, owner="team"), source, LATER)
    assert isinstance(changed, m.MeshPut) and changed.sequence == 2
    again = after(state, [changed]).mesh.own.get(f"{kind_of(item)}/{item.name}")
    assert again is not None and (again.created_at, again.changed_at) == (NOW, LATER)


def test_the_sequence_rises_with_every_event_of_every_kind() -> None:
    state = put(state_of(), *ITEMS)
    state = after(state, own.drop(state, "gateway", "west-1", "command", NOW))
    state = put(state, GATEWAY)
    assert state.mesh.sequence == 5
    draft = own.Draft(state, "command", NOW)
    for number in range(3):
        draft.put(replace(GATEWAY, name=f"g{number}"))
    assert [event.sequence for event in draft.done() if isinstance(event, m.MeshPut)] == [6, 7, 8]


@pytest.mark.parametrize("owner_", own.SOURCES)
@pytest.mark.parametrize("other", own.SOURCES)
def test_a_source_changes_only_what_it_put(owner_: str, other: str) -> None:
    """Also what it would put just the same: else two sources would take turns."""
    state = put(state_of(), GATEWAY, source=owner_)
    state = after(state, own.local(state, HOST, "absent", (), (), owner_, NOW))
    tries: list[Callable[[], list[Struct]]] = [
        lambda: own.put(state, replace(GATEWAY, weight=2), other, NOW),
        lambda: own.put(state, GATEWAY, other, NOW),
        lambda: own.drop(state, "gateway", "west-1", other, NOW),
        lambda: own.local(state, HOST, "none", (), (), other, NOW),
        lambda: own.forget(state, HOST, other, NOW),
    ]
    for attempt in tries:
        if owner_ == other:
            attempt()
            continue
        with pytest.raises(Conflict, match="was put by") as raised:
            attempt()
        assert raised.value.hint


def test_a_person_may_take_an_item_over() -> None:
    state = put(state_of(), GATEWAY, source="directory")
    state = after(state, own.put(state, GATEWAY, "command", NOW, take=True))
    state = after(state, own.local(state, HOST, "absent", (), (), "kubernetes", NOW))
    state = after(state, own.local(state, HOST, "absent", (), (), "command", NOW, take=True))
    assert [held.source for held in state.mesh.own.values()] == ["command"]
    assert [held.source for held in state.mesh.local.values()] == ["command"]
    own.drop(state, "gateway", "west-1", "command", NOW)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "::1", "169.254.1.1", "169.254.169.254", "fe80::1", "224.0.0.1", "ff02::1", "0.0.0.0", "::",
        "255.255.255.255", "240.0.0.1", "100.100.100.200", "fd00:ec2::254", "::ffff:7f00:1", "::ffff:a9fe:a9fe",
        "2002:7f00:1::", "64:ff9b::a9fe:a9fe",
    ],
)  # fmt: skip
def test_where_no_gateway_of_another_cluster_can_be(address: str) -> None:
    with pytest.raises(Denied, match="where no other cluster finds it") as raised:
        own.put(state_of(), replace(GATEWAY, address=address), "command", NOW)
    assert "allow_networks" in raised.value.hint and "URL" not in raised.value.message


def test_networks_that_configuration_names() -> None:
    reach = MeshConfig(allow_networks=("127.0.0.0/8",)).reach()
    assert own.put(state_of(), replace(GATEWAY, address="127.0.0.1"), "command", NOW, reach=reach)
    assert own.put(state_of(), replace(GATEWAY, address="10.1.2.3"), "command", NOW)
    for address in ("::1", "169.254.169.254"):
        with pytest.raises(Denied):
            own.put(state_of(), replace(GATEWAY, address=address), "command", NOW, reach=reach)


def test_only_its_own_identities_answer_and_no_import_from_itself() -> None:
    far = replace(EXPORT, answers=("spiffe://prod-eu-central/ns/shop/sa/payments",))
    for item in (far, replace(IMPORT, exporter="prod-us-west")):
        with pytest.raises(Denied):
            own.put(state_of(), item, "command", NOW)


def test_an_export_that_is_too_large_to_be_told() -> None:
    callers = tuple(f"spiffe://prod-eu-central/{'c' * 300}{number}" for number in range(256))
    with pytest.raises(Invalid, match="when it is told"):
        own.put(state_of(), replace(EXPORT, callers=callers), "command", NOW)


def test_the_limits_count_what_is_left_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing one at the limit is no more than before, in whichever order it is said."""
    monkeypatch.setattr(own, "LIMITS", {"gateway": 2, "export": 1, "import": 1})
    monkeypatch.setattr(own, "MAX_LOCAL", 1)
    state = put(state_of(), GATEWAY, replace(GATEWAY, name="west-2"), EXPORT, IMPORT)
    state = after(state, own.local(state, HOST, "absent", (), (), "command", NOW))
    for item in (replace(GATEWAY, name="west-3"), replace(EXPORT, host="a.b.svc.c"), replace(IMPORT, name="other")):
        with pytest.raises(Conflict, match="at most"):
            own.put(state, item, "command", NOW)
    with pytest.raises(Conflict, match="at most 1 hosts"):
        own.local(state, "a.b.svc.c", "absent", (), (), "command", NOW)
    draft = own.Draft(state, "command", NOW)
    draft.put(replace(GATEWAY, name="west-3"))
    draft.drop("gateway", "west-1")
    assert len(draft.done()) == 2


def test_what_is_not_there() -> None:
    state = put(state_of(), GATEWAY)
    for attempt in (
        lambda: own.drop(state, "gateway", "west-9", "command", NOW),
        lambda: own.drop(state, "export", "west-1", "command", NOW),
        lambda: own.forget(state, HOST, "command", NOW),
    ):
        with pytest.raises(NotFound):
            attempt()
    with pytest.raises(Invalid, match="no source"):
        own.put(state, GATEWAY, "somebody", NOW)


def test_local_knowledge() -> None:
    """Of a host's own rules only what tells them apart is kept: a rule that was only touched is no news."""
    state = state_of()
    told = own.local(state, IMPORT.host, "all", (ANSWER, ANSWER), (RULE,), "kubernetes", NOW)
    (seen,) = told
    assert isinstance(seen, m.LocalSeen) and seen.answers == (ANSWER,) and b"resourceVersion" not in seen.rules
    state = after(state, told)
    touched = {**RULE, "metadata": {**RULE["metadata"], "resourceVersion": "8"}}  # type: ignore[dict-item]
    assert own.local(state, IMPORT.host, "all", (ANSWER,), (touched,), "kubernetes", LATER) == []
    (gone,) = own.forget(state, IMPORT.host, "kubernetes", LATER)
    assert len(after(state, [gone]).mesh.local) == 0


@pytest.mark.parametrize(
    ("sidecars", "answers", "rules", "words"),
    [
        ("maybe", (), (), "has the sidecars"), ("all", (), (), "does not name who answers"),
        ("absent", (ANSWER,), (), "yet it names"), ("all", ("spiffe://prod-eu-central/x",), (), "not of prod-us-west"),
        ("all", ("payments",), (), "SPIFFE ID"), ("none", tuple(f"{ANSWER}{n}" for n in range(33)), (), "33 answering"),
        ("none", (), ({"kind": "VirtualService", **{k: v for k, v in RULE.items() if k != "kind"}},), "no Destination"),
        ("none", (), ({"kind": "DestinationRule"},), "no DestinationRule"),
        ("none", (), ({**RULE, "spec": []},), "no DestinationRule"), ("none", (), (RULE,) * 33, "33 rules"),
        ("none", (), ({**RULE, "spec": {"host": "x" * 70_000}},), "bytes"),
        ("none", (), ({**RULE, "spec": {"host": float("nan")}},), "plain JSON"),
    ],
)  # fmt: skip
def test_local_knowledge_that_cannot_be(sidecars: str, answers: Any, rules: Any, words: str) -> None:
    with pytest.raises((Invalid, Denied), match=words):
        own.local(state_of(), IMPORT.host, sidecars, answers, rules, "command", NOW)


def test_ports_of_a_host_are_kept_by_number() -> None:
    state = state_of()
    (seen,) = own.local(state, HOST, "absent", (), (), "command", NOW, ports=("9090:grpc", "8080:http", "8080:http"))
    assert isinstance(seen, m.LocalSeen) and seen.ports == ("8080:http", "9090:grpc")
    state = after(state, [seen])
    assert own.local(state, HOST, "absent", (), (), "command", LATER, ports=("8080:http", "9090:grpc")) == []
    (unnamed,) = own.local(state, HOST, "absent", (), (), "command", LATER, ports=("8080:",))
    assert isinstance(unnamed, m.LocalSeen) and unnamed.ports == ("8080:",)


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        (("8080",), "has the port '8080'"), (("0:http",), "has the port"), (("65536:http",), "has the port"),
        (("08080:http",), "has the port"), (("8080:HTTP",), "has the port"), (("8080:http ",), "has the port"),
        (("8080:http:HTTP",), "has the port"), ((f"8080:{'a' * 64}",), "has the port"), (("٨:http",), "has the port"),
        (("8080:http", "8080:web"), "two names for port 8080"),
        (tuple(f"{n}:p" for n in range(1, own.MAX_LOCAL_PORTS + 2)), "129 ports"),
    ],
)  # fmt: skip
def test_ports_that_cannot_be(ports: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        own.local(state_of(), HOST, "absent", (), (), "command", NOW, ports=ports)


def test_local_knowledge_is_of_a_full_host() -> None:
    with pytest.raises(Invalid, match="has the host"):
        own.local(state_of(), "stock", "absent", (), (), "command", NOW)
