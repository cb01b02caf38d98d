"""Which serials workloads have now: each is delivered once, until the last that had it has been gone for a while.

Answers that hold the same SVIDs are counted together: one more call for what somebody has already costs a look into a
dictionary. A call that fetches and ends is no different from a stream: it counts for LINGER_SECONDS after its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from agent.evidence.notes import Notes
from agent.issuing import NORMAL, RESERVE
from agent.store import Store
from agent.trusted_time import TrustedTime

WORKLOAD_API, SDS = "workload_api", "sds"
LINGER_SECONDS = 60.0
RETURN_SECONDS = 120.0
"""How long workloads may take to come back to an agent that was restarted."""
_MOST_PEERS = 64
"""Envoys of which it is noted that they loaded the same serial."""

Pairs = tuple[tuple[str, str], ...]
"""Entry and serial of each SVID of one answer."""


class Holding:
    """One answer's SVIDs, and how many streams have it."""

    __slots__ = ("count", "idle_at", "pairs")

    def __init__(self, pairs: Pairs) -> None:
        self.pairs, self.count, self.idle_at = pairs, 0, 0.0


class _Held:
    """One serial that workloads have: in how many answers, until when it lives, and which Envoys have loaded it."""

    __slots__ = ("answers", "ended", "entry_id", "not_after", "peers", "slot")

    def __init__(self, entry_id: str, slot: str, not_after: datetime | None) -> None:
        self.entry_id, self.slot, self.not_after = entry_id, slot, not_after
        self.answers, self.ended = 0, False
        self.peers: set[str] = set()


class Holders:
    """Notes delivered, released, loaded and expired. `sweep` is to be called every few seconds."""

    def __init__(self, store: Store, notes: Notes, clock: TrustedTime) -> None:
        self._store, self._notes, self._clock = store, notes, clock
        self._holdings: dict[Pairs, Holding] = {}
        self._serials: dict[str, _Held] = {}
        self._before: dict[str, tuple[str, str]] = {}
        self._patience = 0.0

    def resume(self) -> None:
        """What was kept over a restart may have been somebody's: whoever does not come back soon has let go of it."""
        held = self._store.svids, self._store.reserves
        for slot, svids in zip((NORMAL, RESERVE), held, strict=True):
            self._before.update((svid.serial, (id_, slot)) for id_, svid in svids.items() if id_ in self._store.used)
        self._patience = self._clock.monotonic() + RETURN_SECONDS

    def take(self, pairs: Pairs, door: str) -> Holding:
        """A workload is given these now; what is returned is to be let go once."""
        holding = self._holdings.get(pairs)
        if holding is None:
            holding = self._holdings[pairs] = Holding(pairs)
            for entry_id, serial in pairs:
                self._delivered(entry_id, serial, door)
        holding.count += 1
        return holding

    def let_go(self, holding: Holding) -> None:
        """A workload has something else now, or is gone."""
        holding.count -= 1
        if not holding.count:
            holding.idle_at = self._clock.monotonic()

    def loaded(self, said: Sequence[tuple[str, str]], peer: str) -> None:
        """An Envoy called `peer` uses these (entry, serial) from now on."""
        for entry_id, serial in said:
            held = self._serials.get(serial)
            if held is not None:
                if peer in held.peers or len(held.peers) >= _MOST_PEERS:
                    continue
                held.peers.add(peer)
            slot = held.slot if held is not None else self._slot(entry_id, serial)[0]
            self._notes.note("loaded", entry_id=entry_id, slot=slot, serial=serial, peer=peer)

    def sweep(self) -> None:
        """Note what ended while somebody had it, and what nobody has had for a while."""
        now = self._clock.now()
        for serial, held in self._serials.items():
            if not held.ended and held.not_after is not None and held.not_after <= now:
                held.ended = True
                if self._missed(serial, held):
                    self._notes.note("expired", entry_id=held.entry_id, slot=held.slot, serial=serial)
        if self._before and self._clock.monotonic() >= self._patience:
            before, self._before = self._before, {}
            for serial, (entry_id, slot) in before.items():
                if serial not in self._serials:
                    self._notes.note("released", entry_id=entry_id, slot=slot, serial=serial)
        self._release(self._clock.monotonic() - LINGER_SECONDS)

    def _release(self, before: float) -> None:
        for holding in [one for one in self._holdings.values() if not one.count and one.idle_at <= before]:
            del self._holdings[holding.pairs]
            for _, serial in holding.pairs:
                self._released(serial)

    def _delivered(self, entry_id: str, serial: str, door: str) -> None:
        held = self._serials.get(serial)
        if held is None:
            slot, not_after = self._slot(entry_id, serial)
            held = self._serials[serial] = _Held(entry_id, slot, not_after)
            self._notes.note("delivered", entry_id=entry_id, slot=slot, serial=serial, door=door)
        held.answers += 1

    def _released(self, serial: str) -> None:
        held = self._serials[serial]
        held.answers -= 1
        if not held.answers:
            del self._serials[serial]
            self._notes.note("released", entry_id=held.entry_id, slot=held.slot, serial=serial)

    def _missed(self, serial: str, held: _Held) -> bool:
        """Whether its entry stands, and nothing has come in its place: a reserve stands in, and is no successor."""
        present = self._store.svids.get(held.entry_id)
        successor = present is not None and present.serial != serial
        return held.slot == NORMAL and held.entry_id in self._store.entries and not successor

    def _slot(self, entry_id: str, serial: str) -> tuple[str, datetime | None]:
        svid = self._store.svids.get(entry_id)
        if svid is not None and svid.serial == serial:
            return NORMAL, svid.not_after
        reserve = self._store.reserves.get(entry_id)
        return (RESERVE, reserve.not_after) if reserve is not None and reserve.serial == serial else (NORMAL, None)
