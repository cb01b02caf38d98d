"""Probes the gateways of the domains that this cluster imports from, round after round, and records what changes.

A round asks each gateway once for a TCP connection, spread over the interval with jitter, at most AT_ONCE at a time and RATE
in a second: more gateways make the rounds longer, not the load higher. What follows from the answers is decided by pure
rules (trustfed.cluster.mesh.courses) and recorded in one step; a process that starts again continues from the journal.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from uuid import uuid4

from trustfed.cluster.mesh.courses import Course, Courses, Place, groups_of, news
from trustfed.cluster.mesh.events import GatewayJudged
from trustfed.cluster.mesh.prober import Prober
from trustfed.cluster.mesh.route_index import item
from trustfed.cluster.mesh.state import Mesh, key
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.federation.mesh import Gateway
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry

log = logs.get("cluster.mesh.probing")

AT_ONCE, RATE = 64, 200.0
_AT_MOST_IN_ONE_COMMAND = 1_000


class Probing:
    """The TCP probes of one cluster."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        prober: Prober,
        interval: float,
        timeout: float,
        clock: Clock,
        registry: Registry,
        uniform: Callable[[float, float], float] = random.uniform,
        courses: Courses | None = None,
    ) -> None:
        self._fold, self._prober, self._interval, self._timeout = fold, prober, interval, timeout
        self._clock, self._uniform = clock, uniform
        self.courses = courses or Courses()
        self._groups: list[list[str]] = []
        self._routes: object = None
        self._probes = registry.counter(
            "mesh_gateway_probes_total", "connections tried to remote gateways", ("outcome",)
        )
        self._judged = registry.counter("mesh_gateway_judgements_total", "decisions on remote gateways", ("outcome",))
        self._rtt = registry.gauge(
            "mesh_gateway_rtt_seconds", "median round trip to a remote gateway", ("exporter", "gateway")
        )
        self._up = registry.gauge(
            "mesh_gateway_up", "whether a remote gateway is in use, as far as probes go", ("exporter", "gateway")
        )

    async def run(self) -> None:
        """Probe until cancelled."""
        await self._clock.sleep(self._uniform(0, min(self._interval, 1.0)))
        while True:
            began = self._clock.monotonic()
            try:
                await self.round()
            except TrustfedError as error:
                log.error("what probes of gateways showed is not recorded", error=error.message)
            except Exception as error:  # whatever one round breaks, the next one is made
                log.exception("a round of probes broke", error=error)
            rest = self._interval - (self._clock.monotonic() - began)
            await self._clock.sleep(max(rest, 0.1 * self._interval) * self._uniform(0.9, 1.1))

    async def round(self) -> None:
        """Ask each gateway once, then decide. Raises what the journal raises."""
        self.look()
        courses = self.courses.all()
        if courses:
            spread = max(0.7 * self._interval, len(courses) / RATE)
            starts = sorted(((self._uniform(0, spread), at) for at in range(len(courses))), reverse=True)
            began = self._clock.monotonic()

            async def ask_in_turn() -> None:
                while starts:
                    moment, at = starts.pop()
                    wait = began + moment - self._clock.monotonic()
                    if wait > 0:
                        await self._clock.sleep(wait)
                    await self._ask(courses[at])

            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(courses))):
                    group.create_task(ask_in_turn())
        self.look()  # what was withdrawn meanwhile is judged no more
        await self._conclude()

    def look(self) -> None:
        """Follow what the journal now says are the gateways; costs nothing while its routes stay."""
        mesh = self._fold.state.mesh
        if mesh.routes is self._routes:
            return
        self._routes = mesh.routes
        gateways: dict[Place, tuple[str, int]] = {}
        hosts: list[tuple[str, str]] = []
        for route in mesh.routes.values():
            if route.kind == "gateway":
                said = item("gateway", route.item)
                if isinstance(said, Gateway):  # what today's rules refuse is used by nobody
                    gateways[route.exporter, route.name] = (said.address, said.port)
            elif route.kind == "export":
                hosts.append((route.exporter, route.name))
        self._groups = groups_of(sorted(hosts))
        grouped = {exporter for group in self._groups for exporter in group}
        self._groups += [[exporter] for exporter in sorted({exporter for exporter, _ in gateways} - grouped)]
        for exporter, name in self.courses.reconcile(gateways, judged(mesh), self._clock.monotonic()):
            self._rtt.remove(exporter=exporter, gateway=name)
            self._up.remove(exporter=exporter, gateway=name)

    def status(self) -> list[dict[str, object]]:
        """Each gateway as it is seen from here."""
        self.look()
        return [self._shown(course) for course in sorted(self.courses.all(), key=lambda c: (c.exporter, c.name))]

    async def _ask(self, course: Course) -> None:
        try:
            took = await self._prober.connect(course.address, course.port, self._timeout)
        except TrustfedError as error:
            course.took(None, error.message)
            self._probes.add(outcome="failed")
        else:
            course.took(took)
            self._probes.add(outcome="answered")

    async def _conclude(self) -> None:
        verdicts, now = self.courses.conclude(self._groups, self._clock.monotonic()), self._clock.now()
        for (exporter, name), verdict in verdicts.items():
            self._rtt.set(verdict.rtt_us / 1e6, exporter=exporter, gateway=name)
            self._up.set(float(verdict.up), exporter=exporter, gateway=name)

        def decide(state: ClusterState) -> list[GatewayJudged]:
            known = [event for event in news(verdicts, judged(state.mesh), now) if _offered(state.mesh, event)]
            return known[:_AT_MOST_IN_ONE_COMMAND]  # the rest in the next round

        if not decide(self._fold.state):
            return
        recorded = await self._fold.execute(
            decide, command_id=uuid4().hex, actor="cluster", reason="probed from here", now=now
        )
        for record in recorded:
            body = record.event.body
            self._judged.add(outcome="up" if body["up"] else "down")
            log.info(
                "gateway judged",
                exporter=body["exporter"],
                gateway=body["name"],
                up=body["up"],
                weight=body["weight"],
                rtt_us=body["rtt_us"],
            )

    def _shown(self, course: Course) -> dict[str, object]:
        return {
            "exporter": course.exporter,
            "gateway": course.name,
            "address": course.address,
            "port": course.port,
            "up": course.health.up,
            "answers": course.ok,
            "weight": course.held.weight,
            "rtt_us": course.rtt_us,
            "failures": course.health.failures,
            "error": course.error,
            "last_way": not any(one is not course and one.health.up for one in self.courses.of(course.exporter)),
        }


def judged(mesh: Mesh) -> dict[Place, GatewayJudged]:
    """What the journal says of gateways."""
    return {(event.exporter, event.name): event for event in mesh.gateways.values()}


def _offered(mesh: Mesh, event: GatewayJudged) -> bool:
    return key(event.exporter, "gateway", event.name) in mesh.routes
