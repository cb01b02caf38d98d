"""Facts that mirror a decision: each names the place in the journal where it was decided, and says the same; none is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from trustfed.evidence import facts
from trustfed.evidence.definition import Definition
from trustfed.journal.events import Event, Fact
from trustfed.runtime.timestamps import to_ms

Body = Mapping[str, Any]

_STEPS = ("prepared", "certified", "activated", "retired", "reissued", "tainted", "removed")
_ROOTS = ("root.created", "root.prepared", "root.activated", "root.retired")
_KINDS = {
    facts.ENTRY_ENDED: ("entry.deleted",),
    facts.NODE_ENDED: ("node.banned",),
    facts.FORCED: ("authority.reissued", "rotation.ordered"),
    facts.BUNDLE_PUBLISHED: ("bundle.published",),
    facts.AUTHORITY_STEP: (*(f"authority.{step}" for step in _STEPS), "bundle.published", *_ROOTS),
}
_OF_INTEREST = frozenset(kind for kinds in _KINDS.values() for kind in kinds)
_OWED = {
    "entry.deleted": facts.ENTRY_ENDED,
    "node.banned": facts.NODE_ENDED,
    "authority.activated": facts.AUTHORITY_STEP,
    "authority.tainted": facts.AUTHORITY_STEP,
    "authority.reissued": facts.FORCED,
    "rotation.ordered": facts.FORCED,
    "bundle.published": facts.BUNDLE_PUBLISHED,
}
"""Which fact each decision has: the figures hang on these."""

MAX_NAMED = 20


def mirrors(kind: str) -> bool:
    """Whether facts of this kind mirror a decision."""
    return kind in _KINDS


class Decisions:
    """The decisions of a whole journal, and which of them were mirrored: `take` every event first, `compare` facts then."""

    def __init__(self) -> None:
        self._events: dict[int, Event] = {}
        self._lives: dict[object, tuple[str, int, int]] = {}
        """Kind of each authority, and from when until when (Unix s) it is good, as it was prepared."""
        self._mirrored: set[tuple[int, str, str]] = set()
        self._newest = 0

    def take(self, position: int, event: Event) -> None:
        """The next event of the journal."""
        if event.kind in _OF_INTEREST:
            self._events[position] = event
        if event.kind == "authority.prepared":
            body = event.body
            life = body["kind"], _seconds(body["not_before"]), _seconds(body["not_after"])
            self._lives.setdefault(body["id"], life)  # the first counts: none is prepared again, to have lived shorter

    def longest_ms(self, definition: Definition, from_ms: int, to_ms: int) -> int:
        """No SVID that is good between these lives longer, because none outlives its authority.

        Where no authority could sign any, it is as long as any may live at all.
        """
        signers = ((begin * 1000, end * 1000) for kind, begin, end in self._lives.values() if kind == "x509")
        lives = (end - begin for begin, end in signers if end > from_ms and begin < to_ms)
        return max(lives, default=0) or definition.lead_ms

    def compare(self, fact: Fact) -> str:
        """Why a fact does not say what was decided; "" if it does, or mirrors nothing."""
        kinds = _KINDS.get(fact.kind)
        if kinds is None:
            return ""
        body, position = fact.body, fact.body.get("journal")
        event = self._events.get(position) if type(position) is int else None
        if event is None or type(position) is not int or event.kind not in kinds:
            return f"{fact.kind} says that it was decided at {position!r} of the journal, where no such thing stands"
        if (
            body.get("at") != event.at
            or body.get("deadline", event.at) < event.at
            or not _SAME[fact.kind](body, event.body, event.kind)
            or not self._lives_so(body, event.kind)
        ):
            return f"{fact.kind} says other things than the journal at {position}"
        # By what was decided, not by the fact's key, of which there are many: an end said again would excuse who came back.
        once = (position, fact.kind, str(body["authority"]) if fact.kind == facts.AUTHORITY_STEP else "")
        if once in self._mirrored:
            return f"{fact.kind} says again what was decided at {position} of the journal"
        if position < self._newest:  # kept back until it excuses who came back meanwhile
            return f"{fact.kind} says what was decided at {position} of the journal after what was decided later"
        self._mirrored.add(once)
        self._newest = max(self._newest, position)
        return ""

    def omitted(self, after: int, until_ms: int) -> list[str]:
        """Decisions that no fact mirrors, the first 20.

        Owed are those above position `after` that were made before `until_ms`, or before others that are mirrored, for it
        happens in order.
        """
        found, mirrored = [], {(position, kind) for position, kind, _ in self._mirrored}
        for position, event in self._events.items():
            owed = _OWED.get(event.kind)
            due = position > after and (position <= self._newest or event.at < until_ms)
            if owed is not None and due and (position, owed) not in mirrored:
                found.append(f"no {owed} tells of {event.kind} at {position} of the journal")
        return found[:MAX_NAMED]

    def _lives_so(self, said: Body, kind: str) -> bool:
        """Whether an authority that takes over has the life that it was prepared with, its last safe moment in it."""
        if kind != "authority.activated" or said.get("kind") not in ("x509", "jwt"):
            return True
        _, begin, end = life = self._lives.get(said.get("authority"), ("", 0, 0))
        safe = said.get("safe_ms", end * 1000)
        lived = said.get("kind"), said.get("not_before"), said.get("not_after")
        return lived == life and begin <= safe // 1000 <= end


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _ms(text: str) -> int:
    return to_ms(datetime.fromisoformat(text))


def _entry(said: Body, decided: Body, _kind: str) -> bool:
    return bool(said.get("entry") == decided.get("id"))


def _node(said: Body, decided: Body, _kind: str) -> bool:
    return bool(said.get("node") == decided.get("name"))


def _forced(said: Body, decided: Body, kind: str) -> bool:
    named, entries = list(said.get("authorities") or []), list(said.get("entries") or [])
    if kind != "rotation.ordered":
        due = _ms(decided["at"]) + decided["spread_seconds"] * 1000
        return (named, entries, said.get("deadline")) == ([decided.get("id")], [], due)
    wanted = list(decided.get("authorities") or []), list(decided.get("entries") or []), _ms(decided["deadline"])
    return (named, entries, said.get("deadline")) == wanted


def _bundle(said: Body, decided: Body, _kind: str) -> bool:
    return (said.get("epoch"), said.get("sequence")) == (decided.get("epoch"), decided.get("sequence"))


def _step(said: Body, decided: Body, kind: str) -> bool:
    authority, step = said.get("authority"), said.get("step")
    if kind == "bundle.published":
        return step == "published" and authority in (decided.get("carries") or [])
    if kind in _ROOTS:
        return authority == decided.get("key_name")
    activated = step != "activated" or bool(said.get("forced")) == bool(decided.get("forced"))
    retires = step != "activated" or (said.get("retires") or "") == (decided.get("retires") or "")
    missing = step != "activated" or bool(said.get("missing")) == bool(decided.get("missing"))
    return authority == decided.get("id") and kind == f"authority.{step}" and activated and retires and missing


_SAME: dict[str, Callable[[Body, Body, str], bool]] = {
    facts.ENTRY_ENDED: _entry,
    facts.NODE_ENDED: _node,
    facts.FORCED: _forced,
    facts.BUNDLE_PUBLISHED: _bundle,
    facts.AUTHORITY_STEP: _step,
}
