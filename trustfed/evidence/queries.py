"""What an evidence store answers to who wants to look closer: at the admin socket, and for the hub. Read-only, bounded.

    body = await Queries(store, ledger).answer("identity", b'{"spiffe_id": "spiffe://prod.example/web"}')

Each kind takes a JSON object and gives one with `as_of_ms` and `position`: the time and the last fact that it stands for.

| kind | question | answer |
|---|---|---|
| identity | spiffe_id, instance or serial; depth | lineages, and all their obligations (trustfed.evidence.timeline) |
| obligations | class, outcome, instance, from_ms, to_ms, after, limit | all but what is on time; next |
| facts | kind and key; or after, limit | facts with their positions; next |
| rotations | class, authority, limit | of authorities, token keys, roots and bundles, newest first; of one authority its steps |
| orphans | limit | unknown serials and corrections, newest first |
| search | text, limit | what begins so: SPIFFE IDs, instances, serials |
| figures | from_ms, to_ms | trustfed.evidence.figures.Figures |
| inventory | limit, after | certificates that live (trustfed.evidence.inventory), and sums by algorithm; next |
| node | node | what lives there: how many certificates, whose (SPIFFE IDs, the first 100) |
| status | | store, position, behind, definition |
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from trustfed.errors import Invalid, NotFound
from trustfed.evidence import facts as f
from trustfed.evidence import inventory, tables, timeline
from trustfed.evidence.changes import plain
from trustfed.evidence.engine import Engine
from trustfed.evidence.figures import Window
from trustfed.evidence.model import FEW, Class, Obligation, Outcome
from trustfed.evidence.store import EvidenceStore, Facts
from trustfed.evidence.tables import Identity, identity

MAX_ANSWER = 900 << 10
"""Below the 1 MiB of an answer on the stream, so that what is around it has room."""

MAX_PAGE, MAX_NAMED = 200, 100
_MOST_MS = 1 << 48

T = TypeVar("T", bound=msgspec.Struct)


class AskIdentity(msgspec.Struct, forbid_unknown_fields=True):
    """One of the three."""

    spiffe_id: str = ""
    instance: str = ""
    serial: str = ""
    depth: int = timeline.MAX_SERIALS


class AskObligations(msgspec.Struct, forbid_unknown_fields=True, rename={"class_": "class"}):
    """Filters; `after` is the `next` of the page before."""

    class_: str = ""
    outcome: str = ""
    instance: str = ""
    from_ms: int = 0
    to_ms: int = _MOST_MS
    after: tuple[int, str] = (0, "")
    limit: int = 50


class AskFacts(msgspec.Struct, forbid_unknown_fields=True):
    """By kind and key, or by position."""

    kind: str = ""
    key: str = ""
    after: int = 0
    limit: int = 50


class AskRotations(msgspec.Struct, forbid_unknown_fields=True, rename={"class_": "class"}):
    """Of one class, or of one authority: those that it ended, and the one that ended it."""

    class_: str = ""
    authority: str = ""
    limit: int = 50


class AskPage(msgspec.Struct, forbid_unknown_fields=True):
    """A page of a list."""

    after: str = ""
    limit: int = 50


class AskSearch(msgspec.Struct, forbid_unknown_fields=True):
    """The beginning of a SPIFFE ID, an instance or a serial."""

    text: str
    limit: int = 20


class AskFigures(msgspec.Struct, forbid_unknown_fields=True):
    """A window."""

    from_ms: int
    to_ms: int


class AskNode(msgspec.Struct, forbid_unknown_fields=True):
    """A node's name."""

    node: str


class AskNothing(msgspec.Struct, forbid_unknown_fields=True):
    """No members."""


