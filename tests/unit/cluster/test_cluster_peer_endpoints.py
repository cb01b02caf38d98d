"""Weeks without a hub close no federation: what it would have brought comes from the peers' own bundle endpoints."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from tests.unit.cluster.cluster_parts import MINUTE, ClusterParts
from tests.unit.cluster.test_cluster_freshness import World, confirmed
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import events as e
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.apart import _with_own
from trustfed.cluster.freshness import Standing
from trustfed.cluster.peer_endpoints import AT_ONCE, PeerEndpoints, guarded
from trustfed.errors import Denied, TrustfedError, Unavailable
from trustfed.runtime.guarded_fetch import Fetched
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach

URL, SECOND_URL = "https://td-b.example:8443", "https://second.td-b.example:8443"
DAY = timedelta(days=1)


class Endpoint:
    """td-b's bundle endpoint, in the hands of a test."""

    def __init__(self, peer: Newcomer) -> None:
        self.peer = peer
        self.envelope, self.confirmation = b"", b""
        self.asked: list[str] = []
        self.down: set[str] = set()
        self.hold: threading.Event | None = None

    def fetch(self, url: str, etag: str) -> Fetched:
        self.asked.append(url)
        if self.hold is not None:
            self.hold.wait(5)
        if any(url.startswith(gone) for gone in self.down):
            raise Unavailable(f"{url} cannot be reached")
        body = self.confirmation if url.endswith("/confirmation") else self.envelope
        if not body:
            raise Unavailable(f"{url} answered with status 404")
        tag = f'"{hash(body)}"'
        return Fetched(None if etag == tag else body, tag, "192.0.2.1")


