"""Typed events to bodies and back, across schema versions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from trustfed.errors import Invalid
from trustfed.journal.events import Codec, Event, canonical


class Offered(msgspec.Struct, frozen=True):
    name: str
    reason: str
    until: datetime | None = None


class Ended(msgspec.Struct, frozen=True):
    name: str


def recorded(kind: str, version: int, body: dict[str, Any]) -> Event:
    return Event("e1", "c1", 1, "actor", "", "", kind, version, body)


def lift_1(body: dict[str, Any]) -> dict[str, Any]:
    body["label"] = body.pop("title")
    return body


def lift_2(body: dict[str, Any]) -> dict[str, Any]:
    return {"name": body["label"], "reason": "none given"}


CODEC = Codec(
    {"grant.offered": Offered, "grant.ended": Ended},
    upcast={("grant.offered", 2): lift_2, ("grant.offered", 1): lift_1},
)


def test_a_typed_event_returns_as_it_was() -> None:
    offered = Offered("a", "b", datetime(2026, 1, 2, tzinfo=UTC))
    kind, version, body = CODEC.encode(offered)
    assert (kind, version) == ("grant.offered", 3)
    assert body == {"name": "a", "reason": "b", "until": "2026-01-02T00:00:00Z"}
    assert CODEC.decode(recorded(kind, version, body)) == offered


def test_old_bodies_are_lifted_step_by_step_and_left_as_they_are() -> None:
    stored = {"title": "a"}
    assert CODEC.decode(recorded("grant.offered", 1, stored)) == Offered("a", "none given")
    assert CODEC.decode(recorded("grant.offered", 2, {"label": "a"})) == Offered("a", "none given")
    assert stored == {"title": "a"}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (recorded("grant.offered", 4, {}), "version 4; this program knows versions up to 3"),
        (recorded("grant.invented", 1, {}), "no such kind"),
        (recorded("grant.ended", 1, {"name": 3}), r"grant.ended version 1\) does not fit: Expected `str`"),
        (recorded("grant.ended", 1, {}), "missing required field `name`"),
    ],
    ids=["newer-version", "newer-kind", "wrong-type", "missing-field"],
)
def test_what_this_program_cannot_read_is_refused_by_name(event: Event, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        CODEC.decode(event)


def test_an_undeclared_event_is_not_recorded() -> None:
    class Other(msgspec.Struct): ...

    with pytest.raises(Invalid, match="Other is not an event"):
        CODEC.encode(Other())


@pytest.mark.parametrize(
    "steps", [{("grant.ended", 2): lift_1}, {("grant.invented", 1): lift_1}], ids=["gap", "unknown"]
)
def test_upcasters_without_a_full_path_are_refused(steps: Any) -> None:
    with pytest.raises(Invalid, match="leaves a gap or names an unknown kind"):
        Codec({"grant.ended": Ended}, upcast=steps)


def test_two_kinds_of_one_type_are_refused() -> None:
    with pytest.raises(Invalid, match="share one type"):
        Codec({"a": Ended, "b": Ended})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "x" * 129),
        ("command_id", ""),
        ("actor", ""),
        ("actor", 7),
        ("owner", "x" * 257),
        ("reason", "x" * 2049),
        ("kind", "Grant"),
        ("kind", "grant.offered\n"),
        ("kind", "a" * 65),
        ("at", -1),
        ("at", 1.0),
        ("at", True),
        ("at", 1 << 48),
        ("version", 0),
        ("version", True),
        ("body", [1]),
    ],
)
def test_an_event_with_a_bad_field_has_no_encoding(field: str, value: Any) -> None:
    event = msgspec.structs.replace(recorded("grant.ended", 1, {"name": "a"}), **{field: value})
    with pytest.raises(Invalid, match="body" if field == "body" else field):
        canonical(event)


def test_the_canonical_form_is_pinned() -> None:
    event = recorded("grant.ended", 1, {"name": "é", "b": [1, None, True], "a": {}})
    assert canonical(event).decode() == (
        '{"actor":"actor","at":1,"body":{"a":{},"b":[1,null,true],"name":"é"},"command_id":"c1","id":"e1",'
        '"kind":"grant.ended","owner":"","reason":"","version":1}'
    )
