"""The two Merkle logs of this cluster: their key, their checkpoints, who cosigned them, and what is given to a witness.

The ledger's checkpoints are events of the journal; the journal's are signed notes by the log key. So one cosigned note of the
journal vouches for both. The key is the domain's own word: its publication key endorses it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ca.keys.port import ED25519, KeyStore
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.events import CheckpointCut
from trustfed.cluster.evidence.exported import export
from trustfed.cluster.evidence.kept import Kept
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Denied, NotFound, TrustfedError
from trustfed.evidence.standing import Log
from trustfed.federation import log_key
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.fold import Fold
from trustfed.journal.merkle import checkpoint as notes
from trustfed.journal.merkle.checkpoint import Checkpoint, SignedCheckpoint
from trustfed.journal.merkle.note import parse_note, parse_signatures
from trustfed.journal.merkle.vkey import COSIGNATURE, Vkey, cosigned_at, vkey_of
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.evidence")

KEY = "log"
_NOTE, _COSIGNED = "note/own", "note/cosigned"
_RETRY_SECONDS = 5.0


class Tree(Protocol):
    """A Merkle log (trustfed.journal.merkle.log)."""

    @property
    def size(self) -> int: ...

    @property
    def lag(self) -> int: ...

    async def integrated(self, position: int) -> None: ...

    async def root(self, size: int) -> bytes: ...

    async def consistency(self, old: int, new: int) -> list[bytes]: ...


@dataclass
class _Cut:
    checkpoint: Checkpoint | None = None
    at_ms: int = 0
    cosigned_size: int = 0
    cosigned_ms: int = 0


@dataclass
class Problems:
    """By origin: what is wrong with a log, as somebody else or the disk says."""

    by_origin: dict[str, str] = field(default_factory=dict)


class ClusterLogs:
    """`await start()`, then `run`; `cut` at any time."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        ledger_position: Callable[[], int],
        events: Tree,
        facts: Tree,
        keys: KeyStore,
        kept: Kept,
        every: float,
        witness_directory: Path | None,
        alarms: Alarms,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._fold, self._ledger_position, self.events, self._facts = fold, ledger_position, events, facts
        self._keys, self._kept, self._every, self._directory = keys, kept, every, witness_directory
        self._alarms, self._clock = alarms, clock
        domain = fold.state.trust_domain
        self.journal_origin = notes.origin_of(domain, "journal")
        self.ledger_origin = notes.origin_of(domain, "ledger")
        self.cosigner = f"trustfed/{domain}"
        self._public: Ed25519PublicKey | None = None
        self.endorsement = b""
        self.newest: SignedCheckpoint | None = None
        self._journal, self._ledger = _Cut(), _Cut()
        self.problems = Problems()
        self._listeners: list[Callable[[], None]] = []
        self._turn, self._news = asyncio.Lock(), asyncio.Event()
        self.seen = asyncio.Event()
        """Set when the hub has cosigned a checkpoint; who waits for the next clears it."""
        self._exported = ""
        self._signed_before: Checkpoint | None = None
        self._measure(registry)

    @property
    def vkey(self) -> Vkey:
        """The key that signs the journal's checkpoints."""
        assert self._public is not None, "start() runs first"
        return vkey_of(self.journal_origin, self._public)

    def on_note(self, listener: Callable[[], None]) -> None:
        """Call `listener` with each new checkpoint note."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Have the log key and its endorsement, and what was kept. Raises Unavailable, Denied."""
        try:
            public = await self._keys.public_key(KEY, ED25519)
        except NotFound:
            try:
                public = await self._keys.create(KEY, ED25519)
            except Conflict:  # another process of the same store was faster
                public = await self._keys.public_key(KEY, ED25519)
        assert isinstance(public, Ed25519PublicKey)
        self._public = public
        domain = self._fold.state.domain
        assert domain is not None
        name, text = TrustDomain.parse(domain.trust_domain), self.vkey.text
        (signature,) = await self._keys.sign(domain.publication_key_name, [log_key.payload_to_sign(name, text)])
        self.endorsement = log_key.assemble(name, text, signature, PublicationKey(domain.publication_key)).data
        self._take_kept()

    async def run(self) -> None:
        """Cut checkpoints as the logs grow; ends only when cancelled."""
        while True:
            wait = self._every
            try:
                await self.cut()
                await self._export(self._clock.now())
            except TrustfedError as error:
                log.error("no checkpoint could be cut", error=error.message, hint=error.hint)
                wait = _RETRY_SECONDS
            await news_or_time(self._news, self._clock, wait)

    async def cut(self) -> SignedCheckpoint:
        """Bring both logs' checkpoints up to now; gives the journal's signed note. Raises Unavailable."""
        async with self._turn:
            await self._cut_ledger()
            position = self._fold.position
            if self.newest is None or position > self.newest.checkpoint.size:
                await self.events.integrated(position)
                await self._look_back()
                root = await self.events.root(position)
                checkpoint = Checkpoint(self.journal_origin, position, root)
                (signature,) = await self._keys.sign(KEY, [notes.payload_to_sign(checkpoint)])
                signed = notes.assemble(checkpoint, self.vkey, signature)
                await self._kept.save({_NOTE: signed.data})
                self.newest, self._journal.checkpoint = signed, checkpoint
                self._journal.at_ms = to_ms(self._clock.now())
                for listener in self._listeners:
                    listener()
            return self.newest

    async def cosign(self, checkpoint: Checkpoint) -> bytes:
        """The line by which this cluster says that it saw another's checkpoint (trustfed.journal.merkle.witness)."""
        assert self._public is not None
        at = to_ms(self._clock.now()) // 1000
        (signature,) = await self._keys.sign(KEY, [notes.cosignature_to_sign(checkpoint, at)])
        key = vkey_of(self.cosigner, self._public, COSIGNATURE)
        return notes.cosignature_line(checkpoint, key, at, signature).line.encode()

    async def cosigned(self, size: int, line: bytes, public: bytes) -> None:
        """The hub saw our checkpoint of this size. Raises Denied, Invalid for a line that is not by the hub's key."""
        held = self.newest
        if held is None or held.checkpoint.size != size:
            return  # a newer one was cut meanwhile, and is on its way
        (signature,) = parse_signatures(line.decode("utf-8", "replace"))
        key = Vkey(signature.name, COSIGNATURE, public)
        if not signature.of(key) or not key.verifies(held.checkpoint.text, signature.value):
            raise Denied("the hub's cosignature is not by its log key")
        data = notes.cosigned(held.data, signature)
        self.newest = notes.open_checkpoint(data, [self.vkey], origin=self.journal_origin, cosigners=[key])
        await self._kept.save({_NOTE: data, _COSIGNED: data})
        self._journal.cosigned_size, self._journal.cosigned_ms = size, to_ms(self._clock.now())
        # A journal that is cosigned vouches for the ledger's last checkpoint in it.
        self._ledger.cosigned_size, self._ledger.cosigned_ms = self._ledger_cut_size(), self._journal.cosigned_ms
        self.seen.set()

    def cosigned_note(self) -> bytes:
        """The newest note that carries a cosignature; b"" if none does."""
        return self._kept.values.get(_COSIGNED, b"")

    async def export(self) -> str:
        """Give the witness directory the newest note, also if it has today's; "" without a directory. Raises Unavailable."""
        return await self._export(self._clock.now(), again=True)

    def standing(self) -> tuple[Log, ...]:
        """Both logs, for the hub and for people."""
        ledger = self._fold.state.evidence.checkpoint_size
        return (
            self._log(self.journal_origin, self._fold.position, self.events.size, self._journal, 0),
            self._log(self.ledger_origin, self._ledger_position(), self._facts.size, self._ledger, ledger),
        )

    async def _cut_ledger(self) -> None:
        position = self._ledger_position()
        if position <= self._fold.state.evidence.checkpoint_size:
            return
        await self._facts.integrated(position)
        root, now = await self._facts.root(position), self._clock.now()
        cut = CheckpointCut(self.ledger_origin, position, root)

        def decide(state: ClusterState) -> list[CheckpointCut]:
            return [cut] if position > state.evidence.checkpoint_size else []

        why = "the ledger grew"
        await self._fold.execute(decide, command_id=uuid4().hex, actor="cluster", reason=why, now=now)
        self._ledger.checkpoint = Checkpoint(self.ledger_origin, position, root)
        self._ledger.at_ms = to_ms(now)

    async def _look_back(self) -> None:
        """Check once that the journal still has what an earlier process signed."""
        before, self._signed_before = self._signed_before, None
        if before is not None and await self.events.root(before.size) != before.root:
            self.problems.by_origin[self.journal_origin] = "fork"
            says = f"what this journal holds is not what was signed at {before.size} events"
            self._alarms.begins("log_fork", self.journal_origin, says, "was a backup brought back?")

    async def _export(self, now: datetime, *, again: bool = False) -> str:
        day = now.date().isoformat()
        if self._directory is None or (self._exported == day and not again):
            return ""
        data = self.cosigned_note() or (self.newest.data if self.newest is not None else b"")
        if not data:
            return ""
        domain, subject = self._fold.state.trust_domain, str(self._directory)
        try:
            path = await asyncio.to_thread(export, self._directory, domain, day, data, again=again)
        except TrustfedError as error:
            self._alarms.begins("witness_directory", subject, error.message, error.hint, "ticket")
            if again:
                raise
            return ""
        self._alarms.over("witness_directory", subject)
        self._exported = day
        return path

    def _take_kept(self) -> None:
        data = self._kept.values.get(_NOTE, b"")
        if not data:
            return
        held = notes.peek_checkpoint(data)
        if held.size > self._fold.position:
            # The store was put back to an older state: whoever saw the newer one will say so.
            self.problems.by_origin[self.journal_origin] = "shrunk"
            says = f"a checkpoint of {held.size} events was signed, and the journal has {self._fold.position}"
            self._alarms.begins("log_shrunk", self.journal_origin, says, "was a backup brought back?")
            return
        try:
            self.newest = notes.open_checkpoint(data, [self.vkey], origin=self.journal_origin)
        except TrustfedError:
            return  # by an older log key: the next one is by this
        self._journal.checkpoint = self._signed_before = held
        for signature in parse_note(data).signatures:
            if signature.name != self.journal_origin:
                self._journal.cosigned_size = self._ledger.cosigned_size = held.size
                self._journal.cosigned_ms = self._ledger.cosigned_ms = cosigned_at(signature.value) * 1000
        self._ledger.cosigned_size = self._ledger_cut_size() if self._ledger.cosigned_size else 0

    def _ledger_cut_size(self) -> int:
        return self._fold.state.evidence.checkpoint_size

    def _log(self, origin: str, size: int, integrated: int, cut: _Cut, known: int) -> Log:
        held = cut.checkpoint
        return Log(
            origin,
            size,
            integrated,
            held.size if held is not None else known,
            cut.at_ms,
            base64.b64encode(held.root).decode() if held is not None else "",
            cut.cosigned_size,
            cut.cosigned_ms,
            self.problems.by_origin.get(origin, ""),
        )

    def _measure(self, registry: Registry) -> None:
        for name, help_, read in (
            ("cluster_log_journal_lag", "events that the Merkle tree does not have yet", lambda: self.events.lag),
            ("cluster_log_ledger_lag", "facts that the Merkle tree does not have yet", lambda: self._facts.lag),
            ("cluster_log_journal_size", "events in the Merkle tree", lambda: self.events.size),
            ("cluster_log_ledger_size", "facts in the Merkle tree", lambda: self._facts.size),
            ("cluster_log_cosigned_size", "events of the journal that the hub cosigned", self._cosigned_size),
            ("cluster_log_cosigned_age_seconds", "since the hub cosigned last; -1: never", self._cosigned_age),
            ("cluster_log_problems", "1 and more: a fork, or a log that shrank", lambda: len(self.problems.by_origin)),
        ):
            registry.gauge(name, help_).read(lambda read=read: float(read()))  # type: ignore[misc]

    def _cosigned_size(self) -> int:
        return self._journal.cosigned_size

    def _cosigned_age(self) -> float:
        at = self._journal.cosigned_ms
        return (to_ms(self._clock.now()) - at) / 1000 if at else -1.0
