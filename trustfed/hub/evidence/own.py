"""The hub's own evidence: what became of the federation's roots, by the same engine as every cluster's, as one row of the fleet.

It follows the hub's ledger (trustfed.hub.evidence.mirror writes it), tells the fleet its counters, failures and standing, and
answers the same questions as a cluster, without any stream.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import msgspec
from cryptography import x509

from trustfed.errors import TrustfedError, Unavailable
from trustfed.evidence.model import Outcome
from trustfed.evidence.queries import Queries
from trustfed.evidence.standing import Algorithm, Authority, Log, Standing
from trustfed.evidence.store import EvidenceStore, Facts
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.own_log import OwnLog
from trustfed.hub.evidence.views import Failure
from trustfed.hub.records import Root
from trustfed.hub.state import HubState
from trustfed.journal.fold import Fold
from trustfed.journal.merkle.checkpoint import origin_of
from trustfed.journal.merkle.note import parse_note
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import SOFTWARE

LOOK_SECONDS = 5.0
ROWS = 500
_STATES = {"prepared": "distributed", "active": "active", "retiring": "retiring", "retired": "removed"}
_log = logs.get("hub.evidence.own")


class OwnEvidence:
    """`start`, then `run`; `answer` at any time after `start`: Unavailable while it catches up."""

    def __init__(
        self, fold: Fold[HubState], ledger: Facts, fleet: Fleet, own_log: OwnLog, clock: Clock, custodian: str
    ) -> None:
        self._fold, self._ledger, self._fleet, self._own_log = fold, ledger, fleet, own_log
        self._clock, self._custodian = clock, custodian
        self._store: EvidenceStore | None = None
        self._directory = Path()
        self._cursor = 0

    @property
    def domain(self) -> str:
        """The hub's own trust domain."""
        return self._fold.state.trust_domain

    def start(self, directory: Path) -> None:
        """The hub's evidence.db is in `directory`; it is opened behind the doors, for it may have much to read."""
        self._directory = directory
        self._fleet.know(self.domain, owner="the hub itself")

    async def run(self) -> None:
        """Open, follow the ledger, and tell the fleet; until cancelled."""
        while self._store is None:
            try:
                self._store = await EvidenceStore.open(self._directory, self._ledger, self.domain, self._clock)
            except TrustfedError as error:
                _log.error("the hub's own evidence cannot be opened", error=error.message, hint=error.hint)
                await self._clock.sleep(LOOK_SECONDS)
        store = self._store
        following = asyncio.create_task(store.run())
        try:
            while True:
                try:
                    await self.tell()
                except TrustfedError as error:
                    _log.error("the hub's own evidence is behind", error=error.message)
                await self._clock.sleep(LOOK_SECONDS)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def tell(self) -> None:
        """Tell the fleet what changed, and how the hub stands."""
        store, fleet = self._opened(), self._fleet
        while True:
            rows = await store.changed_since(self._cursor, ROWS)
            if rows.whole and self._cursor:
                fleet.anew(self.domain)
            if not rows.counters and not rows.failed:
                break
            fleet.tell_counters(self.domain, [(str(class_), at, counts) for class_, at, counts in rows.counters])
            failed = [
                Failure(
                    one.id,
                    str(one.class_),
                    one.spiffe_id,
                    one.instance,
                    one.slot,
                    one.predecessor,
                    str(one.outcome) if one.outcome in (Outcome.LATE, Outcome.EXPIRED, Outcome.UNKNOWN) else "",
                    one.why,
                    one.on_time_ms,
                    one.hard_ms,
                    one.ended_ms,
                )
                for one in rows.failed
            ]
            fleet.tell_failed(self.domain, failed)
            self._cursor = rows.cursor
        fleet.stream(self.domain, True, fleet.now_ms)
        standing, said = self._standing(), fleet.standing(self.domain)
        if said is None or msgspec.structs.replace(said, as_of_ms=standing.as_of_ms) != standing:
            fleet.tell_standing(self.domain, standing)

    async def answer(self, kind: str, body: bytes) -> bytes:
        """What the hub's own evidence answers to a question (trustfed.evidence.queries)."""
        return await Queries(self._opened(), self._ledger).answer(kind, body)

    async def close(self) -> None:
        """Close the store; twice is fine."""
        if self._store is not None:
            await self._store.close()

    def _opened(self) -> EvidenceStore:
        if self._store is None:
            raise Unavailable("the hub's own evidence is catching up with its ledger", hint="try again in a moment")
        return self._store

    def _standing(self) -> Standing:
        state, now = self._fold.state, to_ms(self._clock.now())
        return Standing(
            trust_domain=self.domain,
            as_of_ms=now,
            software=SOFTWARE,
            owner="the hub itself",
            authorities=tuple(self._root(root) for root in state.roots[-10:]),
            algorithms=(
                Algorithm("root", "ec-p256", 128, False, len(state.trusted_roots), self._custodian),
                Algorithm("log", "ed25519", 128, False, 1, self._custodian),
            ),
            logs=self._logs(),
        )

    def _root(self, root: Root) -> Authority:
        certificate = x509.load_der_x509_certificate(root.certificate)
        begin = to_ms(certificate.not_valid_before_utc)
        return Authority(
            id=root.key_name,
            kind="root",
            state=_STATES.get(root.status, root.status),
            algorithm="ec-p256",
            custodian=self._custodian,
            not_before_ms=begin,
            not_after_ms=to_ms(certificate.not_valid_after_utc),
            since_ms=begin,
        )

    def _logs(self) -> tuple[Log, ...]:
        note = self._own_log.note
        if note is None:
            return ()
        checkpoint, signatures = note.checkpoint, parse_note(note.data).signatures
        cosigned = len(signatures) > 1
        problems = [one.what.subject for one in self._fleet.alarms("") if one.trust_domain == ""]
        journal = Log(
            origin=checkpoint.origin,
            size=self._fold.position,
            integrated=self._own_log.integrated,
            checkpoint_size=checkpoint.size,
            checkpoint_ms=self._own_log.cut_ms,
            root=base64.b64encode(checkpoint.root).decode(),
            cosigned_size=checkpoint.size if cosigned else 0,
            cosigned_ms=self._own_log.cut_ms if cosigned else 0,
            problem="fork" if problems else "",
        )
        held = self._fold.state.evidence.checkpoints
        if not held:
            return (journal,)
        last, origin = held[-1], origin_of(self.domain, "ledger")
        size = self._ledger.position
        return (journal, Log(origin, size, size, last.size, self._own_log.cut_ms, last.root, 0, 0))
