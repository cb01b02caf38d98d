"""One stream's reports on its domain's mesh: what waits for its turn, the newest of each name alone."""

from __future__ import annotations

import asyncio

from trustfed.errors import Invalid
from trustfed.hub.mesh.intake import BATCH, MeshIntake
from trustfed.hub.mesh.rules import Gone, check_said
from trustfed.hub.mesh.state import key
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs

log = logs.get("hub.mesh")

MAX_PENDING, MAX_PENDING_BYTES = 8_192, 16 * 1024 * 1024
BATCH_BYTES = 1024 * 1024
_SLICE = 20  # statements that are verified before others have a turn


class Reports:
    """The reports of one stream."""

    def __init__(self, intake: MeshIntake, domain: str) -> None:
        self._intake, self._domain = intake, domain
        self._stream = intake.streams[domain] = intake.streams.get(domain, 0) + 1
        self._pending: dict[str, pb.MeshItem | Gone] = {}
        self._bytes = 0
        self._named: set[str] | None = None
        self._complete = False  # all that the domain says has come on this stream
        self._news = asyncio.Event()

    def put(self, report: pb.MeshReport) -> None:
        """Take one message. Raises Invalid for what no cluster of ours sends: the stream ends."""
        if report.snapshot and self._named is None:
            self._named = set()
        for item in report.items:
            check_said(item.kind, item.name, item.sequence)
            self._put(at := key(item.kind, item.name), item)
            if self._named is not None:
                self._named.add(at)
        for gone in report.removed:
            check_said(gone.kind, gone.name, gone.sequence)
            self._put(key(gone.kind, gone.name), Gone(gone.kind, gone.name, gone.sequence))
        if len(self._pending) > MAX_PENDING or self._bytes > MAX_PENDING_BYTES or len(self._named or ()) > MAX_PENDING:
            raise Invalid(
                "a mesh report holds more than a domain may say",
                hint=f"{MAX_PENDING} items and {MAX_PENDING_BYTES} bytes at most",
            )
        if report.last and self._named is not None:
            named, self._named, self._complete = self._named, None, True
            for at, one in list(self._pending.items()):
                if isinstance(one, pb.MeshItem) and at not in named:
                    self._put(at, Gone(one.kind, one.name, max(self._intake.held(self._domain, at), one.sequence)))
            for at in self._intake.keys(self._domain):
                if at not in named and at not in self._pending:
                    kind, _, name = at.partition("/")
                    self._put(at, Gone(kind, name, max(self._intake.held(self._domain, at), 1)))
        self._news.set()

    async def run(self) -> None:
        """Have everything judged and recorded; ends only with an error of that."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._holds() and (batch := self._batch()):
                wait = self._cost(batch)
                if wait > 0:
                    log.warning("a domain's mesh changes too often: it waits", domain=self._domain, seconds=round(wait))
                    await self._intake.clock.sleep(wait)
                    continue  # what waited may have been overtaken meanwhile
                await self._take(batch)
            if self._complete and not self._pending and self._holds():
                self._complete = False
                self._intake.all_said(self._domain)

    def _holds(self) -> bool:
        """Whether no newer stream of this domain began: it compared digests, and what waits here is older than that."""
        return self._intake.streams.get(self._domain) == self._stream

    def _put(self, at: str, one: pb.MeshItem | Gone) -> None:
        self._bytes += _size(one) - _size(self._pending.get(at))
        self._pending[at] = one

    def _batch(self) -> dict[str, pb.MeshItem | Gone]:
        """What is next, removals first; what is held or refused already is left out."""
        found: dict[str, pb.MeshItem | Gone] = {}
        size = 0
        for at, one in sorted(self._pending.items(), key=lambda pair: not isinstance(pair[1], Gone)):
            if isinstance(one, pb.MeshItem) and self._known(at, one):
                self._bytes -= _size(self._pending.pop(at))
                continue
            size += _size(one)
            if found and (len(found) >= BATCH or size > BATCH_BYTES):
                break
            found[at] = one
        return found

    def _known(self, at: str, item: pb.MeshItem) -> bool:
        refused = self._intake.refusals.of.get(self._domain, {}).get(at)
        if refused is not None:
            return refused.sequence == item.sequence
        return self._intake.holds(self._domain, at, item)

    def _cost(self, batch: dict[str, pb.MeshItem | Gone]) -> float:
        """Seconds until this batch may be recorded; 0: it may, and is paid for."""
        units, now = sum(1 + _size(one) // 1024 for one in batch.values()), self._intake.clock.monotonic()
        if self._intake.budget.spend(self._domain, units, now):
            return 0.0
        return max(self._intake.budget.wait(self._domain, units, now), 0.001)

    async def _take(self, batch: dict[str, pb.MeshItem | Gone]) -> None:
        said, gone = [], [one for one in batch.values() if isinstance(one, Gone)]
        for number, one in enumerate(batch.values(), start=1):
            if isinstance(one, pb.MeshItem):
                statement = self._intake.open(self._domain, one)
                if statement is not None:
                    said.append(statement)
                if number % _SLICE == 0:
                    await asyncio.sleep(0)
        if self._holds():
            await self._intake.take(self._domain, said, gone, self._holds)
        for at, one in batch.items():
            if self._pending.get(at) is one:
                self._bytes -= _size(self._pending.pop(at))


def _size(one: pb.MeshItem | Gone | None) -> int:
    return len(one.statement) if isinstance(one, pb.MeshItem) else 0
