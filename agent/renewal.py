"""Keeps every entry's X509-SVID alive: what is due goes out in batches of public keys, what comes back is served."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec

from agent import rotation
from agent.identity import private_bytes, public_bytes
from agent.link import Link
from agent.matching import Entry
from agent.rotation import TRY_SECONDS, Chance, Slot
from agent.store import Store, Svid
from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.x509svid import read_leaf

log = logs.get("agent.renewal")

_AT_ONCE = 2
"""Batches under way: one that hangs must not keep a new entry waiting. The cluster takes four requests of a node."""
_SLICE = 20
"""Keys made, or SVIDs read, between two looks at the event loop: about a millisecond."""
_RECONNECTED = timedelta(seconds=1)

Asked = tuple[SpiffeId, tuple[str, ...], int]


class Renewal:
    """One slot per entry; `run` ends only when cancelled."""

    def __init__(self, store: Store, link: Link, clock: Clock, chance: Chance, registry: Registry) -> None:
        self._store, self._link, self._clock, self._chance = store, link, clock, chance
        self.slots: dict[str, Slot] = {}
        self._asked: dict[str, Asked] = {}
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._tries = registry.counter("agent_x509_svid_requests_total", "X509-SVIDs asked for", labels=("outcome",))
        self._expired = registry.counter("agent_x509_svids_expired_total", "SVIDs that ended before they were replaced")
        store.on_change(self._on_change)

    def reissue(self, authorities: list[str], spread: timedelta) -> None:
        """Replace, spread out, what these authorities signed."""
        now, signers = self._clock.now(), set(authorities)
        for id_, svid in self._store.svids.items():
            if svid.authority in signers and id_ in self.slots:
                self.slots[id_] = rotation.forced(self.slots[id_], now, spread, self._chance)
        self._news.set()

    def connected(self) -> None:
        """The cluster can be reached again: what waits for its next try is tried now."""
        now = self._clock.now()
        for id_, slot in self.slots.items():
            if slot.tries:
                self.slots[id_] = rotation.forced(slot, now, _RECONNECTED, self._chance)
        self._news.set()

    async def run(self) -> None:
        """Ask for what is due, drop what has ended, for ever."""
        try:
            while True:
                now = self._clock.now()
                for id_ in self._store.expire(now):
                    self._expired.add()
                    log.error("an SVID expired before it was replaced", entry=id_)
                    if id_ in self.slots:
                        slot = self.slots[id_]
                        self.slots[id_] = Slot(slot.due, None, slot.tries, slot.error)
                ids = rotation.batch(self.slots, now, self._busy) if len(self._tasks) < _AT_ONCE else []
                if ids:
                    self._start(ids)
                    continue
                await news_or_time(self._news, self._clock, self._pause(now))
        finally:
            for task in self._tasks:
                task.cancel()

    def _pause(self, now: datetime) -> float | None:
        """Seconds until something is due, or ends; while all batches are out, only news and ends count."""
        busy = self._busy if len(self._tasks) < _AT_ONCE else self.slots.keys()
        moments = [rotation.next_moment(self.slots, busy)]
        moments += [entry.expires_at for entry in self._store.entries.values()]
        soonest = min((moment for moment in moments if moment is not None), default=None)
        return None if soonest is None else max((soonest - now).total_seconds(), 0.001)

    def _on_change(self) -> None:
        """Entries came, changed or went: an SVID that no longer says what its entry says is due at once."""
        now, entries = self._clock.now(), self._store.entries
        for id_ in [id_ for id_ in self.slots if id_ not in entries]:
            del self.slots[id_]
            self._asked.pop(id_, None)
        for id_, entry in entries.items():
            if id_ not in self.slots or self._asked[id_] != _asked(entry):
                svid = self._store.svids.get(id_)
                self.slots[id_] = Slot(now, svid.not_after if svid else None)
                self._asked[id_] = _asked(entry)
                self._news.set()

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
        """One batch: new keys, one call, and what came back into the store."""
        asked = {id_: self._asked[id_] for id_ in ids if id_ in self._asked}
        try:
            async with asyncio.timeout(TRY_SECONDS):
                keys = await self._keys(len(ids))
                request = pb.IssueX509Request(command_id=uuid4().hex)
                for id_, key in zip(ids, keys, strict=True):
                    svid = self._store.svids.get(id_)
                    serial = svid.serial if svid else ""
                    request.slots.add(
                        entry_id=id_, slot="x509", public_key=public_bytes(key), predecessor_serial=serial
                    )
                answer = await self._link.call("IssueX509", request, pb.IssueX509Response)
                if len(answer.results) != len(ids):
                    raise Invalid(f"the cluster answered {len(answer.results)} of {len(ids)} slots")
                await self._take(ids, keys, answer, asked)
        except TimeoutError:
            self._fail(ids, Unavailable("the cluster did not issue in time"))
        except TrustfedError as error:
            self._fail(ids, error)

    async def _keys(self, count: int) -> list[ec.EllipticCurvePrivateKey]:
        keys = []
        for index in range(count):
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            keys.append(ec.generate_private_key(ec.SECP256R1()))
        return keys

    async def _take(
        self,
        ids: list[str],
        keys: list[ec.EllipticCurvePrivateKey],
        answer: pb.IssueX509Response,
        asked: dict[str, Asked],
    ) -> None:
        good: dict[str, Svid] = {}
        for index, (id_, key, result) in enumerate(zip(ids, keys, answer.results, strict=True)):
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            entry = self._store.entries.get(id_)
            if entry is None:
                continue
            try:
                if result.error or result.entry_id != id_:
                    raise Invalid(result.error[:200] or "the cluster's answer is for another entry")
                good[id_] = _svid(entry, key, result, self._clock.now())
            except TrustfedError as error:
                self._refused(id_, error)
        for id_, svid in good.items():
            if id_ not in self.slots:
                continue
            if self._asked.get(id_) == asked.get(id_):
                self.slots[id_] = rotation.after_issue(svid.issued_at, svid.not_after, self._chance)
            else:  # the entry changed while its batch was out: good enough to serve, due again
                self.slots[id_] = Slot(self.slots[id_].due, svid.not_after)
        self._store.put_svids(good)
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
        now = self._clock.now()
        for id_ in ids:
            if id_ in self.slots:
                self.slots[id_] = rotation.after_failure(self.slots[id_], now, error.message, self._chance)
        self._tries.add(len(ids), outcome="failed")
        log.warning("SVIDs not issued", count=len(ids), error=error.message, hint=error.hint)


def _asked(entry: Entry) -> Asked:
    """What of an entry an SVID says."""
    return entry.spiffe_id, entry.dns_names, entry.x509_ttl


def _svid(entry: Entry, key: ec.EllipticCurvePrivateKey, result: pb.X509Result, now: datetime) -> Svid:
    """What the cluster issued, if it is this entry's, for this key, and alive. Raises Invalid."""
    chain = tuple(result.chain)
    if not 1 <= len(chain) <= 5:
        raise Invalid(f"the cluster sent a chain of {len(chain)} certificates")
    leaf, svid = read_leaf(chain[0])
    if svid.id != entry.spiffe_id:
        raise Invalid(f"the cluster sent an SVID of {svid.id} for entry {entry.id}")
    if leaf.public_key != key.public_key():
        raise Invalid("the cluster sent an SVID of another key")
    if svid.not_after <= now:
        raise Invalid("the cluster sent an SVID that has expired", hint="check both clocks")
    return Svid(chain, private_bytes(key), f"{svid.serial:032x}", result.authority_id[:64], now, svid.not_after)
