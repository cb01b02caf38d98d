"""The feed beside an istiod, with everything real around it dying: no reader ever loses a route that still stands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.istiod import Directory, Istiod
from tests.system.feed_world import HOSTS, WEST, routes, wants
from tests.system.stack import Cluster, Feed, Stack, until
from trustfed.proto.istio_kinds import KINDS

SE = KINDS["ServiceEntry"].type_url


class Watched:
    """A feed with both kinds of istiod at it, and what they must never see."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.istiod = Istiod(feed.mcp).start()
        self.directory = Directory(feed.folder)
        self._earlier: list[Istiod] = []

    def names(self) -> set[str]:
        """What both hold, when they hold the same."""
        over_mcp = {f"{kind}/{name}" for kind, names in self.istiod.names.items() for name in names}
        return over_mcp if over_mcp == set(self.directory.resources) else set()

    async def restart_istiod(self) -> None:
        """A new one knows nothing, and opens its ports only when it was answered."""
        await self.istiod.stop()
        self._earlier.append(self.istiod)
        self.istiod = Istiod(self.feed.mcp).start()
        await self.istiod.until(lambda i: i.synced, "all kinds, at an istiod that has just started")

    def check(self) -> None:
        assert not self.directory.rejected and not self.directory.emptied and self.directory.reloads
        for istiod in (self.istiod, *self._earlier):
            assert not istiod.emptied

    async def close(self) -> None:
        await self.istiod.stop()
        await asyncio.to_thread(self.directory.stop)


@contextlib.asynccontextmanager
async def watching(feed: Feed) -> AsyncIterator[Watched]:
    made = Watched(feed)
    try:
        yield made
    finally:
        await made.close()


async def waited(look: Callable[[], Any], what: str) -> Any:
    return await asyncio.to_thread(until, look, what)


@pytest.mark.timeout(120)
async def test_nothing_that_dies_empties_a_feed(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        west = await asyncio.to_thread(routes, stack)
        agent = await asyncio.to_thread(west.agent, "node-1")
        feed = await asyncio.to_thread(west.feed, agent)
        async with watching(feed) as watched:
            whole = await waited(lambda: watched.names() if _entries(watched.names()) == 1 else None, "the first route")
            assert {key.partition("/")[0] for key in whole} >= {"ServiceEntry", "DestinationRule"}
            (shown,) = west.admin.get("/mesh/feeds")["feeds"]
            assert shown["connected"] and shown["software"].startswith("trustfed/")

            await _one_after_the_other_dies(stack, west, agent, watched, whole)
            await _the_store_is_lost(stack, west, watched, whole)

            # All well again: changes come, only what changed is applied, an end is an end.
            watched.istiod.applied.clear()
            await asyncio.to_thread(wants, west, HOSTS[1])
            more = await waited(lambda: watched.names() if _entries(watched.names()) == 2 else None, "the second route")
            assert more > whole
            first = json.loads((feed.folder / "trustfed-payments.ns.serviceentry.yaml").read_bytes())
            held = watched.istiod.store[SE]["ns/trustfed-payments"]
            created = first["metadata"]["creationTimestamp"]
            assert held.created_ms > 0 and created.endswith("Z")
            await asyncio.to_thread(west.admin.ask, "POST", "/mesh/imports/orders/remove", {})
            await waited(lambda: watched.names() == whole, "the end of the second route")
            watched.check()

            # One that is forbidden gets no news, and its istiod keeps what it has.
            west.admin.post("/mesh/feeds/forbid", {"spiffe_id": feed.spiffe_id, "reason": "moved"})
            await waited(lambda: not feed.connected(), "the end of the stream")
            await waited(lambda: "not an allowed feed" in feed.admin.get("/status")["cluster"]["error"], "why")
            assert watched.names() == whole
            watched.check()


async def _one_after_the_other_dies(stack: Stack, west: Cluster, agent: Any, watched: Watched, whole: set[str]) -> None:
    """kill -9 of hub, cluster, agent, each with an istiod that starts then; at last of the feed, which starts alone."""
    for process in (stack.hub, west.process, agent.process):
        process.kill()
        await watched.restart_istiod()
        assert watched.names() == whole, f"{process.name} is away"
    watched.feed.process.kill()
    await watched.istiod.until(lambda i: i.errors, "the end of its stream")
    assert watched.names() == whole  # istiod keeps what it had, the folder is as it was
    await asyncio.to_thread(watched.feed.process.start)
    await watched.istiod.until(lambda i: i.connections > 1 and i.pushes.count(SE) > 1, "the feed that came back")
    status = watched.feed.admin.get("/status")
    assert not status["cluster"]["connected"] and status["routes"]["age_seconds"] is not None
    await watched.restart_istiod()
    assert watched.names() == whole
    watched.check()


async def _the_store_is_lost(stack: Stack, west: Cluster, watched: Watched, whole: set[str]) -> None:
    """The cluster's journal is damaged, then away: the cluster does not come up with less, and the feed keeps what it has."""
    data, kept = stack.folder / WEST, stack.folder / "kept"
    shutil.copytree(data, kept)
    for damage in (_overwritten, shutil.rmtree):
        damage(data)
        west.process.start(wait=False)
        await waited(lambda: not west.process.running, "the end of a cluster without its journal")
        assert watched.names() == whole and not watched.feed.connected()
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(kept, data)
    for process in (stack.hub, west.process, west.agents["node-1"].process):
        process.start(wait=False)
    for process in (stack.hub, west.process, west.agents["node-1"].process):
        await asyncio.to_thread(process.wait_ready)
    await waited(watched.feed.connected, "the stream")
    assert watched.names() == whole
    watched.check()


def _overwritten(data: Path) -> None:
    files = [path for path in data.rglob("*") if (path.is_file() and ".db" in path.name) or ".sqlite" in path.name]
    assert files, f"no store in {data}: {sorted(path.name for path in data.rglob('*'))}"
    for path in files:
        path.write_bytes(b"\x00" * path.stat().st_size)


def _entries(names: set[str]) -> int:
    return sum(name.startswith("ServiceEntry/") for name in names)
