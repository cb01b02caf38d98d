"""The rule of two people on a fold: commands are proposed, approved and done, at whatever door they were asked.

    approving = Approving(fold, (decided("root.activate", RootActivation, activate, words),), clock, life, broken=counter)
    asked = await approving.ask(actor, RootActivation("root-2"), reason, command_id=...)
    asked.proposal    # the proposal that waits now; None when it was done (glass broken), or nothing was left to do
    await approving.approve(another, asked.proposal.id)

An approval and its effect are one append: whoever kills the process leaves either both or neither. What needs keys or
other I/O is made first (`Command.make`), for an approver that the rule lets through, and recorded in that same append.
Every effect is decided anew on the newest state; when that refuses it, the proposal stays open and the try is on record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar
from uuid import uuid4

import msgspec

from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.journal import approvals
from trustfed.journal.approvals import Actor, Proposal, Proposals, Wanted
from trustfed.journal.events import Recorded, TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Counter
from trustfed.runtime.timestamps import from_ms, to_ms

BROKEN_STANDS = timedelta(hours=24)
"""How long a broken glass is an alarm."""

_log = logs.get("approvals")


class WithProposals(Protocol):
    """A room's state with the proposals in it."""

    @property
    def proposals(self) -> Proposals: ...


State = TypeVar("State", bound=WithProposals)
Decide = Callable[[State], Sequence[TypedEvent]]


@dataclass(frozen=True)
class Command(Generic[State]):
    """A command that takes two people.

    `check` raises what is wrong with it now, and says whether anything is left to do; `make` does what needs keys or
    other I/O and gives the decision, whose events are recorded. `naming` is for events that say themselves who proposed
    them and who approved them ("": one person, with the glass broken).
    """

    name: str
    body: type[msgspec.Struct]
    words: Callable[[Any], str]
    check: Callable[[State, Any, datetime], bool]
    make: Callable[[State, Any, datetime], Awaitable[Decide[State]]]
    naming: Callable[[Sequence[TypedEvent], str, str], Sequence[TypedEvent]] = lambda events, proposed_by, approved_by: (
        events
    )


def decided(
    name: str,
    body: type[msgspec.Struct],
    decide: Callable[[State, Any, datetime], Sequence[TypedEvent]],
    words: Callable[[Any], str],
) -> Command[State]:
    """A command that is a pure decision."""

    async def make(_: State, said: Any, now: datetime) -> Decide[State]:
        return lambda newest: decide(newest, said, now)

    return Command(name, body, words, lambda state, said, now: bool(decide(state, said, now)), make)


@dataclass(frozen=True)
class Pinned(Generic[State]):
    """A body that names what the present state has ("the root that is prepared"), so that nothing else is approved."""

    body: type[msgspec.Struct]
    pin: Callable[[State], msgspec.Struct]


@dataclass(frozen=True)
class Asked:
    """What became of a command: the proposal that stands for it, and what was recorded as its effect."""

    proposal: Proposal | None
    done: Sequence[Recorded] = ()

    @property
    def waits(self) -> bool:
        """Whether another person is needed."""
        return self.proposal is not None and self.proposal.status == "open"


