"""A cluster that answers what the hub asks, at the dashboard's port for questions: the lineage of one identity, and the
rotations of its token keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tests.fakes.fleet_standings import AWAY, HOUR, LATE, MINUTE, serial
from trustfed.errors import NotFound, Unavailable
from trustfed.evidence.model import Class, Level, Obligation, Outcome
from trustfed.hub.evidence.questions import Answered


class ClusterAnswers:
    """`questions` of DashboardParts, as trustfed.hub.evidence.questions.Questions has it."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []
        self.away = False
        self.answer: Any = None
        """Instead of a lineage or rotations."""

    async def ask(self, domain: str, kind: str, body: Mapping[str, Any]) -> Answered:
        """What it says; a cluster that is away says nothing."""
        self.asked.append((domain, kind, body))
        if domain == AWAY or self.away:
            raise Unavailable(f"{domain} is not connected", hint="is its cluster running?")
        if self.answer is not None:
            return Answered(domain, self.answer, self.now_ms - 400)
        if domain != LATE:
            raise NotFound(f"{domain} knows no such {'identity' if kind == 'identity' else 'authority'}")
        if kind == "rotations":
            return Answered(domain, rotated(str(body.get("authority", "")), self.now_ms), self.now_ms - 400)
        spiffe_id = body.get("spiffe_id", f"spiffe://{LATE}/ns/billing/sa/invoice")
        obligations = msgspec.to_builtins(lineage(spiffe_id, self.now_ms))
        who = {"instance": "node-0/invoice-0", "slot": "x509"}
        said = {"identity": who, "serials": [], "obligations": obligations, "facts": facts(self.now_ms)}
        return Answered(domain, {"lineages": [said], "obligations": obligations}, self.now_ms - 400)


def lineage(spiffe_id: str, now: int) -> list[Obligation]:
    """Five rotations of one-hour SVIDs: well, well, late, well, and one that is short of life."""
    made = []
    for index in range(5):
        opened = now - 52 * MINUTE - (4 - index) * 33 * MINUTE
        on_time, hard = opened + 45 * MINUTE, opened + HOUR
        at = opened + (47 if index == 2 else 33) * MINUTE
        last = index == 4
        levels = {"issued": at, "delivered": at + 900, "loaded": at + 2_000, "confirmed": at + 40_000}
        made.append(
            Obligation(
                id=f"{index:032x}",
                class_=Class.LEAF,
                spiffe_id=spiffe_id,
                instance="node-0/invoice-0",
                slot="x509",
                node="node-0",
                entry="invoice",
                predecessor=serial(900 + index),
                opened_ms=opened,
                due_ms=opened + 30 * MINUTE,
                on_time_ms=on_time,
                hard_ms=hard,
                level=Level.LOADED,
                reached=Level.ISSUED if last else Level.CONFIRMED,
                reached_ms=at,
                successor=serial(901 + index),
                tries=4 if last else 1,
                refused=3 if last else 0,
                outcome=Outcome.OPEN if last else Outcome.LATE if index == 2 else Outcome.ON_TIME,
                ended_ms=0 if last else at,
                why="loaded 2 min after the on-time limit" if index == 2 else "",
                by_level_ms={"issued": at} if last else levels,
            )
        )
    return made


def rotated(authority: str, now: int) -> dict[str, Any]:
    """A token key that was taken over late and its heir, and of one of them the steps, as trustfed.evidence.queries has it."""
    late = Obligation(
        id="k" * 32,
        class_=Class.JWT_KEY,
        spiffe_id=f"spiffe://{LATE}",
        instance="",
        slot="jwt_key",
        node="",
        entry="",
        predecessor="jwt-0001",
        opened_ms=now - 50 * HOUR,
        due_ms=now - 30 * HOUR,
        on_time_ms=now - 4 * HOUR,
        hard_ms=now - HOUR,
        level=Level.CONFIRMED,
        reached=Level.CONFIRMED,
        reached_ms=now - 3 * HOUR,
        successor="jwt-0002",
        outcome=Outcome.LATE,
        ended_ms=now - 3 * HOUR,
        why="it was forced",
    )
    said = {"as_of_ms": now, "position": 9_950, "rotations": [msgspec.to_builtins(late)]}
    if not authority:
        return said
    body = {"step": "activated", "retires": "jwt-0001", "forced": True, "missing": ["node-3"], "journal": 812}
    line = {"at_ms": now - 3 * HOUR, "recorded_ms": now - 3 * HOUR + 40, "kind": "authority.step", "serial": authority}
    return {**said, "steps": [{**line, "position": 9_731, "body": body}]}


def facts(now: int) -> list[dict[str, Any]]:
    """What was said of the last two serials, newest first, as trustfed.evidence.timeline.Line has it."""
    made = []
    for index, kind in enumerate(("agent.confirmed", "agent.loaded", "agent.delivered", "x509.signed", "x509.issued")):
        body = (
            {"peer": "10.2.0.7:8443"} if kind == "agent.confirmed" else {"late": True} if kind == "agent.loaded" else {}
        )
        at = now - (20 + index) * MINUTE
        made.append(
            {
                "position": 9_900 - index,
                "at_ms": at,
                "recorded_ms": at + 800,
                "kind": kind,
                "serial": serial(904),
                "body": body,
            }
        )
    return made
