"""Takes others' routes from the hub, believed as trustfed.cluster.mesh.heard says, and lets go of those that are over.

A stream begins with a digest of what is held of each exporter; the hub sends those anew that differ, and then changes. While
it is away the last routes stay, and `heard_at` says how old they are. Each exporter may have so much recorded here; beyond
that the newest of each route waits for its turn. What is gone never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from uuid import uuid4

from trustfed.cluster import events as e
from trustfed.cluster.mesh import heard
from trustfed.cluster.mesh.heard import Judged, Name, Wants
from trustfed.cluster.mesh.state import key
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.mesh import KINDS
from trustfed.federation.mesh_digest import digest
from trustfed.federation.mesh_statement import Statement
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.budget import Budget
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.mesh.hearing")

UNITS, PER_SECOND = 20_480, 2.5
"""What of one exporter may be recorded at once, and what comes back: one for each route and one for each kilobyte. A little
more than an honest hub records of it."""
BATCH = 200
MAX_WAITING, MAX_WAITING_BYTES = 10_000, 32 * 1024 * 1024
MAX_REFUSED = 1_000
MAX_NAME = 255
_SLICE = 20
_RETRY_SECONDS = 5.0


class Hearing:
    """A part of the stream from the hub: `HubNews.also_take` gives it its messages, `Uplink.join` the hello."""

    def __init__(self, fold: Fold[ClusterState], reach: Reach, clock: Clock, registry: Registry) -> None:
        self._fold, self._reach, self._clock = fold, reach, clock
        self.refused: dict[tuple[str, str], str] = {}
        """What the hub refused of this domain's own, by kind and name, newest last, and why."""
        self._budget = Budget(UNITS, PER_SECOND)
        self._waiting: dict[Name, pb.Route] = {}
        self._waiting_bytes = 0
        self._whole: dict[str, set[Name]] = {}  # of exporters that are being sent anew: what was named
        self._wants: tuple[object, Wants] | None = None
        self._connected, self._heard_at = False, _newest(fold.state)
        self._stream = 0
        self._turn = asyncio.Lock()  # so that nothing that waited is recorded after it was taken back
        self._news = asyncio.Event()
        self._over = True
        registry.gauge("cluster_mesh_routes", "routes of other domains that are held").read(
            lambda: float(len(fold.state.mesh.routes))
        )
        registry.gauge("cluster_mesh_routes_waiting", "routes that wait, because others came in a flood").read(
            lambda: float(len(self._waiting))
        )
        registry.gauge("cluster_mesh_own_refused", "own gateways, exports and imports that the hub refuses").read(
            lambda: float(len(self.refused))
        )

    @property
    def heard_at(self) -> datetime | None:
        """When the hub last stood behind what is held: now while it is connected; None if it never did."""
        return self._clock.now() if self._connected else self._heard_at

    def status(self) -> dict[str, object]:
        """For `trustfed mesh status`."""
        at = self.heard_at
        return {
            "routes": len(self._fold.state.mesh.routes),
            "waiting": len(self._waiting),
            "heard_at": at.isoformat() if at else None,
            "refused": [{"kind": k, "name": n, "why": why} for (k, n), why in self.refused.items()],
        }

    def connection(self, connected: bool) -> None:
        """The hub came or went."""
        if self._connected and not connected:
            self._heard_at = self._clock.now()
        self._connected = connected

    def greet(self, hello: pb.ClusterHello) -> None:
        """Say what is held of each exporter. What waited is not: it is said again, unless it was taken back meanwhile."""
        self._stream += 1
        self._waiting.clear()
        self._waiting_bytes = 0
        state = self._fold.state
        held: dict[str, dict[str, str]] = {}
        known = heard.exporters(state, self._clock.now())
        for route in state.mesh.routes.values():
            if known.get(route.exporter) != route.key:  # about to be let go of: it is asked for anew
                continue
            held.setdefault(route.exporter, {})[key(route.kind, route.name)] = str(route.sequence)
        for exporter, versions in held.items():
            hello.routes.add(exporter=exporter, digest=digest(versions))

    def begin(self, hello: pb.HubHello) -> None:
        """A stream began: what was half said on the one before is said again."""
        self._whole.clear()
        self.refused.clear()

    async def messages(self) -> AsyncIterator[pb.FromCluster]:
        """Nothing of this is said after the hello."""
        nothing: tuple[pb.FromCluster, ...] = ()
        for message in nothing:
            yield message

    def on_event(self, event: TypedEvent) -> None:
        """A grant that ends, or another key that is pinned, ends routes."""
        if isinstance(event, e.GrantEnded | e.GrantRepinned | e.GrantAccepted):
            self._over = True
            self._news.set()

    async def own_refused(self, message: pb.FromHub) -> Mapping[str, str]:
        """What the hub takes not of this domain's own mesh."""
        for one in message.mesh_refused.items:
            name = (one.kind[:16], one.name[:253])
            self.refused.pop(name, None)
            if one.why:
                if len(self.refused) >= MAX_REFUSED:
                    self.refused.pop(next(iter(self.refused)))
                self.refused[name] = one.why[:1_024]
                log.warning("the hub refuses an item of this mesh", kind=name[0], name=name[1], error=one.why[:1_024])
        return {}

    async def routes(self, message: pb.FromHub) -> Mapping[str, str]:
        """Believe or refuse routes; recorded on return, but for what must wait. Raises what the journal raises."""
        async with self._turn:
            return await self._routes(message.routes)

    async def _routes(self, said: pb.Routes) -> Mapping[str, str]:
        about: dict[str, str] = {}
        gone = [(r.exporter, r.kind, r.name) for r in said.remove]
        upsert: dict[Name, pb.Route] = {(r.exporter, r.kind, r.name): r for r in said.upsert}
        if 0 < len(said.whole_of) <= MAX_NAME:
            named = self._whole.setdefault(said.whole_of, set())
            named.update(n for n in upsert if n[0] == said.whole_of and n[1] in KINDS and len(n[2]) <= MAX_NAME)
            if sum(map(len, self._whole.values())) > heard.MAX_ROUTES or len(self._whole) > MAX_WAITING:
                self._whole.clear()
                raise Invalid(
                    "the hub names more routes than there can be", hint="this hub is not to be believed: look at it"
                )
            if said.last:
                del self._whole[said.whole_of]
                held = heard.held_of(self._fold.state, said.whole_of)
                waits = [name for name in self._waiting if name[0] == said.whole_of]
                gone += [name for name in [*held, *waits] if name not in named]
        for name in gone:
            self._drop(name)
        about.update(await self._take(upsert, gone))
        return about

    async def run(self) -> None:
        """End what is over and take what waited; ends only when cancelled."""
        while True:
            wait: float | None = _RETRY_SECONDS
            try:
                while self._over:
                    self._over = False
                    if await self._record(lambda s: heard.over(s, self._clock.now()), "whose grant ended"):
                        self._over = True
                wait = await self._flush()
            except TrustfedError as error:
                self._over = True
                log.error("routes are not let go of yet", error=error.message)
            await news_or_time(self._news, self._clock, wait)

    async def _flush(self) -> float | None:
        """Take whose turn it is; seconds until the next one's, None if nothing waits."""
        async with self._turn:
            now, stream = self._clock.monotonic(), self._stream
            due: dict[Name, pb.Route] = {}
            for name, route in list(self._waiting.items()):
                if len(due) < BATCH and self._budget.wait(_paced(name), _units(route), now) == 0:
                    due[name] = route
                    self._drop(name)
            try:
                refused = await self._take(due, (), stream)
            except TrustfedError:
                for name, route in due.items() if stream == self._stream else ():
                    self._wait(name, route)
                raise
        for about, why in refused.items():
            if why:
                log.error("a route that waited is refused", what=about, error=why)
        now = self._clock.monotonic()
        waits = [self._budget.wait(_paced(name), _units(route), now) for name, route in self._waiting.items()]
        return max(min(waits), 0.05) if waits else None

    async def _take(
        self, upsert: Mapping[Name, pb.Route], gone: Sequence[Name], stream: int | None = None
    ) -> dict[str, str]:
        """Verify and record, or let wait; what was refused and why. `stream`: only while no other one began."""
        state, now = self._fold.state, self._clock.now()
        about: dict[str, str] = {}
        known, wants = heard.exporters(state, now), self._wanted(state)
        said: list[Statement] = []
        for number, (name, route) in enumerate(upsert.items(), start=1):
            try:
                statement = heard.open_route(route, known, wants, self._reach)
                about[_about(name)] = ""
                if heard.is_news(state, statement) and self._must_wait(name, route):
                    continue
                self._drop(name)
                said.append(statement)
            except (Denied, Invalid) as error:
                about[_about(name)] = error.message
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        for start in range(0, max(len(said), len(gone)), BATCH):
            judged = await self._judge(said[start : start + BATCH], gone[start : start + BATCH], now, stream)
            about.update({_about(name): why for name, why in judged.refused.items()})
        return about

    def _must_wait(self, name: Name, route: pb.Route) -> bool:
        """Whether a route has to wait for its turn; then it takes the place of what waited under its name."""
        if self._budget.spend(_paced(name), _units(route), self._clock.monotonic()):
            return False
        self._drop(name)
        size = len(route.statement)
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise Denied(
                f"{_about(name)} comes in a flood, and no more can wait", hint="the next stream brings it again"
            )
        self._wait(name, route)
        self._news.set()
        return True

    def _wait(self, name: Name, route: pb.Route) -> None:
        self._waiting[name] = route
        self._waiting_bytes += len(route.statement)

    def _drop(self, name: Name) -> None:
        """It waits no more."""
        route = self._waiting.pop(name, None)
        if route is not None:
            self._waiting_bytes -= len(route.statement)

    async def _judge(
        self, said: Sequence[Statement], gone: Sequence[Name], now: datetime, stream: int | None
    ) -> Judged:
        judged = heard.judge(self._fold.state, said, gone, now)
        if judged.events:

            def decide(state: ClusterState) -> Sequence[TypedEvent]:
                nonlocal judged
                judged = heard.judge(state, said, gone, now)
                return judged.events if stream in (None, self._stream) else []

            await self._record(decide, "the hub says so")
        return judged

    def _wanted(self, state: ClusterState) -> Wants:
        if self._wants is None or self._wants[0] is not state.mesh.own:
            self._wants = (state.mesh.own, Wants.of(state))
        return self._wants[1]

    async def _record(self, decide: Callable[[ClusterState], Sequence[TypedEvent]], why: str) -> bool:
        made = await self._fold.execute(decide, command_id=uuid4().hex, actor="hub", reason=why, now=self._clock.now())
        return bool(made)


def _paced(name: Name) -> str:
    return name[0][:255]


def _units(route: pb.Route) -> int:
    return 1 + len(route.statement) // 1024


def _about(name: Name) -> str:
    exporter, kind, what = name
    return f"{kind[:16]} {what[:253]} of {exporter[:255]}"


def _newest(state: ClusterState) -> datetime | None:
    return max((route.changed_at for route in state.mesh.routes.values()), default=None)
