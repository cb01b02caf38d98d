"""Facts that mirror a decision: each names the place in the journal where it was decided, and says the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trustfed.evidence import facts
from trustfed.journal.events import Event, Fact

Body = Mapping[str, Any]

_STEPS = ("prepared", "certified", "activated", "retired", "reissued", "tainted", "removed")
_ROOTS = ("root.created", "root.prepared", "root.activated", "root.retired")
_KINDS = {
    facts.ENTRY_ENDED: ("entry.deleted",),
    facts.NODE_ENDED: ("node.banned",),
    facts.FORCED: ("authority.reissued", "authority.tainted", "rotation.ordered"),
    facts.BUNDLE_PUBLISHED: ("bundle.published",),
    facts.AUTHORITY_STEP: (*(f"authority.{step}" for step in _STEPS), "bundle.published", *_ROOTS),
}
_OF_INTEREST = frozenset(kind for kinds in _KINDS.values() for kind in kinds)


def of_interest(kind: str) -> bool:
    """Whether facts mirror events of this kind."""
    return kind in _OF_INTEREST


def disagreement(fact: Fact, events: Mapping[int, Event]) -> str:
    """Why a fact does not say what was decided; "" if it does, or mirrors nothing."""
    kinds = _KINDS.get(fact.kind)
    if kinds is None:
        return ""
    body, position = fact.body, fact.body.get("journal")
    event = events.get(position) if type(position) is int else None
    if event is None or event.kind not in kinds:
        return f"{fact.kind} says that it was decided at {position!r} of the journal, where no such thing stands"
    if (
        body.get("at") != event.at
        or body.get("deadline", event.at) < event.at
        or not _SAME[fact.kind](body, event.body, event.kind)
    ):
        return f"{fact.kind} says other things than the journal at {position}"
    return ""


def _entry(said: Body, decided: Body, _kind: str) -> bool:
    return bool(said.get("entry") == decided.get("id"))


def _node(said: Body, decided: Body, _kind: str) -> bool:
    return bool(said.get("node") == decided.get("name"))


def _forced(said: Body, decided: Body, kind: str) -> bool:
    named, entries = list(said.get("authorities") or []), list(said.get("entries") or [])
    if kind != "rotation.ordered":
        return named == [decided.get("id")] and not entries
    return (named, entries) == (list(decided.get("authorities") or []), list(decided.get("entries") or []))


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
