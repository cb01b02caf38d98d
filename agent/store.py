"""What this agent holds and serves now: entries, their SVIDs, bundles. In memory only; no I/O, no waiting.

Whoever changes something says so here; `on_change` listeners run once per turn of the event loop, however much changed.
Answers are prepared once per set of entries and kept until something in them changes (agent.answers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from agent.answers import Answers
from agent.matching import Entries, Entry
from trustfed.errors import Denied, NotFound, Unavailable
from trustfed.federation.envelope import Envelope, PublicationKey
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

MAX_ANSWERS = 1024
"""Different sets of entries whose answers are kept; more are prepared again when they are asked for."""

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


@dataclass(frozen=True, slots=True)
class HeldBundle:
    """A verified envelope, and the key that it is pinned by."""

    envelope: Envelope
    key: PublicationKey
    received_at: datetime

    @property
    def bundle(self) -> Bundle:
        """The bundle inside."""
        return self.envelope.bundle


class Store:
    """One node's state. `schedule` runs a function soon, in this thread (the loop's call_soon)."""

    def __init__(self, trust_domain: TrustDomain, schedule: Schedule) -> None:
        self.trust_domain = trust_domain
        self.entries: dict[str, Entry] = {}
        self.svids: dict[str, Svid] = {}
        self.bundles: dict[TrustDomain, HeldBundle] = {}
        self.generation = 0
        """Rises when the entries change: then every caller is matched again."""
        self.synced = False
        self.banned = ""
        """Why this node may not serve; "" while it may."""
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

    def answers(self, ids: tuple[str, ...], now: datetime) -> Answers:
        """The prepared answers for a set of entries; nothing in them has expired at `now`."""
        found = self._answers.get(ids)
        if found is None:
            if len(self._answers) >= MAX_ANSWERS:
                del self._answers[next(iter(self._answers))]
            found = self._answers[ids] = Answers(ids, self)
        elif found.until <= now:
            found.forget_svids()
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
        if held is None:
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
            if self.entries.pop(id_, None) is not None:
                self.svids.pop(id_, None)
                changed = True
        for entry in upsert:
            before = self.entries.get(entry.id)
            if before == entry:
                continue
            if before is not None and before.spiffe_id != entry.spiffe_id:
                self.svids.pop(entry.id, None)
            self.entries[entry.id] = entry
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
        self._touch(known)

    def put_bundle(self, held: HeldBundle) -> None:
        """Replace the bundle of one trust domain."""
        self.bundles[held.bundle.trust_domain] = held
        self._bundles_changed()

    def remove_bundle(self, trust_domain: TrustDomain) -> None:
        """Forget a trust domain: its grant has ended."""
        if self.bundles.pop(trust_domain, None) is not None:
            self._bundles_changed()

    def expire(self, now: datetime) -> list[str]:
        """Drop SVIDs at their NotAfter, and entries at their end; gives the ids whose SVID went."""
        gone = [id_ for id_, svid in self.svids.items() if svid.not_after <= now]
        for id_ in gone:
            del self.svids[id_]
        self._touch(gone)
        over = [e.id for e in self.entries.values() if e.expires_at is not None and e.expires_at <= now]
        if over:
            self.put_entries((), over)
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
        self.bundles.clear()
        self.synced = False
        self.put_entries((), list(self.entries))
        self._answers.clear()
        self._changed()

    def lift_ban(self) -> None:
        """The node is in good standing again; what it may have comes with the next sync."""
        if self.banned:
            self.banned = ""
            self._changed()

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
