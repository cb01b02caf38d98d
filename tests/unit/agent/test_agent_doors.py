"""Several doors, some of which are strangers' or say nothing: the one that is the cluster's is found, and in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent import enrolment, home_look
from agent.identity import IdentityFile, Node, NodeIdentity
from tests.fakes.cluster import FakeCluster
from tests.unit.agent.test_agent_enrolment import enrol
from trustfed.errors import Denied, Unavailable
from trustfed.federation.token import EnrolmentToken
from trustfed.runtime.metrics import Registry


async def join(cluster: FakeCluster, folder: Path, *ports: int) -> NodeIdentity:
    invited = enrolment.invitation(EnrolmentToken.decode(cluster.token(), "node"))
    invited = replace(invited, doors=tuple(("127.0.0.1", port) for port in ports))
    folder.mkdir(mode=0o700, exist_ok=True)
    return await asyncio.to_thread(enrolment.join, folder, invited, datetime.now(UTC))


async def test_a_stranger_s_no_is_not_the_cluster_s(tmp_path: Path) -> None:
    async with FakeCluster() as cluster, FakeCluster() as stranger:
        identity = await join(cluster, tmp_path / "data", stranger.door_port, cluster.door_port)
        assert identity.door == ("127.0.0.1", cluster.door_port)
        assert stranger.log == ["GET /envelope"]


async def test_the_cluster_s_own_no_is_the_answer(tmp_path: Path) -> None:
    async with FakeCluster() as cluster, FakeCluster() as stranger:

        def refuse(_: object) -> None:
            raise Denied("the token was used")

        cluster.faults.attest.append(refuse)
        with pytest.raises(Denied, match="the token was used"):
            await join(cluster, tmp_path / "data", stranger.door_port, cluster.door_port, stranger.door_port)
        assert stranger.log == ["GET /envelope"]


async def test_while_a_door_cannot_be_reached_it_is_worth_another_try(tmp_path: Path) -> None:
    async with FakeCluster() as cluster, FakeCluster() as stranger:
        for doors in ((stranger.door_port, 1), (1, stranger.door_port)):
            with pytest.raises(Unavailable):
                await join(cluster, tmp_path / "data", *doors)
        with pytest.raises(Denied):
            await join(cluster, tmp_path / "data", stranger.door_port)


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """A door that takes connections and says nothing."""
    open_: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: open_.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in open_:
            writer.transport.abort()
        server.close()


async def test_a_door_that_says_nothing_holds_up_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_look, "HOME_SECONDS", 0.1)
    async with FakeCluster() as cluster, silent() as port:
        identity = await enrol(cluster, tmp_path / "data")
        cluster.home.sequence += 1
        told = (f"127.0.0.1:{identity.door[1]}",)
        slow = replace(identity, door=("127.0.0.1", port), https_addresses=told)
        home = home_look.HomeLook(Node(slow, IdentityFile(tmp_path), Registry()))
        for _ in range(2):  # no second look begins while the first is under way
            began = time.monotonic()
            await home.refresh()
            assert time.monotonic() - began < 5
        looking = home._looking
        assert looking is not None
    with pytest.raises(Unavailable):  # its door was shut, and the cluster is gone by now
        await looking
