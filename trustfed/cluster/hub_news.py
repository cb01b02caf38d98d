"""What the hub says, judged before it is believed, and what it told of the importers of this domain's bundle.

The hub may stop news; it may plant none. Envelopes pass `grants.receive`, grants `grants.heard`, root sets the walk of
trustfed.federation.roots; a level that never existed is nobody's. What is refused is counted, logged and kept for the
status, and harms nothing that came beside it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from ca.lifecycle import Consumer, Level
from ca.profiles import SYSTEM_SVID
from trustfed.cluster import events as e
from trustfed.cluster import grants
from trustfed.cluster.freshness import Freshness
from trustfed.cluster.intake import Intake
from trustfed.cluster.state import ClusterState, newest_roots
from trustfed.errors import Denied, Invalid
from trustfed.federation import roots
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces
from trustfed.runtime.timestamps import from_ms

log = logs.get("cluster.hub_news")

MAX_ROOT_SETS = 256
MAX_ROOT_BYTES = 1_048_576
"""Of all root sets that are kept: every one goes to every node that enrols or comes back."""
ROOT_BURST, ROOT_PACE = 32, timedelta(hours=1)
"""So many versions at once, then one an hour: who holds the hub cannot use the room up in a moment."""
ENDPOINTS_BURST, ENDPOINTS_SECONDS = 8, 600.0
"""So many changes of one peer's bundle endpoints at once, then one in ten minutes: each is an event of the journal. An
honest hub passes fewer on."""
MAX_REFUSED = 100
MAX_LAGGARDS = 100


@dataclass
class _Held:
    """How far an importer is with this domain's bundle, as the hub last said."""

    level: Level | None
    live_until: datetime
    laggards: tuple[str, ...]


