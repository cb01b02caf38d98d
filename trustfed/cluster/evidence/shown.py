"""Nodes' own SVIDs: the first handshake that shows a serial delivers and confirms it, and no word of the node is needed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from trustfed.cluster.evidence.records import Records
from trustfed.cluster.evidence.serials import Serials
from trustfed.errors import TrustfedError
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.x509svid import X509Svid

log = logs.get("cluster.evidence")

NODE = "node"
MAX_WAITING = 10_000
_RETRY_SECONDS = 2.0
_PER_APPEND = 250


class Shown:
    """`saw` for each call; `run` writes what is new."""

    def __init__(self, records: Records, serials: Serials, clock: Clock) -> None:
        self._records, self._serials, self._clock = records, serials, clock
        self._newest: dict[str, tuple[str, float]] = {}
        self._waiting: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()
        self._news = asyncio.Event()

    def saw(self, node: str, svid: X509Svid) -> None:
        """This node proved that it has this SVID's key, now. Cheap where it showed the same one before."""
        serial, began = serial_text(svid.serial), svid.not_before.timestamp()
        held = self._newest.get(node)
        if held is not None and (held[0] == serial or held[1] > began):
            return
        self._newest[node] = (serial, began)
        known = self._records.folded.nodes.get(node)
        if known is not None and known.shown == serial:
            return
        if len(self._waiting) < MAX_WAITING:
            self._waiting[node, serial] = (to_ms(self._clock.now()), str(svid.id))
            self._news.set()

    async def run(self) -> None:
        """Write it; ends only when cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.flush()
            except TrustfedError as error:
                log.error("which SVIDs nodes show is not recorded yet", error=error.message, hint=error.hint)
                await self._clock.sleep(_RETRY_SECONDS)
                self._news.set()

    async def flush(self) -> None:
        """Write what waits. Raises Unavailable; then it goes on waiting."""
        await self._records.sure()
        while self._waiting:
            taken = dict(list(self._waiting.items())[:_PER_APPEND])
            facts = []
            for (node, serial), (at, spiffe_id) in taken.items():
                facts += await self._facts(node, serial, at, spiffe_id)
            if facts:
                await self._records.append(facts)
            for key in taken:
                self._waiting.pop(key, None)

    async def _facts(self, node: str, serial: str, at: int, spiffe_id: str) -> list[Fact]:
        known = self._records.folded.nodes.get(node)
        before = known.shown if known is not None else ""
        issued = await self._serials.all_of([serial, before] if before else [serial])
        own, earlier = issued.get(serial), issued.get(before)
        if before == serial or own is None or own.slot != NODE or own.node != node:
            return []
        if earlier is not None and earlier.at >= own.at:
            return []  # an older connection: the newer one was seen already
        now, instance = to_ms(self._clock.now()), f"node/{node}"
        said = {
            "node": node,
            "epoch": "",
            "sequence": 0,
            "entry": "",
            "instance": instance,
            "slot": NODE,
            "serial": serial,
        }
        return [
            Fact(now, kinds.DELIVERED, serial, {**said, "at": at, "door": NODE}),
            Fact(now, kinds.CONFIRMED, serial, {**said, "at": at, "peer": "cluster", "spiffe_id": spiffe_id}),
        ]
