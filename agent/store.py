"""What this agent holds and serves now: entries, their SVIDs, bundles. In memory only; no I/O, no waiting.

Whoever changes something says so here; `on_change` listeners run once per turn of the event loop, however much changed.
Answers are prepared once per set of entries and kept until something in them changes (agent.answers).

Two things are held and not always served: a foreign bundle that is CLOSED (agent.freshness) is in no answer, and a reserve
SVID (agent.reserves) stands in only for an SVID that has ended and could not be renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from agent.answers import Answers
from agent.bundles import Bundles, HeldBundle
from agent.matching import Entries, Entry
from trustfed.errors import Denied, NotFound, Unavailable
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

__all__ = ["MAX_ANSWERS", "HeldBundle", "Schedule", "Store", "Svid"]

MAX_ANSWERS = 1024
"""Different sets of entries whose answers are kept; more are prepared again when they are asked for."""
_MAX_RETIRED = 64

Schedule = Callable[[Callable[[], None]], object]


@dataclass(frozen=True, slots=True)
class Svid:
    """One X509-SVID with its key. `chain` is DER, leaf first; `key` PKCS#8 DER; `serial` lower-case hex."""

    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    serial: str
    authority: str
    issued_at: datetime
    not_after: datetime


class Store:
    """One node's state. `schedule` runs a function soon, in this thread (the loop's call_soon)."""

    def __init__(self, trust_domain: TrustDomain, schedule: Schedule) -> None:
        self.trust_domain = trust_domain
        self.entries: dict[str, Entry] = {}
        self.svids: dict[str, Svid] = {}
        self.reserves: dict[str, Svid] = {}
        self.bundles: dict[TrustDomain, HeldBundle] = {}
        self.fresh = Bundles(trust_domain, self.bundles)
        """How the bundles stand."""
        self.used: dict[str, datetime] = {}
        """When an entry was last given to a process that came, or came back."""
        self.matched: set[str] = set()
        """The entries that some process has had since this agent started: these are kept alive, however many."""
        self.generation = 0
        """Rises when the entries change: then every caller is matched again."""
        self.synced = False
        self.banned = ""
        """Why this node may not serve; "" while it may."""
        self.retired: tuple[str, ...] = ()
        """Authorities whose SVIDs were ordered to be replaced, the newest last: nothing new of theirs is taken."""
        self.lapsed: set[str] = set()
        """Entries that this node's own clock has ended, and of which the cluster has not said so: it may have been wrong."""
        self._standing_in: set[str] = set()
        self._matching = Entries()
        self._answers: dict[tuple[str, ...], Answers] = {}
        self._schedule = schedule
        self._scheduled = False
        self._listeners: list[Callable[[], None]] = []

    # What is asked.

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of selectors that some entry has."""
        return self._matching.kinds

    @property
    def cheap_kinds(self) -> frozenset[str]:
        """Those of `kinds` that are found out first."""
        return self._matching.cheap

    def costly_counts(self, selectors: frozenset[str]) -> bool:
        """Whether the other kinds can matter to a process with these selectors."""
        return self._matching.costly_counts(selectors)

    def match(self, selectors: frozenset[str]) -> tuple[str, ...]:
        """The ids of the entries that a process with these selectors has, oldest first."""
        return self._matching.match(selectors)

    def serving(self) -> bool:
        """Whether there is something to serve at all; False before the first sync. Raises Denied when banned."""
        if self.banned:
            raise Denied("this node may not serve identities any more", hint="ask who runs this trust domain")
        return self.synced

    @property
    def closed(self) -> frozenset[TrustDomain]:
        """The foreign trust domains whose bundles are held and not believed any more: nobody confirmed them."""
        return self.fresh.closed

    @property
    def standing_in(self) -> frozenset[str]:
        """The entries whose reserve SVID is served."""
        return frozenset(self._standing_in)

    def served(self, id_: str) -> Svid | None:
        """The SVID that an entry's processes get: its own, or the reserve that stands in for it."""
        svid = self.svids.get(id_)
        return self.reserves.get(id_) if svid is None and id_ in self._standing_in else svid

    def answers(self, ids: tuple[str, ...], now: datetime) -> Answers:
        """The prepared answers for a set of entries; nothing in them has expired, or is CLOSED, at `now`."""
        if self.fresh.due(now):
            self.judge(now)
        found = self._answers.get(ids)
        if found is None:
            if len(self._answers) >= MAX_ANSWERS:
                del self._answers[next(iter(self._answers))]
            found = self._answers[ids] = Answers(ids, self)
        elif found.until <= now:
            found.forget_svids()
        found.at = now
        return found

    def home(self) -> HeldBundle:
        """The bundle of this node's own trust domain. Raises Unavailable before it came."""
        held = self.bundles.get(self.trust_domain)
        if held is None:
            raise Unavailable(f"the bundle of {self.trust_domain} has not come yet")
        return held

    def bundle(self, trust_domain: TrustDomain) -> Bundle:
        """One bundle, for verification. Raises NotFound."""
        held = self.bundles.get(trust_domain)
        if held is None or trust_domain in self.closed:
            raise NotFound(f"no bundle of trust domain {trust_domain} is held here")
        return held.bundle

    # What changes.

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after changes."""
        self._listeners.append(listener)

    def put_entries(self, upsert: Iterable[Entry], remove: Iterable[str] = ()) -> None:
        """Add, replace and remove entries. An SVID that would carry a wrong ID, or nobody may have, goes at once."""
        changed = False
        for id_ in remove:
            self.lapsed.discard(id_)
            if self.entries.pop(id_, None) is not None:
                self._drop(id_)
                self.used.pop(id_, None)
                self.matched.discard(id_)
                changed = True
        for entry in upsert:
            before = self.entries.get(entry.id)
            if before == entry:
                continue
            if before is not None and before.spiffe_id != entry.spiffe_id:
                self._drop(entry.id)
            self.entries[entry.id] = entry
            self.lapsed.discard(entry.id)
            changed = True
        if changed:
            self.generation += 1
            self._matching = Entries(self.entries.values())
            self._answers = {ids: a for ids, a in self._answers.items() if all(id_ in self.entries for id_ in ids)}
            self._bundles_changed()

    def put_svids(self, svids: Mapping[str, Svid]) -> None:
        """Serve these from now on; what has no entry any more is dropped."""
        known = {id_: svid for id_, svid in svids.items() if id_ in self.entries}
        self.svids.update(known)
        self._standing_in.difference_update(known)
        self._touch(known)

    def put_reserves(self, reserves: Mapping[str, Svid]) -> None:
        """Hold these in reserve from now on."""
        known = {id_: svid for id_, svid in reserves.items() if id_ in self.entries}
        self.reserves.update(known)
        if known:
            self._touch(self._standing_in.intersection(known))
            self._changed()

    def drop_reserves(self, ids: Iterable[str] | None = None) -> None:
        """Forget the reserve SVIDs of these entries, or of all."""
        gone = [
            id_ for id_ in (list(self.reserves) if ids is None else ids) if self.reserves.pop(id_, None) is not None
        ]
        if gone:
            self._touch(self._standing_in.intersection(gone))
            self._standing_in.difference_update(gone)
            self._changed()

    def stand_in(self, ids: Iterable[str]) -> list[str]:
        """Serve the reserves of those of these entries that have no SVID; gives those for which that is new."""
        new = [id_ for id_ in ids if id_ not in self.svids and id_ in self.reserves and id_ not in self._standing_in]
        self._standing_in.update(new)
        self._touch(new)
        return new

    def retire(self, authorities: Iterable[str]) -> None:
        """SVIDs of these authorities are being replaced: what comes late is not taken any more."""
        named = tuple(dict.fromkeys(authorities))
        self.retired = (*(one for one in self.retired if one not in named), *named)[-_MAX_RETIRED:]

    def use(self, ids: Iterable[str], now: datetime) -> None:
        """A process was found to have these entries."""
        before = len(self.matched)
        self.matched.update(ids)
        self.used.update(dict.fromkeys(ids, now))
        if len(self.matched) > before:
            self._changed()

    def put_bundle(self, held: HeldBundle, confirmed_at: datetime | None = None) -> None:
        """Replace the bundle of one trust domain. `confirmed_at` is when its domain last confirmed this very bundle."""
        self.fresh.put(held, confirmed_at)
        self._bundles_changed()

    def confirm(self, trust_domain: TrustDomain, at: datetime, now: datetime) -> None:
        """A trust domain has said that the bundle held is its newest. That changes an answer only if it was CLOSED."""
        if self.fresh.confirm(trust_domain, at):
            self.judge(now)

    def judge(self, now: datetime) -> None:
        """Close what nobody confirmed for too long, open what was confirmed again."""
        if self.fresh.judge(now):
            self._bundles_changed()

    def remove_bundle(self, trust_domain: TrustDomain) -> None:
        """Forget a trust domain: its grant has ended."""
        if self.fresh.remove(trust_domain):
            self._bundles_changed()

    def expire(self, now: datetime) -> list[str]:
        """Drop SVIDs at their NotAfter, and entries at their end; gives the ids whose SVID went."""
        gone = [id_ for id_, svid in self.svids.items() if svid.not_after <= now]
        for id_ in gone:
            del self.svids[id_]
        self._touch(gone)
        self.drop_reserves([id_ for id_, svid in self.reserves.items() if svid.not_after <= now])
        over = [e.id for e in self.entries.values() if e.expires_at is not None and e.expires_at <= now]
        if over:
            self.put_entries((), over)
            self.lapsed.update(over)
        return gone

    def mark_synced(self) -> None:
        """Everything this node may have is known from now on."""
        if not self.synced:
            self.synced = True
            self._changed()

    def ban(self, reason: str) -> None:
        """Stop serving at once: entries, keys and bundles are dropped."""
        self.banned = reason or "banned"
        self.svids.clear()
        self.reserves.clear()
        self._standing_in.clear()
        self.fresh.clear()
        self.synced = False
        self.put_entries((), list(self.entries))
        self.lapsed.clear()
        self._answers.clear()
        self._changed()

    def lift_ban(self) -> None:
        """The node is in good standing again; what it may have comes with the next sync."""
        if self.banned:
            self.banned = ""
            self._changed()

    def _drop(self, id_: str) -> None:
        self.svids.pop(id_, None)
        self.reserves.pop(id_, None)
        self._standing_in.discard(id_)

    def _bundles_changed(self) -> None:
        for answers in self._answers.values():
            answers.forget()
        self._changed()

    def _touch(self, ids: Iterable[str]) -> None:
        touched = set(ids)
        if touched:
            for answers in self._answers.values():
                if not touched.isdisjoint(answers.ids):
                    answers.forget_svids()
            self._changed()

    def _changed(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self._tell)

    def _tell(self) -> None:
        self._scheduled = False
        for listener in self._listeners:
            listener()
