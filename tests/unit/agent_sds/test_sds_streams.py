"""SDS on a real agent's socket: what each name gives to whom, what is pushed, and what bad input gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from google.protobuf import struct_pb2
from grpclib.client import UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from agent.sds import conversations, shares
from agent.sds.door import SERVICE
from tests.fakes.cluster import Domain, FakeCluster
from tests.unit.agent.world import ME, Agent, eventually, running, until
from tests.unit.agent_sds.client import Proxy, domains, secrets
from trustfed.proto import envoy_pb2 as pb
from trustfed.proto import node_pb2


@pytest.fixture
async def cluster() -> Any:
    made = FakeCluster()
    made.home.authorities[:0] = [made.new_authority(f"a{number}") for number in (4, 3, 2)]
    async with made as running_cluster:
        running_cluster.put("e1", "/web", [ME], federates_with=["west.test"])
        yield running_cluster


@asynccontextmanager
async def world(cluster: FakeCluster, folder: Path, *, ready: bool = True) -> AsyncIterator[tuple[Agent, Proxy]]:
    async with running(cluster, folder, ready=ready) as (agent, _):
        proxy = Proxy(agent.config.socket)
        try:
            yield agent, proxy
        finally:
            proxy.close()


def rotate(cluster: FakeCluster) -> None:
    """Another authority signs from now on, and all that the last one signed is replaced."""
    authorities = cluster.home.authorities
    authorities.insert(0, authorities.pop())
    cluster.publish()
    order = node_pb2.Reissue(authorities=[authorities[0].id], spread_seconds=0, reason="rotation")
    cluster.tell(node_pb2.FromCluster(reissue=order))


def serial(secret: pb.Secret) -> int:
    return x509.load_pem_x509_certificate(secret.tls_certificate.certificate_chain.inline_bytes).serial_number


async def refused(call: Any) -> tuple[Status, str]:
    with pytest.raises(GRPCError) as caught:
        await call
    return caught.value.status, caught.value.message or ""


async def test_each_name_gives_what_it_asks_for(cluster: FakeCluster, tmp_path: Path) -> None:
    west, north = Domain("west.test"), Domain("north.test")
    cluster.grant(west)
    cluster.grant(north)  # held by this node, and not for this process
    own, names = "spiffe://east.test/web", ("default", "ROOTCA", "ALL", "spiffe://east.test/web", "spiffe://west.test")
    async with world(cluster, tmp_path) as (_, proxy), proxy.stream(*names) as stream:
        found = secrets(await proxy.next(stream))
        assert set(found) == set(names)
        for name in ("default", own):
            certificate = found[name].tls_certificate
            (leaf,) = x509.load_pem_x509_certificates(certificate.certificate_chain.inline_bytes)
            key: Any = load_pem_private_key(certificate.private_key.inline_bytes, None)
            assert key.public_key() == leaf.public_key()
            san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert san.get_values_for_type(x509.UniformResourceIdentifier) == [own]
        for name in ("ROOTCA", "ALL"):
            anchors = domains(found[name])
            assert set(anchors) == {"east.test", "west.test"}
            assert _ders(anchors["east.test"]) == [one.twin for one in cluster.home.authorities]
            assert _ders(anchors["west.test"]) == [west.authorities[0].twin]
        assert set(domains(found["spiffe://west.test"])) == {"west.test"}
        assert set(secrets(await proxy.fetch("default", "ROOTCA"))) == {"default", "ROOTCA"}


async def test_the_default_is_the_first_identity(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.put("e0", "/newer", [ME], created_at_ms=50)
    cluster.put("zz", "/oldest", [ME], created_at_ms=0)
    async with world(cluster, tmp_path) as (_, proxy):
        assert _uri(secrets(await proxy.fetch("default"))["default"]) == "spiffe://east.test/oldest"
        newer = "spiffe://east.test/newer"
        assert _uri(secrets(await proxy.fetch(newer))[newer]) == newer


async def test_who_has_no_identity_waits_for_one(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.entries.clear()
    async with (
        world(cluster, tmp_path) as (agent, proxy),
        proxy.stream("default") as stream,
        proxy.delta("default", "ROOTCA") as delta,
    ):
        assert (await refused(proxy.fetch("default")))[0] is Status.PERMISSION_DENIED

        async def both_open() -> bool:
            return bool((await agent.status())["sds"]["streams"] == 2)

        await eventually(both_open)
        cluster.put("e1", "/web", [ME])
        assert set(secrets(await proxy.next(stream))) == {"default"}
        got = [one.name for one in (await proxy.next(delta)).resources]
        while len(got) < 2:
            got += [one.name for one in (await proxy.next(delta)).resources]
        assert sorted(got) == ["ROOTCA", "default"]


async def test_waiting_ends_with_the_reason(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "HOLD_SECONDS", 0.05)
    cluster.put("other", "/other", ["unix:uid:54321"])
    cluster.grant(Domain("north.test"))
    async with world(cluster, tmp_path) as (_, proxy):
        for name, words in (
            ("spiffe://east.test/other", "spiffe://east.test/other is not an identity of this process"),
            ("spiffe://north.test", "this process has no bundle of trust domain north.test"),
            ("spiffe://west.test", "this process has no bundle of trust domain west.test"),
        ):
            for opened in (proxy.stream(name, "default"), proxy.delta(name, "default")):
                async with opened as stream:
                    first = await proxy.next(stream)  # what is there is given meanwhile
                    assert len(first.resources) == 1
                    status, message = await refused(proxy.next(stream))
                    assert status is Status.PERMISSION_DENIED and message.startswith(words)


async def test_rotation_is_pushed_and_its_acceptance_reported(cluster: FakeCluster, tmp_path: Path) -> None:
    async with (
        world(cluster, tmp_path) as (agent, proxy),
        proxy.stream("default") as stream,
        proxy.delta("default") as delta,
    ):
        first = await proxy.next(stream)
        before = (await proxy.next(delta)).resources[0]
        assert before.version == first.version_info
        await proxy.accept(stream, first, "default")
        await until(lambda: len(cluster.loaded) == 1)
        loaded = cluster.loaded[0]
        assert (loaded.entry_id, loaded.resource, loaded.version) == ("e1", "default", first.version_info)
        assert (int(loaded.serial, 16), loaded.proxy) == (serial(secrets(first)["default"]), "proxy~1")
        rotate(cluster)
        second = await proxy.next(stream)
        assert serial(secrets(second)["default"]) != int(loaded.serial, 16)
        assert (await proxy.next(delta)).resources[0].version == second.version_info
        cluster.cut()  # what is said while the cluster is away is told when it is back
        await proxy.accept(stream, second, "default")
        await until(lambda: any(one.version == second.version_info for one in cluster.loaded), 20)
        assert (await agent.status())["sds"]["loaded"] == 2


async def test_a_refusal_is_alarmed_until_it_is_loaded(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world(cluster, tmp_path) as (agent, proxy), proxy.stream("ROOTCA") as stream:
        first = await proxy.next(stream)
        detail = pb.Status(code=13, message="Failed to load trusted CA\n" + "x" * 2000)
        await stream.send_message(proxy.request("ROOTCA", response_nonce=first.nonce, error_detail=detail))
        await until(lambda: len(cluster.refused) == 1)
        refusal = cluster.refused[0]
        assert (refusal.entry_id, refusal.resource, refusal.serial) == ("", "ROOTCA", "")
        assert refusal.error.startswith("Failed to load trusted CA xxx") and len(refusal.error) <= 500
        (shown,) = (await agent.status())["sds"]["refusing"]
        assert (shown["proxy"], shown["error"]) == ("proxy~1", refusal.error)
        assert "trustfed_agent_sds_refusing 1" in (await agent.admin("/metrics"))[1]
        assert "Envoy refuses what it was sent" in capsys.readouterr().err
        rotate(cluster)
        second = await proxy.next(stream)
        await proxy.accept(stream, second, "ROOTCA")
        await until(lambda: len(cluster.loaded) == 1)
        assert (await agent.status())["sds"]["refusing"] == []


async def test_what_is_taken_away_ends_or_is_taken_away(cluster: FakeCluster, tmp_path: Path) -> None:
    async with (
        world(cluster, tmp_path) as (_, proxy),
        proxy.stream("default") as stream,
        proxy.delta("default") as delta,
    ):
        await proxy.next(stream)
        await proxy.next(delta)
        cluster.remove("e1")
        assert (await refused(proxy.next(stream)))[0] is Status.PERMISSION_DENIED
        assert list((await proxy.next(delta)).removed_resources) == ["default"]
        cluster.put("e1", "/web", [ME])
        assert [one.name for one in (await proxy.next(delta)).resources] == ["default"]


async def test_what_is_taken_away_ends_the_stream_whatever_else_it_waits_for(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    async with world(cluster, tmp_path) as (_, proxy), proxy.stream("spiffe://east.test/api", "default") as stream:
        assert set(secrets(await proxy.next(stream))) == {"default"}
        cluster.remove("e1")
        assert (await refused(proxy.next(stream)))[0] is Status.PERMISSION_DENIED


async def test_an_identity_that_comes_back_with_less_does_not_leave_a_domain_believed(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    """A real Envoy ignores that a validation context is removed, and then does not say any more that it has it."""
    cluster.grant(Domain("west.test"))
    async with world(cluster, tmp_path) as (_, proxy), proxy.delta("default", "spiffe://west.test") as delta:
        first = {one.name: one.version for one in (await proxy.next(delta)).resources}
        assert set(first) == {"default", "spiffe://west.test"}
        cluster.remove("e1")
        assert list((await proxy.next(delta)).removed_resources) == ["default"]
        cluster.put("e2", "/web", [ME])
        after = {one.name: one.version for one in (await proxy.next(delta)).resources}
        if set(after) == {"spiffe://west.test"}:  # the other is on its way
            after |= {one.name: one.version for one in (await proxy.next(delta)).resources}
        assert set(after) == set(first) and after["spiffe://west.test"] != first["spiffe://west.test"]


async def test_a_banned_node_serves_no_envoy(cluster: FakeCluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as (_, proxy), proxy.stream("default") as stream:
        await proxy.next(stream)
        cluster.ban()
        assert (await refused(proxy.next(stream)))[0] is Status.PERMISSION_DENIED
        assert (await refused(proxy.fetch("ROOTCA")))[0] is Status.PERMISSION_DENIED


async def test_a_domain_that_is_believed_no_more_is_replaced_by_nobody(cluster: FakeCluster, tmp_path: Path) -> None:
    west = Domain("west.test")
    cluster.grant(west)
    async with (
        world(cluster, tmp_path) as (_, proxy),
        proxy.stream("spiffe://west.test") as alone,
        proxy.stream("ROOTCA") as every,
    ):
        first = domains(secrets(await proxy.next(alone))["spiffe://west.test"])
        assert set(domains(secrets(await proxy.next(every))["ROOTCA"])) == {"east.test", "west.test"}
        cluster.end_grant("west.test")
        assert set(domains(secrets(await proxy.next(every))["ROOTCA"])) == {"east.test"}
        nobody = domains(secrets(await proxy.next(alone))["spiffe://west.test"])
        assert set(nobody) == {"west.test"} and nobody != first
        (anchor,) = x509.load_pem_x509_certificates(nobody["west.test"])
        assert anchor.not_valid_after_utc.year == 2000
        cluster.grant(west)
        assert domains(secrets(await proxy.next(alone))["spiffe://west.test"]) == first


async def test_bad_input_gets_one_clear_status_and_others_are_served(cluster: FakeCluster, tmp_path: Path) -> None:
    wrong = "type.googleapis.com/envoy.config.listener.v3.Listener"
    metadata = struct_pb2.Struct()
    metadata.update({"x": "y" * 300_000})
    cases: list[tuple[dict[str, Any], tuple[str, ...], Status, str]] = [
        ({"type_url": wrong}, ("default",), Status.INVALID_ARGUMENT, "Listener' is not served here"),
        ({}, ("nobody-knows",), Status.INVALID_ARGUMENT, "no secret is called 'nobody-knows' here"),
        ({}, ("spiffe://east.test/" + "x" * 4000,), Status.INVALID_ARGUMENT, "a secret's name of 4019 characters"),
        ({}, tuple(f"spiffe://e.test/{n}" for n in range(300)), Status.INVALID_ARGUMENT, "300 secrets in one stream"),
        ({"node": pb.Node(metadata=metadata)}, ("default",), Status.RESOURCE_EXHAUSTED, "the limit is 262144"),
    ]
    async with world(cluster, tmp_path) as (_, proxy), proxy.stream("default") as good:
        await proxy.next(good)
        for more, names, status, words in cases:
            said, message = await refused(proxy.fetch(*names, **more))
            assert (said, words in message) == (status, True), message
            if "node" not in more:
                async with proxy.stream(*names, **more) as stream:
                    said, message = await refused(proxy.next(stream))
                    assert (said, words in message) == (status, True), message
        assert (await refused(proxy.fetch()))[0] is Status.INVALID_ARGUMENT
        garbage: Any = UnaryUnaryMethod(proxy.channel, SERVICE + "FetchSecrets", _Raw, pb.DiscoveryResponse)
        assert (await refused(garbage(_Raw(), timeout=20)))[0] is Status.INVALID_ARGUMENT
        rotate(cluster)
        await proxy.next(good)


async def test_a_large_node_is_taken_as_envoy_sends_it(cluster: FakeCluster, tmp_path: Path) -> None:
    metadata = struct_pb2.Struct()
    metadata.update({"LABELS": {f"label-{number}": "v" * 50 for number in range(2000)}})
    async with world(cluster, tmp_path) as (_, proxy):
        assert set(secrets(await proxy.fetch("default", node=pb.Node(metadata=metadata)))) == {"default"}


async def test_a_reader_that_does_not_read_gets_the_newest_and_holds_up_nobody(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    async with (
        world(cluster, tmp_path) as (agent, proxy),
        proxy.stream("default") as slow,
        proxy.stream("default") as quick,
    ):
        first = serial(secrets(await proxy.next(quick))["default"])
        seen = {first}
        for _ in range(3):
            rotate(cluster)
            seen.add(serial(secrets(await proxy.next(quick))["default"]))
        assert len(seen) == 4
        latest = (await agent.admin("/svids"))[1]["svids"][0]["serial"]

        async def caught_up() -> bool:
            return serial(secrets(await proxy.next(slow))["default"]) == int(latest, 16)

        await eventually(caught_up)


async def test_streams_are_bounded(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MAX_STREAMS_PER_USER", 2)
    async with world(cluster, tmp_path) as (_, proxy), proxy.stream("default") as one, proxy.stream("ROOTCA") as two:
        await proxy.next(one)
        await proxy.next(two)
        async with proxy.stream("ALL") as third:
            assert (await refused(proxy.next(third)))[0] is Status.RESOURCE_EXHAUSTED
        await two.cancel()

        async def there_is_room() -> bool:
            try:
                return bool((await proxy.fetch("ALL")).resources)
            except GRPCError:
                return False

        await eventually(there_is_room)


async def test_what_is_asked_for_by_name_is_bounded(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process kept 280 MB of an agent busy by 900 streams for 120 long names each."""
    monkeypatch.setattr(shares, "MAX_ASKED_PER_USER", 3 * shares.NAME_COSTS)
    async with world(cluster, tmp_path) as (_, proxy), proxy.stream("default") as one, proxy.delta("ROOTCA") as two:
        await proxy.next(one)
        await proxy.next(two)
        async with proxy.stream("ALL") as third:
            assert (await refused(proxy.next(third)))[0] is Status.RESOURCE_EXHAUSTED
        assert (await refused(proxy.fetch("ALL")))[0] is Status.RESOURCE_EXHAUSTED
        await one.send_message(proxy.request())  # asks for nothing any more

        async def there_is_room() -> bool:
            try:
                return bool((await proxy.fetch("ALL")).resources)
            except GRPCError:
                return False

        await eventually(there_is_room)
        assert await there_is_room() and await there_is_room()


