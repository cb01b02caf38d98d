"""The obligations of authorities, tokens' keys and bundles: few, listed one by one (rules 20 to 23)."""

from __future__ import annotations

from heapq import heappush
from typing import TYPE_CHECKING, Any

from trustfed.evidence.model import Class, Level
from trustfed.evidence.pending import Pending, obligation_id
from trustfed.evidence.rules import AUTHORITY_CLASS
from trustfed.journal.events import Fact

if TYPE_CHECKING:
    from trustfed.evidence.leaves import Leaves

_REMEMBERED = 10_000
_LEVELS = ("issued", "delivered", "loaded", "confirmed")


class Few:
    """What each authority that signs still owes: an heir in time."""

    def __init__(self, engine: Leaves) -> None:
        self._engine = engine
        self.open: dict[str, Pending] = {}  # by obligation id
        self.by_authority: dict[str, Pending] = {}
        self.retired: dict[str, int] = {}  # authorities that were followed by another, and when

    def step(self, position: int, at: int, fact: Fact) -> None:
        """Take one step of an authority's life."""
        body = fact.body
        class_ = AUTHORITY_CLASS.get(body["kind"])
        if class_ is None:
            return
        if body["step"] == "activated":
            self._activated(class_, position, at, body)
        elif body["step"] == "tainted":
            it = self.by_authority.get(body["authority"])
            if it is not None and not it.reached_ms:
                it.superseded, it.ended_ms = True, at
                self._engine.dirty[it.id] = it

    def _activated(self, class_: Class, position: int, at: int, body: dict[str, Any]) -> None:
        heir, retires = str(body["authority"]), str(body.get("retires") or "")
        forced, missing = bool(body.get("forced")), body.get("missing") or ()
        if retires and retires not in self.retired:
            self.retired[retires] = at
            if len(self.retired) > _REMEMBERED:
                self.retired.pop(next(iter(self.retired)))
            it = self.by_authority.get(retires)
            if it is None:
                it = self._opened(class_, retires, position, at, at, at, at)
            self._reached(it, heir, at, not forced, "it was forced" if forced else "")
            if class_ is not Class.ROOT:  # 21
                bundle = self._opened(Class.BUNDLE, retires, position, at, at, at, at)
                why = "it was forced" if forced else "somebody had not acknowledged" if missing else ""
                self._reached(bundle, heir, at, not why, why)
        if heir not in self.by_authority:  # 22
            begin, end = int(body["not_before"]) * 1000, int(body["not_after"]) * 1000
            due = begin + (end - begin) * self._engine.definition.due_permille // 1000
            self._opened(class_, heir, position, at, due, int(body.get("safe_ms") or end), end)

    def _opened(
        self, class_: Class, authority: str, position: int, at: int, due: int, on_time: int, hard: int
    ) -> Pending:
        domain = self._engine.trust_domain
        it = Pending(
            id=obligation_id(domain, f"spiffe://{domain}", "", class_.value, authority, ""),
            class_=class_,
            spiffe_id=f"spiffe://{domain}",
            instance="",
            slot=class_.value,
            node="",
            entry="",
            predecessor=authority,
            opened_ms=at,
            due_ms=due,
            on_time_ms=on_time,
            hard_ms=hard,
            level=Level.CONFIRMED,
            position=position,
            authority=authority,
        )
        self.keep(it)
        self._engine.dirty[it.id] = it
        heappush(self._engine.limits, (hard + self._engine.definition.close_ms, self._engine.tick(), it))
        heappush(self._engine.looks, (hard, self._engine.tick(), it))
        return it

    def _reached(self, it: Pending, heir: str, at: int, unforced: bool, why: str) -> None:
        if it.reached_ms or it.superseded:
            return
        it.reached_ms, it.reached, it.successor = at, Level.CONFIRMED, heir
        it.unforced, it.why = unforced, why
        it.by_level_ms = dict.fromkeys(_LEVELS, at)
        self._engine.dirty[it.id] = it

    def keep(self, it: Pending) -> None:
        """Hold an obligation until it is settled."""
        self.open[it.id] = it
        if it.class_ is not Class.BUNDLE:
            self.by_authority[it.predecessor] = it

    def drop(self, it: Pending) -> None:
        """Let go of a settled one."""
        self.open.pop(it.id, None)
        if self.by_authority.get(it.predecessor) is it:
            del self.by_authority[it.predecessor]
