"""The simulated clusters: facts that the evidence engine takes as it takes real ones, and faults that come out as meant."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from trustfed.cluster import enrolment
from trustfed.cluster.evidence.own_standing import OwnStanding
from trustfed.cluster.freshness import Freshness
from trustfed.cluster.identity import OwnIdentity
from trustfed.demo import story
from trustfed.demo.browser import figures, row, words
from trustfed.demo.fleet.cluster import SimulatedCluster, _takes_nothing, configuration
from trustfed.demo.fleet.scenes import Fault, Scene, scenes
from trustfed.demo.fleet.workloads import HISTORY_MS, MINUTE, Simulation
from trustfed.errors import Invalid
from trustfed.evidence import facts as kinds
from trustfed.evidence.changes import Changes
from trustfed.evidence.engine import Engine
from trustfed.evidence.model import COUNTS
from trustfed.evidence.rollovers import stuck
from trustfed.evidence.standing import Standing
from trustfed.evidence.standing_of import parts
from trustfed.evidence.store import EvidenceStore
from trustfed.journal.events import Fact
from trustfed.journal.memory import MemoryLedger
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

NOW = datetime(2026, 11, 20, 12, 3, tzinfo=UTC)
NOW_MS = to_ms(NOW)


class At:
    """A clock that stands."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


def scene_with(fault: Fault) -> Scene:
    return next(one for one in scenes(12) if one.fault is fault)


def told(scene: Scene, seed: str = "1") -> tuple[Simulation, list[Fact]]:
    """The whole history of a cluster."""
    simulation = Simulation(scene, seed, NOW_MS)
    simulation.signs("a" * 16, "b" * 16)
    simulation.begin()
    return simulation, list(simulation.until(NOW_MS))


def folded(name: str, facts: list[Fact], as_of_ms: int = NOW_MS) -> tuple[Engine, Changes]:
    engine = Engine(name)
    for position, fact in enumerate(facts, start=1):
        engine.take(position, fact)
    engine.advance(as_of_ms)
    return engine, engine.changes()


def counts(changes: Changes, class_: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for (of, _), numbers in changes.counters.items():
        if of == class_:
            found.update(dict(zip(COUNTS, numbers, strict=True)))
    return found


async def standing_of(scene: Scene, folder: Path) -> Standing:
    """How this cluster stands, as its own evidence store says."""
    ledger = MemoryLedger()
    _, facts = told(scene)
    for begin in range(0, len(facts), 1_000):
        await ledger.append(facts[begin : begin + 1_000])
    store = await EvidenceStore.open(folder, ledger, scene.name, At())
    try:
        return Standing(scene.name, NOW_MS, **await parts(store, NOW_MS))
    finally:
        await store.close()


def test_a_fleet_has_readable_distinct_names_and_every_fault_and_is_bounded() -> None:
    assert scenes(0) == []
    assert {one.fault for one in scenes(12)} == set(Fault)
    names = [one.name for one in scenes(500)]
    assert len(set(names)) == 500 and not {"prod-us-west", "prod-eu-central"} & set(names)
    assert all(TrustDomain.parse(name) for name in names)
    assert scenes(500)[200].services < scenes(12)[0].services  # more of them are smaller
    for count in (-1, 501):
        with pytest.raises(Invalid, match=f"a fleet of {count} clusters"):
            scenes(count)


def test_a_history_is_in_order_reproducible_and_taken_whole_by_the_engine() -> None:
    for scene in scenes(12):
        _, facts = told(scene)
        assert facts == told(scene)[1] and facts != told(scene, "2")[1]
        assert facts[0].at >= NOW_MS - HISTORY_MS and facts[-1].at <= NOW_MS
        assert all(before.at <= after.at for before, after in pairwise(facts))
        engine, changes = folded(scene.name, facts)
        assert engine.malformed == 0
        leaf = counts(changes, "leaf")
        assert leaf["due"] > 100 and leaf["on_time"] > 0.9 * (leaf["due"] - leaf["open"])
        for class_ in ("agent", "intermediate", "jwt_key", "bundle"):
            found = counts(changes, class_)
            assert found["on_time"] and found["late"] == found["expired"] == 0, (scene.name, class_, found)


def test_a_healthy_cluster_fails_next_to_nothing_and_goes_on_living() -> None:
    scene = scenes(12)[-1]
    simulation, facts = told(scene)
    later = NOW_MS + 30 * MINUTE
    more = list(simulation.until(later))
    assert {kinds.ISSUED, kinds.DELIVERED, kinds.LOADED} <= {fact.kind for fact in more}
    assert all(NOW_MS < fact.at <= later for fact in more)
    engine, changes = folded(scene.name, facts + more, later)
    leaf = counts(changes, "leaf")
    assert engine.malformed == 0 and leaf["unknown"] == leaf["expired"] == 0
    assert leaf["on_time"] >= 0.99 * (leaf["due"] - leaf["open"])


def test_another_process_goes_on_where_the_first_was_killed() -> None:
    scene = scenes(12)[0]
    _, facts = told(scene)
    again = Simulation(scene, "another", NOW_MS + MINUTE)
    again.signs("a" * 16, "b" * 16)
    for fact in facts:
        again.resume(fact)
    again.resumed()
    later = NOW_MS + 120 * MINUTE
    more = list(again.until(later))
    old = {fact.key for fact in facts if fact.kind == kinds.ISSUED}
    issued = [fact for fact in more if fact.kind == kinds.ISSUED]
    assert issued and issued[0].body["predecessor"] in old and not old & {fact.key for fact in issued}
    said = {(f.body["node"], f.body["epoch"]) for f in facts if f.body.get("sequence")}
    assert not said & {(f.body["node"], f.body["epoch"]) for f in more if f.body.get("sequence")}
    _, changes = folded(scene.name, facts + more, later)
    assert counts(changes, "leaf")["expired"] == counts(changes, "leaf")["unknown"] == 0


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.UNKNOWN, "unknown_serial"),
        (Fault.SILENT, "node_silent"),
        (Fault.CLOCK, "clock_offset"),
        (Fault.NONE, ""),
    ],
)
async def test_a_fault_is_alarmed_on_by_the_rules_of_real_clusters(tmp_path: Path, fault: Fault, code: str) -> None:
    standing = await standing_of(scene_with(fault), tmp_path)
    assert [one.code for one in standing.alarms] == ([code] if code else [])
    assert len(standing.clocks) == (fault is Fault.CLOCK)
    assert len(standing.silent) == (fault is Fault.SILENT)
    assert [one.kind for one in standing.unknown] == (["handshake"] if fault is Fault.UNKNOWN else [])
    assert {one.name for one in standing.probes if one.up} == {"bundle", "sign"}