class Queries:
    """Answers from one store and its ledger."""

    def __init__(self, store: EvidenceStore, ledger: Facts, owners: Callable[[], Mapping[str, str]] = dict) -> None:
        """`owners`: whose each entry is, where somebody is named (the ledger does not say)."""
        self._store, self._ledger, self._owners = store, ledger, owners
        self._kinds: dict[str, Callable[[bytes], Awaitable[dict[str, Any]]]] = {
            "identity": self._identity,
            "obligations": self._obligations,
            "facts": self._facts,
            "rotations": self._rotations,
            "orphans": self._orphans,
            "search": self._search,
            "figures": self._figures,
            "inventory": self._inventory,
            "node": self._node,
            "status": self._status,
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """What may be asked."""
        return tuple(self._kinds)

    async def answer(self, kind: str, body: bytes) -> bytes:
        """The answer as JSON. Raises NotFound for an unknown kind or thing, Invalid for a body that is none."""
        ask = self._kinds.get(kind)
        if ask is None:
            raise NotFound(f"no question of kind {kind[:40]!r} is answered here", hint=", ".join(self._kinds))
        said = await ask(body)
        whole = {"as_of_ms": self._store.as_of_ms, "position": self._store.position, **said}
        data = msgspec.json.encode(whole)
        if len(data) > MAX_ANSWER:
            raise Invalid(f"the answer would be {len(data)} bytes long", hint="ask for fewer at a time")
        return data

    async def _identity(self, body: bytes) -> dict[str, Any]:
        asked = _read(body, AskIdentity)
        depth = max(1, min(asked.depth, timeline.MAX_SERIALS))
        store, slots = self._store, []
        if asked.serial:
            found = await timeline.find(self._ledger, f.ISSUED, asked.serial.lower()[:64])
            if found:
                slots = [_of_issued(found[0][1].key, found[0][1].at, found[0][1].body)]
        elif asked.spiffe_id or asked.instance:
            found_slots = await store.identities(
                lambda it: timeline.identities(it, spiffe_id=asked.spiffe_id, instance=asked.instance)
            )
            slots = sorted(found_slots, key=lambda one: -one.at_ms)[: timeline.MAX_SLOTS]
        else:
            raise Invalid("an identity is asked for by spiffe_id, instance or serial")
        if not slots:
            wanted = asked.serial or asked.spiffe_id or asked.instance
            raise NotFound(f"nothing was ever issued for {wanted[:200]!r}", hint="trustfed entry list")
        lineages = []
        for who in slots:
            try:
                lineages.append(
                    await timeline.lineage(
                        self._ledger, who, store.trust_domain, store.definition, store.as_of_ms, depth
                    )
                )
            except NotFound:
                continue
        return {"lineages": lineages, "obligations": [it for one in lineages for it in one.obligations]}

    async def _obligations(self, body: bytes) -> dict[str, Any]:
        asked = _read(body, AskObligations)
        class_ = Class(asked.class_) if asked.class_ in list(Class) else None
        outcome = Outcome(asked.outcome) if asked.outcome in list(Outcome) else None
        if (asked.class_ and class_ is None) or (asked.outcome and outcome is None):
            raise Invalid(f"there is no class {asked.class_!r} or no outcome {asked.outcome!r}")
        limit = _limit(asked.limit)
        if outcome is Outcome.OPEN:
            found = await self._store.look(lambda engine: _open(engine, asked, class_))
        else:
            found = await self._store.read(lambda it: _stored(it, asked, limit))
        page = found[:limit]
        following = (page[-1].on_time_ms, page[-1].id) if len(found) > limit else None
        return {"obligations": page, "next": following}

    async def _facts(self, body: bytes) -> dict[str, Any]:
        asked = _read(body, AskFacts)
        limit = _limit(asked.limit)
        if asked.kind or asked.key:
            found = await timeline.find(self._ledger, asked.kind, asked.key)
            rows = [{"position": at, "fact": fact} for at, fact in found[-limit:]]
            return {"facts": rows, "next": None}
        recorded = await self._ledger.read(max(asked.after, self._ledger.first - 1), limit)
        rows = [{"position": one.position, "fact": one.fact} for one in recorded]
        return {"facts": rows, "next": recorded[-1].position if len(recorded) == limit else None}

    async def _rotations(self, body: bytes) -> dict[str, Any]:
        asked = _read(body, AskRotations)
        limit, few = _limit(asked.limit), sorted(FEW)
        if asked.class_ and asked.class_ not in few:
            raise Invalid(f"there is no class {asked.class_[:40]!r} of few rotations", hint=", ".join(few))
        classes = [asked.class_] if asked.class_ else few
        found = await self._store.read(lambda it: tables.rotations(it, classes, asked.authority, limit))
        if not asked.authority:
            return {"rotations": found}
        steps = await timeline.steps(self._ledger, asked.authority)
        if not steps and not found:
            raise NotFound(f"no authority {asked.authority[:80]!r} is known here", hint="trustfed authority list")
        return {"rotations": found, "steps": steps}

    async def _orphans(self, body: bytes) -> dict[str, Any]:
        limit = _limit(_read(body, AskPage).limit)

        def work(connection: sqlite3.Connection) -> dict[str, Any]:
            return {
                name: [
                    msgspec.Raw(row)
                    for (row,) in connection.execute(
                        "SELECT body FROM listed WHERE what = ? ORDER BY n DESC LIMIT ?", (what, limit)
                    )
                ]
                for name, what in (("unknown", "unknown"), ("corrections", "correction"))
            }

        return await self._store.read(work)

    async def _search(self, body: bytes) -> dict[str, Any]:
        asked = _read(body, AskSearch)
        limit, wanted = _limit(asked.limit), asked.text.strip()
        if not 3 <= len(wanted) <= 2048:
            raise Invalid("a search wants 3 to 2048 characters")

        def work(connection: sqlite3.Connection) -> list[Identity]:
            found: dict[tuple[str, str], Identity] = {}
            for column in ("spiffe_id", "instance"):
                rows = connection.execute(
                    "SELECT instance, slot, spiffe_id, node, entry, serial, at FROM identities"  # noqa: S608
                    f" WHERE {column} >= ? AND {column} < ? LIMIT ?",
                    (wanted, wanted + "\U0010ffff", limit),
                )
                for row in rows:
                    one = identity(row)
                    found[one.instance, one.slot] = one
            return list(found.values())[:limit]

        hits = await self._store.identities(work)
        serial = wanted.lower()
        if not hits and len(serial) <= 64:
            issued = await timeline.find(self._ledger, f.ISSUED, serial)
            hits = [_of_issued(fact.key, fact.at, fact.body) for _, fact in issued[:1]]
        return {"identities": hits}

    async def _figures(self, body: bytes) -> dict[str, Any]:
        asked = _read(body, AskFigures)
        return {"figures": await self._store.figures(Window(asked.from_ms, asked.to_ms))}

    async def _inventory(self, body: bytes) -> dict[str, Any]:
        asked = _read(body, AskPage)
        limit, owners = _limit(asked.limit), self._owners()
        return await self._store.look(lambda engine: inventory.page(engine, asked.after, limit, owners))

    async def _node(self, body: bytes) -> dict[str, Any]:
        name = _read(body, AskNode).node

        def work(engine: Engine) -> dict[str, Any]:
            there = [one for one in engine.live.values() if one.node == name and one.not_after_ms > engine.as_of]
            named = sorted({one.spiffe_id for one in there})
            return {"certificates": len(there), "identities": len(named), "spiffe_ids": named[:MAX_NAMED]}

        return await self._store.look(work)

    async def _status(self, body: bytes) -> dict[str, Any]:
        _read(body, AskNothing)
        return {
            "store": self._store.store_id,
            "trust_domain": self._store.trust_domain,
            "definition": self._store.definition.hash,
            "behind": max(0, self._ledger.position - self._store.position),
            "first": self._ledger.first,
        }


def _read(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=type_)
    except msgspec.MsgspecError as error:
        raise Invalid(f"the question does not fit its kind: {error}"[:300]) from None


def _limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"a page of {limit} is not given", hint=f"1 to {MAX_PAGE}")
    return limit