class Apart:
    """A world whose hub comes and goes."""

    def __init__(self, world: World) -> None:
        self.world, self.connected = world, False
        self.endpoint = Endpoint(world.peer)
        self.polls = self.made(self.endpoint.fetch)

    def made(self, fetch: object) -> PeerEndpoints:
        parts = self.world.parts
        return PeerEndpoints(
            parts.fold,
            self.world.freshness,
            lambda: self.connected,
            fetch,  # type: ignore[arg-type]
            parts.clock,
            Registry(),
            uniform=lambda low, high: high,
        )

    async def publishes(self) -> None:
        """td-b cuts a new envelope, and confirms it."""
        self.endpoint.envelope = await self.world.peer.envelope(hint=300)
        await self.confirms()

    async def confirms(self) -> None:
        self.endpoint.confirmation = await self.world.confirmed()

    async def passes(self, period: timedelta, step: timedelta = MINUTE) -> None:
        for _ in range(period // step):
            self.world.passes(step)
            self.polls.look()
            await self.polls.idle()

    @property
    def sequence(self) -> int:
        return self.world.parts.state.peers["td-b"].sequence


@pytest_asyncio.fixture
async def apart(parts: ClusterParts) -> AsyncIterator[Apart]:
    world = World(parts, await Newcomer.make("td-b"))
    await world.granted()
    first = await world.peer.envelope(hint=300)
    await world.brings(first, endpoints=(URL, SECOND_URL))
    made = Apart(world)
    made.endpoint.envelope = first
    yield made


async def test_weeks_without_a_hub_close_no_federation(apart: Apart) -> None:
    for day in range(42):
        if day % 3 == 0:
            await apart.publishes()
        await apart.confirms()
        await apart.passes(3 * MINUTE)
        assert apart.world.standing() is Standing.FRESH
        assert apart.sequence == apart.world.peer.sequence
        apart.world.passes(DAY - 3 * MINUTE)
    assert apart.world.parts.state.endpoints.get("td-b") == (URL, SECOND_URL)


async def test_the_envelope_is_read_only_when_there_is_a_newer_one(apart: Apart) -> None:
    await apart.confirms()
    await apart.passes(5 * MINUTE)
    assert apart.endpoint.asked and not [url for url in apart.endpoint.asked if url.endswith("/envelope")]


async def test_nobody_is_asked_while_the_hub_speaks_of_him(apart: Apart) -> None:
    apart.connected = True
    await apart.confirms()
    await apart.world.says(apart.endpoint.confirmation)
    apart.polls.look()
    await apart.polls.idle()
    assert apart.endpoint.asked == []
    apart.world.passes(5 * MINUTE)  # the hub is silent beyond the hint
    await apart.passes(2 * MINUTE)
    assert apart.endpoint.asked


async def test_what_a_connected_hub_withholds_is_read_from_the_peer(apart: Apart) -> None:
    apart.connected = True
    await apart.world.says(await apart.world.confirmed())
    await apart.publishes()
    await apart.world.says(apart.endpoint.confirmation)
    assert apart.world.freshness.withheld("td-b")
    await apart.passes(2 * MINUTE)
    assert apart.sequence == apart.world.peer.sequence
    assert not apart.world.freshness.withheld("td-b")


async def test_another_endpoint_is_asked_when_one_is_down(apart: Apart) -> None:
    await apart.publishes()
    apart.endpoint.down = {URL}
    await apart.passes(4 * MINUTE)
    assert apart.sequence == apart.world.peer.sequence
    assert apart.polls.status() == {"td-b": ""}
    apart.endpoint.down = {URL, SECOND_URL}
    await apart.passes(5 * MINUTE)
    assert "cannot be reached" in apart.polls.status()["td-b"]
    asked = len(apart.endpoint.asked)
    await apart.passes(60 * MINUTE)
    assert len(apart.endpoint.asked) - asked < 40  # it is asked ever less often


async def test_whoever_answers_there_the_pinned_key_decides(apart: Apart) -> None:
    stranger = await Newcomer.make("td-b")
    stranger.sequence = 5
    apart.endpoint.envelope = await stranger.envelope()
    apart.endpoint.confirmation = await confirmed(stranger, apart.world.parts.now, stranger.sequence)
    await apart.passes(10 * MINUTE)
    assert apart.sequence == apart.world.peer.sequence == 1
    assert "pinned" in apart.polls.status()["td-b"]
    assert apart.world.standing() is Standing.STALE


async def test_an_older_peer_that_confirms_nothing_is_read_all_the_same(apart: Apart) -> None:
    apart.endpoint.envelope = await apart.world.peer.envelope()
    await apart.passes(3 * MINUTE)
    assert apart.sequence == apart.world.peer.sequence
    asked = apart.endpoint.asked.count(f"{URL}/envelope")
    await apart.passes(5 * MINUTE)
    assert apart.endpoint.asked.count(f"{URL}/envelope") > asked  # with If-None-Match


async def test_after_a_new_pin_without_the_hub_the_peer_itself_is_asked(apart: Apart) -> None:
    new = await Newcomer.make("td-b")
    apart.world.peer = new
    await apart.world.parts.record(e.GrantRepinned("g", new.key.spki))
    await apart.publishes()
    await apart.passes(2 * MINUTE)
    assert apart.world.parts.state.peers["td-b"].key == new.key.spki
    assert apart.world.standing() is Standing.FRESH


async def test_a_grant_that_ended_ends_the_asking(apart: Apart) -> None:
    await apart.passes(MINUTE)
    await apart.world.parts.record(e.GrantEnded("g", "uid:1", "", apart.world.parts.now))
    apart.endpoint.asked.clear()
    await apart.passes(5 * MINUTE)
    assert apart.endpoint.asked == [] and apart.polls.status() == {}


async def test_so_many_at_once_and_no_more(parts: ClusterParts) -> None:
    world = World(parts, await Newcomer.make("td-b"))
    made = Apart(world)
    for number in range(20):
        peer, name = await Newcomer.make(f"td-{number}"), f"td-{number}"
        await parts.record(
            e.GrantOffered(f"g{number}", "td-a", name, parts.now, parts.now + DAY, "", peer.key.spki, 1),
            e.GrantAccepted(f"g{number}", peer.key.spki, parts.now),
            e.PeerEndpoints(name, (URL,)),
        )
    made.endpoint.hold = threading.Event()
    made.polls.look()
    world.passes(MINUTE)
    made.polls.look()
    made.polls.look()
    await asyncio.sleep(0.05)
    assert len(made.endpoint.asked) == AT_ONCE
    made.endpoint.hold.set()
    await made.polls.idle()


async def test_a_fault_of_ours_in_one_answer_harms_no_other(apart: Apart) -> None:
    def broken(url: str, etag: str) -> Fetched:
        raise ZeroDivisionError

    apart.polls = apart.made(broken)
    await apart.passes(4 * MINUTE)
    assert "broke" in apart.polls.status()["td-b"]


async def test_endpoints_that_the_hub_makes_up(apart: Apart) -> None:
    envelope = await apart.world.peer.envelope()
    for bad in (("http://td-b.example",), ("https://a b",), ("https://x",) * 9, (f"https://{'x' * 400}",)):
        await apart.world.brings(envelope, endpoints=bad)
        assert "bundle endpoints of td-b" in apart.world.news.refused
    assert apart.sequence == apart.world.peer.sequence  # the envelope beside it is taken
    assert apart.world.parts.state.endpoints.get("td-b") == (URL, SECOND_URL)


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1", "[::1]", "0.0.0.0", "[fe80::1]"])
def test_no_address_of_this_machine_or_a_metadata_service_is_asked(host: str) -> None:
    fetch = guarded(_with_own(Reach(), Addresses((), ("cluster.example:8443",))))
    with pytest.raises(TrustfedError) as refused:
        fetch(f"https://{host}:8443/envelope", "")
    assert isinstance(refused.value, Denied)


def test_loopback_is_reached_by_a_cluster_that_is_itself_there() -> None:
    reach = _with_own(Reach(), Addresses((), ("127.0.0.1:8443",)))
    assert reach.check("127.0.0.1")
    with pytest.raises(Denied):
        reach.check("169.254.169.254")
