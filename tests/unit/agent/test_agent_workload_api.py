"""The five methods against a fake cluster, over real TLS and a real Unix socket."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tests.fakes.cluster import Domain, FakeCluster
from tests.unit.agent.world import HEADER, ME, Workload, eventually, running, until
from trustfed.proto import node_pb2 as node_pb
from trustfed.proto import workload_pb2 as pb
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.verify import verify_x509_svid


@pytest.fixture
async def cluster() -> Any:
    async with FakeCluster() as made:
        made.put("e1", "/web", [ME], hint="main", federates_with=["west.test"])
        yield made


async def refused(call: Any) -> tuple[Status, str]:
    with pytest.raises(GRPCError) as caught:
        await call
    return caught.value.status, caught.value.message or ""


async def test_x509_svid_verifies_and_has_its_key(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (_, workload):
        (svid,) = (await workload.x509()).svids
    assert (svid.spiffe_id, svid.hint) == ("spiffe://east.test/web", "main")
    verified = verify_x509_svid([svid.x509_svid], cluster.home.bundle(), datetime.now(UTC))
    assert str(verified.id) == svid.spiffe_id
    key: Any = load_der_private_key(svid.x509_svid_key, None)
    assert key.public_key() == x509.load_der_x509_certificate(svid.x509_svid).public_key()
    assert svid.bundle == b"".join(cluster.home.bundle().x509_authorities)


async def test_identities_come_in_the_order_of_their_entries(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("e0", "/newer", [ME], created_at_ms=50)
    cluster.put("zz", "/oldest", [ME], created_at_ms=0)
    async with running(cluster, tmp_path) as (_, workload):
        found = [svid.spiffe_id.rpartition("/")[2] for svid in (await workload.x509()).svids]
    assert found == ["oldest", "web", "newer"]


@pytest.mark.parametrize("metadata", [{}, {"workload.spiffe.io": "TRUE"}, [("workload.spiffe.io", "true")] * 2])
async def test_header_is_needed_once_and_exactly(cluster: FakeCluster, tmp_path: Path, metadata: Any) -> None:
    async with running(cluster, tmp_path) as (_, workload):
        status, _ = await refused(workload.x509(metadata))
        assert status is Status.INVALID_ARGUMENT
        request = pb.JWTSVIDRequest(audience=["a"])
        status, _ = await refused(workload.unary("FetchJWTSVID", request, pb.JWTSVIDResponse, metadata))
        assert status is Status.INVALID_ARGUMENT


async def test_who_has_no_identity_gets_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.entries.clear()
    cluster.put("other", "/other", ["unix:uid:54321"])
    async with running(cluster, tmp_path) as (_, workload):
        token = cluster.home.jwt("/web", "a", datetime.now(UTC))
        for call in (
            workload.x509(),
            workload.x509_bundles(),
            workload.jwt_bundles(),
            workload.jwt("a"),
            workload.validate("a", token),
        ):
            assert (await refused(call))[0] is Status.PERMISSION_DENIED


async def test_unknown_method_is_unimplemented(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (_, workload):
        request = pb.JWTSVIDRequest(audience=["a"])
        assert (await refused(workload.unary("FetchWITSVID", request, pb.JWTSVIDResponse)))[0] is Status.UNIMPLEMENTED


async def test_bundles_are_home_and_what_the_entry_federates_with(cluster: FakeCluster, tmp_path: Path) -> None:
    west, north = Domain("west.test"), Domain("north.test")
    cluster.grant(west)
    cluster.grant(north)
    async with running(cluster, tmp_path) as (_, workload):
        assert dict((await workload.x509()).federated_bundles) == {"spiffe://west.test": west.authorities[0].twin}
        found = (await workload.x509_bundles()).bundles
        assert set(found) == {"spiffe://east.test", "spiffe://west.test"}
        documents = (await workload.jwt_bundles()).bundles
        assert set(documents) == set(found)
        parsed = Bundle.parse(TrustDomain("west.test"), documents["spiffe://west.test"])
        assert [key.key_id for key in parsed.jwt_authorities] == ["j1"]
        assert all("kid" in key for key in json.loads(documents["spiffe://west.test"])["keys"])


async def test_open_stream_sees_bundles_come_change_and_go(cluster: FakeCluster, tmp_path: Path) -> None:
    west = Domain("west.test")
    async with (
        running(cluster, tmp_path) as (_, workload),
        workload.watch("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse) as stream,
    ):
        assert set((await workload.first(stream)).bundles) == {"spiffe://east.test"}
        cluster.grant(west)
        assert set((await workload.first(stream)).bundles) == {"spiffe://east.test", "spiffe://west.test"}
        cluster.home.authorities.append(cluster.new_authority("a2"))
        cluster.publish()
        assert (await workload.first(stream)).bundles["spiffe://east.test"] == b"".join(
            cluster.home.bundle().x509_authorities
        )
        cluster.end_grant("west.test")
        assert set((await workload.first(stream)).bundles) == {"spiffe://east.test"}
        await until(lambda: ("east.test", 1, 2) in cluster.acknowledged)


async def test_open_stream_sees_rotation(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.svid_ttl = timedelta(seconds=3)
    async with (
        running(cluster, tmp_path) as (_, workload),
        workload.watch("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) as stream,
    ):
        first = (await workload.first(stream)).svids[0]
        second = (await workload.first(stream)).svids[0]
        assert first.x509_svid != second.x509_svid and first.x509_svid_key != second.x509_svid_key
        assert first.spiffe_id == second.spiffe_id


async def test_new_entry_is_served_at_once_and_a_removed_one_no_more(cluster: FakeCluster, tmp_path: Path) -> None:
    async with (
        running(cluster, tmp_path) as (_, workload),
        workload.watch("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) as stream,
    ):
        assert len((await workload.first(stream)).svids) == 1
        cluster.put("e2", "/second", [ME])
        assert [s.spiffe_id for s in (await workload.first(stream)).svids][1:] == ["spiffe://east.test/second"]
        cluster.remove("e2")
        assert len((await workload.first(stream)).svids) == 1
        cluster.remove("e1")
        status, _ = await refused(workload.first(stream))
        assert status is Status.PERMISSION_DENIED


async def test_changed_id_is_never_served_with_the_old_svid(cluster: FakeCluster, tmp_path: Path) -> None:
    async with (
        running(cluster, tmp_path) as (_, workload),
        workload.watch("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) as stream,
    ):
        await workload.first(stream)
        gate = asyncio.Event()
        cluster.faults.issue.append(lambda _: gate.wait())
        cluster.put("e1", "/renamed", [ME])
        status, _ = await refused(workload.first(stream))
        assert status is Status.UNAVAILABLE
        gate.set()
        assert (await workload.x509()).svids[0].spiffe_id == "spiffe://east.test/renamed"


async def test_ban_ends_every_stream_and_call(cluster: FakeCluster, tmp_path: Path) -> None:
    async with (
        running(cluster, tmp_path) as (agent, workload),
        workload.watch("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) as stream,
    ):
        await workload.first(stream)
        await workload.jwt("a")
        cluster.ban("stolen laptop")
        assert (await refused(workload.first(stream)))[0] is Status.PERMISSION_DENIED
        assert (await refused(workload.jwt("a")))[0] is Status.PERMISSION_DENIED
        assert (await refused(workload.x509()))[0] is Status.PERMISSION_DENIED
        status = await agent.status()
        assert status["banned"] and status["counts"]["svids"] == status["counts"]["jwt_svids"] == 0
        cluster.banned = ""
        await until(lambda: len(cluster.hellos) > 1, 15)
        assert (await workload.x509()).svids


async def test_ban_during_a_partition_is_learned_at_the_first_word(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (agent, workload):
        await workload.x509()
        cluster.banned = "stolen"
        cluster.cut()

        async def banned() -> bool:
            return bool((await agent.status())["banned"])

        await eventually(banned)
        assert (await refused(workload.x509()))[0] is Status.PERMISSION_DENIED


async def test_jwt_is_cached_whatever_the_order_of_its_audience(cluster: FakeCluster, tmp_path: Path) -> None:
    requests: list[Any] = []
    cluster.faults.jwt += [requests.append, requests.append, requests.append]
    async with running(cluster, tmp_path) as (_, workload):
        one = (await workload.jwt("a", "b")).svids[0]
        two = (await workload.jwt("b", "a", "b")).svids[0]
        assert one.svid == two.svid and one.hint == "main" and one.spiffe_id == "spiffe://east.test/web"
        assert len(requests) == 1
        answers = await asyncio.gather(*(workload.jwt("c") for _ in range(20)))
        assert len({answer.svids[0].svid for answer in answers}) == 1
        assert len(requests) == 2


async def test_jwt_of_one_of_several_identities(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("e2", "/second", [ME])
    async with running(cluster, tmp_path) as (_, workload):
        assert [s.spiffe_id for s in (await workload.jwt("a")).svids] == [
            "spiffe://east.test/web",
            "spiffe://east.test/second",
        ]
        (only,) = (await workload.jwt("a", spiffe_id="spiffe://east.test/second")).svids
        assert only.spiffe_id == "spiffe://east.test/second"
        status, _ = await refused(workload.jwt("a", spiffe_id="spiffe://east.test/other"))
        assert status is Status.PERMISSION_DENIED
        assert (await refused(workload.jwt("a", spiffe_id="https://x")))[0] is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("audience", [(), ("",), tuple("abcdefghijklmnopq"), ("x" * 1025,)])
async def test_bad_audience_is_the_callers_fault(cluster: FakeCluster, tmp_path: Path, audience: Any) -> None:
    async with running(cluster, tmp_path) as (_, workload):
        assert (await refused(workload.jwt(*audience)))[0] is Status.INVALID_ARGUMENT


async def test_jwt_refusal_of_the_cluster_reaches_the_caller(cluster: FakeCluster, tmp_path: Path) -> None:
    def away(_: object) -> None:
        raise GRPCError(Status.UNAVAILABLE, "away")

    async with running(cluster, tmp_path) as (_, workload):
        cluster.faults.jwt.append(away)
        assert (await refused(workload.jwt("a")))[0] is Status.UNAVAILABLE
        assert (await workload.jwt("a")).svids


async def test_validation_knows_home_and_federated_domains_only(cluster: FakeCluster, tmp_path: Path) -> None:
    now, west, north = datetime.now(UTC), Domain("west.test"), Domain("north.test")
    cluster.grant(west)
    cluster.grant(north)
    async with running(cluster, tmp_path) as (_, workload):
        own = (await workload.jwt("me")).svids[0].svid
        good = await workload.validate("me", own)
        assert good.spiffe_id == "spiffe://east.test/web" and good.claims["aud"] == ["me"]
        assert (await workload.validate("me", west.jwt("/x", "me", now))).spiffe_id == "spiffe://west.test/x"
        expired = cluster.home.jwt("/x", "me", now - timedelta(hours=1))
        forged = Domain("west.test").jwt("/x", "me", now)
        for audience, token in (
            ("you", own),
            ("me", north.jwt("/x", "me", now)),
            ("me", expired),
            ("me", forged),
            ("me", own[:-4]),
            ("me", "a.b.c"),
            ("me", ""),
            ("", own),
        ):
            assert (await refused(workload.validate(audience, token)))[0] is Status.INVALID_ARGUMENT


async def test_malformed_request_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    class Garbage:
        def SerializeToString(self) -> bytes:
            return b"\xff\xff\xff"

    async with running(cluster, tmp_path) as (_, workload):
        from grpclib.client import UnaryUnaryMethod

        call: Any = UnaryUnaryMethod(
            workload.channel, "/SpiffeWorkloadAPI/ValidateJWTSVID", Garbage, pb.ValidateJWTSVIDResponse
        )
        assert (await refused(call(Garbage(), metadata=HEADER)))[0] is Status.INVALID_ARGUMENT


async def test_calls_before_the_first_sync_wait_for_it(cluster: FakeCluster, tmp_path: Path) -> None:
    gate = asyncio.Event()
    cluster.faults.issue.append(lambda _: gate.wait())
    async with running(cluster, tmp_path, ready=False) as (agent, workload):
        asking = asyncio.create_task(workload.x509())
        await until(lambda: cluster.hellos)
        assert (await agent.admin("/ready"))[0] == 503
        gate.set()
        assert (await asking).svids


async def test_agent_starts_again_while_its_cluster_is_away(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        pass
    ports = (cluster.grpc_port, cluster.door_port)
    await cluster.stop()
    async with running(cluster, tmp_path, ready=False) as (agent, workload):
        asking = asyncio.create_task(workload.x509())
        await cluster.start(ports)
        assert (await asking).svids

        async def connected() -> bool:
            return bool((await agent.status())["sync"]["connected"])

        await eventually(connected)


async def test_admin_shows_what_is_held(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.grant(Domain("west.test"))
    async with running(cluster, tmp_path) as (agent, workload):
        await workload.jwt("a")
        status = await agent.status()
        assert status["node_id"] == "spiffe://east.test/trustfed/node/n1" and status["ready"]
        assert status["counts"]["svids"] == status["counts"]["entries"] == status["counts"]["jwt_svids"] == 1
        (entry,) = (await agent.admin("/entries"))[1]["entries"]
        assert entry["selectors"] == [ME] and entry["svid"]["serial"]
        (svid,) = (await agent.admin("/svids"))[1]["svids"]
        assert svid["entry"] == "e1" and svid["renew_at"] < svid["not_after"] and svid["error"] is None
        home, west = (await agent.admin("/bundles"))[1]["bundles"]
        assert home["home"] and west["trust_domain"] == "west.test" and west["x509_authorities"] == 1
        assert (await agent.admin("/live")) == (200, {"live": True})
        assert "trustfed_agent_x509_svids 1" in (await agent.admin("/metrics"))[1]
        assert (agent.config.admin_path.stat().st_mode & 0o777, agent.config.socket.stat().st_mode & 0o777) == (
            0o600,
            0o777,
        )


async def test_hundred_streams_leave_no_descriptor_behind(cluster: FakeCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path) as (agent, workload):
        await workload.x509()

        def descriptors() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        before = descriptors()
        for _ in range(20):
            others = [Workload(agent.config.socket) for _ in range(5)]
            await asyncio.gather(*(other.x509() for other in others))
            for other in others:
                other.close()
        await until(lambda: descriptors() <= before)
        assert (await agent.status())["counts"]["streams"] == 0


async def test_tainted_authority_is_left_behind(cluster: FakeCluster, tmp_path: Path) -> None:
    async with (
        running(cluster, tmp_path) as (_, workload),
        workload.watch("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse) as stream,
    ):
        old = (await workload.first(stream)).svids[0].x509_svid
        cluster.home.authorities.append(cluster.new_authority("a2"))
        cluster.publish()
        await workload.first(stream)
        cluster.tell(node_pb.FromCluster(reissue=node_pb.Reissue(authorities=["a1"], spread_seconds=0, drop_jwts=True)))
        new = (await workload.first(stream)).svids[0].x509_svid
        assert new != old
        issuer = x509.load_der_x509_certificate(new).issuer
        assert issuer == x509.load_der_x509_certificate(cluster.home.authorities[-1].twin).subject
        await until(lambda: "renew" in cluster.log)


async def test_health_address_shows_health_and_nothing_else(
    cluster: FakeCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(cluster, tmp_path, health="127.0.0.1:0"):
        (said,) = [line for line in capfd.readouterr().err.splitlines() if "health and metrics listen" in line]
        host, port = json.loads(said)["address"].rsplit(":", 1)
        for path, status in (("/live", 200), ("/ready", 200), ("/metrics", 200), ("/entries", 404), ("/status", 404)):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert int((await reader.read()).split()[1]) == status
            writer.close()
