"""Cluster and feed over real mTLS: who is let in, deltas, digests, and what never empties a feed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.feed_house import FEED_PATH, feed, house, until
from tests.fakes.routes import FakeRoutes, service_entry
from tests.fakes.world import DomainWorld
from trustfed.cluster.mesh import feed_door, feeds
from trustfed.cluster.mesh.feed_streams import MAX_MESSAGE, View, batch, lacking
from trustfed.cluster.state import ClusterState, Domain
from trustfed.errors import Denied, Invalid, NotFound, Unavailable
from trustfed.federation.mesh_digest import digest
from trustfed.feed import follow
from trustfed.proto import mesh_pb2 as pb
from trustfed.runtime.grpc_client import VerifiedChannel, receive, stream
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import client_context

A, B, C = (service_entry(name) for name in ("a", "b", "c"))
METHOD = "/trustfed.mesh.v1.Mesh/Follow"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, for Unix sockets, and private."""
    with tempfile.TemporaryDirectory(prefix="tf-") as made:
        yield Path(made)


async def test_routes_come_and_changes_follow(folder: Path) -> None:
    routes = FakeRoutes(A, B)
    async with house(folder, routes) as cluster, feed(cluster) as running:
        await until(lambda: running.keys == {A.key, B.key}, "the routes")
        routes.put(C)
        routes.drop(A.key)
        await until(lambda: running.keys == {B.key, C.key}, "the change")
        shown = await until(lambda: (f := cluster.door.feeds()[0])["current"] and f, "what was applied")
        assert shown["connected"] and shown["spiffe_id"] == cluster.feed_id and not shown["rejected"]
        assert running.served.confirmed_ms > 0
        loaded = running.file.load()
        assert loaded is not None and set(loaded.resources) == {B.key, C.key}


async def test_who_is_not_allowed_gets_nothing_and_a_forbidden_feed_ends_at_once(folder: Path) -> None:
    routes = FakeRoutes(A)
    async with house(folder, routes, allowed=False) as cluster, feed(cluster) as running:
        await until(lambda: "not an allowed feed" in running.follow.status.error, "the refusal")
        assert "trustfed feed allow" in running.follow.status.hint and running.served.state is None
        await cluster.allow()
        await until(lambda: running.keys == {A.key}, "the routes")
        await cluster.forbid()
        await until(lambda: running.follow.status.connected_since is None, "the end")
        routes.put(B)
        assert running.keys == {A.key}  # what it has, it serves on
        assert cluster.door.feeds() == []


async def test_only_an_identity_of_the_home_domain_is_believed_on_either_side(folder: Path) -> None:
    async with house(folder, FakeRoutes(A)) as cluster:
        await cluster.agent.push("/trustfed/node/n1")
        async with feed(cluster) as running:
            await until(lambda: "is not an allowed feed" in running.follow.status.error, "no node is a feed")
        await cluster.agent.push(FEED_PATH)
        await cluster.shut()
        await cluster.open("/ns/shop/sa/web")  # a workload that listens where the cluster was
        async with feed(cluster) as running:
            await until(lambda: "the peer must be" in running.follow.status.error, "the refusal of the server")
            assert running.served.state is None
        await cluster.shut()
        await cluster.open()
        stranger = await DomainWorld.make("west")  # the same name, another authority
        context = client_context(await stranger.svid(FEED_PATH, chain="leaf"), [cluster.world.twin], alpn=("h2",))
        channel = VerifiedChannel(*parse_address(cluster.address), context, lambda chain: None)
        with pytest.raises((Unavailable, Denied)):
            async with stream(channel, METHOD, pb.FromFeed, pb.ToFeed) as opened:
                await opened.send_message(pb.FromFeed(hello=pb.FeedHello(protocol_min=1, protocol_max=1)))
                await receive(opened, 10, "the cluster")
        channel.close()


async def test_a_cluster_that_is_away_or_empty_handed_changes_nothing(folder: Path) -> None:
    routes = FakeRoutes(A, B)
    async with house(folder, routes) as cluster:
        async with feed(cluster) as running:
            await until(lambda: running.keys == {A.key, B.key}, "the routes")
            await cluster.shut()
            await until(lambda: running.follow.status.connected_since is None, "the end of the stream")
            assert running.keys == {A.key, B.key}
        async with feed(cluster) as again:  # a restart with nobody there
            assert again.keys == {A.key, B.key}
            routes.put(C)
            await cluster.open()
            await until(lambda: again.keys == {A.key, B.key, C.key}, "what was missed")


async def test_what_is_held_and_told_differently_is_asked_anew(folder: Path) -> None:
    """The cluster loses a message, or lies: the digest does not fit, and the next stream brings everything."""
    routes = FakeRoutes(A, B)
    async with house(folder, routes) as cluster, feed(cluster) as running:
        await until(lambda: running.keys == {A.key, B.key}, "the routes")
        # It forgets to say that A has gone, and sends only the digest of what is left.
        routes._table = {B.key: B, C.key: C}
        for listener in routes._listeners:
            listener([C.key])
        await until(lambda: running.keys == {B.key, C.key}, "everything, asked anew")


