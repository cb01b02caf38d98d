"""What happened to one identity: its serials newest first, what was said of each, its obligations, and where the proofs are.

Facts are found by key; the obligations are counted anew from them alone, so they are those of the figures and open to check.
Only the newest serials of a slot are walked, from successor to predecessor.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from trustfed.errors import NotFound
from trustfed.evidence import facts as f
from trustfed.evidence.definition import Definition
from trustfed.evidence.engine import recount
from trustfed.evidence.model import Obligation
from trustfed.evidence.tables import Identity, identity
from trustfed.journal.events import Fact, RecordedFact

MAX_SLOTS = 8
MAX_ROWS = 2_000
"""Rows of one SPIFFE ID: each is up to a day old, so the newest slots are chosen from many."""
MAX_SERIALS = 12
MAX_FACTS = 600

_OF_SERIAL = (f.ISSUED, f.DELIVERED, f.LOADED, f.CONFIRMED, f.RELEASED, f.EXPIRED, f.SEEN)
_ORDER = {kind: place for place, kind in enumerate(_OF_SERIAL)}

Found = tuple[int, Fact]
"""A position and its fact."""


class Ledger(Protocol):
    """The ledger, as far as facts are found in it."""

    async def located(self, kind: str, key: str) -> list[RecordedFact]: ...


class Line(msgspec.Struct, frozen=True):
    """One fact of a timeline: `position` is its proof in the ledger."""

    position: int
    at_ms: int
    recorded_ms: int
    kind: str
    serial: str
    body: dict[str, Any]


class Lineage(msgspec.Struct, frozen=True):
    """One slot of one instance."""

    identity: Identity
    serials: list[str]
    obligations: list[Obligation]
    facts: list[Line]


async def find(ledger: Ledger, kind: str, key: str) -> list[Found]:
    """The facts with this key, oldest first, with their positions."""
    return [(recorded.position, recorded.fact) for recorded in await ledger.located(kind, key)]


def identities(
    connection: sqlite3.Connection, *, spiffe_id: str = "", instance: str = "", limit: int = MAX_ROWS
) -> list[Identity]:
    """Slots by SPIFFE ID or instance, the newest first, as they were on record within a day."""
    where, value = ("spiffe_id", spiffe_id) if spiffe_id else ("instance", instance)
    rows = connection.execute(
        "SELECT instance, slot, spiffe_id, node, entry, serial, at FROM identities"  # noqa: S608 - one of two names
        f" WHERE {where} = ? ORDER BY at DESC LIMIT ?",
        (value, limit),
    )
    return [identity(row) for row in rows]


async def lineage(
    ledger: Ledger, who: Identity, trust_domain: str, definition: Definition, as_of_ms: int, depth: int = MAX_SERIALS
) -> Lineage:
    """What the ledger says of this slot, back to `depth` serials. Raises NotFound if its newest has left by retention."""
    serials, found, authorities = await _walk(ledger, who.serial, depth)
    if not serials:
        raise NotFound(f"serial {who.serial} has left the ledger by retention", hint="its rollup has the counts")
    around = [(f.REFUSED, who.instance), (f.FORCED, ""), (f.CLUSTER_GAP, trust_domain)]
    around += [(f.FORCED, name) for name in sorted(authorities)]
    around += [(f.ENTRY_ENDED, who.entry)] if who.entry else []
    around += [(kind, who.node) for kind in (f.NODE_SILENT, f.NODE_HEARD, f.NODE_ENDED, f.LOST)]
    begin = min(fact.at for _, fact in found)
    for kind, key in around:
        if key:
            found += [one for one in await find(ledger, kind, key) if one[1].at >= begin]
    found.sort(key=lambda one: (one[0], one[1].at, _ORDER.get(one[1].kind, len(_ORDER))))
    found = found[-MAX_FACTS:]
    obligations = await asyncio.to_thread(_obligations, [fact for _, fact in found], trust_domain, definition, as_of_ms)
    chosen = [it for it in obligations if (it.instance, it.slot) == (who.instance, who.slot)]
    return Lineage(who, serials, chosen, [_line(position, fact) for position, fact in reversed(found)])


async def steps(ledger: Ledger, authority: str) -> list[Line]:
    """The life of one authority, newest first: each step, and the orders to replace what it signed."""
    found = [*await find(ledger, f.AUTHORITY_STEP, authority), *await find(ledger, f.FORCED, authority)]
    return [_line(position, fact) for position, fact in sorted(found, key=lambda one: -one[0])[:MAX_FACTS]]


async def _walk(ledger: Ledger, serial: str, depth: int) -> tuple[list[str], list[Found], set[str]]:
    serials: list[str] = []
    found: list[Found] = []
    authorities: set[str] = set()
    while serial and serial not in serials and len(serials) < depth:
        issued = await find(ledger, f.ISSUED, serial)
        if not issued:
            break
        serials.append(serial)
        found += issued
        for kind in _OF_SERIAL[1:]:
            found += await find(ledger, kind, serial)
        body = issued[0][1].body
        authorities.add(str(body.get("authority", "")))
        serial = str(body.get("predecessor") or "")
    return serials, found, authorities


def _obligations(facts: Sequence[Fact], domain: str, definition: Definition, as_of_ms: int) -> Iterable[Obligation]:
    counted = recount(domain, enumerate(facts, start=1), as_of_ms, definition)
    return sorted(counted.obligations.values(), key=lambda it: (-it.opened_ms, it.id))


def _line(position: int, fact: Fact) -> Line:
    at = fact.body.get("at", fact.at)
    serial = fact.body.get("serial", fact.key)
    return Line(position, at if isinstance(at, int) else fact.at, fact.at, fact.kind, str(serial), fact.body)