async def test_two_silent_nodes_leave_too_little_coverage_for_a_headline(tmp_path: Path) -> None:
    standing = await standing_of(scene_with(Fault.DARK), tmp_path)
    assert 0 < standing.coverage < 0.95


def test_a_late_cluster_is_late_in_its_last_hours_alone() -> None:
    _, changes = folded("late", told(scene_with(Fault.LATE))[1])
    late = [one for one in changes.obligations if one.outcome == "late"]
    assert len(late) >= 2 and all(
        one.on_time_ms > NOW_MS - 5 * 3_600_000 for one in late if one.hard_ms - one.due_ms < 3_600_000
    )


async def test_what_is_simulated_has_the_members_of_what_the_ca_records(tmp_path: Path) -> None:
    """An x509.issued of this very cluster's own SVID, and one of its simulated workloads."""
    scene = scene_with(Fault.LINT)
    cluster = SimulatedCluster(scene, tmp_path / "c", "1")
    await cluster.open()
    parts_ = cluster._held
    try:
        domain = TrustDomain(scene.name)
        await enrolment.make_keys(parts_.fold, parts_.keys, parts_.authorities, domain, parts_.clock)
        await OwnIdentity(domain, parts_.issuance, timedelta(minutes=10), parts_.clock).renew()
        (real,) = [one.fact for one in await parts_.store.ledger.read(0, 10) if one.fact.kind == kinds.ISSUED]
    finally:
        await cluster.close()
    simulated = next(fact for fact in told(scene)[1] if fact.kind == kinds.ISSUED)
    shape: dict[str, Any] = {name: type(value) for name, value in real.body.items()}
    assert {name: type(value) for name, value in simulated.body.items()} == shape
    assert len(simulated.key) == len(real.key)


async def test_the_roll_over_of_a_stuck_cluster_is_stuck_from_the_start(tmp_path: Path) -> None:
    cluster = SimulatedCluster(scene_with(Fault.STUCK), tmp_path / "c", "1")
    await cluster.open()
    try:
        await cluster._grow_old()
        held = cluster._held
        policy, fresh = (
            held.authorities.lifecycle_policy(),
            Freshness(held.fold, timedelta(1), held.clock, held.registry),
        )
        own = OwnStanding(cluster._state, held.config, cluster._presence, cluster._consumers, policy, fresh, held.clock)
        (alarm,) = [one for one in stuck(own.authorities(), to_ms(held.clock.now())) if "x509" in one.says]
        assert alarm.since_ms < to_ms(held.clock.now()) and cluster._state().level.sequence == 2
    finally:
        await cluster.close()


async def test_simulated_clusters_take_no_orders_and_are_configured_as_real_ones(tmp_path: Path) -> None:
    for scene in scenes(12):
        held = configuration(scene, tmp_path / scene.name)
        assert held.evidence.orders == () and held.keys.workers == 0
        short = held.policy.node_ttl < timedelta(minutes=10)
        assert short == (scene.fault is Fault.LINT)
    done = await _takes_nothing(pb.Order(id="o1", kind="rotate"))
    assert (done.id, done.outcome) == ("o1", "denied") and done.error


def test_a_fleet_that_is_too_large_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="a fleet of 501 clusters"):
        story.run(tmp_path / "d", once=True, svid_ttl=timedelta(seconds=20), keys="file", fleet=501)
    assert not (tmp_path / "d").exists()


PAGE = """<dl class="figures"><div class="figure good">
  <dt>Clusters</dt>
  <dd><a href="/dashboard/?show=all">15</a></dd>
  <dd class="note">14 connected, 1 away</dd>
</div><div class="figure plain"><dt>Identities &amp; more</dt><dd>none</dd></div></dl>
<tr class="unknown"><th scope="row"><a href="x">prod-eu-west</a> <span>simulated</span></th><td>100 %</td><td>? away</td></tr>
<tr class=""><th scope="row">prod-eu-west-2</th><td>ok</td></tr>"""


def test_a_reader_finds_figures_and_rows_on_a_page() -> None:
    assert figures(PAGE) == {"Clusters": "15, 14 connected, 1 away", "Identities & more": "none"}
    assert row(PAGE, "prod-eu-west") == "prod-eu-west simulated 100 % ? away"
    assert row(PAGE, "prod-eu") == "" and row(PAGE, "prod-eu-west-2").endswith("ok")
    assert "14 connected" in words(PAGE) and "<" not in words(PAGE)