class HubNews:
    """Takes the messages of the stream from the hub, one by one."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        on_levels: Callable[[], None],
        on_report: Callable[[str, Level], None],
        clock: Clock,
        registry: Registry,
        freshness: Freshness | None = None,
        intake: Intake | None = None,
    ) -> None:
        self._fold, self._clock, self._freshness = fold, clock, freshness
        self._on_levels, self._on_report = on_levels, on_report
        self._intake, self._endpoint_paces = intake or Intake(fold, clock), Paces(ENDPOINTS_BURST, ENDPOINTS_SECONDS)
        self._importers: dict[str, _Held] = {}
        self._pushed: tuple[Level, datetime | None] | None = None
        self._in_snapshot: set[str] | None = None
        self._roots_free_at = clock.now() - ROOT_BURST * ROOT_PACE
        self._also: dict[str, Callable[[pb.FromHub], Awaitable[Mapping[str, str]]]] = {}
        self.forgotten: set[str] = set()
        """Grants whose decision here the hub has lost: it is told again."""
        self.refused: dict[str, str] = {}
        """The newest refusals, by what they were about; gone when a good one takes their place."""
        self._counter = registry.counter(
            "cluster_hub_messages_refused_total", "messages from the hub that were not believed"
        )
        registry.gauge("cluster_hub_messages_refused", "things the hub said last that were not believed").read(
            lambda: len(self.refused)
        )

    def begin(self, *, snapshot: bool) -> None:
        """A stream begins."""
        self._in_snapshot = set() if snapshot else None

    def also_take(self, kind: str, taker: Callable[[pb.FromHub], Awaitable[Mapping[str, str]]]) -> None:
        """Hand messages of this kind to `taker`, which says what in them was refused and why (empty: of none any more)."""
        self._also[kind] = taker

    async def take(self, message: pb.FromHub) -> None:
        """Believe one message or refuse it. Raises Unavailable when the journal cannot take it."""
        about = _about(message)
        try:
            await self._take(message)
            self.refused.pop(about, None)
        except (Denied, Invalid) as error:
            self._refuse(about, error.message)

    def consumers(self, state: ClusterState, connected_since: datetime | None, now: datetime) -> list[Consumer]:
        """The importers of this domain's bundle, for the gate before an activation.

        While the hub is away nobody can say who has gone, so all count as live, and one of which nothing was heard since
        this process began as where all once were. One that a connected hub has never spoken of counts as live and behind
        until no SVID of it can be alive.
        """
        found = []
        for importer, grant in state.importers(now).items():
            name, held = f"cluster {importer}", self._importers.get(importer)
            if connected_since is None:
                found.append(Consumer(name, held.level if held else state.held, grant.until))
            elif held is None:
                until = min(grant.until, connected_since + SYSTEM_SVID.max_lifetime)
                found.append(Consumer(name, None, until))
            else:
                found.append(Consumer(name, held.level, held.live_until))
        return found

    def importers(self) -> dict[str, object]:
        """For the status: what the hub last said of each importer, with up to 100 of its nodes that are behind."""
        return {
            name: {
                "level": {"epoch": held.level.epoch, "sequence": held.level.sequence} if held.level else None,
                "live_until": held.live_until.isoformat(),
                "laggards": held.laggards,
            }
            for name, held in self._importers.items()
        }

    async def _take(self, message: pb.FromHub) -> None:
        now, position = self._clock.now(), message.position
        match message.WhichOneof("message"):
            case "grant":
                await self._grant(message.grant, position, now)
            case "envelope":
                peer = message.envelope
                await self._endpoints(peer, now)
                name, data = peer.trust_domain, peer.envelope
                await self._intake.take(name, data, actor="hub", reason="relayed by the hub", hub_position=position)
            case "consumer":
                self._consumer(message.consumer, now)
            case "root_set":
                await self._advance_roots(tuple(message.root_set.documents), now)
            case "stored":
                self._stored(message.stored, now)
            case "snapshot_end":
                await self._forget_ended(now)
            case "confirmations":
                await self._confirmations(message.confirmations)
            case str(kind) if kind in self._also:
                for about, why in (await self._also[kind](message)).items():
                    if why:
                        self._refuse(about, why)
                    else:
                        self.refused.pop(about, None)

    async def _endpoints(self, peer: pb.PeerEnvelope, now: datetime) -> None:
        """Where else the peer's envelope can be had; what is wrong with that spoils not the envelope."""
        about = f"bundle endpoints of {peer.trust_domain[:255]}"
        said = tuple(peer.bundle_endpoints)
        if said == (self._fold.state.endpoints.get(peer.trust_domain) or ()):
            return
        try:
            grants.reachable(self._fold.state, peer.trust_domain, said, now)
            if not self._endpoint_paces.take(peer.trust_domain, self._clock.monotonic()):
                raise Denied(f"the bundle endpoints of {peer.trust_domain} change too often", hint="those before stay")
            await self._record(lambda s: grants.reachable(s, peer.trust_domain, said, now), "the hub says so")
            self.refused.pop(about, None)
        except (Denied, Invalid) as error:
            self._refuse(about, error.message)

    async def _confirmations(self, said: pb.Confirmations) -> None:
        if self._freshness is None:
            return
        given = [(peer.trust_domain, peer.confirmation) for peer in said.peers]
        refused = await self._freshness.take_all(given)
        for domain, _ in given:
            about = f"confirmation of {domain[:255]}"
            if domain[:255] in refused:
                self._refuse(about, refused[domain[:255]])
            else:
                self.refused.pop(about, None)

    def _refuse(self, about: str, why: str) -> None:
        """One bad item from the hub must not keep the good ones away, nor be forgotten."""
        said = self.refused.pop(about, "")
        if len(self.refused) >= MAX_REFUSED:
            self.refused.pop(next(iter(self.refused)))
        self.refused[about] = why
        self._counter.add()
        if said != why:
            log.error("refused from the hub", what=about, error=why)

    async def _grant(self, grant: pb.Grant, position: int, now: datetime) -> None:
        if grants.forgotten(self._fold.state, grant):
            self.forgotten.add(grant.id)
        await self._record(lambda s: grants.heard(s, grant, position, now), "the hub says so")
        if self._in_snapshot is not None and grant.id in self._fold.state.grants:
            self._in_snapshot.add(grant.id)
        importers = self._fold.state.importers(now)
        for gone in [importer for importer in self._importers if importer not in importers]:
            del self._importers[gone]
        self._on_levels()

    def _consumer(self, said: pb.ConsumerLevel, now: datetime) -> None:
        state, level = self._fold.state, Level(said.level.epoch, said.level.sequence)
        if said.importer not in state.importers(now):
            raise Denied(f"the hub told the level of {said.importer[:255]!r}, which imports nothing from here")
        live_until = from_ms(said.live_until_ms)
        if level > state.level:
            self._on_report(f"importer {said.importer}", level)
            raise Denied(
                f"{said.importer} would hold level {level.epoch}.{level.sequence} of this domain's bundle, "
                f"but {state.level.epoch}.{state.level.sequence} is the highest there is",
                hint="restored from a backup? trustfed cluster epoch. Otherwise this hub lies",
            )
        held = level if level.sequence else None
        self._importers[said.importer] = _Held(held, live_until, tuple(n[:128] for n in said.laggards[:MAX_LAGGARDS]))
        self._on_levels()

    def pushed(self, own: datetime) -> datetime | None:
        """When who only polls could have this domain's newest bundle; `own` is when our own endpoint had it.

        None while the hub has said that it publishes, and not yet that every target has this level.
        """
        if self._pushed is None:
            return own
        level, at = self._pushed
        return max(own, at) if at is not None and level == self._fold.state.level else None

    def _stored(self, said: pb.EnvelopeStored, now: datetime) -> None:
        state, level = self._fold.state, Level(said.level.epoch, said.level.sequence)
        if level > state.level:
            self._on_report("the hub", level)
            raise Denied(
                f"the hub has level {level.epoch}.{level.sequence} of this domain's bundle, "
                f"but {state.level.epoch}.{state.level.sequence} is the highest there is",
                hint="restored from a backup? trustfed cluster epoch. Otherwise this hub lies",
            )
        published = min(from_ms(said.published_at_ms), now) if said.published_at_ms else None
        self._pushed = (level, published) if said.publishes else None
        self._on_levels()

    async def _advance_roots(self, documents: tuple[bytes, ...], now: datetime) -> None:
        taken: list[bytes] = []

        def decide(state: ClusterState) -> list[e.RootsAdvanced]:
            current = newest_roots(state)
            reached = roots.advance(current, documents, now)
            count = reached.version - current.version
            taken[:] = documents[len(documents) - count :]
            kept = [*state.root_documents, *taken]
            if taken and (len(kept) > MAX_ROOT_SETS or sum(map(len, kept)) > MAX_ROOT_BYTES):
                raise Denied(
                    f"root set {reached.version} is beyond {MAX_ROOT_SETS} sets or {MAX_ROOT_BYTES} bytes in all",
                    hint="this hub is not to be believed: look at it",
                )
            if taken and free_at + min(count, ROOT_BURST) * ROOT_PACE > now:
                raise Denied(f"root set {reached.version} came too soon after others", hint=f"one in {ROOT_PACE}")
            return [e.RootsAdvanced(tuple(taken))] if count else []

        free_at = max(self._roots_free_at, now - ROOT_BURST * ROOT_PACE)
        if await self._record(decide, "root set advanced"):
            self._roots_free_at = free_at + min(len(taken), ROOT_BURST) * ROOT_PACE

    async def _forget_ended(self, now: datetime) -> None:
        """A snapshot holds every grant that has not ended: one that is not in it has."""
        seen, self._in_snapshot = self._in_snapshot, None
        if seen is None:
            return

        def decide(state: ClusterState) -> list[e.GrantEnded]:
            gone = [g for g in state.grants.values() if g.state != "ended" and not g.local and g.id not in seen]
            return [e.GrantEnded(grant.id, "hub", "not in the hub's snapshot", now) for grant in gone[:1_000]]

        while await self._record(decide, "snapshot from the hub"):
            pass

    async def _record(self, decide: Callable[[ClusterState], Sequence[TypedEvent]], why: str) -> bool:
        made = await self._fold.execute(decide, command_id=uuid4().hex, actor="hub", reason=why, now=self._clock.now())
        return bool(made)


def _about(message: pb.FromHub) -> str:
    kind = message.WhichOneof("message") or "message"
    if kind == "envelope":
        return f"envelope of {message.envelope.trust_domain[:255]}"
    if kind == "grant":
        return f"grant {message.grant.id[:64]}"
    if kind == "consumer":
        return f"level of {message.consumer.importer[:255]}"
    return kind