class Approving(Generic[State]):
    """The commands of one room that take two people, on its fold."""

    def __init__(
        self,
        fold: Fold[State],
        commands: Sequence[Command[State]],
        clock: Clock,
        life: timedelta = approvals.LIFE,
        broken: Counter | None = None,
        stands: Callable[[State, str, datetime], None] = lambda state, actor, now: None,
    ) -> None:
        """`stands` raises Denied for an actor who was let in, and is no more: it may happen while keys sign."""
        self._fold, self._clock, self._life, self._broken = fold, clock, life, broken
        self._stands = stands
        self._commands: dict[str, Command[State]] = {}
        self._listeners: list[Callable[[Proposal], None]] = []
        for command in commands:
            self.add(command)

    def add(self, command: Command[State]) -> None:
        """A further command."""
        self._commands[command.name] = command

    def on_broken(self, listener: Callable[[Proposal], None]) -> None:
        """Call `listener` with each glass that was broken within the last day, and with each that will be."""
        since = to_ms(self._clock.now() - BROKEN_STANDS)
        for one in self._fold.state.proposals.values():
            if one.status == "broken" and one.at_ms > since:
                listener(one)
        self._listeners.append(listener)

    async def ask(
        self,
        actor: Actor,
        body: msgspec.Struct | Pinned[State],
        reason: str,
        *,
        command_id: str,
        break_glass: bool = False,
    ) -> Asked:
        """Propose what `body` says, or do it at once with the glass broken.

        Raises what the command itself raises on the present state, so that nothing hopeless is proposed. The same
        `command_id` of the same actor gives the same proposal again.
        """
        id_, now = approvals.id_of(actor.id, command_id), self._clock.now()
        earlier = self._fold.state.proposals.get(id_)
        command, said = self._pinned(body, earlier)
        wanted = Wanted(id_, command.name, msgspec.to_builtins(said), reason)
        if earlier is None and break_glass:
            return await self._alone(command, said, wanted, actor, command_id, now)
        if earlier is None and not command.check(self._fold.state, said, now):
            return Asked(None)

        def decide(state: State) -> Sequence[TypedEvent]:
            self._stands(state, actor.id, now)
            return approvals.propose(state.proposals, wanted, actor, self._life, now)

        await self._fold.execute(decide, command_id=command_id, actor=actor.id, reason=reason, now=now)
        made = approvals.same(self._fold.state.proposals, wanted, actor, now)
        if made is None:
            raise Conflict("what was proposed has ended in between", hint="trustfed approval list")
        if (status := made.status_at(now)) in ("withdrawn", "expired"):
            raise Conflict(f"proposal {made.id} is {status}", hint="propose it again, under a new Command-Id")
        if earlier is None:
            _log.info("proposed", proposal=made.id, command=made.command, actor=actor.id)
        return Asked(made)

    async def approve(self, actor: Actor, id_: str, body_hash: str = "") -> Asked:
        """Do what was proposed, as another person. The same approver again gets the same answer, and nothing is done."""
        found, now = approvals.known(self._fold.state.proposals, id_), self._clock.now()
        if found.status == "approved" and found.decided_by == actor.id and body_hash in ("", found.body_hash):
            return Asked(found)
        try:
            approvals.approve(self._fold.state.proposals, id_, actor, now, body_hash)
            command, body = self._again(found)
            effect = await self._effect(command, body, now)

            def decide(state: State) -> Sequence[TypedEvent]:
                self._stands(state, actor.id, now)
                approved = approvals.approve(state.proposals, id_, actor, now, body_hash)
                return [approved, *_something(command.naming(effect(state), found.proposed_by, actor.id))]

            done = await self._fold.execute(
                decide, command_id=uuid4().hex, actor=actor.id, reason=found.reason, now=now
            )
        except (Denied, Conflict, Invalid, NotFound) as error:
            await self._refused(actor, id_, error.message, now)
            raise
        _log.info("approved", proposal=id_, command=found.command, actor=actor.id, proposed_by=found.proposed_by)
        return Asked(approvals.known(self._fold.state.proposals, id_), done[1:])

    async def ordered(
        self,
        order_id: str,
        body: msgspec.Struct,
        reason: str,
        *,
        hub: str,
        proposed_by: str,
        approved_by: str,
        break_glass: bool = False,
    ) -> Asked:
        """Do what two people at the hub decided: they count as two here, by the hub's word. Once per `order_id`.

        Recorded as proposed, approved and done in one append; what one person ordered is a broken glass, or Denied.
        """
        command, now = self._of(type(body)), self._clock.now()
        first, second = (Actor(f"{hub}/{who}"[:256], f"{hub}/{who}"[:256]) for who in (proposed_by, approved_by))
        caller, command_id = (
            Actor(f"hub:{hub}", first.person),
            f"order→{order_id}",
        )  # no Command-Id of a client can be this: it is a header
        wanted = Wanted(approvals.id_of(caller.id, command_id), command.name, msgspec.to_builtins(body), reason)
        if (earlier := self._fold.state.proposals.get(wanted.id)) is not None:
            return Asked(earlier)
        if break_glass:
            return await self._alone(command, body, wanted, caller, command_id, now)
        if not approved_by or not proposed_by:
            raise Denied(f"order {order_id[:40]} of {hub} names one person, and this takes two")
        effect = await self._effect(command, body, now)

        def decide(state: State) -> Sequence[TypedEvent]:
            made = approvals.propose(state.proposals, wanted, first, self._life, now)
            held = state.proposals
            for event in made:
                held = approvals.apply(held, event)
            return [*made, approvals.approve(held, wanted.id, second, now), *_something(effect(state))]

        done = await self._fold.execute(decide, command_id=command_id, actor=caller.id, reason=reason, now=now)
        return Asked(self._fold.state.proposals.get(wanted.id), done[2:])

    async def withdraw(self, actor: Actor, id_: str, reason: str = "") -> Proposal:
        """End a proposal before it happens, as its proposer or as one who says no."""
        now = self._clock.now()
        await self._fold.execute(
            lambda state: approvals.withdraw(state.proposals, id_, actor, reason, now),
            command_id=uuid4().hex,
            actor=actor.id,
            reason=reason,
            now=now,
        )
        return approvals.known(self._fold.state.proposals, id_)

    def listed(self, *, broken: bool = False, all_: bool = False) -> list[dict[str, Any]]:
        """What is open, oldest first; or the broken glasses, or everything that is still held, newest first."""
        held, now = self._fold.state.proposals, self._clock.now()
        if not broken and not all_:
            return [self.shown(one) for one in approvals.open_ones(held, now)]
        rows = [one for one in held.values() if all_ or one.status == "broken"]
        return [self.shown(one) for one in sorted(rows, key=lambda one: (one.at_ms, one.id), reverse=True)]

    def found(self, id_: str) -> dict[str, Any]:
        """One proposal as JSON, or NotFound."""
        return self.shown(approvals.known(self._fold.state.proposals, id_))

    def shown(self, one: Proposal) -> dict[str, Any]:
        """A proposal as JSON: what it would do in words, and its status now."""
        return {
            "id": one.id,
            "command": one.command,
            "what": self._words(one),
            "body": one.body,
            "body_hash": one.body_hash,
            "status": one.status_at(self._clock.now()),
            "proposed_by": one.proposed_by,
            "reason": one.reason,
            "at": _time(one.at_ms),
            "expires_at": _time(one.expires_ms),
            "decided_by": one.decided_by,
            "decided_at": _time(one.decided_ms) if one.decided_ms else None,
            "decided_reason": one.decided_reason,
            "refused_tries": one.refusals,
        }

    def waiting(self, one: Proposal) -> dict[str, Any]:
        """What a door answers (202) to the proposer."""
        return {
            "proposal": one.id,
            "needs": "another person",
            "command": one.command,
            "what": self._words(one),
            "body_hash": one.body_hash,
            "expires_at": _time(one.expires_ms),
        }

    async def _alone(
        self, command: Command[State], body: Any, wanted: Wanted, actor: Actor, command_id: str, now: datetime
    ) -> Asked:
        broken = approvals.break_glass(wanted, actor, now)
        before, effect = self._fold.position, await self._effect(command, body, now)

        def decide(state: State) -> Sequence[TypedEvent]:
            self._stands(state, actor.id, now)
            events = command.naming(effect(state), actor.id, "")
            return [broken, *events] if events else []

        done = await self._fold.execute(decide, command_id=command_id, actor=actor.id, reason=wanted.reason, now=now)
        if done and done[0].event.body.get("body_hash") != broken.body_hash:
            raise Conflict("this command id was used for another command", hint="choose a new Command-Id")
        if done and done[0].position > before:  # not one that was sent again
            _log.error(
                "glass broken: one person did what takes two",
                command=command.name,
                actor=actor.id,
                reason=broken.reason,
                proposal=broken.id,
            )
            if self._broken is not None:
                self._broken.add()
            for listener in self._listeners:
                listener(self._fold.state.proposals[wanted.id])
        return Asked(self._fold.state.proposals.get(wanted.id), done[1:])

    async def _effect(self, command: Command[State], body: Any, now: datetime) -> Decide[State]:
        if not command.check(self._fold.state, body, now):
            return lambda state: ()
        return await command.make(self._fold.state, body, now)

    async def _refused(self, actor: Actor, id_: str, why: str, now: datetime) -> None:
        """On record, so that who tries to be two people is seen: at most eight times for one proposal."""
        _log.warning("approval refused", proposal=id_, actor=actor.id, error=why)
        await self._fold.execute(
            lambda state: approvals.refuse(state.proposals, id_, actor, why, now),
            command_id=uuid4().hex,
            actor=actor.id,
            now=now,
        )

    def _pinned(
        self, body: msgspec.Struct | Pinned[State], earlier: Proposal | None
    ) -> tuple[Command[State], msgspec.Struct]:
        """The command and its body; of one that is sent again what it was, whatever the state has become since."""
        if not isinstance(body, Pinned):
            return self._of(type(body)), body
        command = self._of(body.body)
        if earlier is not None and earlier.command == command.name:
            return self._again(earlier)
        return command, body.pin(self._fold.state)

    def _of(self, body: type[msgspec.Struct]) -> Command[State]:
        return next(command for command in self._commands.values() if command.body is body)

    def _again(self, found: Proposal) -> tuple[Command[State], Any]:
        command = self._commands.get(found.command)
        if command is None:
            raise Conflict(f"this version knows no command {found.command}", hint="propose what it offers instead")
        try:
            return command, msgspec.convert(found.body, command.body)
        except msgspec.ValidationError:
            raise Conflict(
                f"proposal {found.id} was made by another version of trustfed", hint="propose it again"
            ) from None

    def _words(self, one: Proposal) -> str:
        try:
            command, body = self._again(one)
        except Conflict:
            return one.command
        return command.words(body)


def _something(events: Sequence[TypedEvent]) -> Sequence[TypedEvent]:
    if not events:
        raise Conflict("nothing is left to do: it has happened in between", hint="trustfed approval withdraw ends it")
    return events


def _time(at_ms: int) -> str:
    return from_ms(at_ms).isoformat(timespec="seconds").replace("+00:00", "Z")
