"""The one way by which this room's facts enter the ledger, and what is already there (trustfed.cluster.evidence.folded).

The ledger is the truth. `folded` follows each append at once; every few seconds it is saved together with a position below
which nothing is missing in it. After an append whose end is not known, the ledger is read again before anything is added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from trustfed.cluster.evidence.folded import Folded
from trustfed.cluster.evidence.kept import Kept
from trustfed.errors import TrustfedError, Unavailable
from trustfed.journal.events import Fact, RecordedFact
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock

log = logs.get("cluster.evidence")

_SAVE_SECONDS = 2.0
_READ = 1_000
_POSITION = "position"
BEFORE_DOORS = 20_000
"""So many facts are read before the doors open: a few tenths of a second."""
_SAVED_EVERY = 100_000
_SHORT_SECONDS = 0.05


class FactLog(Protocol):
    """A ledger whose head is known (trustfed.journal.ports.Ledger)."""

    @property
    def first(self) -> int:
        """The first position that is retained."""
        ...

    @property
    def position(self) -> int:
        """The last durable position."""
        ...

    async def append(self, facts: Sequence[Fact]) -> None: ...

    async def read(self, after: int, limit: int) -> list[RecordedFact]: ...

    async def find(self, kind: str, key: str) -> list[Fact]: ...


class Records:
    """`await start()`, then `append`; `run` saves, and `close` saves once more."""

    def __init__(self, ledger: FactLog, kept: Kept, clock: Clock) -> None:
        self._ledger, self._kept, self._clock = ledger, kept, clock
        self.folded = Folded()
        self.began_ms = 0
        """The ledger's last time when this process began."""
        self._under_way: dict[object, int] = {}
        self._left_alone: set[asyncio.Future[None]] = set()
        """Appends whose caller was cancelled."""
        self._behind: int | None = None
        """While catching up: the position up to which `folded` stands."""
        self._doubt: int | None = None
        """After an append whose end is not known: the position before it."""
        self._saved_at = -1
        self._turn = asyncio.Lock()
        self.ready = asyncio.Event()
        """Set once `folded` stands for the whole ledger."""

    @property
    def left(self) -> int:
        """How many facts are to be read until `ready`."""
        return 0 if self._behind is None else max(self._ledger.position - self._behind, 0)

    async def start(self) -> None:
        """Load what was saved, and fold what followed, or leave that to `run` if it is much. Raises Unavailable, Corrupt."""
        values = dict(self._kept.values)
        position = int(values.pop(_POSITION, b"0"))
        if position > self._ledger.position:  # another ledger, or one from a backup: what it says counts
            log.warning("what was kept is ahead of the ledger: it is made anew", kept=position)
            values, position = {}, 0
        self.folded.load(values)
        position, head = max(position, self._ledger.first - 1), self._ledger.position
        if head - position > BEFORE_DOORS:
            newest = await self._ledger.read(head - 1, 1)
            self.began_ms = max(self.folded.last_at, *(one.fact.at for one in newest), 0)
            self._behind = position
            log.warning("catching up with the ledger: reports of agents wait until then", facts=head - position)
            return
        await self._read_from(position)
        self.began_ms = self.folded.last_at
        self.ready.set()
        await self.save()

    async def append(self, facts: Sequence[Fact]) -> None:
        """Record all facts or none, durable on return. Raises Unavailable: then it may have been recorded, and the next
        append looks first.
        """
        caught_up = self.ready.is_set()
        if caught_up:
            await self.sure()
        appending = asyncio.ensure_future(self._append(facts, caught_up))
        try:
            await asyncio.shield(appending)
        except asyncio.CancelledError:
            self._left_alone.add(appending)  # the ledger has it and goes on: whoever says it again must wait for that
            appending.add_done_callback(self._ended_alone)
            raise

    async def _append(self, facts: Sequence[Fact], caught_up: bool) -> None:
        token = object()
        self._under_way[token] = self._ledger.position
        try:
            await self._ledger.append(facts)
        except BaseException:
            begun = self._under_way[token]
            self._doubt = begun if self._doubt is None else min(begun, self._doubt)
            raise
        finally:
            del self._under_way[token]
        for fact in facts if caught_up else ():  # else they are read with the rest
            self.folded.take(fact)

    def _ended_alone(self, appending: asyncio.Future[None]) -> None:
        self._left_alone.discard(appending)
        if not appending.cancelled() and (error := appending.exception()) is not None:
            log.warning("facts that nobody waits for are not known to be on record", error=str(error))

    async def sure(self) -> None:
        """Know what is on record, also after an append that failed. Raises Unavailable, also while catching up."""
        if not self.ready.is_set():
            says = f"this cluster is catching up with its ledger: {self.left:,} facts are to be read"
            raise Unavailable(says, hint="try again in a moment")
        while self._left_alone:
            await asyncio.wait(self._left_alone)
        if self._doubt is None:
            return
        async with self._turn:
            if (doubt := self._doubt) is not None:
                await self._read_from(doubt)
                self._doubt = None

    async def find(self, kind: str, key: str) -> list[Fact]:
        """See Ledger."""
        return await self._ledger.find(kind, key)

    async def run(self) -> None:
        """Catch up, then save every few seconds; ends only when cancelled."""
        while not self.ready.is_set():
            try:
                await self._catch_up()
            except TrustfedError as error:
                log.error("the ledger cannot be read yet", error=error.message, hint=error.hint)
                await self._clock.sleep(_SAVE_SECONDS)
        while True:
            await self._clock.sleep(_SAVE_SECONDS)
            try:
                await self.save()
            except TrustfedError as error:
                log.error("what is known of the ledger is not saved", error=error.message, hint=error.hint)

    async def save(self) -> None:
        """Save what changed, with the position up to which nothing is missing."""
        pending = [*self._under_way.values(), *(one for one in (self._behind, self._doubt) if one is not None)]
        position = min(pending, default=self._ledger.position)
        if position == self._saved_at:
            return
        names, self.folded.dirty = self.folded.dirty | {"rest"}, set()
        changes = {**self.folded.saved(names), _POSITION: b"%d" % position}
        try:
            await self._kept.save(changes)
        except BaseException:
            self.folded.dirty |= names
            raise
        self._saved_at = position

    async def _catch_up(self) -> None:
        """Fold up to the head, saving on the way: a process that ends meanwhile goes on from there."""
        position, saved = self._behind or 0, 0
        while True:
            records = await self._ledger.read(position, _READ)
            for record in records:
                self.folded.take(record.fact)
            if records:
                position = self._behind = records[-1].position
                if (saved := saved + len(records)) >= _SAVED_EVERY:
                    saved = 0
                    await self.save()
            elif self._under_way:
                await self._clock.sleep(_SHORT_SECONDS)
            elif self._ledger.position <= position:
                break
        self._behind = self._doubt = None
        self.ready.set()
        log.info("caught up with the ledger", position=position)
        await self.save()

    async def _read_from(self, position: int) -> None:
        while records := await self._ledger.read(position, _READ):
            for record in records:
                self.folded.take(record.fact)
            position = records[-1].position
