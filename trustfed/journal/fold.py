"""State as a fold over a journal: decide on what is, record it, apply it, tell who listens.

    class Offered(msgspec.Struct, frozen=True): name: str

    def apply(state: HubState, event: HubEvent) -> HubState: ...     # pure; never refuses what decide let through
    def offer(state: HubState, command: Offer) -> list[HubEvent]: ...  # pure; raises what the caller is told

    fold = Fold(store.journal, store.snapshots, HubState(), apply, Codec({"grant.offered": Offered}),
                encode_state, decode_state, schema=1)
    await fold.start()
    await fold.execute(lambda state: offer(state, command), command_id=command.id, actor=actor, now=now)
    async for position, event in fold.subscribe(after=acknowledged): ...

`fold.state` is an immutable value: take it once, keep it as long as the answer takes, hold no lock. What is applied is
what a replay would read: typed events go through the codec first, and an event that apply refuses is never recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import uuid4

import msgspec

from trustfed.errors import Conflict, Invalid, Unavailable
from trustfed.journal.events import Codec, Event, Recorded, TypedEvent, canonical
from trustfed.journal.feed import Feed
from trustfed.journal.ports import MAX_READ, Corrupt, Journal, Snapshot, Snapshots
from trustfed.runtime import logs

State = TypeVar("State")
Result = TypeVar("Result")

TRIES = 8
WAITING_COMMANDS = 1_000
_RETRY_SECONDS = 1.0

_log = logs.get("journal")


class _Command(msgspec.Struct, frozen=True):
    """What every event of one command shares."""

    command_id: str
    at: int
    actor: str
    owner: str
    reason: str


class Fold(Generic[State]):
    """Owns the state of one journal in this process: one writer at a time, any number of readers and subscribers."""

    def __init__(
        self,
        journal: Journal,
        snapshots: Snapshots,
        initial: State,
        apply: Callable[[State, Any], State],
        codec: Codec,
        encode_state: Callable[[State], bytes],
        decode_state: Callable[[bytes], State],
        schema: int,
        snapshot_every: int = 1_000,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._journal, self._snapshots, self._apply, self._codec = journal, snapshots, apply, codec
        self._encode_state, self._decode_state, self._schema = encode_state, decode_state, schema
        self._snapshot_every, self._new_id = snapshot_every, new_id
        self._state, self._position = initial, 0
        self._snapshot_position = self._snapshot_due = 0
        self._feed = Feed(journal, codec)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._running = False
        self._follower: asyncio.Task[None] | None = None
        self._saver: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        """The state after the event at `position`."""
        return self._state

    @property
    def position(self) -> int:
        """The position of the last event applied; 0 before the first."""
        return self._position

    async def start(self) -> None:
        """Load the snapshot, replay what followed it, and keep following; Corrupt or Invalid if that cannot be."""
        snapshot = await self._snapshots.load()
        if snapshot is not None:
            await self._adopt(snapshot)
        await self._catch_up()
        self._running = True
        self._follower = asyncio.create_task(self._follow())

    async def execute(
        self,
        decide: Callable[[State], Sequence[TypedEvent]],
        *,
        command_id: str,
        actor: str,
        owner: str = "",
        reason: str = "",
        now: datetime,
    ) -> list[Recorded]:
        """Record what `decide` makes of the newest state, once per `command_id`; what was recorded is returned.

        `decide` is pure and may be called again when others were faster (at most 8 times, then Conflict). What it
        raises reaches the caller, and nothing is recorded. A command id that already recorded something returns just
        that, without deciding; from another actor it is a Conflict. Cancelled while it records, the command may have
        been recorded: sent again with the same id, it is applied once. `now` needs a time zone.
        """
        if now.tzinfo is None:
            raise Invalid("the time of a command needs a time zone")
        if not self._running:
            raise Unavailable("the journal is not being followed; the process is starting or stopping")
        if self._waiting >= WAITING_COMMANDS:
            raise Unavailable(f"{WAITING_COMMANDS} commands are waiting already", hint="send it again later")
        command = _Command(command_id, int(now.timestamp() * 1000), actor, owner, reason)
        self._waiting += 1
        try:
            async with self._turn:
                return await _to_its_end(self._record(decide, command))
        finally:
            self._waiting -= 1

    def subscribe(self, after: int) -> AsyncIterator[tuple[int, TypedEvent]]:
        """Iterate (position, typed event) from `after` on, without gaps, each one once it is part of the state.

        Who is slow reads from the journal instead of from memory: nothing grows and nothing is lost. Ends when the
        fold is closed. Conflict if `after` is not reached yet: that reader knows a future that this journal lost, and
        must start anew.
        """
        if after > self._position:
            raise Conflict(
                f"position {after} is beyond the journal's head {self._position}", hint="start from a full copy"
            )
        return self._feed.iterate(max(after, 0))

    async def close(self) -> None:
        """Stop following, end the subscriptions and save a snapshot; the journal stays open for its owner."""
        if not self._running:
            return
        self._running = False
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        async with self._turn:
            self._feed.close()
            if self._saver is not None:
                await asyncio.wait({self._saver})
            if self._position > self._snapshot_position:
                await self._save(self._state, self._position)

    async def _record(self, decide: Callable[[State], Sequence[TypedEvent]], command: _Command) -> list[Recorded]:
        for _ in range(TRIES):
            # Taken before the look-up: whatever is recorded after it, by this command or another, makes a Conflict.
            state, position = self._state, self._position
            earlier = await self._journal.find(command.command_id)
            if earlier:
                return await self._repeat(earlier, command)
            records = [
                Recorded(position + offset, event, canonical(event))
                for offset, event in enumerate(self._events(decide(state), command), start=1)
            ]
            if not records:
                return []
            for record in records:
                state = self._apply(state, self._codec.decode(record.event))
            try:
                await self._journal.append(position, [record.event for record in records])
            except Conflict:
                await self._catch_up()
                continue
            self._advance(records)
            return records
        raise Conflict(f"the state changed {TRIES} times while this was decided", hint="send it again")

    async def _repeat(self, earlier: list[Recorded], command: _Command) -> list[Recorded]:
        if any(record.event.actor != command.actor for record in earlier):
            raise Conflict(f"command id {command.command_id!r} was used by another actor", hint="choose a new id")
        if earlier[-1].position > self._position:
            await self._catch_up()
        return earlier

    def _events(self, typed: Sequence[TypedEvent], command: _Command) -> list[Event]:
        events = []
        for decided in typed:
            kind, version, body = self._codec.encode(decided)
            events.append(
                Event(
                    id=self._new_id(),
                    command_id=command.command_id,
                    at=command.at,
                    actor=command.actor,
                    owner=command.owner,
                    reason=command.reason,
                    kind=kind,
                    version=version,
                    body=body,
                )
            )
        return events

    async def _adopt(self, snapshot: Snapshot) -> None:
        if snapshot.schema != self._schema:
            _log.warning("snapshot ignored: it is of another schema", schema=snapshot.schema, ours=self._schema)
            return
        if snapshot.position and not await self._journal.read(snapshot.position - 1, 1):
            _log.warning("snapshot ignored: the journal lacks its position", position=snapshot.position)
            return
        try:
            self._state = self._decode_state(snapshot.data)
        except Exception as error:  # the room's decoder may raise anything; a replay gives the same state
            _log.warning("snapshot ignored: it cannot be decoded", error=type(error).__name__)
            return
        self._position = self._snapshot_position = self._snapshot_due = snapshot.position
        self._feed.begin(snapshot.position)

    async def _catch_up(self) -> None:
        while records := await self._journal.read(self._position, MAX_READ):
            self._advance(records)
            await asyncio.sleep(0)

    def _advance(self, records: Sequence[Recorded]) -> None:
        """Apply what is new in these records; no await in here, so state and position always belong together."""
        try:
            for record in records:
                if record.position > self._position:
                    self._step(record)
        finally:
            self._feed.announce()
        if self._position - self._snapshot_due >= self._snapshot_every and (self._saver is None or self._saver.done()):
            self._snapshot_due = self._position
            self._saver = asyncio.create_task(self._save(self._state, self._position))

    def _step(self, record: Recorded) -> None:
        if record.position != self._position + 1:
            raise Corrupt(f"the journal continues {self._position} with {record.position}", position=record.position)
        typed = self._codec.decode(record.event)
        self._state = self._apply(self._state, typed)
        self._position = record.position
        self._feed.put(record.position, typed)

    async def _save(self, state: State, position: int) -> None:
        try:
            # The state is immutable, so a thread may encode it while the loop goes on.
            data = await asyncio.to_thread(self._encode_state, state)
            await self._snapshots.save(Snapshot(position, self._schema, data))
            self._snapshot_position = position
        except Exception as error:  # the room's encoder may raise anything; the journal is complete without it
            _log.warning("snapshot not saved", position=position, error=str(error))

    async def _follow(self) -> None:
        """Apply what other writers record; in one process this only finds that everything is applied already."""
        reported = ""
        while True:
            try:
                head = await self._journal.wait(self._position)
                async with self._turn:  # a command that is being recorded applies its own events
                    if head > self._position:
                        await self._catch_up()
                reported = ""
            except Exception as error:  # a follower that died would leave the state behind without a word
                if str(error) != reported:
                    reported = str(error)
                    _log.error("the journal cannot be followed further", position=self._position, error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)


async def _to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; a cancelled caller leaves only when it is done, so no half-made step is ever left behind."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
        if task.done() and not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as lost
        raise
