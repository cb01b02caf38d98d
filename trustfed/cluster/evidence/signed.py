"""What issuance leaves behind beside its serials: the hashes of what was signed, and tries that were refused.

The answer of an issuance never waits for these. A crash within a fraction of a second loses the hash of a certificate
whose serial is on record; so does a queue that is full, which is counted and said.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Sequence

from trustfed.errors import TrustfedError
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.journal.ports import Ledger
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

log = logs.get("cluster.evidence")

PER_FACT = 500
MAX_WAITING = 50_000
MAX_REFUSALS = 2_000
"""Different refusals within a second; more are counted with the node alone."""
_GATHER_SECONDS = 0.2
_REFUSED_SECONDS = 1.0
_RETRY_SECONDS = 2.0

_Refusal = tuple[str, str, str, str]  # node, entry, slot, code


class Signatures:
    """Takes what issuance says, at once; `run` writes it behind."""

    def __init__(self, ledger: Ledger, clock: Clock, registry: Registry) -> None:
        self._ledger, self._clock = ledger, clock
        self._waiting: deque[tuple[str, str, bytes]] = deque()
        self._refusals: OrderedDict[_Refusal, int] = OrderedDict()
        self._refused_at = clock.monotonic()
        self._news = asyncio.Event()
        self._left_out = registry.counter(
            "cluster_evidence_signatures_left_out_total",
            "certificates whose hash is not on record: the ledger was behind",
        )

    def signed(self, authority: str, certificates: Sequence[tuple[str, bytes]]) -> None:
        """These certificates (serial, DER) were signed by `authority`."""
        self._waiting.extend([(authority, serial, der) for serial, der in certificates])
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._left_out.add()
        self._news.set()

    def refused(self, node: str, entry: str, slot: str, code: str) -> None:
        """A request was refused; `entry` is "" unless it is one that this node serves."""
        key = (node, entry, slot, code)
        if key not in self._refusals and len(self._refusals) >= MAX_REFUSALS:
            key = (node, "", "", code)
        if key in self._refusals or len(self._refusals) < 2 * MAX_REFUSALS:
            self._refusals[key] = self._refusals.get(key, 0) + 1
        self._news.set()

    async def run(self) -> None:
        """Write what waits, a fraction of a second gathered; ends only when cancelled, and then writes what is left."""
        try:
            while True:
                await self._news.wait()
                await self._clock.sleep(_GATHER_SECONDS)
                self._news.clear()
                try:
                    await self.flush(refusals=self._clock.monotonic() - self._refused_at >= _REFUSED_SECONDS)
                except TrustfedError as error:
                    log.error("hashes of certificates are not on record yet", error=error.message, hint=error.hint)
                    await self._clock.sleep(_RETRY_SECONDS)
                if self._waiting or self._refusals:
                    self._news.set()
        except asyncio.CancelledError:
            await asyncio.shield(self._last())
            raise

    async def flush(self, *, refusals: bool = True) -> None:
        """Write what waits now. Raises Unavailable; then it goes on waiting, and may be on record twice."""
        while self._waiting or (refusals and self._refusals):
            taken = [self._waiting[at] for at in range(min(PER_FACT, len(self._waiting)))]
            gone = list(self._refusals.items())[:PER_FACT] if refusals else []
            self._refused_at = self._clock.monotonic() if refusals else self._refused_at
            await self._ledger.append([*self._signed_facts(taken), *self._refused_facts(gone)])
            for one in taken:
                if self._waiting and self._waiting[0] is one:
                    self._waiting.popleft()
            for key, count in gone:
                self._refusals[key] -= count
                if not self._refusals[key]:
                    del self._refusals[key]

    async def _last(self) -> None:
        try:
            async with asyncio.timeout(2):
                await self.flush()
        except (TrustfedError, TimeoutError) as error:
            log.warning("hashes of certificates are not on record", count=len(self._waiting), error=str(error))

    def _signed_facts(self, taken: Sequence[tuple[str, str, bytes]]) -> list[Fact]:
        by_authority: dict[str, dict[str, str]] = {}
        for authority, serial, der in taken:
            by_authority.setdefault(authority, {})[serial] = hashlib.sha256(der).hexdigest()
        now = to_ms(self._clock.now())
        return [
            Fact(now, kinds.SIGNED, authority, {"authority": authority, "certificates": hashes})
            for authority, hashes in by_authority.items()
        ]

    def _refused_facts(self, gone: Sequence[tuple[_Refusal, int]]) -> list[Fact]:
        now, made = to_ms(self._clock.now()), []
        for (node, entry, slot, code), count in gone:
            instance = f"{node}/{entry}" if entry else f"node/{node}"
            body = {"node": node, "entry": entry, "instance": instance, "slot": slot, "code": code, "count": count}
            made.append(Fact(now, kinds.REFUSED, instance[:256], {**body, "at": now}))
        return made