async def test_one_bad_resource_is_reported_and_takes_nothing_down(folder: Path) -> None:
    routes = FakeRoutes(A)
    async with house(folder, routes) as cluster, feed(cluster) as running:
        await until(lambda: running.keys == {A.key}, "the routes")
        bad = type(B)(B.key, B.version, B.created_at, b'{"kind":"Secret"}')
        routes.put(bad, C)
        await until(lambda: running.keys == {A.key, C.key}, "the good ones")
        shown = await until(lambda: (f := cluster.door.feeds()[0])["rejected"] and f, "the report")
        assert "SHA-256" in shown["rejected"][B.key] and not shown["current"]
        routes.put(B)
        await until(lambda: running.keys == {A.key, B.key, C.key}, "the mended one")
        await until(lambda: cluster.door.feeds()[0]["current"], "all well again")


async def test_a_new_svid_is_shown_and_nothing_is_sent_twice(folder: Path) -> None:
    async with house(folder, FakeRoutes(A, B)) as cluster, feed(cluster, more=("127.0.0.1:1",)) as running:
        await until(lambda: running.keys == {A.key, B.key}, "the routes, at the second address")
        state, since = running.served.state, running.follow.status.connected_since
        await cluster.agent.push(FEED_PATH)
        await until(lambda: running.follow.status.connected_since not in (None, since), "the next stream")
        assert running.served.state is state


async def test_more_than_a_hello_can_hold_is_asked_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MAX_HELLO", 50)
    routes = FakeRoutes(A, B)
    async with house(folder, routes) as cluster:
        async with feed(cluster) as running:
            await until(lambda: running.keys == {A.key, B.key}, "the routes")
        routes.drop(A.key)
        async with feed(cluster) as again:
            await until(lambda: again.keys == {B.key}, "everything, and nothing else")


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        (pb.FromFeed(heartbeat=pb.Heartbeat(time_ms=1)), "must be a hello"),
        (pb.FromFeed(hello=pb.FeedHello(protocol_min=7, protocol_max=9)), "speaks protocol 1"),
        (
            pb.FromFeed(hello=pb.FeedHello(protocol_min=1, protocol_max=1, held=[pb.Held(key="k")] * 20_001)),
            "20001 resources in one hello",
        ),
    ],
)
async def test_a_hello_outside_the_bounds_is_refused(folder: Path, hello: pb.FromFeed, words: str) -> None:
    async with house(folder, FakeRoutes(A)) as cluster:
        context = client_context(await cluster.world.svid(FEED_PATH, chain="leaf"), [cluster.world.twin], alpn=("h2",))
        channel = VerifiedChannel(*parse_address(cluster.address), context, lambda chain: None)
        with pytest.raises(Invalid, match=words):
            async with stream(channel, METHOD, pb.FromFeed, pb.ToFeed) as opened:
                await opened.send_message(hello)
                await receive(opened, 10, "the cluster")
        channel.close()


async def test_one_feed_has_few_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_door, "MAX_STREAMS_PER_FEED", 1)
    async with house(folder, FakeRoutes(A)) as cluster, feed(cluster) as first:
        await until(lambda: first.keys, "the routes")
        async with feed(cluster, name="second") as second:
            await until(lambda: "1 streams open" in second.follow.status.error, "the refusal")
        assert first.follow.status.connected_since is not None


async def test_replicas_of_an_istiod_share_one_id(folder: Path) -> None:
    assert feed_door.MAX_STREAMS_PER_FEED >= 64 and feed_door.MAX_STREAMS >= 2 * feed_door.MAX_STREAMS_PER_FEED
    async with house(folder, FakeRoutes(A)) as cluster, feed(cluster) as one, feed(cluster, name="two") as two:
        await until(lambda: one.keys and two.keys, "the routes")
        assert cluster.door.feeds()[0]["streams"] == 2


async def test_a_feed_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(feed_door, "WRITE_SECONDS", 0.05)

    class Slow:
        """A stream whose window is full after the hello."""

        written = 0

        async def write(self, _: pb.ToFeed) -> None:
            self.written += 1
            if self.written > 1:
                await asyncio.Event().wait()

    async with house(folder, FakeRoutes(A)) as cluster:
        with pytest.raises(Unavailable, match="was not read within"):
            async with asyncio.timeout(10):
                await cluster.door._write(Slow(), View(cluster.feed_id, 1))


def test_who_may_be_a_feed() -> None:
    state, now = ClusterState(domain=Domain("i", "west", "k", b"")), A.created_at
    assert feeds.allow(state, "spiffe://west/feed", now)
    for id_, error in (
        ("spiffe://east/feed", Denied),
        ("spiffe://west/trustfed/node/n1", Denied),
        ("spiffe://west", Invalid),
        ("west/feed", Invalid),
    ):
        with pytest.raises(error):
            feeds.allow(state, id_, now)
    with pytest.raises(NotFound):
        feeds.forbid(state, "spiffe://west/feed", now)


def test_a_batch_is_cut_into_messages_and_only_the_last_has_the_digest() -> None:
    table = {r.key: r for r in (service_entry(f"s{n}", pad=700) for n in range(30))}
    assert sum(len(r.manifest) for r in table.values()) > 2 * MAX_MESSAGE
    messages = list(batch(table, lacking(table, {"ServiceEntry/ns/trustfed-old": "x"}), digest({}), None))
    assert len(messages) > 2 and [bool(m.digest) for m in messages] == [False] * (len(messages) - 1) + [True]
    assert sum(len(m.upsert) for m in messages) == 30 and sum(len(m.remove) for m in messages) == 1
    assert all(m.ByteSize() < 2 * MAX_MESSAGE for m in messages)
    assert not lacking(table, {key: r.version for key, r in table.items()})
