"""The fold over every event type: typed or read back from JSON, replayed or taken from a snapshot, it is one state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clocks import START
from tests.unit.cluster.cluster_parts import TD
from trustfed.cluster import events as e
from trustfed.cluster.fold import apply
from trustfed.cluster.state import ClusterState
from trustfed.journal.events import Event
from trustfed.journal.table import decode_state, encode_state

KINDS = e.CODEC._types

IDS = st.sampled_from(["a", "b", "c"])
TEXT = st.text(alphabet='aé☃ "\\', max_size=6)
BLOB = st.binary(max_size=9)
TIME = st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
NUMBER = st.integers(0, 2**53 - 1)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": IDS,
    "name": IDS,
    "retires": st.sampled_from(["", "a"]),
    "kind": st.sampled_from(["x509", "jwt"]),
    "carries": st.lists(IDS, max_size=2, unique=True).map(tuple),
    "token_hash": IDS,
    "evidence": IDS,
    "importer": st.sampled_from([TD, "td-b"]),
    "exporter": st.sampled_from([TD, "td-b"]),
}
TYPES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    bytes: BLOB,
    int: NUMBER,
    bool: st.booleans(),
    datetime: TIME,
    datetime | None: st.none() | TIME,
    int | None: st.none() | NUMBER,
    dict[str, Any]: st.dictionaries(st.sampled_from(["a", "b"]), TEXT, max_size=2),
    tuple[str, ...]: st.lists(TEXT, max_size=2).map(tuple),
    tuple[bytes, ...]: st.lists(BLOB, max_size=2).map(tuple),
}


FOREIGN = (
    e.ForeignPeerAdded,
    e.ForeignPeerChanged,
    e.ForeignPeerRemoved,
    e.ForeignBundleAccepted,
    e.ForeignBundleRefused,
)


def events_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = msgspec.inspect  # the annotations are strings: resolved by msgspec's own view
    del hints
    import typing

    types = typing.get_type_hints(kind)
    fields = {name: FIELDS.get(name, TYPES[types[name]]) for name in kind.__struct_fields__}
    if kind is e.Keyed:
        fields["trust_domain"] = st.just(TD)
    if kind in FOREIGN:
        fields["trust_domain"] = st.just("td-b")
    return st.builds(kind, **fields)


# What must exist before anything can speak of it.
BEGIN = [
    e.Keyed("i", TD, "publication", b"key", START),
    *(
        e.AuthorityPrepared(i, k, i, b"t", b"k", START, START, "")
        for i, k in (("a", "x509"), ("b", "jwt"), ("c", "jwt"))
    ),
    *(e.NodeAttested(i, (), "", i, "", (b"c",), START) for i in "abc"),
    *(e.GrantOffered(i, TD, "td-b", START, START, "", b"k", 1) for i in "abc"),
]
ANY = st.one_of([events_of(kind) for kind in KINDS.values()])


def read_back(event: Any) -> Any:
    kind, version, body = e.CODEC.encode(event)
    return e.CODEC.decode(Event("id", "c", 0, "a", "", "", kind, version, body))


def test_every_event_type_is_folded() -> None:
    from trustfed.cluster import fold
    from trustfed.cluster.mesh import state

    assert set(fold._APPLY) | set(state._APPLY) == set(KINDS.values())


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY, max_size=12))
def test_typed_json_and_snapshot_agree(drawn: list[Any]) -> None:
    typed = from_json = from_snapshot = ClusterState()
    for event in [*BEGIN, *drawn]:
        if isinstance(event, e.GrantOffered) and event.id in typed.grants:
            continue  # decided never: an offer is recorded once
        if isinstance(event, e.ForeignBundleAccepted | e.ForeignBundleRefused) and "td-b" not in typed.foreign:
            continue  # decided never: of a peer that is not there
        typed = apply(typed, event)
        from_json = apply(from_json, read_back(event))
        from_snapshot = apply(decode_state(encode_state(from_snapshot), ClusterState), event)
    assert typed == from_json
    assert typed == decode_state(encode_state(from_snapshot), ClusterState)
    now = START + timedelta(seconds=1)
    assert typed.imports(now).keys() == from_json.imports(now).keys()


def test_old_invitations_are_forgotten() -> None:
    state = ClusterState()
    for day in range(40):
        at = START + timedelta(days=day)
        state = apply(state, e.NodeInvited(f"t{day}", "n", (), at + timedelta(hours=1), at))
    assert len(state.invitations) == 8
