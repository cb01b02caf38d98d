"""Takes what clusters report of their meshes: verified in slices, recorded at a pace, refusals kept and told.

When a stream ends, what waited is lost: the cluster compares digests on its next one and says all of it again. What only
the state stands against (a host that another owner exports, no room) is judged anew when that changes, unasked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.mesh_digest import digest
from trustfed.federation.mesh_statement import Statement
from trustfed.hub.events import DomainRemoved, HubEvent
from trustfed.hub.mesh.events import MeshWithdrawn
from trustfed.hub.mesh.refusals import Refusals, Refused
from trustfed.hub.mesh.rules import Gone, Judged, judge, opened, same_said
from trustfed.hub.mesh.state import key
from trustfed.hub.state import HubState
from trustfed.journal.events import TypedEvent
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.budget import Budget
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach
from trustfed.runtime.timestamps import to_ms

log = logs.get("hub.mesh")

UNITS, PER_SECOND = 16_384, 2.0
"""What one domain may have recorded at once, and what comes back: a statement is one unit and one for each kilobyte. All
that a domain may say at all fits at once; from then on two small changes a second."""
BATCH = 200
"""Statements that are judged and recorded together."""
_RETRY_SECONDS = 5.0

Record = Callable[[str, Callable[[HubState], Sequence[HubEvent]]], Awaitable[object]]


class MeshIntake:
    """Shared by all streams; `run` judges anew what was refused, when what stood against it is gone."""

    def __init__(
        self,
        state: Callable[[], HubState],
        record: Record,
        reach: Reach,
        clock: Clock,
        registry: Registry,
        tell: Callable[[str, Refused], None] = lambda domain, refused: None,
        all_said: Callable[[str], None] = lambda domain: None,
    ) -> None:
        """`record` records what a domain's word means; `tell` lets its streams know of a refusal (`why` empty: of none).

        `all_said` is called when a domain has said all that it has, and that is recorded or refused.
        """
        self.all_said = all_said
        self._state, self._record, self.reach, self.clock, self._tell = state, record, reach, clock, tell
        self.budget = Budget(UNITS, PER_SECOND)
        self.refusals = Refusals()
        self.streams: dict[str, int] = {}
        """The number of each domain's newest stream: what an older one still holds is not what the domain says now."""
        self._again: dict[str, None] = {}
        self._news = asyncio.Event()
        self._counter = registry.counter("hub_mesh_refused_total", "statements on domains' meshes that were refused")
        registry.gauge("hub_mesh_refused", "statements that are refused now").read(
            lambda: float(sum(map(len, self.refusals.of.values())))
        )

    def digest(self, domain: str) -> bytes:
        """Of all that a domain has said, taken or refused: equal to its own, it need say nothing."""
        said = {at: row.sequence for at, row in self._state().mesh.of(domain).items()}
        said |= {at: one.sequence for at, one in self.refusals.of.get(domain, {}).items()}
        return digest({at: str(sequence) for at, sequence in said.items()})

    def refused(self, domain: str) -> list[Refused]:
        """What is refused of a domain now."""
        return list(self.refusals.of.get(domain, {}).values())

    def held(self, domain: str, at: str) -> int:
        """The sequence that is recorded; 0 for none."""
        row = self._state().mesh.of(domain).get(at)
        return row.sequence if row is not None else 0

    def holds(self, domain: str, at: str, item: pb.MeshItem) -> bool:
        """Whether this is recorded already."""
        row = self._state().mesh.of(domain).get(at)
        return row is not None and row.sequence == item.sequence and same_said(row.statement, item.statement)

    def keys(self, domain: str) -> list[str]:
        """Everything that a domain has said, taken or refused."""
        return [*self._state().mesh.of(domain), *self.refusals.of.get(domain, {})]

    def open(self, domain: str, item: pb.MeshItem) -> Statement | None:
        """The verified statement; None when it is refused, which is told."""
        try:
            return opened(self._state(), domain, item.kind, item.name, item.sequence, item.statement, self.reach)
        except (Denied, Invalid) as error:
            self.refuse(domain, Refused(item.kind, item.name, item.sequence, error.message))
            return None

    def refuse(self, domain: str, one: Refused) -> None:
        """Keep and tell a refusal."""
        before = self.refusals.of.get(domain, {}).get(key(one.kind, one.name))
        self.refusals.put(domain, one)
        if before is None or (before.sequence, before.why) != (one.sequence, one.why):
            self._counter.add()
            log.warning("mesh statement refused", domain=domain, kind=one.kind, name=one.name, error=one.why)
            self._tell(domain, one)

    async def take(
        self,
        domain: str,
        said: Sequence[Statement],
        gone: Sequence[Gone],
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        """Judge and record, if it still `holds` then; durable on return. Raises what the journal raises, Denied for a domain
        that is out.
        """
        at_ms = to_ms(self.clock.now())
        judged = judge(self._state(), domain, said, gone, at_ms)
        if judged.events:

            def decide(state: HubState) -> Sequence[HubEvent]:
                nonlocal judged
                judged = judge(state, domain, said, gone, at_ms)
                return judged.events if holds() else []

            await self._record(domain, decide)
        if holds():
            self._settle(domain, said, gone, judged)

    def _settle(self, domain: str, said: Sequence[Statement], gone: Sequence[Gone], judged: Judged) -> None:
        for one in gone:
            self.refusals.pop(domain, key(one.kind, one.name))
        for statement in said:
            at = key(statement.kind, statement.name)
            if at in judged.refused:
                why = judged.refused[at][1]
                self.refuse(domain, Refused(statement.kind, statement.name, statement.sequence, why, statement))
            elif self.refusals.pop(domain, at) is not None:
                self._tell(domain, Refused(statement.kind, statement.name, statement.sequence, ""))

    def on_event(self, event: TypedEvent) -> None:
        """What is freed may be wanted by who was refused."""
        match event:
            case MeshWithdrawn():
                if event.kind == "export":
                    self._again.update(self.refusals.hosts.get(event.name, {}))
                if event.domain in self.refusals.of:
                    self._again[event.domain] = None
            case DomainRemoved():
                self.refusals.forget(event.name)
                self._again.update(dict.fromkeys(self.refusals.of))
        if self._again:
            self._news.set()

    async def run(self) -> None:
        """Judge anew; ends only when cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._again:
                domain = next(iter(self._again))
                del self._again[domain]  # what is freed from here on is judged once more
                try:
                    await self._judge_anew(domain)
                except (Denied, Invalid) as error:
                    log.info("what was refused of a domain is not judged anew", domain=domain, error=error.message)
                except TrustfedError as error:
                    log.error("what is free now is not given to who waits for it", domain=domain, error=error.message)
                    self._again[domain] = None
                    await self.clock.sleep(_RETRY_SECONDS)

    async def _judge_anew(self, domain: str) -> None:
        said = [one.statement for one in self.refused(domain) if one.statement is not None]
        for start in range(0, len(said), BATCH):
            some = [one for one in said[start : start + BATCH] if self._waits(domain, one)]

            def holds(some: Sequence[Statement] = some) -> bool:
                return all(self._waits(domain, one) for one in some)

            await self.take(domain, some, (), holds)
            if not all(self._waits(domain, one) or self.held(domain, _at(one)) for one in some):
                self._again[domain] = None  # one of them was taken back meanwhile: the others again

    def _waits(self, domain: str, said: Statement) -> bool:
        """Whether this is still said, and still refused."""
        one = self.refusals.of.get(domain, {}).get(_at(said))
        return one is not None and one.statement is said


def _at(said: Statement) -> str:
    return key(said.kind, said.name)
