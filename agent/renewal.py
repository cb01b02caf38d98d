"""Keeps X509-SVIDs alive: what is due goes out in batches of public keys, what comes back is served.

SVIDs are held for what processes have and, of the other entries, for as many as are prefetched (agent.prefetch). Where
the cluster cannot be reached until an SVID has ended, its reserve stands in, if there is one (agent.reserves).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from datetime import datetime, timedelta

from cryptography import x509

from agent import rotation
from agent.issuing import NORMAL, Cluster, issue
from agent.matching import Entry
from agent.prefetch import chosen, need
from agent.rotation import Chance, Slot
from agent.store import Store, Svid
from trustfed.errors import TrustfedError, Unavailable
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.x509svid import read_leaf

log = logs.get("agent.renewal")

PREFETCH = 1000
_AT_ONCE = 2
"""Batches under way: one that hangs must not keep a new entry waiting. The cluster takes four requests of a node."""
_RECONNECTED = timedelta(seconds=1)
_LOOK_SECONDS = 30.0
"""How long this waits at most: a clock that was set, or a machine that slept, is noticed by then."""
_SLICE = 20
_REWOUND = timedelta(minutes=1)
_AHEAD, _WAITED_FOR = timedelta(seconds=1), timedelta(hours=1)

Asked = tuple[SpiffeId, tuple[str, ...], int]


class Renewal:
    """One slot per entry whose SVID is held; `run` ends only when cancelled.

    `on_rewound` is called when the clock was ahead for a while: what was dropped by it may have been dropped too early.
    """

    def __init__(
        self,
        store: Store,
        link: Cluster,
        clock: Clock,
        chance: Chance,
        registry: Registry,
        prefetch: int = PREFETCH,
        on_rewound: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._link, self._clock, self._chance = store, link, clock, chance
        self._prefetch, self._on_rewound = prefetch, on_rewound
        self._seen = (-1, 0)
        self._looked = clock.now()
        self.slots: dict[str, Slot] = {}
        self._asked: dict[str, Asked] = {}
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._tries = registry.counter("agent_x509_svid_requests_total", "X509-SVIDs asked for", labels=("outcome",))
        self._expired = registry.counter("agent_x509_svids_expired_total", "SVIDs that ended before they were replaced")
        store.on_change(self._on_change)

    def reissue(self, authorities: Sequence[str], spread: timedelta) -> None:
        """Replace, spread out, what these authorities signed, and take nothing new of theirs."""
        now, signers = self._clock.now(), set(authorities)
        self._store.retire(authorities)
        for id_, svid in self._store.svids.items():
            if svid.authority in signers and id_ in self.slots:
                self.slots[id_] = rotation.forced(self.slots[id_], now, spread, self._chance)
        self._news.set()

    def renew(self, entries: Sequence[str], authorities: Sequence[str], before: datetime, spread: timedelta) -> None:
        """Replace, spread out, what began before a moment: of these entries or authorities, or all if neither is named."""
        now, wanted, signers = self._clock.now(), set(entries), set(authorities)
        for id_, svid in self._store.svids.items():
            named = id_ in wanted or svid.authority in signers or not (wanted or signers)
            if named and svid.issued_at < before and id_ in self.slots:
                self.slots[id_] = rotation.forced(self.slots[id_], now, spread, self._chance)
        self._news.set()

    def connected(self) -> None:
        """The cluster can be reached again: what waits for its next try is tried now."""
        now = self._clock.now()
        for id_, slot in self.slots.items():
            if slot.tries:
                self.slots[id_] = rotation.forced(slot, now, _RECONNECTED, self._chance)
        self._news.set()

    async def _check_loaded(self) -> None:
        """What came out of the cache is looked at once: an SVID that does not say what its entry says is due at once."""
        for index, (id_, svid) in enumerate(list(self._store.svids.items())):
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            entry, slot = self._store.entries.get(id_), self.slots.get(id_)
            if entry is None or slot is None or self._store.svids.get(id_) is not svid:
                continue
            leaf, _ = read_leaf(svid.chain[0])
            names = {name.value for name in leaf.names if isinstance(name, x509.DNSName)}
            if names != set(entry.dns_names):
                self.slots[id_] = rotation.forced(slot, self._clock.now(), timedelta(0), self._chance)
                self._news.set()

    async def run(self) -> None:
        """Ask for what is due, drop what has ended, for ever."""
        checking = asyncio.create_task(self._check_loaded())
        try:
            while True:
                now = self._clock.now()
                for id_ in self._store.expire(now):
                    if id_ in self.slots:  # else nobody wanted it any more
                        slot = self.slots[id_]
                        if slot.due != rotation.NEVER:
                            self._expired.add()
                            log.error("an SVID expired before it was replaced", entry=id_)
                        self.slots[id_] = Slot(slot.due, None, slot.tries, slot.error)
                self._stand_in()
                self._notice_rewound(now)
                ids = rotation.batch(self.slots, now, self._resting()) if len(self._tasks) < _AT_ONCE else []
                if ids:
                    self._start(ids)
                    continue
                await news_or_time(self._news, self._clock, self._pause(now))
        finally:
            for task in (*self._tasks, checking):
                task.cancel()

    def _pause(self, now: datetime) -> float:
        """Seconds until something is due, or ends; while all batches are out, only news and ends count."""
        busy = self._resting() if len(self._tasks) < _AT_ONCE else self.slots.keys()
        moments = [rotation.next_moment(self.slots, busy)]
        moments += [entry.expires_at for entry in self._store.entries.values()]
        moments += [svid.not_after for svid in self._store.reserves.values()]
        soonest = min((moment for moment in moments if moment is not None), default=None)
        if soonest is None:
            return _LOOK_SECONDS
        return min(max((soonest - now).total_seconds(), 0.001), _LOOK_SECONDS)

    def _notice_rewound(self, now: datetime) -> None:
        if now < self._looked:
            self.slots.update({id_: rotation.rewound(slot, now) for id_, slot in self.slots.items()})
            if self._looked - now > _REWOUND:
                log.warning("the clock was ahead, and is set back", seconds=round((self._looked - now).total_seconds()))
                self._on_rewound()
        self._looked = now

    def _resting(self) -> Container[str]:
        """What is not asked for now: what is out already, and, while the cluster is away, what was tried in vain."""
        if self._link.connected:
            return self._busy
        return self._busy | {id_ for id_, slot in self.slots.items() if slot.tries}

    def _stand_in(self) -> None:
        """Where renewal has failed and the SVID has ended, the reserve is served."""
        if self._store.reserves:
            late = [id_ for id_, slot in self.slots.items() if slot.end is None and slot.tries]
            for id_ in self._store.stand_in(late):
                log.error("a reserve SVID stands in", entry=id_, error=self.slots[id_].error)

    def _on_change(self) -> None:
        """Entries came, changed or went: an SVID that no longer says what its entry says is due at once."""
        store = self._store
        seen = (store.generation, len(store.matched))
        if seen == self._seen:
            return
        self._seen, now = seen, self._clock.now()
        wanted = chosen(store.entries, store.matched, store.used, self._prefetch)
        for id_ in [id_ for id_ in self.slots if id_ not in wanted]:
            # Not renewed any more; until its SVID ends it is kept for who may come.
            del self.slots[id_]
            self._asked.pop(id_, None)
        changed = [id_ for id_ in wanted if self._asked.get(id_) != _asked(store.entries[id_]) or self._bereft(id_)]
        for id_ in wanted:
            if (slot := self.slots.get(id_)) is not None:
                held = store.svids.get(id_)
                ends, issued_at = store.entries[id_].expires_at, held.issued_at if held else now
                self.slots[id_] = rotation.reviewed(slot, issued_at, ends, now, self._chance)
                if self.slots[id_] is not slot:
                    self._news.set()
        changed.sort(key=need(store.entries, store.matched, store.used))
        for rank, id_ in enumerate(changed):
            svid = store.svids.get(id_)
            if svid is not None and id_ not in self._asked and svid.authority not in store.retired:  # out of the cache
                ends = store.entries[id_].expires_at
                slot = rotation.after_issue(svid.issued_at, svid.not_after, self._chance, ends)
            else:  # due now, in the order of need: a process that waits is before all that is fetched ahead
                due = now - (_WAITED_FOR if id_ in store.matched else _AHEAD) + timedelta(microseconds=rank)
                slot = Slot(due, svid.not_after if svid else None)
            self.slots[id_], self._asked[id_] = slot, _asked(store.entries[id_])
            self._news.set()

    def _bereft(self, id_: str) -> bool:
        """Whether the SVID that waits for its replacement is gone: its entry went and came back at once."""
        return self.slots[id_].end is not None and id_ not in self._store.svids

    def _start(self, ids: list[str]) -> None:
        self._busy.update(ids)
        task = asyncio.create_task(self._issue(ids))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, ids))

    def _ended(self, task: asyncio.Task[None], ids: list[str]) -> None:
        self._tasks.discard(task)
        self._busy.difference_update(ids)
        self._news.set()
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            self._fail(ids, Unavailable(errors.answer(error).line()))

    async def _issue(self, ids: list[str]) -> None:
        """One batch, and what came back into the store."""
        asked = {id_: self._asked[id_] for id_ in ids if id_ in self._asked}
        store = self._store
        try:
            found = await issue(self._link, ids, store.entries, store.svids, NORMAL, self._clock)
        except TrustfedError as error:
            self._fail(ids, error)
            return
        good: dict[str, Svid] = {}
        for id_, result in found.items():
            if isinstance(result, TrustfedError):
                self._refused(id_, result)
            elif result.authority in store.retired:  # signed before the order came, or by who has stolen its key
                self._refused(id_, Unavailable("the SVID was signed by an authority whose SVIDs are being replaced"))
            elif id_ in store.entries and id_ in asked and store.entries[id_].spiffe_id == asked[id_][0]:
                good[id_] = result
        for id_, svid in good.items():
            if id_ not in self.slots:
                continue
            if self._asked.get(id_) == asked.get(id_):
                ends = store.entries[id_].expires_at
                self.slots[id_] = rotation.after_issue(svid.issued_at, svid.not_after, self._chance, ends)
            else:  # the entry changed while its batch was out: good enough to serve, due again
                self.slots[id_] = Slot(self.slots[id_].due, svid.not_after)
        store.put_svids(good)
        self._tries.add(len(good), outcome="issued")
        log.info("SVIDs issued", count=len(good), asked=len(ids))

    def _refused(self, id_: str, error: TrustfedError) -> None:
        self._tries.add(outcome="refused")
        if id_ in self.slots:
            slot = rotation.after_failure(self.slots[id_], self._clock.now(), error.message, self._chance)
            self.slots[id_] = slot
            log.warning("SVID refused", entry=id_, error=error.message, tries=slot.tries)

    def _fail(self, ids: list[str], error: TrustfedError) -> None:
        """The whole batch failed: every slot has its own next try, so that they part ways."""
        now, news = self._clock.now(), False
        for id_ in ids:
            if id_ in self.slots:
                failed = rotation.after_failure(self.slots[id_], now, error.message, self._chance)
                news = news or failed.error != self.slots[id_].error
                self.slots[id_] = failed
        self._tries.add(len(ids), outcome="failed")
        if news:  # said once, not for weeks
            log.warning("SVIDs not issued", count=len(ids), error=error.message, hint=error.hint)


def _asked(entry: Entry) -> Asked:
    """What of an entry an SVID says."""
    return entry.spiffe_id, entry.dns_names, entry.x509_ttl
