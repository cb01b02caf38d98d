"""evidence.db: what the ledger's facts amount to, kept up to date as they come. Derived: deleted, it is made anew.

    store = await EvidenceStore.open(directory, ledger, "prod.example", clock)
    task = asyncio.create_task(store.run())
    figures = await store.figures(Window(from_ms, to_ms))

Counters, failed obligations and the position that they stand for are written in one transaction, so a crash at any moment
leaves them of one piece. The engine itself lives in memory; its state is saved now and then, and what came after is folded
again at the next start. Folding and queries over the engine run in a thread, one at a time: the loop never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, cast

import msgspec

from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.evidence import tables
from trustfed.evidence.carried import carried_engine
from trustfed.evidence.changes import Changes
from trustfed.evidence.definition import DEFINITION, Definition
from trustfed.evidence.engine import Engine
from trustfed.evidence.figures import Figures, Window, figures
from trustfed.evidence.model import Obligation
from trustfed.evidence.state_file import read_state, write_state
from trustfed.evidence.tables import Identity
from trustfed.journal.database import Database
from trustfed.journal.events import Fact, RecordedFact
from trustfed.journal.ports import Corrupt
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms

T = TypeVar("T")

BATCH = 1_000
SAVE_FACTS = 200_000
_POLL_SECONDS = 0.2
_ADVANCE_MS = 5_000
_RETRY_SECONDS = 5.0
_GLANCE = 10

log = logs.get("evidence")


class Facts(Protocol):
    """The ledger, as far as it is followed."""

    @property
    def first(self) -> int: ...

    @property
    def position(self) -> int: ...

    async def read(self, after: int, limit: int) -> list[RecordedFact]: ...

    async def find(self, kind: str, key: str) -> list[Fact]: ...

    async def located(self, kind: str, key: str) -> list[RecordedFact]: ...


class ChangedRows(NamedTuple):
    """Rows that changed after a cursor, as they are now; `whole`: what was told before counts no more."""

    cursor: int
    counters: list[tuple[str, int, list[int]]]  # class, bucket, counts
    failed: list[Obligation]  # those that failed, or no longer have
    whole: bool


class EvidenceStore:
    """Follows one ledger."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        ledger: Facts,
        trust_domain: str,
        clock: Clock,
        definition: Definition,
    ) -> None:
        self._state = directory / "evidence.state"
        self._database, self._ledger, self._clock = database, ledger, clock
        self.trust_domain, self.definition = trust_domain, definition
        self._engine: Engine | None = None
        self._turn = asyncio.Lock()
        self._pending: set[str] = set()
        self._since_save = 0
        self._told = -1  # how far the hub's pass over everything has come
        self._listeners: list[Callable[[], None]] = []
        self._glances: dict[str, tuple[float, object]] = {}
        self.position = self.as_of_ms = 0
        self.store_id = ""

    @classmethod
    async def open(
        cls, directory: Path, ledger: Facts, trust_domain: str, clock: Clock, definition: Definition = DEFINITION
    ) -> EvidenceStore:
        """Open or make evidence.db in `directory`, and fold what came since. Raises Unavailable, or Invalid if the file is
        another program's."""
        database = await asyncio.to_thread(_open, directory / "evidence.db")
        store = cls(directory, database, ledger, trust_domain, clock, definition)
        try:
            await store._begin()
        except BaseException:
            await database.close()
            raise
        return store

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this on the loop whenever rows have changed."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow the ledger for ever; what fails is tried again, and what was made stays."""
        while True:
            try:
                now = to_ms(self._clock.now())
                if self._ledger.position > self.position or now - self.as_of_ms >= _ADVANCE_MS:
                    await self.follow()
                await self._clock.sleep(_POLL_SECONDS)
            except TrustfedError as error:
                log.error("the evidence store is behind", error=error.message, hint=error.hint)
                await self._clock.sleep(_RETRY_SECONDS)

    async def follow(self) -> int:
        """Fold everything up to the ledger's head, and look at it as of now; gives the position."""
        while await self._step():
            pass
        return self.position

    async def look(self, work: Callable[[Engine], T]) -> T:
        """What `work` finds in the engine, in a thread, while nothing changes it."""
        async with self._turn:
            if self._engine is None:
                await self._resume()
            return await asyncio.to_thread(work, self._engine_now())

    async def glance(self, name: str, work: Callable[[Engine], T]) -> T:
        """Like `look`, but what takes long is asked again only after ten times as long: for pictures, not figures."""
        begun, held = self._clock.monotonic(), self._glances.get(name)
        if held is not None and begun < held[0]:
            return cast("T", held[1])
        found = await self.look(work)
        ended = self._clock.monotonic()
        self._glances[name] = (ended + _GLANCE * (ended - begun), found)
        return found

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` finds in the tables (trustfed.evidence.tables), on the reader's thread."""
        return await self._database.read(work)

    async def identities(self, work: Callable[[sqlite3.Connection], list[Identity]]) -> list[Identity]:
        """The rows of identities that `work` finds, each with its newest serial: of those in use the engine knows it."""
        stored = await self.read(work)
        return await self.look(lambda engine: _newest(engine, stored))

    async def figures(self, window: Window) -> Figures:
        """The figures of a window, from the counters, as of the last look."""
        as_of = self.as_of_ms
        window.within(as_of)

        def work(connection: sqlite3.Connection) -> Figures:
            counters = tables.counters(connection, window.from_ms, window.to_ms)
            few = tables.few(connection, window.from_ms, window.to_ms)
            probes = tables.probes(connection, window.to_ms)
            again = tables.recreated(connection, window.from_ms, window.to_ms)
            return figures(counters, few, probes, window, as_of, self.definition, self.trust_domain, again)

        return await self._database.read(work)

    async def changed_since(self, cursor: int, limit: int) -> ChangedRows:
        """Up to `limit` (at most 500) rows that changed after `cursor`, oldest change first; 0 begins with everything.

        A follower that missed buckets which have been joined since is told everything anew.
        """
        if not 1 <= limit <= 500:
            raise Invalid(f"{limit} rows at a time are not given", hint="1 to 500")

        def work(connection: sqlite3.Connection) -> ChangedRows:
            compacted, head = tables.get(connection, "compacted"), tables.get(connection, "changed")
            behind = cursor > head or (cursor < compacted and cursor != self._told)
            after = 0 if behind else cursor
            counters = tables.changed_counters(connection, after, limit)
            failed = tables.changed_failed(connection, after, limit)
            ends = [rows[-1][0] for rows in (counters, failed) if len(rows) == limit]
            last = min(ends) if ends else head
            return ChangedRows(
                last,
                [(class_, bucket, counts) for changed, class_, bucket, counts in counters if changed <= last],
                [it for changed, it in failed if changed <= last],
                after == 0 and bool(counters or failed or cursor),
            )

        rows = await self._database.read(work)
        self._told = rows.cursor
        return rows

    async def close(self) -> None:
        """Save the state and close the file; twice is fine."""
        async with self._turn:
            if self._engine is not None and self._since_save:
                with contextlib.suppress(Unavailable):
                    await self._save()
            self._engine = None
        await self._database.close()

    # Inside a turn.

    async def _step(self) -> bool:
        """One batch, in a turn of its own so that questions get theirs between; False at the head."""
        async with self._turn:
            begun = asyncio.ensure_future(self._batch())
            try:
                return await asyncio.shield(begun)
            except asyncio.CancelledError:  # a shutdown waits for what is half folded, and saves it
                if self._engine is None:
                    begun.cancel()  # it was still being read again, which may take long and is lost to nobody
                await asyncio.wait([begun])
                raise

    async def _batch(self) -> bool:
        if self._engine is None:
            await self._resume()
        batch = await self._ledger.read(self.position, BATCH)
        ends = not batch or batch[-1].position >= self._ledger.position
        await self._take(batch, to_ms(self._clock.now()) if ends else 0)
        if self._since_save >= SAVE_FACTS:
            await self._save()
        return not ends

    def _engine_now(self) -> Engine:
        if self._engine is None:
            raise Unavailable("the evidence store is not ready", hint="try again")
        return self._engine

    async def _begin(self) -> None:
        def work(connection: sqlite3.Connection) -> tuple[str, int, int]:
            wanted = f"{self.trust_domain} {self.definition.hash}"
            found = tables.text(connection, "of")
            if found != wanted or tables.get(connection, "position") > self._ledger.position:
                if found:
                    log.warning("evidence.db is made anew", of=found[:200])
                tables.clear(connection)
                tables.put(connection, "of", wanted)
                tables.put(connection, "id", secrets.token_hex(16))
            return (
                tables.text(connection, "id"),
                tables.get(connection, "position"),
                tables.get(connection, "as_of"),
            )

        self.store_id, self.position, self.as_of_ms = await self._database.write(work, lambda _: None, 0)
        await self.follow()

    async def _resume(self) -> None:
        """The engine as it was at `position`: saved state, and what came after it once more, told to nobody."""
        rows = await self._database.read(
            lambda connection: connection.execute("SELECT id FROM obligations WHERE settled = 0").fetchall()
        )
        self._pending = {id_.decode() for (id_,) in rows}
        engine = await asyncio.to_thread(read_state, self._state, self.trust_domain, self.definition, self.position)
        if engine is None or engine.position < self._ledger.first - 1:  # what came after it has left
            engine = await carried_engine(self._ledger, self.trust_domain, self.definition)
        if engine.position > self.position:  # of a ledger that begins later, the counters do, too
            self.position = engine.position
            self._engine, self._since_save = engine, 0
            return  # what it carries is counted with what comes
        while engine.position < self.position:
            limit = min(BATCH, self.position - engine.position)
            batch = await self._ledger.read(engine.position, limit)
            if not batch:
                raise Corrupt(f"the ledger ends before position {self.position}", position=engine.position + 1)
            await asyncio.to_thread(_fold, engine, batch, 0)
        await asyncio.to_thread(_fold, engine, [], self.as_of_ms)
        self._engine, self._since_save = engine, 0

    async def _take(self, batch: Sequence[RecordedFact], now_ms: int) -> None:
        engine = self._engine_now()
        try:
            changes = await asyncio.to_thread(_fold, engine, batch, now_ms)

            def work(connection: sqlite3.Connection) -> bool:
                tables.apply(connection, changes, self._pending)
                tables.put(connection, "position", engine.position)
                tables.put(connection, "as_of", engine.as_of)
                return tables.compact(connection, engine.as_of)

            moved = await self._database.write(work, lambda _: None, 0)
        except BaseException:
            self._engine = None  # it is ahead of what is stored: the next turn makes it anew
            raise
        if moved:
            self._told = -1
        self.position, self.as_of_ms = max(engine.position, self.position), engine.as_of
        self._since_save += len(batch)
        if changes.counters or changes.obligations or changes.probes or changes.unknown:
            for listener in self._listeners:
                listener()

    async def _save(self) -> None:
        engine = self._engine_now()
        await asyncio.to_thread(lambda: write_state(self._state, engine.save()))
        self._since_save = 0


def _fold(engine: Engine, batch: Sequence[RecordedFact], now_ms: int) -> Changes:
    for recorded in batch:
        engine.take(recorded.position, recorded.fact)
    engine.advance(now_ms)
    return engine.changes()


def _newest(engine: Engine, stored: Sequence[Identity]) -> list[Identity]:
    def newest(one: Identity) -> Identity:
        slot = engine.slots.get((one.instance, one.slot))
        if slot is None or slot.last_ms <= one.at_ms:
            return one
        return msgspec.structs.replace(one, serial=slot.last, at_ms=slot.last_ms)

    return [newest(one) for one in stored]


def _open(path: Path) -> Database:
    try:
        return Database(path, tables.FORMAT)
    except (Corrupt, Invalid) as error:
        if not _ours(path):
            raise
        log.warning("evidence.db is made anew, the old one is put aside", error=error.message)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        path.replace(path.with_name(path.name + ".damaged"))
        return Database(path, tables.FORMAT)


def _ours(path: Path) -> bool:
    """Whether the header names this program (https://sqlite.org/fileformat.html, 1.3: application id at 68) or is damage."""
    with path.open("rb") as file:
        header = file.read(72)
    named = int.from_bytes(header[68:72], "big")
    return named == tables.FORMAT.application_id or not header.startswith(b"SQLite format 3\0")
