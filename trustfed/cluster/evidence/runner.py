"""Keeps the evidence store behind the ledger, says how this cluster stands, and lets old facts go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.availability import Availability
from trustfed.cluster.evidence.config import EvidenceConfig
from trustfed.cluster.evidence.counted import Counted
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.own_standing import OwnStanding
from trustfed.cluster.evidence.records import Records
from trustfed.errors import TrustfedError, Unavailable
from trustfed.evidence import facts as kinds
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.queries import Queries
from trustfed.evidence.retention import retire
from trustfed.evidence.rollovers import stuck
from trustfed.evidence.standing import MAX_BYTES, Alarm, Held, Standing
from trustfed.evidence.standing_of import parts
from trustfed.evidence.store import EvidenceStore
from trustfed.journal.events import Fact
from trustfed.journal.sqlite import Store
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import SOFTWARE

log = logs.get("cluster.evidence")

_DEBOUNCE_SECONDS = 0.3
_RETRY_SECONDS = 5.0
_DAY_SECONDS = 86_400.0
STALE_HINTS = 3
_LISTS = ("unknown", "endings", "held", "runway", "clocks", "silent", "lint", "algorithms")


class Runner:
    """`await begin()` before the doors open, then `jobs`, then `close`. The store opens behind: it may have much to read."""

    def __init__(
        self,
        folder: Path,
        facts: Store,
        records: Records,
        own: OwnStanding,
        own_logs: ClusterLogs,
        availability: Availability,
        alarms: Alarms,
        config: EvidenceConfig,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._folder, self._facts, self._records, self._own, self._logs = folder, facts, records, own, own_logs
        self._availability, self._alarms, self._config = availability, alarms, config
        self._clock, self._counted = clock, Counted(registry)
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._store: EvidenceStore | None = None
        self.opened = asyncio.Event()
        self._since: dict[str, int] = {}
        registry.gauge("cluster_evidence_behind", "facts of the ledger that the evidence does not stand for yet").read(
            lambda: float(facts.ledger.position - (self._store.position if self._store is not None else 0))
        )

    @property
    def store(self) -> EvidenceStore:
        """The evidence. Raises Unavailable while it is being read."""
        if self._store is None:
            raise Unavailable("this cluster's evidence is catching up with its ledger", hint="try again in a moment")
        return self._store

    async def begin(self) -> None:
        """Record the definition of the figures, if it is another one. Raises Unavailable."""
        if self._records.folded.policy != DEFINITION.hash:
            body = {"definition": DEFINITION.body()}
            await self._records.append([Fact(to_ms(self._clock.now()), kinds.POLICY, DEFINITION.hash, body)])

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the evidence changed."""
        self._listeners.append(listener)

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [self._run(), self._watch(), self._retain()]

    async def close(self) -> None:
        """Save, and close the file."""
        if self._store is not None:
            await self._store.close()

    async def answer(self, kind: str, body: bytes) -> bytes:
        """What the evidence says to one question (trustfed.evidence.queries)."""
        return await Queries(self.store, self._facts.ledger, self._own.owners).answer(kind, body)

    async def standing(self) -> bytes:
        """How this trust domain stands now, as JSON within its bound. Raises Unavailable while the evidence is being read."""
        store, now = self.store, to_ms(self._clock.now())
        found = await parts(store, now, self._own.end_of)
        own = self._own.parts()
        alarms = (
            *self._alarms.standing(),
            *stuck(own["authorities"], now),
            *self._lasting((*found.pop("alarms", ()), *stale_bundles(own["held"], now))),
        )
        standing = Standing(
            trust_domain=store.trust_domain,
            as_of_ms=now,
            software=SOFTWARE,
            logs=self._logs.standing(),
            algorithms=(*found.pop("algorithms", ()), *self._own.keys()),
            alarms=tuple(sorted(alarms, key=lambda alarm: (alarm.severity != "page", alarm.since_ms))),
            **{**own, **found},
        )
        return bounded(standing)

    def _lasting(self, alarms: Iterable[Alarm]) -> list[Alarm]:
        """What is found anew at each look, with the time at which it was found first."""
        found = list(alarms)
        self._since = {alarm.code: self._since.get(alarm.code, alarm.since_ms) for alarm in found}
        return [msgspec.structs.replace(alarm, since_ms=self._since[alarm.code]) for alarm in found]

    def probes_down(self) -> dict[str, str]:
        """The probes that are down, and why."""
        return dict(self._availability.why)

    def alarms(self) -> tuple[Alarm, ...]:
        """What somebody has to look at now."""
        return self._alarms.standing()

    async def _run(self) -> None:
        """Open the store, and keep it behind the ledger. What fails is alarmed and tried again; the cluster goes on."""
        while self._store is None:
            domain = self._own.state().trust_domain
            try:
                store = await EvidenceStore.open(self._folder, self._facts.ledger, domain, self._clock)
            except TrustfedError as error:
                self._alarms.begins("evidence_store", domain, error.message, error.hint)
                await self._clock.sleep(_RETRY_SECONDS)
                continue
            self._alarms.over("evidence_store", domain)
            store.on_change(self._changed.set)
            self._store = store
            self.opened.set()
            self._changed.set()
        await self._store.run()

    async def _watch(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            for listener in self._listeners:
                listener()
            try:
                started = self._clock.monotonic()
                await self._counted.look(self.store, to_ms(self._clock.now()))
                await self._clock.sleep(max(_DEBOUNCE_SECONDS, 9 * (self._clock.monotonic() - started)))
            except TrustfedError as error:
                log.error("obligations are not counted", error=error.message)
                await self._clock.sleep(_RETRY_SECONDS)

    async def _retain(self) -> None:
        """Let go, once a day, of facts that are older than is kept."""
        while True:
            await self._clock.sleep(_DAY_SECONDS)
            try:
                await self.retire()
            except TrustfedError as error:
                log.error("old facts stay for now", error=error.message, hint=error.hint)

    async def retire(self) -> int:
        """Let go of them now, their rollup recorded first; gives the first position that is retained. Raises Unavailable."""
        log_, keep = self._facts.facts_log, int(self._config.keep.total_seconds() * 1000)
        before = self._facts.ledger.first
        await log_.integrated(self._facts.ledger.position)
        now, domain = to_ms(self._clock.now()), self._own.state().trust_domain
        first = await retire(self._facts.ledger, log_.root, self._facts.trim_facts, domain, now, keep_ms=keep)
        if first != before:
            log.info("old facts left the ledger, their rollup is recorded", first=first)
        return first


def stale_bundles(held: Sequence[Held], now_ms: int) -> list[Alarm]:
    """The peers whose bundle nobody confirmed for three of its refresh hints."""
    # Of the peers' own rows: a node that lags has an older one than the newest.
    old = [one for one in held if 0 < STALE_HINTS * one.hint_ms < one.age_ms and one.newest_sequence == one.sequence]
    if not old:
        return []
    worst = max(old, key=lambda one: one.age_ms)
    says = f"{len(old)} peers' bundles were confirmed last more than {STALE_HINTS} refresh hints ago"
    return [
        Alarm("bundle_old", "page", worst.trust_domain, says, now_ms, "trustfed cluster status; is their cluster up?")
    ]


def bounded(standing: Standing) -> bytes:
    """The JSON of a standing; lists are halved, the longest first, until it fits."""
    data = msgspec.json.encode(standing)
    while len(data) > MAX_BYTES:
        longest = max(_LISTS, key=lambda name: len(msgspec.json.encode(getattr(standing, name))))
        items = getattr(standing, longest)
        if not items:
            return msgspec.json.encode(Standing(standing.trust_domain, standing.as_of_ms, standing.software))
        standing = msgspec.structs.replace(standing, **{longest: items[: len(items) // 2]})
        data = msgspec.json.encode(standing)
    return data
