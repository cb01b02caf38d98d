"""Registration entries: every field's worst input, and what follows for which node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.clocks import START
from tests.unit.cluster.cluster_parts import TD, TTLS
from trustfed.cluster import entries
from trustfed.cluster import events as e
from trustfed.cluster.entries import EntrySpec
from trustfed.cluster.fold import apply
from trustfed.cluster.state import ClusterState, Domain, Node
from trustfed.errors import Conflict, Denied, Invalid, NotFound

STATE = ClusterState(domain=Domain("i", TD, "publication", b""), dns_suffixes=("svc.example",))
NODE = Node("n1", ("default",), "join_token", "", "", (), START)


def put(state: ClusterState = STATE, update: bool = False, **fields: Any) -> ClusterState:
    given = {"spiffe_id": f"spiffe://{TD}/web", "parent": "node/n1", "selectors": ("unix:uid:1",), **fields}
    for event in entries.put_entry(state, EntrySpec(**given), "new", TTLS, START, update=update):
        state = apply(state, event)
    return state


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "-x"},
        {"id": "a/b"},
        {"id": "a" * 129},
        {"id": "é"},
        {"spiffe_id": f"spiffe://{TD}"},
        {"spiffe_id": f"spiffe://{TD}/"},
        {"spiffe_id": f"spiffe://{TD}/a/../b"},
        {"spiffe_id": f"spiffe://{TD}/%2e"},
        {"spiffe_id": f"spiffe://{TD}//a"},
        {"spiffe_id": f"spiffe://{TD}/a\n"},
        {"spiffe_id": f"spiffe://u@{TD}/a"},
        {"spiffe_id": f"spiffe://{TD}:1/a"},
        {"spiffe_id": f"SPIFFE://{TD}/é"},
        {"spiffe_id": f"spiffe://{TD}/" + "a" * 2048},
        {"spiffe_id": "https://x"},
        {"spiffe_id": ""},
        {"parent": "node"},
        {"parent": "node/"},
        {"parent": "pod/x"},
        {"parent": "node/../x"},
        {"parent": "group/A B"},
        {"selectors": ()},
        {"selectors": ("unix:uid:1",) * 33},
        {"selectors": ("unix",)},
        {"selectors": ("unix:",)},
        {"selectors": ("UNIX:uid:1",)},
        {"selectors": ("unix:uid:1\n",)},
        {"selectors": ("unix:" + "x" * 1001,)},
        {"x509_ttl": -1},
        {"x509_ttl": TTLS.x509_max + 1},
        {"x509_ttl": 10**30},
        {"jwt_ttl": TTLS.jwt_max + 1},
        {"dns_names": tuple(f"a{i}.svc.example" for i in range(33))},
        {"dns_names": ("*.svc.example",)},
        {"dns_names": ("A.svc.example",)},
        {"dns_names": ("a.svc.example.",)},
        {"dns_names": ("a..svc.example",)},
        {"dns_names": ("-a.svc.example",)},
        {"dns_names": ("a" * 64 + ".svc.example",)},
        {"dns_names": ("",)},
        {"federates_with": (TD,)},
        {"federates_with": ("TD B",)},
        {"federates_with": ("peers:",)},
        {"federates_with": ("peers:a/b",)},
        {"federates_with": tuple(f"td-{i}" for i in range(1001))},
        {"hint": "x" * 257},
        {"hint": "a\x00"},
        {"owner": "x" * 257},
        {"owner": "a\nb"},
        {"chain": "both"},
        {"expires_at": START},
        {"expires_at": datetime(2030, 1, 1)},  # noqa: DTZ001
    ],
    ids=lambda fields: f"{next(iter(fields))}-{str(next(iter(fields.values())))[:24]}",
)
def test_bad_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        put(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"spiffe_id": "spiffe://td-b/web"},
        {"spiffe_id": f"spiffe://{TD}/trustfed/cluster"},
        {"spiffe_id": f"spiffe://{TD}/trustfed"},
        {"dns_names": ("svc.example.evil",)},
        {"dns_names": ("evilsvc.example",)},
    ],
)
def test_names_that_are_not_ours_to_give(fields: dict[str, Any]) -> None:
    with pytest.raises(Denied):
        put(**fields)


def test_a_refused_selector_is_not_quoted() -> None:
    with pytest.raises(Invalid) as refused:
        put(selectors=("unix:uid:1", "sekret"))
    assert "sekret" not in refused.value.message
    assert "selector 2" in refused.value.message


def test_defaults_and_order() -> None:
    entry = put(selectors=("unix:uid:2", "unix:uid:1", "unix:uid:1")).entries["new"]
    assert (entry.x509_ttl, entry.jwt_ttl, entry.created_at) == (TTLS.x509, TTLS.jwt, START)
    assert entry.selectors == ("unix:uid:1", "unix:uid:2")


def test_create_twice_update_nothing_delete_nothing() -> None:
    state = put(id="a")
    with pytest.raises(Conflict, match="exists already"):
        put(state, id="a")
    with pytest.raises(Conflict, match="the same SPIFFE ID"):
        put(state, id="b")
    with pytest.raises(NotFound):
        put(state, id="c", update=True)
    with pytest.raises(NotFound):
        entries.delete_entry(state, "c")
    assert put(state, id="a", hint="x", update=True).entries["a"].hint == "x"


def test_an_entry_never_federates_with_more_than_one_message_holds() -> None:
    state = apply(STATE, *entries.set_peers(STATE, "big", [f"td-{i}" for i in range(999)]))
    state = put(state, federates_with=("peers:big", "td-x"))
    with pytest.raises(Invalid, match="1001 trust domains"):
        entries.set_peers(state, "big", [f"td-{i}" for i in range(1000)])
    with pytest.raises(Invalid, match="1001 trust domains"):
        put(state, id="two", spiffe_id=f"spiffe://{TD}/b", federates_with=("peers:big", "td-x", "td-y"))


def test_peers() -> None:
    with pytest.raises(NotFound):
        entries.set_peers(STATE, "none", [])
    with pytest.raises(Invalid):
        entries.set_peers(STATE, "g", ["NOT A DOMAIN"])
    state = apply(STATE, *entries.set_peers(STATE, "g", ["td-c", "td-b", "td-c"]))
    state = put(state, federates_with=("peers:g", "td-d", "peers:unknown"))
    assert entries.federates(state, state.entries["new"]) == ("td-b", "td-c", "td-d")
    state = apply(state, *entries.set_peers(state, "g", []))
    assert entries.federates(state, state.entries["new"]) == ("td-d",)
    everyone = put(id="all", spiffe_id=f"spiffe://{TD}/all", federates_with=("td-d", "*"))
    assert entries.federates(everyone, everyone.entries["all"]) == ("*",)


@pytest.mark.parametrize(
    ("parent", "served"),
    [("node/n1", True), ("node/n2", False), ("group/default", True), ("group/n1", False), ("node/default", False)],
)
def test_which_node_serves_it(parent: str, served: bool) -> None:
    assert entries.serves(put(parent=parent).entries["new"], NODE, START) is served


def test_an_expired_entry_is_served_nowhere() -> None:
    entry = put(expires_at=START + timedelta(minutes=1)).entries["new"]
    assert entries.serves(entry, NODE, START + timedelta(seconds=59))
    assert not entries.serves(entry, NODE, (START + timedelta(minutes=1)).astimezone(UTC))


def test_the_event_survives_json() -> None:
    entry = put(expires_at=START + timedelta(minutes=1), federates_with=("*",)).entries["new"]
    assert isinstance(entry, e.EntryPut)