async def test_who_refuses_without_end_is_not_written_down_without_end(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "_SAID", (3, 3600.0))
    async with world(cluster, tmp_path) as (agent, proxy), proxy.stream("default") as stream:
        for number in range(6):
            answer = await proxy.next(stream)
            more = {"response_nonce": answer.nonce, "error_detail": {"code": 3, "message": f"no {number}"}}
            await stream.send_message(proxy.request(*(["default", "ROOTCA"] if number % 2 else ["ALL"]), **more))
        await proxy.next(stream)
        status = (await agent.status())["sds"]
        assert (status["refused"], status["dropped"]) == (3, 5)
        assert len(cluster.refused) <= 3


async def test_who_asks_too_fast_waits_and_is_heard(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "_REQUESTS", (3, 0.01))
    async with world(cluster, tmp_path) as (_, proxy), proxy.stream("default") as stream:
        await proxy.next(stream)
        for _ in range(10):
            await stream.send_message(proxy.request("ROOTCA"))
            await stream.send_message(proxy.request("default"))
        await stream.send_message(proxy.request("ALL"))

        async def heard_to_the_end() -> bool:
            return set(secrets(await proxy.next(stream))) == {"ALL"}

        await eventually(heard_to_the_end)


async def test_nothing_of_it_is_loaded_before_an_envoy_calls(cluster: FakeCluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as (agent, _):
        status = (await agent.status())["sds"]
        assert status == {"streams": 0, "loaded": 0, "refused": 0, "waiting": 0, "dropped": 0, "refusing": []}


class _Raw:
    def SerializeToString(self) -> bytes:
        return b"\xff\xff\xff"


def _ders(pem: bytes) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem)]


def _uri(secret: pb.Secret) -> str:
    leaf = x509.load_pem_x509_certificate(secret.tls_certificate.certificate_chain.inline_bytes)
    (uri,) = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )
    return str(uri)
