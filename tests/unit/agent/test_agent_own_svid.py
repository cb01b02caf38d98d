"""The node's own SVID once its cluster refuses it: what is tried, what is said, and what ends the process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.identity import IdentityFile, Node, NodeIdentity
from agent.link import Link
from agent.own_svid import OwnSvid, Restart
from agent.trusted_time import TrustedTime
from tests.fakes.cluster import FakeCluster
from tests.unit.agent.test_agent_enrolment import enrol
from trustfed.errors import Denied, Invalid
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.metrics import Registry

Anew = Callable[[], Awaitable[NodeIdentity]]


def own_of(identity: NodeIdentity, folder: Path, anew: Anew | None = None) -> tuple[OwnSvid, Node, list[str]]:
    """An agent's own SVID that has ended, and the bans that it hears of."""
    ended = replace(identity, svid=replace(identity.svid, not_after=identity.svid.not_before))
    node, time, bans = Node(ended, IdentityFile(folder), Registry()), TrustedTime(SystemClock()), list[str]()
    return OwnSvid(node, Link(node, time), time, lambda: 0.5, bans.append, anew), node, bans


async def test_a_refusal_is_no_ban_and_says_what_to_do(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
        own, _, bans = own_of(identity, tmp_path / "data")

        def refuse(_: object) -> None:
            raise Denied("node n1 attested again after this SVID was issued")

        cluster.faults.nonce_renew.append(refuse)
        await own.once()
        assert "attested again" in own.verdict and "trustfed node token" in own.verdict and not bans
        assert own.slot.due - own._clock.now() > timedelta(seconds=25)
        await own.once()  # it was the cluster's mistake
        assert own.verdict == "" and own.slot.tries == 0


async def test_the_cluster_s_word_of_a_ban_counts(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
        cluster.banned = "stolen"
        own, _, bans = own_of(identity, tmp_path / "data")
        await own.once()
        assert bans == ["node n1 is banned: stolen"] and "banned" in own.verdict


async def test_a_token_that_is_no_good_is_tried_once(tmp_path: Path) -> None:
    tried = []

    async def anew() -> NodeIdentity:
        tried.append(1)
        raise Invalid("not a token")

    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
        cluster.banned = "stolen"
        own, _, _ = own_of(identity, tmp_path / "data", anew)
        await own.once()
        await own.once()
        assert len(tried) == 1 and "banned" in own.verdict


async def test_enrolled_anew_the_same_node_goes_on_and_another_one_begins_anew(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
        fresh = await enrol(cluster, tmp_path / "other")

        def refuse(_: object) -> None:
            raise Denied("beyond the window")

        async def same() -> NodeIdentity:
            return fresh

        async def another() -> NodeIdentity:
            raise Restart("this node is another from now on")

        cluster.faults.nonce_renew += [refuse, refuse]
        own, node, _ = own_of(identity, tmp_path / "data", same)
        await own.once()
        assert node.identity.svid == fresh.svid and own.verdict == ""
        own, _, _ = own_of(identity, tmp_path / "data", another)
        with pytest.raises(Restart):
            await own.once()
