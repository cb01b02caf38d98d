"""Reserve SVIDs: for every entry whose SVID is held a second one of a longer life, for a partition that outlasts the first.

A node group opts in at the cluster, which says in its hello how long a reserve lives (0: none). The cluster issues and
records them like all others; no node holds a CA key. Each has a key of its own, is renewed at half life, and is served
only when its entry's SVID has ended and could not be renewed (agent.renewal). What its authority is tainted for, whose
entry goes or has other names, or whose node is banned, is dropped at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from cryptography import x509

from agent import rotation
from agent.issuing import RESERVE, Cluster, issue
from agent.matching import Entry
from agent.rotation import Chance, Slot
from agent.store import Store, Svid
from trustfed.errors import TrustfedError, Unavailable
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.x509svid import read_leaf

log = logs.get("agent.reserves")

_LOOK_SECONDS = 60.0
_PATIENCE = timedelta(seconds=2)
"""After a failure at least this long: a reserve is never urgent, the SVIDs come first."""


_Names = tuple[SpiffeId, tuple[str, ...]]
"""What an entry's certificates say: the SPIFFE ID and the DNS names."""
_LONGER = 1.1
"""A reserve that lives this many times longer than what is ordered is replaced; clocks may differ by less."""
_SLICE = 20
"""Certificates read between two looks at the event loop: about a millisecond."""


