"""A fleet to look at: clusters that do well, and one of each fault that a dashboard has to show. Deterministic.

scene = Scene.make(now_ms)                  # a dozen clusters with faults
scene = Scene.make(now_ms, healthy=500)     # a large fleet around the same faults
scene = Scene.make(now_ms, hostile=True)    # names that a page must survive
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from msgspec.structs import replace

from tests.fakes.fleet_standings import (
    AWAY,
    DAY,
    HOSTILE,
    HOUR,
    LATE,
    MINUTE,
    STUCK,
    UNKNOWN,
    lint,
    log,
    old_algorithms,
    runway,
    serial,
    standing,
    stuck_alarms,
    stuck_authorities,
    tainted_authorities,
)
from tests.unit.hub.hub_parts import HubParts
from trustfed.evidence.model import BUCKET_MS, COUNTS
from trustfed.evidence.standing import (
    Alarm,
    Algorithm,
    Authority,
    Clock,
    Ending,
    Finding,
    Held,
    Log,
    Probe,
    Silent,
    Stage,
    Standing,
    Unknown,
)
from trustfed.hub import events as e
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.views import Failure

NEVER, FORK, TAINTED, EMPTY = "new-lab.example", "audit-ca.example", "legacy-de.example", "quiet-za.example"
DARK, AHEAD = "dim-jp.example", "early-nz.example"
_TEAMS = ("payments", "platform", "risk", "retail", "data", "identity")
_PLACES = ("eu", "us", "ap", "br", "ca", "de", "in", "jp", "uk", "za")

Counter = tuple[str, str, int, list[int]]  # domain, class, bucket_ms, counts


@dataclass
class Scene:
    """What clusters have said, and who is connected."""

    now_ms: int
    domains: dict[str, str] = field(default_factory=dict)  # every registered one, and its owner
    standings: list[Standing] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)
    failed: list[tuple[str, Failure]] = field(default_factory=list)
    connected: set[str] = field(default_factory=set)
    heard_ms: dict[str, int] = field(default_factory=dict)

    @classmethod
    def make(cls, now_ms: int, *, healthy: int = 6, hostile: bool = False) -> Scene:
        """The faults, and so many clusters that do well."""
        made = cls(now_ms)
        made._faults()
        draw = random.Random(6)
        for index in range(healthy):
            team, place = _TEAMS[index % len(_TEAMS)], _PLACES[index // len(_TEAMS) % len(_PLACES)]
            number = index // (len(_TEAMS) * len(_PLACES))
            made.well(f"{team}-{place}{number or ''}.example", team, draw)
        if hostile:
            made._hostile(draw)
        return made

    def well(self, name: str, owner: str, draw: random.Random) -> Standing:
        """A cluster with nothing to complain of."""
        said = standing(name, owner, self.now_ms, identities=draw.randrange(120, 320))
        self.add(said)
        for class_, rate in (("leaf", 12), ("agent", 2)):
            for hour in range(0, 72, 3):
                self.count(name, class_, hour, on_time=rate * 3 + draw.randrange(4))
        for class_, many in (("intermediate", 1), ("jwt_key", 3), ("bundle", 4)):
            self.count(name, class_, 20, on_time=many)
        return said

    def add(self, said: Standing, *, connected: bool = True) -> None:
        """A cluster that said this, now or when it was last here."""
        self.domains[said.trust_domain] = said.owner
        self.standings.append(said)
        self.heard_ms[said.trust_domain] = said.as_of_ms
        if connected:
            self.connected.add(said.trust_domain)

    def count(self, name: str, class_: str, hours_ago: float, *, tries: int = 0, **ended: int) -> None:
        """So many obligations whose on-time limit was then ended this way."""
        due = sum(ended.values())
        good = ended.get("on_time", 0)
        levels = {"issued": due, "delivered": good, "loaded": good, "confirmed": good // 2}
        held = {**ended, **levels, "due": due, "tries": tries or due, "refused": max(tries - due, 0)}
        bucket = int(self.now_ms - hours_ago * HOUR) // BUCKET_MS * BUCKET_MS
        self.counters.append((name, class_, bucket, [held.get(key, 0) for key in COUNTS]))

    def fill(self, fleet: Fleet) -> None:
        """Let a fleet know all of it."""
        for name, owner in self.domains.items():
            fleet.know(name, owner=owner)
        fleet.published(LATE, 1, 18)
        fleet.published(AWAY, 2, 7)
        for said in self.standings:
            fleet.tell_standing(said.trust_domain, said)
        told: dict[str, list[tuple[str, int, list[int]]]] = {}
        for name, class_, bucket, counts in self.counters:
            told.setdefault(name, []).append((class_, bucket, counts))
        for name, rows in told.items():
            fleet.tell_counters(name, rows)
        for name, one in self.failed:
            fleet.tell_failed(name, [one])
        for name in self.connected:
            fleet.stream(name, True, self.heard_ms[name])

    async def enrol(self, hub: HubParts) -> None:
        """Let a hub have enrolled these domains, with grants among them."""
        made = self.journal()
        for start in range(0, len(made), 900):
            part = made[start : start + 900]
            await hub.fold.execute(
                lambda _, part=part: part, command_id=f"scene-{start}", actor="uid:0", now=hub.clock.now()
            )

    def journal(self) -> list[e.HubEvent]:
        """The same domains as a hub's journal has them, and grants among them."""
        made: list[e.HubEvent] = []
        for name, owner in self.domains.items():
            made.append(e.DomainInvited(name, owner, [], f"hash of {name}", self.now_ms + DAY))
            made.append(e.DomainEnrolled(name, f"hash of {name}", bytes(91), "5eed0001", "00", self.now_ms - DAY))
        names = [name for name in self.domains if name != NEVER]
        for index, importer in enumerate(names):
            for step in (1, 3, 8)[: 1 + index % 3]:
                exporter = names[(index + step) % len(names)]
                made.append(
                    e.GrantOffered(
                        f"g{index}-{step}",
                        importer,
                        exporter,
                        0,
                        self.now_ms + (index + 1) * DAY,
                        "they call each other",
                    )
                )
                if (index + step) % 5:
                    made.append(e.GrantAccepted(f"g{index}-{step}", importer, "00"))
                if index % 4 == 0 and step == 1:
                    made.append(e.GrantOffered(f"b{index}", exporter, importer, 0, self.now_ms + 9 * DAY, "both ways"))
                    made.append(e.GrantAccepted(f"b{index}", exporter, "00"))
        return made

    def _faults(self) -> None:
        now = self.now_ms
        for name, owner in ((AWAY, "retail"), (LATE, "payments"), (STUCK, "payments"), (UNKNOWN, "platform")):
            self.domains[name] = owner
        self._away()
        self._late()
        self.add(
            replace(standing(STUCK, "payments", now), authorities=stuck_authorities(now), alarms=stuck_alarms(now))
        )
        self.count(STUCK, "leaf", 5, on_time=420)
        self.count(STUCK, "intermediate", 30, late=1, on_time=1)
        self.count(STUCK, "agent", 5, on_time=36)
        self._unknown()
        self.add(
            replace(
                standing(FORK, "identity", now),
                logs=(replace(log(FORK, now), problem="fork"),),
                alarms=(
                    Alarm(
                        "log.inconsistent",
                        "page",
                        f"trustfed/{FORK}/journal",
                        "two checkpoints of size 18,204 differ",
                        now - 9 * MINUTE,
                        "trustfed audit verify",
                    ),
                ),
            )
        )
        self.count(FORK, "leaf", 4, on_time=388)
        self.add(
            replace(
                standing(TAINTED, "platform", now),
                authorities=tainted_authorities(now),
                lint=lint(),
                algorithms=old_algorithms(),
                alarms=(
                    Alarm(
                        "authority_tainted",
                        "page",
                        "dead0001",
                        "a tainted authority is still in use by 2 nodes",
                        now - 50 * MINUTE,
                    ),
                ),
            )
        )
        self.count(TAINTED, "leaf", 8, on_time=210, superseded=30, unused=4)
        self.count(TAINTED, "agent", 8, on_time=18)
        self.add(Standing(EMPTY, now - 20_000, software="trustfed 0.1.0", owner="data"))
        self.add(replace(standing(DARK, "data", now), coverage=0.871))  # too little is known of it for a figure
        self.count(DARK, "leaf", 7, on_time=240, unused=60)
        ahead = standing(AHEAD, "data", now)
        claims = replace(ahead.held[0], sequence=21, newest_sequence=21)  # of what was published up to 18
        self.add(replace(ahead, held=(claims, *ahead.held[1:])))
        self.count(AHEAD, "leaf", 7, on_time=160)
        self.domains[NEVER] = "identity"

    def _away(self) -> None:
        then = self.now_ms - 3 * HOUR - 12 * MINUTE
        said = standing(AWAY, "retail", then, identities=240)
        self.add(replace(said, silent=(Silent("node-7", then - 4 * MINUTE, 31),), silent_count=1), connected=False)
        self.count(AWAY, "leaf", 30, on_time=300)
        self.count(AWAY, "leaf", 2, unknown=74, on_time=2)
        self.count(AWAY, "agent", 2, unknown=6)
        self._fail(AWAY, 12, "unknown", "nothing was heard of the cluster over the hard limit")

    def _late(self) -> None:
        now = self.now_ms
        endings = tuple(
            Ending(
                f"spiffe://{LATE}/ns/{team}/sa/{work}",
                f"node-{n}/{work}-{n}",
                serial(n),
                now + (n + 1) * 6 * MINUTE,
                0.24 - n * 0.02,
                level,
            )
            for n, (team, work, level) in enumerate(
                [
                    ("billing", "invoice", "issued"),
                    ("billing", "reconcile", "requested"),
                    ("ledger", "writer", "due"),
                    ("ledger", "reader", "delivered"),
                ]
            )
        )
        funnel = (
            Stage("due", 620, {"excused": 4}),
            Stage("issued", 606, {"node silent": 3, "refused: quota": 9}),
            Stage("delivered", 595, {"never fetched": 11}),
            Stage("loaded", 470, {"proxy kept the old one": 24, "no ACK yet": 6}),
            Stage("confirmed", 350, {}),
        )
        alarms = (
            Alarm(
                "burn_fast",
                "page",
                "leaf",
                "3.1 % of leaf rotations failed in the last hour",
                now - 14 * MINUTE,
                "trustfed evidence report",
            ),
            Alarm(
                "life.short",
                "page",
                endings[0].spiffe_id,
                "6 minutes of life left and no successor in use",
                now - 6 * MINUTE,
                "look at the node's proxy",
            ),
            Alarm(
                "clock.offset",
                "ticket",
                "node-3",
                "its clock is 42 s ahead",
                now - 2 * HOUR,
                "look at its time service",
            ),
        )
        said = standing(LATE, "payments", now, identities=410)
        self.add(
            replace(
                said,
                endings=endings,
                endings_count=23,
                funnel=funnel,
                alarms=alarms,
                overdue=17,
                open_obligations=64,
                runway=runway(now, 410, 3),
                clocks=(Clock("node-3", 42_000, now - 9_000),),
                coverage=0.981,
            )
        )
        for hour in range(6, 72, 3):
            self.count(LATE, "leaf", hour, on_time=40 + hour % 5, late=hour % 7 == 0)
        self.count(LATE, "leaf", 3, on_time=560, late=14, expired=3, tries=640)
        self.count(LATE, "leaf", 0.5, on_time=95, late=3, open=64)
        self.count(LATE, "agent", 3, on_time=44)
        self._fail(LATE, 9, "late", "loaded 4 min after the on-time limit")
        self._fail(LATE, 3, "expired", "the proxy refused the new secret")

    def _unknown(self) -> None:
        now = self.now_ms
        seen = (
            Unknown(
                serial(77),
                f"spiffe://{UNKNOWN}/ns/edge/sa/gateway",
                "10.4.1.9:8443",
                "handshake",
                now - 4 * HOUR,
                now - 40_000,
            ),
            Unknown(serial(78), f"spiffe://{UNKNOWN}/ns/edge/sa/cache", "node-2", "held", now - 2 * DAY, now - 60_000),
            Unknown(
                serial(79), f"spiffe://{UNKNOWN}/ns/edge/sa/cache", "-", "never_delivered", now - 3 * DAY, now - 3 * DAY
            ),
        )
        alarm = Alarm(
            "unknown_serial",
            "page",
            serial(77),
            "a handshake showed a serial that was never issued here",
            now - 4 * HOUR,
            "trustfed authority taint",
        )
        said = replace(
            standing(UNKNOWN, "platform", now), unknown=seen, unknown_count=3, alarms=(alarm,), coverage=0.91
        )
        lagging = replace(
            said.held[0], trust_domain=LATE, consumer="node-4", sequence=16, age_ms=4 * HOUR, hint_ms=300_000
        )
        self.add(replace(said, held=(*said.held, lagging)))
        self.count(UNKNOWN, "leaf", 6, on_time=300, unknown=1)

    def _fail(self, name: str, many: int, outcome: str, why: str) -> None:
        for index in range(many):
            at = self.now_ms - (index + 1) * 17 * MINUTE
            self.failed.append(
                (
                    name,
                    Failure(
                        serial(f"{name} {outcome} {index}"),
                        "leaf",
                        f"spiffe://{name}/ns/shop/sa/work-{index}",
                        f"node-{index % 4}/pod-{index}",
                        "x509",
                        serial(index + 300),
                        outcome,
                        why,
                        at - 20 * MINUTE,
                        at,
                        at,
                    ),
                )
            )

    def _hostile(self, draw: random.Random) -> None:
        now = self.now_ms
        name = "hostile.example"
        bad = list(HOSTILE)
        said = standing(name, bad[0], now)
        self.add(
            replace(
                said,
                software=bad[1][:64],
                authorities=tuple(
                    Authority(
                        text,
                        "x509",
                        "prepared",
                        bad[1],
                        bad[3],
                        now - DAY,
                        now + DAY,
                        now - HOUR,
                        now - HOUR,
                        tuple(bad),
                        len(bad),
                    )
                    for text in bad
                ),
                endings=tuple(Ending(text, bad[4], text, now + HOUR, 0.1, bad[1]) for text in bad),
                endings_count=len(bad),
                funnel=tuple(
                    Stage(level, 10 - at, dict.fromkeys(bad, 1)) for at, level in enumerate(("due", "issued", "loaded"))
                ),
                held=tuple(Held(text, bad[4], 1, 1, 1, 3, 9 * HOUR, 300_000) for text in bad),
                unknown=tuple(Unknown(text, text, bad[4], "handshake", now - HOUR, now) for text in bad),
                unknown_count=len(bad),
                algorithms=tuple(Algorithm(text, bad[4], 80, False, 3, bad[3]) for text in bad),
                lint=tuple(Finding(text, bad[4], text, bad[1]) for text in bad),
                probes=tuple(Probe(text, False, now - HOUR, 0.5, HOUR) for text in bad),
                clocks=tuple(Clock(text, -4_000, now) for text in bad),
                silent=tuple(Silent(text, now - HOUR, 3) for text in bad),
                silent_count=len(bad),
                logs=tuple(Log(text, 10, 9, 9, now, bad[4], 8, now, bad[0]) for text in bad),
                alarms=tuple(Alarm(text[:64], "page", bad[4], text, now - HOUR, text) for text in bad),
            )
        )
        self.count(name, "leaf", 3, on_time=5, late=1)
        for index, text in enumerate(bad):
            self.failed.append(
                (
                    name,
                    Failure(
                        f"h{index:031x}",
                        "leaf",
                        text,
                        text,
                        "x509",
                        text[:32],
                        "late",
                        text,
                        now - HOUR,
                        now - HOUR,
                        now - HOUR,
                    ),
                )
            )
