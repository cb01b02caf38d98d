"""The stream from the cluster, with a cluster that breaks off, lies, goes back, and changes its authority."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from agent.cache import Kept, NoCache
from agent.identity import IdentityFile
from tests.fakes.cluster import Domain, FakeCluster, bundle_message
from tests.unit.agent.world import ME, eventually, running, until
from trustfed.errors import Denied
from trustfed.proto import node_pb2 as pb


@pytest.fixture
async def cluster() -> Any:
    async with FakeCluster() as made:
        made.put("e1", "/web", [ME], federates_with=["west.test"])
        yield made


async def refusals(agent: Any) -> dict[str, str]:
    found: dict[str, str] = (await agent.status())["sync"]["refused"]
    return found


async def test_broken_stream_is_resumed_from_its_position(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (agent, workload):
        cluster.grant(Domain("west.test"))
        await until(lambda: ("west.test", 1, 1) in cluster.acknowledged)
        position = cluster.position
        cluster.cut()
        await until(lambda: not cluster.streams)
        cluster.put("e2", "/second", [ME])
        await until(lambda: len(cluster.hellos) == 2)
        again = cluster.hellos[1]
        assert (again.position, again.cluster_instance) == (position, "instance-1")
        assert {level.trust_domain for level in again.levels} == {"east.test", "west.test"}
        await eventually(lambda: _has(workload, 2))
        assert (await agent.status())["sync"]["position"] == cluster.position


async def _has(workload: Any, count: int) -> bool:
    return len((await workload.x509()).svids) == count


async def test_snapshot_of_another_instance_removes_what_it_does_not_hold(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("e2", "/second", [ME])
    cluster.grant(Domain("west.test"))
    async with running(cluster, tmp_path) as (agent, workload):
        assert await _has(workload, 2)
        cluster.instance = "instance-2"
        cluster.cut()
        await until(lambda: not cluster.streams)
        del cluster.entries["e2"], cluster.foreign["west.test"]
        await eventually(lambda: _has(workload, 1))
        assert (await agent.status())["counts"]["bundles"] == 1


async def test_envelope_that_does_not_continue_is_refused_and_alarmed(cluster: FakeCluster, tmp_path: Path) -> None:
    west = Domain("west.test", sequence=5)
    cluster.grant(west)
    async with running(cluster, tmp_path) as (agent, workload):
        await until(lambda: ("west.test", 1, 5) in cluster.acknowledged)
        held = (await workload.x509_bundles()).bundles["spiffe://west.test"]
        rolled_back = Domain("west.test", [west.authority("old")], publication=west.publication, sequence=4)
        forked = Domain("west.test", [west.authority("fork")], publication=west.publication, sequence=5)
        forged = Domain("west.test", [west.authority("forged")], sequence=6)
        lie = bundle_message(forged, home=False)
        lie.bundle.publication_key = west.publication_key.spki
        for message in (bundle_message(rolled_back, home=False), bundle_message(forked, home=False), lie):
            cluster.tell(message)

            async def refused() -> bool:
                return "bundle of west.test" in await refusals(agent)

            await eventually(refused)
            assert (await workload.x509_bundles()).bundles["spiffe://west.test"] == held
        assert "trustfed_agent_sync_refused_total" in (await agent.admin("/metrics"))[1]
        west.sequence = 7
        cluster.grant(west)
        await until(lambda: ("west.test", 1, 7) in cluster.acknowledged)
        assert not await refusals(agent)
        assert (await agent.status())["sync"]["connected"] and len(cluster.hellos) == 1


async def test_home_bundle_under_another_key_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (agent, _):
        cluster.tell(bundle_message(Domain("east.test", sequence=9), home=True))

        async def refused() -> bool:
            return "bundle of east.test" in await refusals(agent)

        await eventually(refused)
        assert (await agent.admin("/bundles"))[1]["bundles"][0]["sequence"] == 1


@pytest.mark.parametrize(
    "entry",
    [
        pb.Entry(id="bad", spiffe_id="spiffe://west.test/web", selectors=[ME]),
        pb.Entry(id="bad", spiffe_id="spiffe://east.test/trustfed/cluster", selectors=[ME]),
        pb.Entry(id="bad", spiffe_id="spiffe://east.test/web", selectors=[]),
        pb.Entry(id="bad", spiffe_id="nonsense", selectors=[ME]),
    ],
)
async def test_bad_entry_is_refused_and_the_others_count(cluster: FakeCluster, tmp_path: Path, entry: pb.Entry) -> None:
    async with running(cluster, tmp_path) as (agent, workload):
        good = pb.Entry(id="good", spiffe_id="spiffe://east.test/good", selectors=[ME], created_at_ms=9)
        cluster.entries["good"] = good
        cluster.tell(pb.FromCluster(entries=pb.Entries(upsert=[entry, good])))
        await eventually(lambda: _has(workload, 2))
        assert list(await refusals(agent)) == ["entry bad"]


async def test_failed_issuing_is_tried_again(cluster: FakeCluster, tmp_path: Path) -> None:
    def away(_: object) -> None:
        raise GRPCError(Status.UNAVAILABLE, "the key store is away")

    async with running(cluster, tmp_path) as (agent, workload):
        cluster.faults.issue += [away, away]
        cluster.put("e2", "/second", [ME])

        async def told() -> bool:
            slots = (await agent.admin("/svids"))[1]["svids"]
            return any(slot["error"] == "the key store is away" for slot in slots)

        await eventually(told)
        await eventually(lambda: _has(workload, 2))
        assert (await agent.admin("/svids"))[1]["svids"][1]["tries"] == 0


async def test_svid_of_another_key_or_id_is_not_served(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (agent, workload):
        honest = cluster.issue_x509

        async def lying(request: pb.IssueX509Request) -> pb.IssueX509Response:
            changed = pb.IssueX509Request()
            changed.CopyFrom(request)
            for slot in changed.slots:
                slot.entry_id = "e1"
            answer = await honest(changed)
            for slot, result in zip(request.slots, answer.results, strict=True):
                result.entry_id = slot.entry_id
            return answer

        cluster.issue_x509 = lying  # type: ignore[method-assign]
        await cluster.restart()
        cluster.put("e2", "/second", [ME])

        async def told() -> bool:
            slots = (await agent.admin("/svids"))[1]["svids"]
            return len(slots) == 2 and "SVID of spiffe://east.test/web" in (slots[1]["error"] or "")

        await eventually(told)
        assert await _has(workload, 1)


async def test_own_svid_is_renewed_over_its_present_one(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.node_ttl = timedelta(seconds=2)
    async with running(cluster, tmp_path) as (agent, _):
        first = (await agent.status())["own_svid"]["serial"]
        cluster.node_ttl = timedelta(hours=1)
        await until(lambda: "renew" in cluster.log and len(cluster.hellos) == 2, 5)
        assert (await agent.status())["own_svid"]["serial"] != first
        await until(lambda: f"{_stored(tmp_path):032x}" != first)


def _stored(folder: Path) -> int:
    identity = IdentityFile(folder / "data").load()
    assert identity is not None
    return identity.svid.serial


async def test_agent_that_missed_a_rollover_finds_its_cluster_again(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        pass
    # Away while a new authority came and took over; the old one still has a day to live.
    cluster.home.authorities.append(cluster.new_authority("a2"))
    cluster.home.sequence += 1
    await cluster.restart()
    async with running(cluster, tmp_path) as (_, workload):
        assert await _has(workload, 1)
        assert "GET /envelope" in cluster.log


async def test_cluster_of_another_domain_at_the_address_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        pass
    ports = (cluster.grpc_port, cluster.door_port)
    await cluster.stop()
    async with FakeCluster() as other:
        await other.stop()
        await other.start(ports)
        async with running(cluster, tmp_path, ready=False) as (agent, _):

            async def told() -> bool:
                return bool((await agent.status())["sync"]["error"])

            await eventually(told)
            await asyncio.sleep(0.1)
            assert not other.hellos and not (await agent.status())["sync"]["connected"]


class InMemory(NoCache):
    """A cache in memory: what one agent held when it ended, for the next."""

    def __init__(self) -> None:
        self.held: Kept | None = None

    def load(self, now: datetime) -> Kept | None:
        return self.held

    def changed(self, kept: Kept) -> None:
        self.held = kept


async def test_what_a_cache_kept_is_served_while_the_cluster_is_away(cluster: FakeCluster, tmp_path: Path) -> None:
    kept = InMemory()
    async with running(cluster, tmp_path, cache=kept) as (_, workload):
        assert await _has(workload, 1)
    await cluster.stop()
    async with running(cluster, tmp_path, cache=kept) as (agent, workload):
        assert await _has(workload, 1)
        assert not (await agent.status())["sync"]["connected"]


@pytest.mark.parametrize(
    "frame",
    [b"\x01\x00\x00\x00\x01x", b"\x00\x00\x00\x00\x02\xff\xff", b"\x00\xff\xff\xff\xff", b"\x07junk"],
    ids=["compressed", "no message", "4 GiB", "no frame"],
)
async def test_junk_from_the_cluster_leaves_what_is_held(cluster: FakeCluster, tmp_path: Path, frame: bytes) -> None:
    async with running(cluster, tmp_path) as (agent, workload):
        tried = 0

        async def junk(stream: Any) -> None:
            nonlocal tried
            await stream.recv_message()
            await stream.send_initial_metadata()
            tried += 1
            await stream._stream.send_data(frame)

        cluster.sync = junk  # type: ignore[method-assign]
        cluster.cut()
        await until(lambda: tried >= 2)
        assert await _has(workload, 1)
        assert (await agent.status())["sync"]["error"]


async def test_refusal_that_is_no_ban_leaves_what_is_held(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (agent, workload):
        tried = 0

        async def mistaken(stream: Any) -> None:
            nonlocal tried
            tried += 1
            raise Denied("spiffe://east.test/trustfed/node/n1 has expired")

        cluster.sync = mistaken  # type: ignore[method-assign]
        cluster.cut()
        await until(lambda: tried >= 2)
        assert await _has(workload, 1)
        status = await agent.status()
        assert "expired" in status["sync"]["error"] and not status["banned"]
