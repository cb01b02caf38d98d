"""Asks, seldom and few at a time, whether an imported service answers behind each gateway of its exporter.

A TLS probe carries the server name that Istio gives the service, so it judges that service at that gateway and nothing
else: a gateway that knows the name of one service and not of another is well. What counts is that somebody showed a
certificate of the exporter's domain, verified in the one bundle that is held of it, with an ID among those that may answer.
A gateway without a TCP connection, or a domain whose bundle is not held, says nothing of a service.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from trustfed.cluster.grants import held_envelope
from trustfed.cluster.mesh.courses import Courses
from trustfed.cluster.mesh.damping import DampingRules, Health, judge, restored
from trustfed.cluster.mesh.events import ServiceJudged
from trustfed.cluster.mesh.prober import NoAnswer, Prober
from trustfed.cluster.mesh.route_index import item
from trustfed.cluster.mesh.state import key
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.mesh import Export
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.verify import verify_x509_svid

log = logs.get("cluster.mesh.service_probes")

AT_ONCE = 4
"""Also the most that begin in one second."""
MAX_PAIRS = 20_000
RETRY_SECONDS = 30.0
RULES = DampingRules(failures=3, successes=2, hold=60.0, longest_hold=3600.0, half_life=7200.0)
LEAVES_AT_ONCE, LEAVES_APART = 200, 60.0
"""So many ways to services of one domain may be shut, then one in so many seconds: each is an event, and it decides how many."""
Pair = tuple[str, str, str]
"""Exporter, host, gateway."""


@dataclass
class _Asked:
    """How it goes with one service at one gateway."""

    server_name: str
    answers: frozenset[str]
    health: Health = field(default_factory=Health)
    ok: bool | None = None
    error: str = ""


class ServiceProbes:
    """The TLS probes of one cluster."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        prober: Prober,
        gateways: Courses,
        interval: float,
        timeout: float,
        clock: Clock,
        registry: Registry,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._fold, self._prober, self._gateways = fold, prober, gateways
        self._interval, self._timeout, self._clock, self._uniform = interval, timeout, clock, uniform
        self._asked: dict[Pair, _Asked] = {}
        self._of: dict[tuple[str, str], list[Pair]] = {}
        self._due: list[tuple[float, Pair]] = []
        self._routes: object = None
        self._beyond = 0
        self._bundles: dict[str, tuple[bytes, Bundle]] = {}
        self._leaves = Paces(LEAVES_AT_ONCE, LEAVES_APART)
        self._probes = registry.counter("mesh_service_probes_total", "TLS probes of imported services", ("outcome",))

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            try:
                await self.step()
            except TrustfedError as error:
                log.error("what probes of services showed is not recorded", error=error.message)
            except Exception as error:  # whatever one answer breaks, the others are asked all the same
                log.exception("a probe of a service broke", error=error)
            await self._clock.sleep(1.0)

    async def off(self) -> None:
        """In place of `run`: nobody probes, so no earlier judgement may keep a way shut for ever."""
        while True:
            try:
                await self.lift()
                await asyncio.Event().wait()
            except TrustfedError as error:
                log.error("judgements of services are not lifted yet", error=error.message)
                await self._clock.sleep(RETRY_SECONDS)

    async def lift(self) -> None:
        """Judge every service up. Raises what the journal raises."""
        now = self._clock.now()

        def decide(state: ClusterState) -> list[ServiceJudged]:
            down = [known for known in state.mesh.services.values() if not known.up]
            return [ServiceJudged(known.exporter, known.host, known.gateway, True, now) for known in down]

        if decide(self._fold.state):
            await self._fold.execute(
                decide, command_id=uuid4().hex, actor="cluster", reason="services are not probed any more", now=now
            )

    async def step(self) -> None:
        """Ask the few that are due, and record what changed. Raises what the journal raises."""
        self.look()
        now, chosen = self._clock.monotonic(), list[Pair]()
        while self._due and self._due[0][0] <= now and len(chosen) < AT_ONCE:
            _, pair = heapq.heappop(self._due)
            if pair in self._asked:
                chosen.append(pair)
        try:
            await asyncio.gather(*(self._ask(pair) for pair in chosen))
            await self._record([pair for pair in chosen if pair in self._asked])
        finally:
            for pair in chosen:
                asked = self._asked.get(pair)
                if asked is not None:
                    soon = asked.ok is False or not asked.health.up
                    apart = min(RETRY_SECONDS, self._interval) if soon else self._interval
                    heapq.heappush(self._due, (now + apart * self._uniform(0.9, 1.1), pair))

    def look(self) -> None:
        """Follow the services and gateways that the journal now has; costs nothing while its routes stay."""
        mesh = self._fold.state.mesh
        if mesh.routes is self._routes:
            return
        self._routes = mesh.routes
        gateways: dict[str, list[str]] = {}
        for route in mesh.routes.values():
            if route.kind == "gateway":
                gateways.setdefault(route.exporter, []).append(route.name)
        before, self._asked, self._of, self._beyond = self._asked, {}, {}, 0
        now = self._clock.monotonic()
        for route in sorted(
            (r for r in mesh.routes.values() if r.kind == "export"), key=lambda r: (r.exporter, r.name)
        ):
            said = item("export", route.item)
            if not isinstance(said, Export):  # what today's rules refuse is used by nobody
                continue
            name, answers = f"outbound_.{said.ports[0].number}_._.{said.host}", frozenset(said.answers)
            for gateway in sorted(gateways.get(route.exporter, ())):
                if len(self._asked) >= MAX_PAIRS:
                    self._beyond += 1
                    continue
                pair = (route.exporter, said.host, gateway)
                held = before.get(pair)
                if held is None:
                    known = mesh.services.get(key(route.exporter, said.host, gateway))
                    held = _Asked(name, answers, restored(known is None or known.up, now))
                    heapq.heappush(self._due, (now + self._uniform(0, self._interval), pair))
                held.server_name, held.answers = name, answers
                self._asked[pair] = held
                self._of.setdefault(pair[:2], []).append(pair)
        if len(self._due) > 2 * len(self._asked) + 100:
            self._due = [(at, pair) for at, pair in self._due if pair in self._asked]
            heapq.heapify(self._due)

    def status(self) -> dict[str, object]:
        """The services that do not answer somewhere, and how many are asked."""
        self.look()
        failing = [
            {"exporter": p[0], "host": p[1], "gateway": p[2], "up": asked.health.up, "error": asked.error}
            for p, asked in sorted(self._asked.items())
            if asked.ok is False or not asked.health.up
        ]
        return {"asked": len(self._asked), "not_asked": self._beyond, "failing": failing[:1_000]}

    async def _ask(self, pair: Pair) -> None:
        asked, course = self._asked[pair], self._gateways.get((pair[0], pair[2]))
        if course is None or course.ok is False:
            return
        outcome = "answered"
        try:
            bundle = self._bundle(pair[0])
            if bundle is None:
                return
            chain = await self._prober.ask(course.address, course.port, asked.server_name, self._timeout)
            svid = verify_x509_svid(chain, bundle, self._clock.now())
            if str(svid.id) not in asked.answers:
                raise Denied(f"{svid.id} answered, which is not among those that may")
            asked.ok, asked.error = True, ""
        except (NoAnswer, Denied, Invalid) as error:
            if asked.error != error.message:
                log.warning(
                    "imported service does not answer",
                    exporter=pair[0],
                    host=pair[1],
                    gateway=pair[2],
                    error=error.message,
                )
            asked.ok, asked.error, outcome = False, error.message, "failed"
        except TrustfedError as error:  # the gateway's own trouble
            asked.error, outcome = error.message, "unknown"
        self._probes.add(outcome=outcome)
        if outcome != "unknown" and asked.ok is not None:
            now = self._clock.monotonic()
            found = judge(asked.health, asked.ok, now, RULES, alternative=self._alternative(pair))
            if asked.health.up and not found.up and not self._leaves.take(pair[0], now):
                found = judge(asked.health, asked.ok, now, RULES, alternative=False)
            asked.health = found

    def _alternative(self, pair: Pair) -> bool:
        """Whether the service answers at another gateway that is up."""
        for other in self._of.get(pair[:2], ()):
            course = self._gateways.get((other[0], other[2]))
            asked = self._asked[other]
            if other != pair and asked.ok and asked.health.up and course is not None and course.health.up:
                return True
        return False

    async def _record(self, pairs: list[Pair]) -> None:
        for service in {pair[:2] for pair in pairs}:
            of_one = self._of.get(service, [])
            if of_one and not any(self._asked[pair].health.up for pair in of_one):
                for pair in of_one:
                    self._asked[pair].health = Health()  # a probe alone never takes the last way to a service
                pairs = [*pairs, *of_one]
        wanted, now = {pair: self._asked[pair].health.up for pair in pairs}, self._clock.now()

        def decide(state: ClusterState) -> list[ServiceJudged]:
            events = []
            for (exporter, host, gateway), up in wanted.items():
                routes, known = state.mesh.routes, state.mesh.services.get(key(exporter, host, gateway))
                offered = key(exporter, "export", host) in routes and key(exporter, "gateway", gateway) in routes
                if offered and up != (known is None or known.up):
                    events.append(ServiceJudged(exporter, host, gateway, up, now))
            return events

        if decide(self._fold.state):
            await self._fold.execute(
                decide, command_id=uuid4().hex, actor="cluster", reason="probed from here", now=now
            )

    def _bundle(self, exporter: str) -> Bundle | None:
        state = self._fold.state
        peer, grant = state.peers.get(exporter), state.imports(self._clock.now()).get(exporter)
        if peer is None or grant is None or peer.key != grant.exporter_key:
            return None
        held = self._bundles.get(exporter)
        if held is None or held[0] != peer.envelope:
            held = self._bundles[exporter] = (peer.envelope, held_envelope(peer.envelope, exporter, peer.key).bundle)
        return held[1]
