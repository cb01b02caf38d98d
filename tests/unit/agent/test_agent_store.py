"""The store, its prepared answers and its streams, with the clock in the test's hand."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from agent.answers import X509_BUNDLES, X509_SVIDS
from agent.identification import Identification
from agent.matching import Entry
from agent.store import HeldBundle, Store, Svid
from agent.streams import Streams
from tests.fakes.clocks import START, ManualClock
from tests.fakes.cluster import Domain
from trustfed.errors import Denied, TrustfedError, Unavailable
from trustfed.proto import workload_pb2 as pb
from trustfed.spiffe.ids import SpiffeId, TrustDomain

EAST = Domain("east.test")


class Caller:
    """A connected process as far as streams look at it."""

    def __init__(self) -> None:
        self.generation, self.entries, self.living = -1, (), True

    def alive(self) -> bool:
        return self.living


class Said:
    """An attestor that has been told."""

    prefix = "unix"

    def ready(self, caller: Any, kinds: frozenset[str]) -> frozenset[str]:
        return frozenset({"unix:uid:1"})

    async def look_up(self, caller: Any, kinds: frozenset[str]) -> None:
        raise AssertionError("nothing is to be looked up")


class Feed:
    """The sending end of a stream."""

    def __init__(self) -> None:
        self.sent: list[pb.X509SVIDResponse] = []
        self.error: BaseException | None = None

    def send(self, message: bytes) -> None:
        self.sent.append(pb.X509SVIDResponse.FromString(message))

    def end(self, error: BaseException | None = None) -> None:
        self.error = error


def an_entry(id_: str = "e1", path: str = "/web", **more: Any) -> Entry:
    return Entry(id_, SpiffeId.parse(f"spiffe://east.test{path}"), frozenset({"unix:uid:1"}), **more)


def an_svid(seconds: float, serial: str = "1") -> Svid:
    return Svid((b"leaf" + serial.encode(),), b"key", serial, "a1", START, START + timedelta(seconds=seconds))


def held(domain: Domain) -> HeldBundle:
    return HeldBundle(domain.envelope(), domain.publication_key, START)


@pytest.fixture
def store() -> Store:
    made = Store(TrustDomain("east.test"), lambda function: asyncio.get_running_loop().call_soon(function))
    return made


@pytest.fixture
async def world(store: Store) -> tuple[Store, Streams, ManualClock]:
    clock = ManualClock()
    store.put_bundle(held(EAST))
    store.put_entries([an_entry()])
    store.put_svids({"e1": an_svid(60)})
    store.mark_synced()
    return store, Streams(store, Identification(store, [Said()]), clock), clock


async def test_expired_svid_is_never_given_not_even_before_anybody_noticed(world: Any) -> None:
    store, streams, clock = world
    clock.move(59.9)
    first = Feed()
    streams.open(Caller(), X509_SVIDS, first)
    assert len(first.sent) == 1
    clock.move(0.1)
    store.expire(clock.now())
    late = Feed()
    streams.open(Caller(), X509_SVIDS, late)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not late.sent and isinstance(first.error, Unavailable)


async def test_answer_ends_with_its_first_svid(world: Any) -> None:
    store, _, clock = world
    store.put_entries([an_entry("e2", "/two", created_at_ms=5)])
    store.put_svids({"e2": an_svid(30, "2")})
    ids = ("e1", "e2")
    assert len(pb.X509SVIDResponse.FromString(store.answers(ids, clock.now()).get(X509_SVIDS)).svids) == 2
    clock.move(30)
    store.expire(clock.now())
    (left,) = pb.X509SVIDResponse.FromString(store.answers(ids, clock.now()).get(X509_SVIDS)).svids
    assert left.spiffe_id == "spiffe://east.test/web"


async def test_unchanged_answer_is_not_sent_again(world: Any) -> None:
    store, streams, _ = world
    feed = Feed()
    streams.open(Caller(), X509_SVIDS, feed)
    store.put_entries([an_entry("other", "/other")])
    store.put_entries((), ["other"])
    store.put_bundle(held(EAST))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(feed.sent) == 1
    store.put_svids({"e1": an_svid(90, "2")})
    await asyncio.sleep(0)
    assert [message.svids[0].x509_svid for message in feed.sent] == [b"leaf1", b"leaf2"]


async def test_dead_process_gets_nothing(world: Any) -> None:
    _, streams, _ = world
    caller, feed = Caller(), Feed()
    caller.living = False
    streams.open(caller, X509_SVIDS, feed)
    assert not feed.sent and isinstance(feed.error, Denied)


async def test_entry_that_ended_is_nobodys(world: Any) -> None:
    store, streams, clock = world
    store.put_entries([an_entry(expires_at=START + timedelta(seconds=5))])
    feed = Feed()
    streams.open(Caller(), X509_BUNDLES, feed)
    clock.move(5)
    store.expire(clock.now())
    await asyncio.sleep(0)
    assert isinstance(feed.error, Denied)


async def test_ban_leaves_no_key(world: Any) -> None:
    store, streams, _ = world
    store.ban("stolen")
    assert not store.svids and not store.entries and not store.bundles
    feed = Feed()
    streams.open(Caller(), X509_SVIDS, feed)
    assert isinstance(feed.error, Denied)
    with pytest.raises(TrustfedError):
        store.serving()


async def test_thousand_streams_are_told_in_parts(world: Any) -> None:
    store, streams, _ = world
    feeds = [Feed() for _ in range(1000)]
    forget = [streams.open(Caller(), X509_SVIDS, feed) for feed in feeds]
    store.put_svids({"e1": an_svid(90, "2")})
    await asyncio.sleep(0)
    assert 0 < sum(len(feed.sent) == 2 for feed in feeds) < 1000
    for _ in range(10):
        await asyncio.sleep(0)
    assert all(len(feed.sent) == 2 for feed in feeds)
    for one in forget:
        one()
    assert len(streams) == 0


async def test_an_answer_made_late_leaves_out_what_has_ended_unnoticed(world: Any) -> None:
    """The clock jumped, or the machine slept: whoever asks first must not get what nobody has dropped yet."""
    store, _, clock = world
    assert store.answers(("e1",), clock.now()).get(X509_SVIDS)
    clock.move(60)
    assert store.answers(("e1",), clock.now()).get(X509_SVIDS) is None
    store.put_reserves({"e1": an_svid(30, "r")})
    store.svids.clear()
    store.stand_in(["e1"])
    assert store.answers(("e1",), clock.now()).get(X509_SVIDS) is None
