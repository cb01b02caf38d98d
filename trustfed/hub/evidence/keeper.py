"""Between the fleet in memory and fleet.db: takes deltas and standings, keeps both, and loads them when the hub starts.

Memory is told first, since it only shows; the cursor moves with the store alone, so what was shown and not kept is told again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from trustfed.errors import Invalid, Unavailable
from trustfed.evidence.model import FEW
from trustfed.evidence.standing import Standing
from trustfed.hub.evidence.figures import CLASSES
from trustfed.hub.evidence.fleet import CounterRow, Fleet
from trustfed.hub.evidence.series import DAY, KEEP, Series, bounded, bucket_of
from trustfed.hub.evidence.store import Batch, Day, FleetStore, Kept
from trustfed.hub.evidence.views import Failure
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.spiffe.ids import shown

STANDING_SECONDS, COMPACT_SECONDS = 5.0, 600.0
FUTURE_MS = 4_000 * 86_400_000
"""On-time limits lie in the future: those of a root by years."""

_STANDING = msgspec.json.Decoder(Standing)
_log = logs.get("hub.evidence")


class Keeper:
    """Owns what is kept of every trust domain."""

    def __init__(self, fleet: Fleet, store: FleetStore, clock: Clock) -> None:
        self._fleet, self._store, self._clock = fleet, store, clock
        self._cursors: dict[str, tuple[str, int]] = {}
        self._waiting: dict[str, tuple[bytes, int]] = {}
        self._broken: set[str] = set()

    def load(self, kept: Iterable[Kept], enrolled: Sequence[str]) -> list[str]:
        """Show what was kept, as old as it is; answers the names that are no longer enrolled."""
        gone = []
        for one in kept:
            if one.domain not in enrolled:
                gone.append(one.domain)
                continue
            self._fleet.know(one.domain)
            held = self._fleet.held(one.domain)
            try:
                for class_, chunks in one.chunks.items():
                    if class_ in CLASSES:
                        held.series[class_] = Series(few=class_ in FEW)
                        held.series[class_].load(chunks)
                held.failures.load(one.failed, one.summarised)
                if one.standing:
                    self._fleet.tell_standing(one.domain, _STANDING.decode(one.standing))
            except (ValueError, msgspec.DecodeError) as error:
                _log.warning("kept evidence cannot be read: it is asked for anew", domain=one.domain, error=str(error))
                self._fleet.anew(one.domain)
                continue
            self._fleet.stream(one.domain, False, one.heard_ms)
            self._cursors[one.domain] = (one.store, one.cursor)
        return gone

    def cursor(self, domain: str, store: str) -> int:
        """Up to where this store of the cluster is held; 0: everything is wanted anew."""
        held_store, cursor = self._cursors.get(domain, ("", 0))
        return cursor if held_store == store and domain not in self._broken else 0

    async def take(
        self,
        domain: str,
        store: str,
        cursor: int,
        told: Sequence[CounterRow],
        failed: Sequence[Failure],
        *,
        whole: bool,
    ) -> int:
        """Take one delta: shown at once, durable on return. Answers how many rows came too late to count.

        Invalid for rows that cannot be. A delta that was taken before is nothing.
        """
        if not whole and cursor <= self.cursor(domain, store):
            return 0
        if not whole and domain in self._broken:
            raise Unavailable("what was told before could not be kept", hint="connect again, and tell everything anew")
        fleet, oldest = self._fleet, bucket_of(self._fleet.now_ms) - KEEP
        told = [_checked(domain, row, fleet.now_ms) for row in told]
        if whole:
            fleet.anew(domain)
        recent = [row for row in told if row[0] in FEW or bucket_of(row[1]) >= oldest]
        ancient = [row for row in told if row[0] not in FEW and bucket_of(row[1]) < oldest]
        late = fleet.tell_counters(domain, recent)
        fleet.tell_failed(domain, failed)
        batch = self._batch(domain, store, cursor, whole=whole)
        batch.days.extend(_day(row) for row in ancient)
        await self._keep(domain, batch)
        self._cursors[domain] = (store, cursor)
        return late

    def stand(self, domain: str, standing: Standing, data: bytes) -> None:
        """Show a standing now, and keep it within seconds."""
        self._fleet.tell_standing(domain, standing)
        self._waiting[domain] = (data, standing.as_of_ms)

    async def forget(self, domain: str) -> None:
        """A domain was removed."""
        self._fleet.forget(domain)
        self._cursors.pop(domain, None)
        self._waiting.pop(domain, None)
        self._broken.discard(domain)
        await self._store.forget(domain)

    async def run(self) -> None:
        """Keep standings every few seconds, and merge old counters every ten minutes; until cancelled."""
        compact_at = self._clock.monotonic() + COMPACT_SECONDS
        while True:
            await self._clock.sleep(STANDING_SECONDS)
            try:
                await self.flush()
                if self._clock.monotonic() >= compact_at:
                    compact_at = self._clock.monotonic() + COMPACT_SECONDS
                    await self.compact()
            except Exception as error:  # what is shown goes on; the disk is the operator's to see
                _log.error("evidence of the fleet is not kept", error=str(error))

    async def flush(self) -> None:
        """Keep the standings that changed."""
        waiting, self._waiting = self._waiting, {}
        rows = [(domain, data, at) for domain, (data, at) in waiting.items()]
        for begin in range(0, len(rows), 100):
            await self._store.standing(rows[begin : begin + 100])

    async def compact(self) -> None:
        """Merge what is old and settled, domain by domain."""
        now = self._fleet.now_ms
        for domain in self._fleet.names:
            if now < self._fleet.held(domain).settled_ms or domain not in self._cursors:
                continue
            days: list[Day] = []
            for class_, series in self._fleet.held(domain).series.items():
                days.extend((class_, *gone) for gone in series.compact(bucket_of(now)))
            batch = self._batch(domain, *self._cursors[domain], whole=False)
            batch.days.extend(days)
            if batch.chunks or batch.days:
                await self._keep(domain, batch)

    async def _keep(self, domain: str, batch: Batch) -> None:
        """Keep it; what could not be kept is shown, but no longer what is held, so everything has to be told anew."""
        self._broken.add(domain)
        await self._store.take(domain, batch)
        self._broken.discard(domain)

    def _batch(self, domain: str, store: str, cursor: int, *, whole: bool) -> Batch:
        held = self._fleet.held(domain)
        chunks = {class_: dirty for class_, series in held.series.items() if (dirty := series.take_dirty())}
        failed = held.failures.take_dirty()
        return Batch(store, cursor, self._fleet.now_ms, whole, chunks, failed, dict(held.failures.summarised), [])


def _checked(domain: str, row: CounterRow, now_ms: int) -> CounterRow:
    class_, bucket_ms, counts = row
    if class_ not in CLASSES:
        raise Invalid(f"there is no class {shown(class_)}", hint="one of " + ", ".join(CLASSES))
    if not 0 <= bucket_ms <= now_ms + FUTURE_MS:
        raise Invalid(f"counters of {domain} are of no time that can be: {bucket_ms}")
    try:
        return class_, bucket_ms, bounded(counts)
    except ValueError as error:
        raise Invalid(f"counters of {domain}: {error}") from None


def _day(row: CounterRow) -> Day:
    class_, bucket_ms, counts = row
    number, within = divmod(bucket_of(bucket_ms), DAY)
    return class_, number, list(counts), (1 << within).to_bytes(DAY // 8, "little")