def _of_issued(serial: str, at_ms: int, body: dict[str, Any]) -> Identity:
    named = (str(body.get(name, "")) for name in ("instance", "slot", "spiffe_id", "node", "entry"))
    instance, slot, spiffe_id, node, entry = named
    return Identity(instance, slot, spiffe_id, node, entry, serial, at_ms)


def _open(engine: Engine, asked: AskObligations, class_: Class | None) -> list[Obligation]:
    """Of those still open one page and one more, by their on-time limit."""
    chosen = [
        it
        for it in engine.pending()
        if it.outcome is Outcome.OPEN
        and (class_ is None or it.class_ is class_)
        and (not asked.instance or it.instance == asked.instance)
        and asked.from_ms <= it.on_time_ms < asked.to_ms
        and (it.on_time_ms, it.id) > asked.after
    ]
    chosen.sort(key=lambda it: (it.on_time_ms, it.id))
    return [plain(it) for it in chosen[: asked.limit + 1]]


def _stored(connection: sqlite3.Connection, asked: AskObligations, limit: int) -> list[Obligation]:
    where, values = (
        ["(on_time, id) > (?, ?)", "on_time >= ?", "on_time < ?"],
        [*asked.after, asked.from_ms, asked.to_ms],
    )
    for column, value in (("class", asked.class_), ("outcome", asked.outcome), ("instance", asked.instance)):
        if value:
            where.append(f"{column} = ?")
            values.append(value)
    rows = connection.execute(
        f"SELECT body FROM obligations WHERE {' AND '.join(where)} ORDER BY on_time, id LIMIT ?",  # noqa: S608
        (*values, limit + 1),
    )
    return [msgspec.json.decode(body, type=Obligation) for (body,) in rows]