class Reserves:
    """Keeps one reserve for each of `wanted` (the entries whose SVIDs are held); `run` ends only when cancelled."""

    def __init__(
        self,
        store: Store,
        link: Cluster,
        wanted: Mapping[str, object],
        clock: Clock,
        chance: Chance,
        registry: Registry,
    ) -> None:
        self._store, self._link, self._clock, self._chance = store, link, clock, chance
        self._wanted = wanted
        self.seconds = 0
        """How long the cluster lets a reserve live; 0: this node keeps none."""
        self.slots: dict[str, Slot] = {}
        self._names: dict[str, _Names] = {}
        self._said: dict[str, _Names] = {}
        """What the reserves say whose certificates were looked at."""
        self._retired: set[str] = set()
        self._generation = store.generation
        self._looked = clock.now()
        self._news = asyncio.Event()
        self._tries = registry.counter(
            "agent_reserve_svid_requests_total", "reserve SVIDs asked for", labels=("outcome",)
        )
        registry.gauge("agent_reserve_svids", "reserve SVIDs held").read(lambda: len(store.reserves))
        registry.gauge("agent_reserve_svids_in_use", "reserve SVIDs served in place of SVIDs that ended").read(
            lambda: len(store.standing_in)
        )
        store.on_change(self._on_change)

    def ordered(self, seconds: int) -> None:
        """What the cluster's hello says; with 0 all reserves are dropped, with another length they are renewed."""
        if seconds != self.seconds:
            log.info("reserve SVIDs", seconds=seconds)
            self.slots.clear()
        self.seconds = seconds
        if not seconds:
            self._store.drop_reserves()
        now = self._clock.now()
        for id_, slot in self.slots.items():
            if slot.tries:
                self.slots[id_] = rotation.forced(slot, now, _PATIENCE, self._chance)
        self._news.set()

    def reissue(self, authorities: Collection[str]) -> None:
        """Drop what these authorities signed, also what is still on its way: it would be believed too long."""
        self._retired.update(authorities)
        self._store.drop_reserves([id_ for id_, svid in self._store.reserves.items() if svid.authority in authorities])

    async def run(self) -> None:
        """Ask for what is missing or due, for ever; nothing while the cluster is away, or before it said how long."""
        await self._check_loaded()
        while True:
            now = self._clock.now()
            if now < self._looked:
                self.slots = {id_: rotation.rewound(slot, now) for id_, slot in self.slots.items()}
            self._looked = now
            asking = self.seconds and self._link.connected
            ids = self._due(now) if asking else []
            if ids:
                await self._issue(ids)
                continue
            moments = [slot.due for slot in self.slots.values()] if asking else []
            pause = min([(moment - now).total_seconds() for moment in moments], default=_LOOK_SECONDS)
            await news_or_time(self._news, self._clock, min(max(pause, 0.05), _LOOK_SECONDS))

    async def _check_loaded(self) -> None:
        """What came out of the cache is looked at once: see `_drop_outdated`."""
        for index, (id_, svid) in enumerate(list(self._store.reserves.items())):
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            if self._store.reserves.get(id_) is svid:
                self._said[id_] = _said(svid)
        self._drop_outdated()

    def _on_change(self) -> None:
        if self._store.generation != self._generation:
            self._generation = self._store.generation
            self._drop_outdated()
        self._news.set()

    def _drop_outdated(self) -> None:
        """A reserve that says what its entry says no more goes at once: in a partition it would be served for days."""
        store = self._store
        self._said = {id_: names for id_, names in self._said.items() if id_ in store.reserves}
        entries = store.entries
        store.drop_reserves([id_ for id_, names in self._said.items() if _names(entries[id_]) != names])

    def _due(self, now: datetime) -> list[str]:
        """What to ask for now: only for entries that have their SVID."""
        store = self._store
        ready = {id_ for id_ in self._wanted if id_ in store.svids and id_ in store.entries}
        for id_ in [id_ for id_ in self.slots if id_ not in ready]:
            del self.slots[id_]
        for id_ in ready:
            held, entry = store.reserves.get(id_), store.entries[id_]
            slot, names = self.slots.get(id_), _names(entry)
            if slot is None or self._names.get(id_) != names:
                fits = held is not None and _life(held) <= timedelta(seconds=_LONGER * self.seconds)
                self.slots[id_] = self._after(held, entry) if held is not None and fits else Slot(now)
                self._names[id_] = names
            elif held is None and slot.end is not None:  # it was dropped
                self.slots[id_] = Slot(now)
            elif held is not None:
                self.slots[id_] = rotation.reviewed(slot, held.issued_at, entry.expires_at, now, self._chance)
        for id_ in [id_ for id_ in self._names if id_ not in self.slots]:
            del self._names[id_]
        return rotation.batch(self.slots, now, ())

    async def _issue(self, ids: list[str]) -> None:
        store = self._store
        try:
            found = await issue(self._link, ids, store.entries, store.reserves, RESERVE, self._clock)
        except Exception as error:  # whatever the cluster sends, the SVIDs are served on
            failed = error if isinstance(error, TrustfedError) else Unavailable(errors.answer(error).line())
            found = dict.fromkeys(ids, failed)
        good: dict[str, Svid] = {}
        now, refused = self._clock.now(), ""
        for id_ in ids:
            result = found.get(id_)
            slot = self.slots.get(id_)
            if slot is None or result is None or id_ not in store.entries:
                continue
            if isinstance(result, TrustfedError):
                refused = result.message
                later = rotation.after_failure(slot, now, result.message, self._chance)
                self.slots[id_] = Slot(max(later.due, now + _PATIENCE), later.end, later.tries, later.error)
            elif result.authority in self._retired:  # it was on its way when that was said
                later = rotation.after_failure(slot, now, "its authority is not believed any more", self._chance)
                self.slots[id_] = Slot(max(later.due, now + _PATIENCE), later.end, later.tries, later.error)
            elif self.seconds and _names(store.entries[id_]) == self._names.get(id_):
                good[id_] = result
                self._said[id_] = self._names[id_]
                self.slots[id_] = self._after(result, store.entries[id_])
        store.put_reserves(good)
        self._tries.add(len(good), outcome="issued")
        if refused:
            self._tries.add(len(ids) - len(good), outcome="failed")
            log.warning("reserve SVIDs not issued", count=len(ids) - len(good), error=refused)

    def _after(self, svid: Svid, entry: Entry) -> Slot:
        return rotation.after_issue(svid.issued_at, svid.not_after, self._chance, entry.expires_at)


def _names(entry: Entry) -> _Names:
    return entry.spiffe_id, tuple(sorted(set(entry.dns_names)))


def _said(svid: Svid) -> _Names:
    leaf, found = read_leaf(svid.chain[0])
    return found.id, tuple(sorted(name.value for name in leaf.names if isinstance(name, x509.DNSName)))


def _life(svid: Svid) -> timedelta:
    return svid.not_after - svid.issued_at
