"""FRESH, STALE, CLOSED: at the right moment, out of every answer, back when confirmed, said once."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.answers import JWT_BUNDLES, X509_BUNDLES, X509_SVIDS
from agent.closing import Closing
from agent.freshness import LIMIT, State, judge
from agent.intake import Intake
from agent.store import HeldBundle, Store
from tests.fakes.clocks import START, ManualClock
from tests.fakes.cluster import Domain, FakeCluster
from tests.unit.agent.test_agent_store import an_entry, an_svid, held
from tests.unit.agent.world import ME, eventually, running, until
from trustfed.errors import Denied, NotFound
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import TrustDomain

EAST, WEST = Domain("east.test"), Domain("west.test")
spans = st.timedeltas(timedelta(0), timedelta(days=400))


@given(spans, spans, st.one_of(st.none(), st.integers(1, 10**6)))
def test_it_only_gets_worse_with_time_and_says_when(age: timedelta, limit: timedelta, hint: int | None) -> None:
    found = judge(START, hint, limit, START + age)
    order = list(State)
    assert found.closes_at == START + limit
    assert (found.state is State.CLOSED) == (age >= limit) == (found.next is None)
    if found.next is not None:
        assert found.next > START + age
        after = judge(START, hint, limit, found.next)
        assert order.index(after.state) > order.index(found.state)
        before = judge(START, hint, limit, found.next - timedelta(microseconds=1))
        assert before.state is found.state


def test_the_hint_counts_from_a_minute_up() -> None:
    for hint, fresh in ((None, 60), (5, 60), (300, 300)):
        assert judge(START, hint, LIMIT, START + timedelta(seconds=fresh - 1)).state is State.FRESH
        assert judge(START, hint, LIMIT, START + timedelta(seconds=fresh)).state is State.STALE


@pytest.fixture
async def store() -> Store:
    made = Store(TrustDomain("east.test"), lambda function: asyncio.get_running_loop().call_soon(function))
    made.put_bundle(held(EAST))
    made.put_entries([an_entry(federates_with_all=True)])
    made.put_svids({"e1": an_svid(10**9)})
    made.put_bundle(held(WEST))
    made.mark_synced()
    return made


def trusted(store: Store, clock: ManualClock) -> set[str]:
    answers = store.answers(("e1",), clock.now())
    bundles = pb.X509BundlesResponse.FromString(answers.get(X509_BUNDLES)).bundles
    jwt = pb.JWTBundlesResponse.FromString(answers.get(JWT_BUNDLES)).bundles
    federated = pb.X509SVIDResponse.FromString(answers.get(X509_SVIDS)).federated_bundles
    verified = {domain.id for domain in answers.bundles()}
    assert set(bundles) == set(jwt) == verified == set(federated) | {"spiffe://east.test"}
    return {name.removeprefix("spiffe://") for name in federated}


async def test_closed_vanishes_from_every_answer_at_its_moment_and_comes_back(store: Store) -> None:
    clock = ManualClock()
    west = TrustDomain("west.test")
    assert trusted(store, clock) == {"west.test"}
    clock.move(LIMIT.total_seconds() - 1)
    assert trusted(store, clock) == {"west.test"}
    clock.move(1)
    assert trusted(store, clock) == set() and store.closed == {west}
    with pytest.raises(NotFound):
        store.bundle(west)
    assert store.bundle(TrustDomain("east.test"))  # home has no such limit
    store.confirm(west, clock.now() - timedelta(hours=2), clock.now())
    assert trusted(store, clock) == {"west.test"} and not store.closed


async def test_a_new_bundle_is_not_confirmed_by_what_confirmed_the_old_one(store: Store) -> None:
    clock = ManualClock()
    store.confirm(TrustDomain("west.test"), START + timedelta(days=3), START)
    newer = Domain("west.test", WEST.authorities, publication=WEST.publication, sequence=2)
    store.put_bundle(HeldBundle(newer.envelope(), newer.publication_key, START))
    clock.move(LIMIT.total_seconds())
    assert trusted(store, clock) == set()


class Heard(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage().partition(":")[0])


async def test_what_changes_is_said_once_and_counted(store: Store) -> None:
    clock, registry, heard = ManualClock(), Registry(), Heard()
    logger = logging.getLogger("trustfed.agent.closing")
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    closing = Closing(store, clock, registry)
    watching = asyncio.create_task(closing.run())
    await clock.advance(30)
    assert closing.standing().fresh == 1
    await clock.advance(600, turns=3)
    assert (closing.standing().stale, closing.standing().oldest_seconds) == (1, 630)
    await clock.advance(0)
    store.fresh.limit(TrustDomain("west.test"), timedelta(seconds=700))
    await clock.advance(100)
    text = registry.exposition().decode()
    assert "trustfed_agent_bundles_closed 1" in text and "trustfed_agent_bundle_age_seconds 730" in text
    store.confirm(TrustDomain("west.test"), clock.now(), clock.now())
    await clock.advance(31)
    watching.cancel()
    logger.removeHandler(heard)
    logger.setLevel(logging.NOTSET)
    assert heard.said == ["bundle STALE", "bundle CLOSED", "bundle FRESH again"]


async def test_confirmations_and_limits_come_from_the_cluster(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/web", [ME], federates_with=["west.test"])
        west = Domain("west.test")
        cluster.stale_limits["west.test"] = timedelta(days=2)
        cluster.grant(west)
        async with running(cluster, tmp_path) as (agent, workload):
            await until(lambda: ("west.test", 1, 1) in cluster.acknowledged)
            (found,) = [b for b in (await agent.admin("/bundles"))[1]["bundles"] if not b["home"]]
            assert found["state"] == "fresh" and found["confirmed_at"] is None
            cluster.stale_limits["west.test"] = timedelta(seconds=1)
            cluster.grant(west)

            async def closed() -> bool:
                return (await agent.status())["bundles"]["closed"] == 1

            await eventually(closed)
            assert set((await workload.x509_bundles()).bundles) == {"spiffe://east.test"}
            cluster.stale_limits["west.test"] = timedelta(days=2)
            cluster.grant(west)
            now = datetime.now(UTC)
            cluster.confirm("west.test", now)

            async def confirmed() -> bool:
                (one,) = [b for b in (await agent.admin("/bundles"))[1]["bundles"] if not b["home"]]
                return one["state"] == "fresh" and one["confirmed_at"] is not None

            await eventually(confirmed)
            assert "spiffe://west.test" in (await workload.x509_bundles()).bundles


def intake_of(store: Store, clock: Any) -> Any:
    return Intake(store, None, 10, clock, Registry())  # type: ignore[arg-type]


async def test_a_store_refreshes_what_is_pinned_and_introduces_nobody(store: Store) -> None:
    clock = ManualClock()
    intake, west = intake_of(store, clock), TrustDomain("west.test")
    clock.move(1000)
    newer = Domain("west.test", WEST.authorities, publication=WEST.publication, sequence=2)
    assert intake.from_store(west, newer.envelope().data, START + timedelta(seconds=900))
    assert store.fresh.confirmed[west] == START + timedelta(seconds=900)
    assert not intake.from_store(west, newer.envelope().data, START + timedelta(days=3))
    assert store.fresh.confirmed[west] == clock.now()  # never later than now
    with pytest.raises(Denied, match="goes back"):
        intake.from_store(west, WEST.envelope().data, clock.now())
    for other in (Domain("north.test"), Domain("east.test", sequence=9)):
        with pytest.raises(Denied):
            intake.from_store(other.trust_domain, other.envelope().data, clock.now())
    with pytest.raises(Denied, match="pinned"):
        intake.from_store(west, Domain("west.test", sequence=7).envelope().data, clock.now())


async def test_what_a_time_that_was_ahead_had_closed_opens_when_it_comes_back(store: Store) -> None:
    clock = ManualClock()
    closing = Closing(store, clock, Registry())
    closing.look(START + LIMIT)
    assert store.closed == {WEST.trust_domain}
    closing.look(START + timedelta(days=1))
    assert not store.closed and store.bundle(WEST.trust_domain)
