"""The JWT-SVID cache with the clock in the test's hand, and a cluster that counts."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from agent.jwt import JwtSvids, audience_of
from agent.store import Store
from tests.fakes.clocks import ManualClock
from tests.unit.agent.test_agent_store import an_entry
from trustfed.errors import Invalid, NotFound, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

LIFE = 300


class CountingCluster:
    """What stands at the other end of the link; `away` makes it unreachable."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.away, self.slots = clock, False, list[pb.JwtSlot]()
        self.calls = 0
        self.authority = "j1"
        self.subject = "spiffe://east.test/web"

    async def call(self, method: str, request: Any, answer: Any, seconds: float) -> pb.IssueJwtResponse:
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        response = pb.IssueJwtResponse()
        for slot in request.slots:
            self.slots.append(slot)
            claims = json.dumps({"sub": self.subject, "jti": f"t{len(self.slots)}"}).encode()
            now = self.clock.now()
            response.results.add(
                entry_id=slot.entry_id,
                token=f"h.{base64.urlsafe_b64encode(claims).decode()}.s",
                issued_at_ms=to_ms(now),
                expires_at_ms=to_ms(now + timedelta(seconds=LIFE)),
                authority_id=self.authority,
            )
        return response


@pytest.fixture
async def world() -> tuple[JwtSvids, CountingCluster, ManualClock, Store]:
    clock = ManualClock()
    store = Store(TrustDomain("east.test"), asyncio.get_running_loop().call_soon)
    store.put_entries([an_entry("e1"), an_entry("e2")])
    cluster = CountingCluster(clock)
    link: Any = cluster
    return JwtSvids(store, link, 3, clock, Registry()), cluster, clock, store


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_flight_for_all_who_ask_and_one_call_for_all_entries(world: Any) -> None:
    jwt, cluster, _, _ = world
    answers = await asyncio.gather(*(jwt.fetch(("e1", "e2"), ("a",)) for _ in range(50)))
    assert cluster.calls == 1 and len(cluster.slots) == 2
    assert all(answer == answers[0] for answer in answers)


async def test_renewed_on_the_side_from_half_life_and_never_given_after_its_end(world: Any) -> None:
    jwt, cluster, clock, _ = world
    (first,) = await jwt.fetch(("e1",), ("a",))
    clock.move(LIFE / 2 - 1)
    assert jwt.cached(("e1",), ("a",), clock.now()) == [first] and cluster.calls == 1
    clock.move(1)
    cluster.away = True
    for _ in range(5):
        assert jwt.cached(("e1",), ("a",), clock.now()) == [first]
        await turns()
    assert cluster.calls == 2  # a failed renewal rests before the next
    clock.move(10)
    cluster.away = False
    assert jwt.cached(("e1",), ("a",), clock.now()) == [first]
    await turns()
    (second,) = jwt.cached(("e1",), ("a",), clock.now())
    assert second != first and cluster.slots[-1].predecessor == "t1"
    clock.move(LIFE)
    assert jwt.cached(("e1",), ("a",), clock.now()) is None


async def test_failure_reaches_everybody_and_is_not_kept(world: Any) -> None:
    jwt, cluster, _, _ = world
    cluster.away = True
    for error in await asyncio.gather(*(jwt.fetch(("e1",), ("a",)) for _ in range(3)), return_exceptions=True):
        assert isinstance(error, Unavailable)
    cluster.away = False
    assert await jwt.fetch(("e1",), ("a",))


async def test_caller_that_gives_up_takes_nothing_from_the_others(world: Any) -> None:
    jwt, _, _, _ = world
    impatient, patient = (asyncio.create_task(jwt.fetch(("e1",), ("a",))) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient


async def test_cache_is_bounded_and_follows_entries_and_authorities(world: Any) -> None:
    jwt, cluster, clock, store = world
    for audience in "abcde":
        await jwt.fetch(("e1",), (audience,))
    assert len(jwt) == 3 and jwt.cached(("e1",), ("a",), clock.now()) is None
    jwt.drop(["other"])
    assert len(jwt) == 3
    jwt.drop(["j1"])
    assert len(jwt) == 0
    cluster.authority = "j2"
    await jwt.fetch(("e1",), ("a",))
    store.put_entries((), ["e1"])
    await turns()
    assert len(jwt) == 0
    with pytest.raises(NotFound):
        await jwt.fetch(("e1",), ("a",))


async def test_token_that_was_on_its_way_when_its_authority_was_tainted_is_not_given(world: Any) -> None:
    jwt, cluster, _, _ = world
    under_way = asyncio.ensure_future(jwt.fetch(("e1",), ("a",)))
    while not cluster.calls:
        await asyncio.sleep(0)
    jwt.drop(["j1"])
    with pytest.raises(Unavailable, match="not used any more"):
        await under_way
    assert len(jwt) == 0
    cluster.authority = "j2"
    (token,) = await jwt.fetch(("e1",), ("a",))
    assert token.authority == "j2"


async def test_token_of_another_id_is_not_given(world: Any) -> None:
    jwt, cluster, _, _ = world
    cluster.subject = "spiffe://east.test/other"
    with pytest.raises(Invalid):
        await jwt.fetch(("e1",), ("a",))


def test_audience_is_a_set() -> None:
    assert audience_of(["b", "a", "b"]) == ("a", "b")
