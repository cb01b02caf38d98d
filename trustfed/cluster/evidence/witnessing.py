"""What this cluster and the hub say of each other's logs: offers of ours, and the hub's, which are judged and cosigned.

The hub's log key is taken at its first word, over a connection that proved who the hub is, and pinned. Another one later is
alarmed on, and nothing under it is cosigned until an operator forgets the pin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.events import HubLogForgotten
from trustfed.cluster.evidence.kept import Kept
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.errors import Invalid, TrustfedError
from trustfed.journal.merkle.checkpoint import peek_checkpoint
from trustfed.journal.merkle.vkey import COSIGNATURE, ED25519, Vkey, parse_vkey
from trustfed.journal.merkle.witness import Cosign, Fork, NotYours, Offer, Shrunk, Witness, WitnessStore
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.metrics import Registry

log = logs.get("cluster.evidence")

_HUB_KEY = "note/hub-key"
MAX_NOTE = 64 << 10


class Witnessing:
    """One for the process; `begin` with each stream."""

    def __init__(
        self, own: ClusterLogs, store: WitnessStore, kept: Kept, hub: str, alarms: Alarms, registry: Registry
    ) -> None:
        self._own, self._kept, self._alarms, self._store = own, kept, alarms, store
        self._witness = Witness(store, own.cosign)
        self._origin = f"trustfed/{hub}/journal"
        self._pinned = _key(kept.values.get(_HUB_KEY, b"").decode("utf-8", "replace"))
        self._trusted = False
        self._known_size = 0
        """What the hub holds of our journal, as far as we know."""
        self._offered = -1
        self._count = registry.counter(
            "cluster_log_cosignatures_total", "checkpoints of the hub that were judged", labels=("verdict",)
        )

    @property
    def cosigner(self) -> Vkey | None:
        """The key of the hub's cosignatures, if it has shown one that is believed; None: nobody cosigns."""
        if self._pinned is None or not self._trusted:
            return None
        return Vkey(self._origin.removesuffix("/journal"), COSIGNATURE, self._pinned.public)

    async def begin(self, vkey: str) -> None:
        """A stream begins, and the hub names its log key. Raises Unavailable when that cannot be kept."""
        self._known_size, self._offered = 0, -1
        said = _key(vkey)
        if self._pinned is None and said is not None:
            await self._kept.save({_HUB_KEY: said.text.encode()})
            self._pinned = said
        self._trusted = said is not None and said == self._pinned
        if said is not None and not self._trusted:
            hint = "if the hub was made anew: trustfed evidence forget-hub-log"
            self._alarms.begins("hub_log_key", self._origin, "the hub shows another log key than before", hint)
        elif self._trusted:
            self._alarms.over("hub_log_key", self._origin)

    async def forget(self, record: Callable[[HubLogForgotten], Awaitable[object]]) -> bool:
        """An operator knows that the hub has another log: the next one that it shows is taken. Raises Unavailable.

        First it is recorded: a crash in between leaves a word too many, and never a past that vanished without one. Nothing
        is recorded, and the answer False, when nothing is held.
        """
        last, pinned = await self._store.load(self._origin), self._pinned
        if last is None and pinned is None:
            return False
        size, root = (last.size, last.root) if last is not None else (0, b"")
        await record(HubLogForgotten(self._origin, pinned.text if pinned is not None else "", size, root))
        await self._store.forget(self._origin)
        await self._kept.save({_HUB_KEY: b""})
        self._pinned, self._trusted = None, False
        for code in ("hub_log_key", "hub_log_fork", "hub_log_shrunk"):
            self._alarms.over(code, self._origin)
        return True

    async def offer(self) -> pb.CheckpointOffer | None:
        """Our newest checkpoint with the way to it, if the hub was not offered it. Raises Unavailable."""
        newest = self._own.newest
        if newest is None or newest.checkpoint.size == self._offered:
            return None
        size = newest.checkpoint.size
        old = self._known_size if self._known_size <= size else 0
        proof = await self._own.events.consistency(old, size) if 0 < old < size else []
        self._offered = size
        return pb.CheckpointOffer(origin=newest.checkpoint.origin, old_size=old, proof=proof, note=newest.data)

    async def answered(self, said: pb.Cosignature) -> bool:
        """The hub's word on an offer; whether it is to be offered again from another size."""
        if said.origin != self._own.journal_origin:
            return False
        if said.refused:
            self._refused(said)
            return False
        if not said.line:
            again = said.size != self._known_size
            self._known_size, self._offered = said.size, -1
            return again
        if self._pinned is None or not self._trusted:
            return False
        try:
            await self._own.cosigned(said.size, said.line, self._pinned.public)
        except TrustfedError as error:
            log.error("the hub's cosignature is not taken", error=error.message)
            return False
        self._known_size = said.size
        for problem in ("fork", "shrunk"):
            self._alarms.over(f"log_{problem}_seen", self._own.journal_origin)
        return False

    async def judged(self, offer: pb.CheckpointOffer) -> pb.Cosignature:
        """What this cluster says to a checkpoint of the hub. Raises Invalid for what is none, Unavailable."""
        if len(offer.note) > MAX_NOTE or len(offer.proof) > 63:
            raise Invalid("the hub's checkpoint is over its bounds")
        answer = pb.Cosignature(origin=self._origin)
        if offer.origin != self._origin or self._pinned is None or not self._trusted:
            self._count.add(verdict="signature")
            answer.refused = "signature"
            return answer
        wanted = Offer(offer.old_size, tuple(offer.proof), offer.note)
        verdict, line = await self._witness.consider(wanted, origin=self._origin, log_keys=[self._pinned])
        self._count.add(verdict=type(verdict).__name__.lower())
        match verdict:
            case Cosign():
                answer.size, answer.line = verdict.checkpoint.size, line
            case NotYours(size):
                answer.size = size
            case Fork():
                self._alarm("fork", f"its log has another past than the one seen at {verdict.held.size}: {verdict.why}")
                answer.size, answer.refused, answer.held = verdict.held.size, "fork", verdict.held.note
            case Shrunk():
                self._alarm("shrunk", f"its log had {verdict.held.size} entries and shows {verdict.size}")
                answer.size, answer.refused, answer.held = verdict.held.size, "shrunk", verdict.held.note
            case _:
                answer.refused = "signature"
        return answer

    def _alarm(self, problem: str, says: str) -> None:
        hint = "ask the hub's operators; trustfed evidence forget-hub-log once it is understood"
        self._alarms.begins(f"hub_log_{problem}", self._origin, f"the hub: {says}", hint)

    def _refused(self, said: pb.Cosignature) -> None:
        if said.refused not in ("fork", "shrunk"):
            log.error("the hub refused a checkpoint of ours", why=said.refused[:40], size=said.size)
            return
        origin, held = self._own.journal_origin, ""
        try:
            checkpoint = peek_checkpoint(said.held)
            held = f"; it holds one of {checkpoint.size}"
        except Invalid:
            pass
        self._own.problems.by_origin[origin] = said.refused
        says = f"the hub saw another past of this cluster's journal ({said.refused}){held}"
        self._alarms.begins(f"log_{said.refused}_seen", origin, says, "was this cluster restored from a backup?")


def _key(text: str) -> Vkey | None:
    """The log key in what the hub says; None for none, and for what is none."""
    try:
        key = parse_vkey(text)
    except Invalid:
        return None
    return key if key.kind == ED25519 else None
