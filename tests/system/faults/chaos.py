"""The scenario engine: a world, a schedule of strikes, and observers that look on from beginning to end.

    outcome = Chaos(world, seed, seconds).run()
    outcome.violations == []

Afterwards every fault is taken away, everything must find back by itself, every store is killed once more, and what was
acknowledged is counted.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.system.faults.asking import Unanswered
from tests.system.faults.forgery import forge_in_name_of
from tests.system.faults.invariants import Book, Forgeries, Levels
from tests.system.faults.observers import Asking, Auditor, Operator
from tests.system.faults.proxy import HOLD, PASS, Fault
from tests.system.faults.schedule import LONGEST, Able, Strike, schedule
from tests.system.faults.world import EAST, NODE, WEST, World, freeze, resume
from tests.system.stack import Agent, Process

HEAL_SECONDS = 60.0
GRACE_SECONDS = 2.0
ORPHAN_SECONDS = 5.0
"""Within this a restarted agent whose cluster is away must serve what it had, on a machine that is busy with all else."""
LINKS: dict[str, Fault] = {
    "cut": Fault(cut=True),
    "silent up": Fault(up=HOLD),
    "silent down": Fault(down=HOLD),
    "slow": Fault(up=0.15, down=0.15),
    "drip": Fault(drip=100),
}


@dataclass
class Outcome:
    """What came of it."""

    seed: int
    seconds: float
    violations: list[str]
    checks: dict[str, int]
    strikes: dict[str, int]
    answered: int
    orphaned: list[float] = field(default_factory=list)
    healed: float = 0.0
    orders: int = 0
    moved: int = 0
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        struck = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.strikes.items()))
        checked = ", ".join(f"{rule} {count:,}" for rule, count in sorted(self.checks.items()))
        lines = [
            f"seed {self.seed}: {self.seconds:.0f} s, {sum(self.strikes.values())} faults: {struck}",
            f"  {self.answered:,} answers to workloads, {self.orders} orders acknowledged, {self.moved} levels seen",
            f"  checks: {checked}",
            f"  everything found back {self.healed:.1f} s after the last fault",
        ]
        if self.orphaned:
            shown = ", ".join(f"{seconds:.2f}" for seconds in self.orphaned)
            lines.append(f"  agents restarted while their cluster was away served after {shown} s")
        return "\n".join([*lines, f"  {len(self.violations)} violations", *("  ! " + one for one in self.violations)])


def able(world: World) -> Able:
    """What there is to strike in this world."""
    stores = tuple(name for name in world.disks if name.startswith("cluster-"))
    caches = tuple(name for name in world.disks if name.startswith("cache-"))
    clocks = tuple(world.clocks)
    return Able(
        ("hub", WEST, EAST),
        tuple(world.processes),
        tuple(name for name in world.disks if name not in caches),
        caches,
        stores,
        clocks,
        (WEST, EAST),
    )


class Chaos:
    """One run in one world."""

    def __init__(self, world: World, seed: int, seconds: float, *, longest: float = LONGEST) -> None:
        """`longest` is how long some faults last, in seconds: longer than an SVID lives, and SVIDs end without a new one."""
        self._world, self._seed, self._seconds, self._longest = world, seed, seconds, longest
        self.book, self.forgeries = Book(), Forgeries()
        self.levels = Levels(self.book)
        self._excused: dict[str, float] = {}
        self._down: set[str] = set()
        self._full: set[str] = set()
        self._started_full: set[str] = set()
        self._unkept: dict[str, float] = {}
        self._struck: Counter[str] = Counter()
        self._orphaned: list[float] = []
        self.asking = {
            agent.process.name: Asking(agent, self.book, self.forgeries, self._excuse(agent.process.name))
            for agent in world.agents
        }
        self.operators = [Operator(cluster, world.grants[cluster.name], self.book) for cluster in world.clusters]
        self._auditor = Auditor(
            list(world.agents),
            list(world.clusters),
            world.stack.hub_admin.path,
            world.stack.folder / "public",
            self.levels,
        )

    def run(self) -> Outcome:
        """Strike, heal, count."""
        world = self._world
        for victim, thief in itertools.permutations(world.clusters):
            forge_in_name_of(victim, thief, world.stack.folder / f"{thief.name}.toml", self.forgeries)
        strikes = schedule(self._seed, self._seconds, able(world), longest=self._longest)
        with self._observed():
            self._strike(strikes)
            healed = self._heal()
            self._restart_stores()
            self._heal()
        self._count()
        return Outcome(
            self._seed,
            self._seconds,
            self.book.violations,
            dict(self.book.checks),
            dict(self._struck),
            sum(one.answered for one in self.asking.values()),
            self._orphaned,
            healed,
            sum(operator.orders for operator in self.operators),
            sum(self.levels.moved(f"cluster {cluster.name}: bundle of {cluster.name}") for cluster in world.clusters),
            self.book.notes,
        )

    # Observing.

    @contextlib.contextmanager
    def _observed(self) -> Iterator[None]:
        observers = [*self.asking.values(), *self.operators, self._auditor]
        tasks = [self._world.background.start(observer.run()) for observer in observers]
        try:
            yield
        finally:
            for task in tasks:
                self._world.background.end(task)

    def _excuse(self, name: str) -> Callable[[], bool]:
        return lambda: time.monotonic() < self._excused.get(name, 0.0)

    # Striking.

    def _strike(self, strikes: list[Strike]) -> None:
        began, number = time.monotonic(), itertools.count()
        due: list[tuple[float, int, Callable[[], None]]] = []
        for strike in strikes:
            heapq.heappush(due, (strike.at, next(number), lambda s=strike: self._begin(s)))  # type: ignore[misc]
            heapq.heappush(due, (strike.at + strike.lasts, next(number), lambda s=strike: self._end(s)))  # type: ignore[misc]
        while due:
            at, _, act = heapq.heappop(due)
            while (wait := began + at - time.monotonic()) > 0:
                self._look_for_the_dead()
                time.sleep(min(wait, 0.2))
            act()

    def _begin(self, strike: Strike) -> None:
        self._struck[strike.kind] += 1
        self.book.note(str(strike))
        world, name = self._world, strike.where
        match strike.kind:
            case "reset":
                self._on_link(name, None)
            case "kill":
                self._kill(world.processes[name])
            case "freeze":
                self._excused[name] = math.inf
                freeze(world.processes[name])
            case "full disk":
                self._full.add(name)
                self._unkept[name] = math.inf
                world.disks[name].fill()
            case "read-only cache":
                self._unkept[name] = math.inf
                if not world.disks[name].read_only(True):
                    self.book.note(f"{name} is being written to and did not become read-only")
            case "read-only store":
                self._kill(world.processes[name])
                world.disks[name].read_only(True)
                world.processes[name].start(wait=False)
            case "clock":
                self._excused[f"agent-{name}-{NODE}"] = math.inf
                world.clocks[name].write_text(f"{strike.amount:+.0f}s")
            case "orphan":
                self._orphan(name)
            case kind:
                self._on_link(name, LINKS[kind])

    def _end(self, strike: Strike) -> None:
        world, name = self._world, strike.where
        match strike.kind:
            case "reset":
                pass
            case "kill":
                self._start(world.processes[name])
            case "freeze":
                resume(world.processes[name])
                self._excused[name] = time.monotonic() + GRACE_SECONDS
            case "full disk":
                world.disks[name].empty()
                self._full.discard(name)
                self._unkept[name] = time.monotonic() + GRACE_SECONDS
            case "read-only cache":
                world.disks[name].read_only(False)
                self._unkept[name] = time.monotonic() + GRACE_SECONDS
            case "read-only store":
                world.processes[name].kill()
                world.disks[name].read_only(False)
                self._start(world.processes[name])
            case "clock":
                # What it refused meanwhile it has to get anew: the end of the story says whether it did.
                world.clocks[name].write_text("+0s")
                self._excused[f"agent-{name}-{NODE}"] = time.monotonic() + HEAL_SECONDS
            case _:
                self._on_link(name, PASS)

    def _on_link(self, name: str, fault: Fault | None) -> None:
        """Set a fault before every door of `name`; None resets its connections."""

        async def turn() -> None:
            for proxy in self._world.link(name):
                if fault is None:
                    proxy.reset()
                else:
                    proxy.fault = fault

        self._world.background.do(turn())

    def _kill(self, process: Process) -> None:
        self._down.add(process.name)
        self._excused[process.name] = math.inf
        process.kill()
        for agent in self._world.agents:
            domain, now = agent.cluster.name, time.monotonic()
            if agent.process is process and any(
                self._unkept.get(disk, 0.0) > now for disk in (process.name, f"cache-{domain}")
            ):
                # It could write nothing, said so in its log and metrics, and cannot know now what it held.
                self.levels.forget(f"agent of {domain}")

    def _start(self, process: Process) -> None:
        """A new process knows what is on its disk; what workloads had from the old one they ask for anew."""
        if process.name in self.asking:
            self.asking[process.name].forget()
        process.start(wait=False)
        if process.name in self._full:
            self._started_full.add(process.name)
        else:
            self._started_full.discard(process.name)
        self._down.discard(process.name)
        self._excused[process.name] = time.monotonic() + GRACE_SECONDS

    def _orphan(self, name: str) -> None:
        """The agent is killed and started again while its cluster is away: it serves what it had."""
        process = self._world.processes[f"agent-{name}-{NODE}"]
        asking = self.asking[process.name]
        held = asking.held_until
        self._on_link(name, Fault(cut=True))
        self._kill(process)
        before, began = asking.answered, time.monotonic()
        self._start(process)
        # An SVID that is about to end, or came just before the kill, proves nothing.
        if held < datetime.now(UTC) + timedelta(seconds=ORPHAN_SECONDS + 1):
            return
        while asking.answered == before and time.monotonic() < began + ORPHAN_SECONDS:
            time.sleep(0.01)
        took = time.monotonic() - began
        self.book.checked("withheld")
        if asking.answered == before:
            self.book.violated(
                "withheld", f"{process.name} served nothing {took:.1f} s after a start with its cluster away"
            )
        else:
            self._orphaned.append(took)

    def _look_for_the_dead(self) -> None:
        for name, process in self._world.processes.items():
            if name in self._down or process.running:
                continue
            if name in self._started_full and not name.startswith("agent-"):
                # Without room to record it issues nothing, itself nothing either: its supervisor tries again.
                self._start(process)
                continue
            self._down.add(name)
            self.book.violated("healing", f"{name} ended by itself: {process.tail(3)}")

    # Healing.

    def _heal(self) -> float:
        """Take every fault away; seconds until all is as it should be."""
        world, began = self._world, time.monotonic()
        for name in ("hub", WEST, EAST):
            self._on_link(name, PASS)
        for name, process in world.processes.items():
            if not process.running:
                self._start(process)
            self._down.discard(name)
        wrong = said = "nothing was looked at"
        while wrong and time.monotonic() < began + HEAL_SECONDS:
            time.sleep(0.1)
            try:
                wrong = self._wrong()
            except Exception as error:  # a process on its way up
                wrong = f"{type(error).__name__} {error}"
            if wrong != said:
                self.book.note(f"healing: {wrong or 'done'}")
                said = wrong
        self.book.checked("healing")
        if wrong:
            self.book.violated("healing", f"after {HEAL_SECONDS:.0f} s: {wrong}")
        for name in self._excused:
            self._excused[name] = 0.0
        return time.monotonic() - began

    def _wrong(self) -> str:
        """What is not as it should be; "" when all is."""
        world = self._world
        hub = world.stack.hub_admin
        if (connected := hub.get("/status")["clusters_connected"]) != len(world.clusters):
            return f"{connected} clusters are connected to the hub"
        levels: dict[str, Any] = {}
        for cluster in world.clusters:
            status = cluster.admin.get("/status")
            levels[cluster.name] = status["level"]
            if not status["hub"]["connected"]:
                return f"{cluster.name} is not connected to the hub"
            if (level := hub.get(f"/domains/{cluster.name}")["level"]) != levels[cluster.name]:
                return f"the hub holds {level} of {cluster.name}, which is at {levels[cluster.name]}"
        for agent in world.agents:
            if not (status := agent.admin.get("/status"))["sync"]["connected"] or not status["ready"]:
                return f"the agent of {agent.cluster.name}: {status['sync']['error']} ready: {status['ready']}"
            for bundle in agent.admin.get("/bundles")["bundles"]:
                level, name = {"epoch": bundle["epoch"], "sequence": bundle["sequence"]}, bundle["trust_domain"]
                if level != levels[name]:
                    return f"the agent of {agent.cluster.name} holds {level} of {name}, which is at {levels[name]}"
            if not self._serves(agent):
                return f"the agent of {agent.cluster.name} serves no fresh SVID"
        return ""

    def _serves(self, agent: Agent) -> bool:
        return self.asking[agent.process.name].held_until > datetime.now(UTC) + timedelta(seconds=1)

    def _restart_stores(self) -> None:
        """kill -9 of everything that stores, at once."""
        processes = [process for process in self._world.processes.values() if not process.name.startswith("agent-")]
        for process in processes:
            self._kill(process)
        for process in processes:
            self._start(process)

    def _count(self) -> None:
        """What was acknowledged or served is on record."""
        for operator, cluster in zip(self.operators, self._world.clusters, strict=True):
            try:
                self._world.background.do(operator.compare())
                issued = self._world.background.do(operator.issued())
            except Unanswered as error:
                self.book.violated("healing", f"{cluster.name} does not answer at the end: {error}")
                continue
            asking = self.asking[f"agent-{cluster.name}-{NODE}"]
            served = asking.serials | asking.tokens
            self.book.checked("lost", len(served))
            if unknown := served - issued:
                self.book.violated(
                    "lost", f"{len(unknown)} SVIDs that {cluster.name} signed are on no record: {unknown}"
                )
