"""By what a node knows its cluster: the publication key in its token, and nothing that a root could certify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent import enrolment
from agent.identity import NodeIdentity
from tests.fakes.cluster import Domain, FakeCluster
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.federation.enrolment import text
from trustfed.federation.token import EnrolmentToken
from trustfed.spiffe.ids import SpiffeId


@asynccontextmanager
async def in_between(cluster: FakeCluster, *, id_: str = "", authority: str = "rogue") -> AsyncIterator[FakeCluster]:
    """A door that shows the cluster's own envelope, below the same root, with the cluster's ID unless `id_` is given."""
    door = FakeCluster()
    door.root_key, door.root, door.root_documents = cluster.root_key, cluster.root, cluster.root_documents
    door.home.authorities = [door.new_authority("a1")] if authority == "rogue" else cluster.home.authorities
    door.home.envelope = cluster.home.envelope  # type: ignore[method-assign]
    door.id = SpiffeId.parse(id_) if id_ else cluster.id
    async with door:
        yield door


async def enrol(cluster: FakeCluster, folder: Path, door: FakeCluster | None = None, **changed: object) -> NodeIdentity:
    address = f"https://127.0.0.1:{(door or cluster).door_port}"
    token = EnrolmentToken.decode(cluster.token(address=address, **changed), "node")
    folder.mkdir(mode=0o700, exist_ok=True)
    return await asyncio.to_thread(enrolment.enrol, folder, token, datetime.now(UTC))


async def test_a_door_below_the_root_that_is_not_in_the_bundle_gets_no_token(tmp_path: Path) -> None:
    async with FakeCluster() as cluster, in_between(cluster) as door:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await enrol(cluster, tmp_path / "data", door)
        assert door.log == ["GET /envelope"]


async def test_a_workload_of_the_domain_at_the_address_gets_no_token(tmp_path: Path) -> None:
    async with (
        FakeCluster() as cluster,
        in_between(cluster, id_="spiffe://east.test/web", authority="own") as door,
    ):
        with pytest.raises(Denied, match=r"spiffe://east\.test/web"):
            await enrol(cluster, tmp_path / "data", door)
        assert door.log == ["GET /envelope"]


async def test_an_envelope_under_another_key_than_the_token_s_is_refused(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        other = text(Domain("east.test").publication_key.spki)
        with pytest.raises(Denied, match="pinned"):
            await enrol(cluster, tmp_path / "data", publication_key=other)
        assert cluster.log == ["GET /envelope"]
        with pytest.raises(Invalid, match="publication_key"):
            await enrol(cluster, tmp_path / "data", publication_key="")
        assert cluster.log == ["GET /envelope"]


@pytest.mark.parametrize("member", ["publication_key", "envelope"])
async def test_an_answer_that_changes_key_or_envelope_is_refused(tmp_path: Path, member: str) -> None:
    async with FakeCluster() as cluster:
        honest, other = cluster._admitted, Domain("east.test", cluster.home.authorities, sequence=5)
        said = {"publication_key": other.publication_key.spki, "envelope": other.envelope().data}
        cluster._admitted = lambda key: {**honest(key), member: text(said[member])}  # type: ignore[method-assign]
        with pytest.raises(Denied, match="publication key" if member == "publication_key" else "pinned"):
            await enrol(cluster, tmp_path / "data")
        assert not (tmp_path / "data" / "identity.json").exists()


async def test_an_answer_whose_envelope_goes_back_is_refused(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        honest, older = cluster._admitted, cluster.home.envelope().data
        cluster.home.sequence = 2
        cluster._admitted = lambda key: {**honest(key), "envelope": text(older)}  # type: ignore[method-assign]
        with pytest.raises(Denied, match="goes back"):
            await enrol(cluster, tmp_path / "data")


async def test_renewal_knows_the_door_by_the_home_bundle_as_it_is_now(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
        cluster.home.authorities.append(cluster.new_authority("a2"))
        cluster.home.sequence += 1
        await cluster.restart()
        renewed = await asyncio.to_thread(enrolment.renew, identity, datetime.now(UTC) + timedelta(seconds=1))
        assert renewed.home.level.sequence == 2 and renewed.svid.serial != identity.svid.serial
        async with in_between(cluster) as door:
            there = NodeIdentity.parse(renewed.marshal())
            object.__setattr__(there, "door", ("127.0.0.1", door.door_port))
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await asyncio.to_thread(enrolment.renew, there, datetime.now(UTC))
            assert door.log == ["GET /envelope"]
