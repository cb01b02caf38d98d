"""Each side keeps the other's last checkpoint, so that no log can change its past without somebody's holding the proof.

The hub as a witness of clusters: a cluster's log key is endorsed by its publication key and pinned in the hub's journal;
another one is an alarm, and opens nothing, until an operator accepts it. An offer is judged by trustfed.journal.merkle.witness;
a fork or a shrink is an alarm that stays until the log fits again, or an operator lets the domain's logs begin anew.
The hub's own journal is offered to every cluster; what comes back is a cosignature, the size that it holds, or its alarm.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError
from trustfed.evidence.standing import Alarm
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.log_key import LogKey, open_log_key
from trustfed.hub.domains import enrolled
from trustfed.hub.evidence.events import LogKeyPinned, LogsAccepted
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.own_log import OwnLog
from trustfed.hub.evidence.session import Session, Sessions
from trustfed.hub.state import HubState
from trustfed.journal.fold import Fold
from trustfed.journal.merkle.checkpoint import SignedCheckpoint, origin_of, peek_checkpoint
from trustfed.journal.merkle.note import parse_signatures
from trustfed.journal.merkle.vkey import COSIGNATURE, ED25519, Vkey, parse_vkey
from trustfed.journal.merkle.witness import BadSignature, Cosign, Fork, NotYours, Offer, Shrunk, Verdict, Witness
from trustfed.journal.merkle.witness_files import WitnessFiles
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain, shown

LOGS = ("journal", "ledger")
MAX_PROOF = 63
_log = logs.get("hub.evidence.witness")


class HubWitness:
    """Both directions, for all clusters."""

    def __init__(
        self,
        fold: Fold[HubState],
        own: OwnLog,
        files: WitnessFiles,
        sessions: Sessions,
        fleet: Fleet,
        clock: Clock,
        randomness: Callable[[int], bytes],
    ) -> None:
        self._fold, self._own, self._files, self._sessions = fold, own, files, sessions
        self._fleet, self._clock, self._randomness = fleet, clock, randomness
        self._witness = Witness(files, own.cosign)
        self._known: dict[str, int] = {}
        self._shown: dict[str, LogKey] = {}
        own.on_note = self._offer_all

    @property
    def vkey(self) -> str:
        """The hub's own log key."""
        return self._own.vkey.text

    def waiting_keys(self) -> dict[str, str]:
        """Log keys that were shown and are not the pinned ones, by domain."""
        return {domain: shown_key.vkey for domain, shown_key in sorted(self._shown.items())}

    async def greet(self, session: Session, log_key: bytes) -> None:
        """Pin or check its log key, and offer it the hub's checkpoint. Denied or Invalid for a key that nobody endorsed."""
        domain = session.domain
        if log_key:
            record = enrolled(self._fold.state, domain)
            told = open_log_key(log_key, TrustDomain(domain), PublicationKey(record.publication_key))
            public = parse_vkey(told.vkey)
            pin = self._fold.state.evidence.pins.get(domain)
            if pin is None:
                await self._pin(told, f"cluster:{domain}", "the first key that it showed")
            elif parse_vkey(pin.vkey).public != public.public:
                self._shown[domain] = told
                says = (
                    "its cluster shows another log key than the one that is pinned: none of its checkpoints is cosigned"
                )
                hint = "restored, or taken over? An admin compares and accepts it: trustfed evidence accept-log-key"
                self._alarm(domain, "log_key", domain, says, hint)
                _log.error("another log key", domain=domain, pinned=pin.vkey, shown=told.vkey)
            else:
                self._shown.pop(domain, None)
                self._fleet.calm(domain, "log_key", domain)
        self._known.pop(domain, None)
        if self._own.note is not None:
            session.send(_offer(self._own.note, 0, ()))

    async def accept_key(self, domain: str, vkey: str, actor: str, reason: str) -> None:
        """Pin the key that a cluster shows now; its logs begin anew. NotFound when it shows no other, Conflict when another."""
        told = self._shown.get(domain)
        if told is None:
            raise NotFound(f"{shown(domain)} shows no other log key than the pinned one")
        if told.vkey != vkey:
            raise Conflict(f"{domain} shows the log key {told.vkey}", hint="look at it, and accept exactly that one")
        await self._pin(told, actor, reason)
        await self.begin_anew(domain)
        self._shown.pop(domain, None)
        self._fleet.calm(domain, "log_key", domain)

    async def accept_logs(self, domain: str, actor: str, reason: str) -> None:
        """Let a domain's logs begin anew, by an operator's word; recorded first."""
        event, now = LogsAccepted(domain, to_ms(self._clock.now())), self._clock.now()

        def decide(state: HubState) -> list[msgspec.Struct]:
            enrolled(state, domain)
            return [event]

        command = self._randomness(16).hex()
        await self._fold.execute(decide, command_id=command, actor=actor, reason=reason, now=now)
        await self.begin_anew(domain)

    async def begin_anew(self, domain: str) -> None:
        """Forget what is held of a domain's logs: after it was removed, or an operator says that it was restored."""
        for name in LOGS:
            origin = origin_of(domain, name)
            await self._files.forget(origin)
            self._fleet.calm(domain, "log_inconsistent", origin)

    def forget(self, domain: str) -> None:
        """A domain was removed."""
        self._known.pop(domain, None)
        self._shown.pop(domain, None)

    async def offered(self, session: Session, offer: pb.CheckpointOffer) -> None:
        """Judge a cluster's checkpoint, and say so."""
        domain, origin = session.domain, offer.origin
        if origin not in [origin_of(domain, name) for name in LOGS]:
            raise Denied(f"{domain} cannot offer checkpoints of {shown(origin[:200])}")
        pin = self._fold.state.evidence.pins.get(domain)
        if pin is None or domain in self._shown or len(offer.proof) > MAX_PROOF:
            session.send(pb.FromHub(cosignature=pb.Cosignature(origin=origin, refused="signature")))
            return
        key = Vkey(origin, ED25519, parse_vkey(pin.vkey).public)
        try:
            given = Offer(offer.old_size, tuple(offer.proof), offer.note)
            verdict, lines = await self._witness.consider(given, origin=origin, log_keys=[key])
        except Invalid as error:
            _log.warning("a checkpoint cannot be judged", domain=domain, origin=origin, error=error.message)
            session.send(pb.FromHub(cosignature=pb.Cosignature(origin=origin, refused="size")))
            return
        session.send(pb.FromHub(cosignature=self._answer(domain, origin, verdict, lines)))

    async def cosigned(self, session: Session, said: pb.Cosignature) -> None:
        """A cluster answers an offer of the hub's own checkpoint."""
        domain, note = session.domain, self._own.note
        if said.origin != self._own.origin or note is None:
            return
        if said.refused:
            if said.refused in ("fork", "shrunk"):
                says = f"{domain} holds a checkpoint of the hub's log that the hub's log does not continue ({said.refused})"
                self._alarm("", "log_inconsistent", f"{self._own.origin} {domain}", says, "was the hub restored?")
            _log.error("the hub's checkpoint was refused", domain=domain, why=said.refused[:64], size=said.size)
            return
        size = note.checkpoint.size
        if not said.line:
            held = self._known.get(domain)
            if said.size > size:  # it holds more than there is: the next checkpoint will show which
                says = f"{domain} holds {said.size} entries of the hub's log, which has {size}"
                self._alarm("", "log_inconsistent", f"{self._own.origin} {domain}", says, "was the hub restored?")
            elif held != said.size:
                self._known[domain] = said.size
                session.send(_offer(note, said.size, await self._own.proof(said.size, size)))
            return
        pin = self._fold.state.evidence.pins.get(domain)
        if pin is None or domain in self._shown:
            return
        key = Vkey(f"trustfed/{domain}", COSIGNATURE, parse_vkey(pin.vkey).public)
        try:
            (line,) = parse_signatures(said.line.decode().rstrip("\n") + "\n")
            taken = await self._own.add(said.size, line, key)
        except (TrustfedError, ValueError):
            taken = False
        if taken:
            self._known[domain] = said.size
            self._fleet.calm("", "log_inconsistent", f"{self._own.origin} {domain}")

    def _answer(self, domain: str, origin: str, verdict: Verdict, lines: bytes) -> pb.Cosignature:
        match verdict:
            case Cosign():
                self._fleet.calm(domain, "log_inconsistent", origin)
                return pb.Cosignature(origin=origin, size=verdict.checkpoint.size, line=lines)
            case NotYours():
                return pb.Cosignature(origin=origin, size=verdict.size)
            case BadSignature():
                self._alarm(
                    domain, "log_inconsistent", origin, f"a checkpoint of {origin} is not signed by its log", ""
                )
                return pb.Cosignature(origin=origin, refused="signature")
            case Fork():
                what, refused, held = f"shows another past: {verdict.why}", "fork", verdict.held
            case Shrunk():
                what, refused, held = f"has {verdict.size} entries, and had {verdict.held.size}", "shrunk", verdict.held
        hint = "restored from a backup? An admin lets it begin anew: trustfed evidence accept-logs; or its past was changed"
        self._alarm(domain, "log_inconsistent", origin, f"{origin} {what}", hint)
        _log.error("a log is inconsistent", domain=domain, origin=origin, how=refused, held=held.size)
        return pb.Cosignature(origin=origin, size=held.size, refused=refused, held=held.note)

    async def _pin(self, told: LogKey, actor: str, reason: str) -> None:
        domain = told.trust_domain.name
        event = LogKeyPinned(domain, told.vkey, told.data, to_ms(self._clock.now()))

        def decide(state: HubState) -> list[msgspec.Struct]:
            enrolled(state, domain)
            pin = state.evidence.pins.get(domain)
            return [] if pin and pin.vkey == told.vkey else [event]

        command = self._randomness(16).hex()
        await self._fold.execute(decide, command_id=command, actor=actor, reason=reason, now=self._clock.now())

    def _alarm(self, domain: str, code: str, subject: str, says: str, hint: str) -> None:
        since = to_ms(self._clock.now())
        for one in self._fleet.alarms(domain):
            if (one.what.code, one.what.subject, one.source) == (code, subject, "hub"):
                since = one.what.since_ms
        self._fleet.alarm(domain, Alarm(code, "page", subject, says, since, hint))

    def _offer_all(self, note: SignedCheckpoint) -> None:
        """A new checkpoint of the hub: to each cluster, which says from where it needs the proof."""
        for domain in self._sessions.names():
            session = self._sessions.get(domain)
            if session is not None:
                self._known.pop(domain, None)
                session.send(_offer(note, 0, ()))


def _offer(note: SignedCheckpoint, old: int, proof: tuple[bytes, ...]) -> pb.FromHub:
    origin = peek_checkpoint(note.data).origin
    offer = pb.CheckpointOffer(origin=origin, old_size=old, proof=proof, note=note.data)
    return pb.FromHub(checkpoint=offer)
