"""MCP-over-xDS, as istiod's own client reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import h2.connection
import pytest

from bundle_publisher.istio.resource import Resource
from tests.fakes.istiod import METHOD, Istiod
from tests.fakes.routes import CREATED, destination_rule, service_entry
from trustfed.demo.ports import free_port
from trustfed.feed import mcp as door
from trustfed.feed.intake import State
from trustfed.feed.mcp import Mcp
from trustfed.feed.resources import accept
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.service import Call
from trustfed.h2grpc.wire import prefixed
from trustfed.proto import envoy_pb2 as pb
from trustfed.proto import istio_pb2
from trustfed.proto.istio_kinds import ASKED, KINDS, MESH_CONFIG
from trustfed.runtime.timestamps import to_ms

SE, DR = (KINDS[name].type_url for name in ("ServiceEntry", "DestinationRule"))


def state(*resources: Resource) -> State:
    return State({r.key: accept(r.key, r.version, to_ms(r.created_at), r.manifest) for r in resources})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Mcp, str]]:
    address = f"127.0.0.1:{free_port()}"
    mcp = Mcp(address)
    await mcp.open()
    try:
        yield mcp, address
    finally:
        await mcp.close()


@asynccontextmanager
async def stream(address: str) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.stream_stream(
            METHOD,
            request_serializer=pb.DiscoveryRequest.SerializeToString,
            response_deserializer=pb.DiscoveryResponse.FromString,
        )
        yield method(timeout=20)


async def test_an_istiod_is_synced_only_by_a_state_and_gets_every_kind() -> None:
    async with serving() as (mcp, address):
        istiod = Istiod(address).start()
        await istiod.until(lambda _: mcp.readers == 1, "the stream")
        await asyncio.sleep(0.1)
        assert not istiod.answered  # nothing is known yet: nothing is said, and nothing deleted
        entry, rule = service_entry("a"), destination_rule("a")
        await mcp.publish(state(entry, rule), None)
        await istiod.until(lambda i: i.synced and MESH_CONFIG in i.answered, "an answer for each kind")
        assert istiod.names == {"ServiceEntry": {"ns/trustfed-a"}, "DestinationRule": {"ns/trustfed-a"}}
        held = istiod.store[SE]["ns/trustfed-a"]
        assert (held.version, held.created_ms) == (entry.version, to_ms(CREATED))
        assert held.labels == {"app.kubernetes.io/managed-by": "trustfed"}
        assert held.body_url == "type.googleapis.com/istio.networking.v1alpha3.ServiceEntry"
        spec = istio_pb2.ServiceEntry.FromString(held.body)
        assert spec.endpoints[0].address == "203.0.113.20" and spec.endpoints[0].ports["http"] == 15443
        assert istiod.pushes == [MESH_CONFIG, *ASKED]
        await istiod.stop()


async def test_only_a_kind_that_changed_is_pushed_and_only_what_changed_is_applied() -> None:
    async with serving() as (mcp, address):
        first = state(service_entry("a"), service_entry("b"), destination_rule("a"))
        await mcp.publish(first, None)
        istiod = Istiod(address).start()
        await istiod.until(lambda i: i.synced, "the start")
        istiod.pushes.clear()
        istiod.applied.clear()
        second = state(service_entry("a", weight=7), service_entry("b"), destination_rule("a"))
        await mcp.publish(second, second.changed(first))
        await istiod.until(lambda i: i.applied, "the change")
        await mcp.publish(second, frozenset())
        third = state(service_entry("a", weight=7), destination_rule("a"))
        await mcp.publish(third, third.changed(second))
        await istiod.until(lambda i: len(i.store[SE]) == 1, "the removal")
        assert istiod.pushes == [SE, SE] and istiod.applied == ["ns/trustfed-a"] and not istiod.emptied
        await istiod.stop()


async def test_a_restart_of_the_server_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    held = state(service_entry("a"))
    mcp = Mcp(address)
    await mcp.publish(held, None)
    await mcp.open()
    istiod = Istiod(address).start()
    await istiod.until(lambda i: i.synced, "the start")
    await mcp.close()
    await istiod.until(lambda i: i.errors, "the end")
    again = Mcp(address)
    await again.open()  # nobody has told it anything yet
    await istiod.until(lambda i: again.readers, "the stream")
    assert istiod.names == {"ServiceEntry": {"ns/trustfed-a"}}
    istiod.answered.clear()
    await again.publish(held, None)
    await istiod.until(lambda i: i.synced, "the answers")
    assert istiod.names == {"ServiceEntry": {"ns/trustfed-a"}} and not istiod.emptied
    await istiod.stop()
    await again.close()


async def test_nonces_acks_nacks_and_asking_again() -> None:
    async with serving() as (mcp, address), stream(address) as call:
        await mcp.publish(state(service_entry("a")), None)
        await call.write(pb.DiscoveryRequest(type_url=SE, response_nonce="2026-11-21T00:00:00Z"))
        first = await call.read()
        assert len(first.resources) == 1 and first.type_url == SE and first.version_info
        nack = pb.DiscoveryRequest(type_url=SE, response_nonce=first.nonce)
        nack.error_detail.message = "no good\x1b[31m"
        await call.write(nack)
        await call.write(pb.DiscoveryRequest(type_url=SE, response_nonce="an old one", version_info="x"))
        await call.write(pb.DiscoveryRequest(type_url=DR, response_nonce="junk"))
        second = await call.read()  # neither refusal nor old nonce was answered
        assert second.type_url == DR and not second.resources and second.nonce != first.nonce
        await call.write(pb.DiscoveryRequest(type_url=SE))
        again = await call.read()
        assert again.type_url == SE and again.version_info == first.version_info
        await call.write(pb.DiscoveryRequest(type_url="nobody/v1/Knows"))
        unknown = await call.read()
        assert unknown.type_url == "nobody/v1/Knows" and not unknown.resources and unknown.nonce


async def test_one_answer_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(door.log, "error", lambda message, **_: said.append(message))
    async with serving() as (mcp, address), stream(address) as call:
        await mcp.publish(state(service_entry("a")), None)
        await call.write(pb.DiscoveryRequest(type_url=SE))
        first = await call.read()
        for _ in range(20):
            nack = pb.DiscoveryRequest(type_url=SE, response_nonce=first.nonce)
            nack.error_detail.message = "no good"
            await call.write(nack)
        await call.write(pb.DiscoveryRequest(type_url=DR))
        assert (await call.read()).type_url == DR and said == ["istiod refused"]


async def test_who_asks_without_end_waits_and_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_REQUESTS", (3, 0.01))
    async with serving() as (mcp, address), stream(address) as call:
        await mcp.publish(state(service_entry("a")), None)
        for _ in range(20):
            await call.write(pb.DiscoveryRequest(type_url=SE))
        await call.write(pb.DiscoveryRequest(type_url=DR))
        while (await call.read()).type_url != DR:
            pass


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (pb.DiscoveryRequest(type_url=""), "INVALID_ARGUMENT", "cannot be asked for"),
        (pb.DiscoveryRequest(type_url="x" * 300), "INVALID_ARGUMENT", "cannot be asked for"),
        (pb.DiscoveryRequest(type_url=SE, node=pb.Node(id="n" * 70_000)), "RESOURCE_EXHAUSTED", "the limit is"),
    ],
    ids=["no type", "long type", "giant node"],
)
async def test_what_cannot_be_answered_ends_that_stream_with_one_sentence(
    request_: pb.DiscoveryRequest, code: str, words: str
) -> None:
    async with serving() as (mcp, address):
        await mcp.publish(state(service_entry("a")), None)
        istiod = Istiod(address).start()
        await istiod.until(lambda i: i.synced, "a good one beside it")
        async with stream(address) as call:
            await call.write(request_)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
        assert refused.value.code().name == code and words in (refused.value.details() or "")
        assert not istiod.errors and istiod.synced
        await istiod.stop()


async def test_too_many_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_TYPES", 3)
    async with serving() as (mcp, address), stream(address) as call:
        await mcp.publish(state(), None)
        for number in range(3):
            await call.write(pb.DiscoveryRequest(type_url=f"a/v1/{number}"))
            await call.read()
        await call.write(pb.DiscoveryRequest(type_url="a/v1/4"))
        with pytest.raises(grpc.aio.AioRpcError, match="more than 3 types"):
            await call.read()


async def test_no_process_of_the_pod_locks_istiod_out() -> None:
    """16 connections of anybody's were enough: the next one was closed, istiod's too."""
    async with serving() as (mcp, address):
        await mcp.publish(state(service_entry("a")), None)
        host, _, port = address.rpartition(":")
        hogs = [await asyncio.open_connection(host, int(port)) for _ in range(4 * door.MAX_STREAMS)]
        for _, writer in hogs:
            writer.write(_opened_stream())
        await asyncio.sleep(0.1)
        assert mcp._server.connections == door.MAX_STREAMS
        istiod = Istiod(address).start()
        await istiod.until(lambda i: i.synced, "its turn", 10.0)
        assert istiod.names == {"ServiceEntry": {"ns/trustfed-a"}}
        await istiod.stop()
        for _, writer in hogs:
            writer.close()


async def test_who_asks_for_nothing_gives_way_first() -> None:
    async with serving() as (mcp, address):
        await mcp.publish(state(service_entry("a")), None)
        istiod = Istiod(address).start()
        await istiod.until(lambda i: i.synced, "the start")
        host, _, port = address.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(30)]
        await mcp.publish(state(service_entry("b")), None)
        await istiod.until(lambda i: i.names == {"ServiceEntry": {"ns/trustfed-b"}}, "the change")
        assert not istiod.errors and mcp._server.connections == door.MAX_STREAMS
        await istiod.stop()
        for _, writer in silent:
            writer.close()


def _opened_stream() -> bytes:
    client = h2.connection.H2Connection()
    client.initiate_connection()
    headers = {":method": "POST", ":scheme": "http", ":path": METHOD, ":authority": "x"}
    client.send_headers(1, [*headers.items(), ("content-type", "application/grpc"), ("te", "trailers")])
    return client.data_to_send()


async def test_readers_that_are_slow_together_share_what_they_are_sent() -> None:
    mcp = Mcp("127.0.0.1:1")
    await mcp.publish(state(service_entry("a")), None)

    async def requests() -> AsyncIterator[bytes]:
        yield pb.DiscoveryRequest(type_url=SE).SerializeToString()
        await asyncio.Event().wait()

    readers = [mcp._stream(Call(METHOD, {}, None, door._Istiod()), requests()) for _ in range(3)]
    one, two, three = [await anext(reader) for reader in readers]
    assert one is two is three and prefixed(one) is one
    for reader in readers:
        await reader.aclose()
    assert not mcp._readers


async def test_a_slow_reader_gets_the_newest_and_nothing_is_queued_for_it() -> None:
    """The server asks for the next answer when the last one has left: what came in between is skipped."""
    mcp = Mcp("127.0.0.1:1")
    await mcp.publish(state(service_entry("a"), destination_rule("a")), None)

    async def requests() -> AsyncIterator[bytes]:
        yield pb.DiscoveryRequest(type_url=SE).SerializeToString()
        await asyncio.Event().wait()

    answers = mcp._stream(Call(METHOD, {}, None, door._Istiod()), requests())
    first = pb.DiscoveryResponse.FromString((await anext(answers))[5:])
    assert len(first.resources) == 1
    for weight in range(2, 12):
        await mcp.publish(state(service_entry("a", weight=weight)), None)
    last = pb.DiscoveryResponse.FromString((await anext(answers))[5:])
    found = istio_pb2.McpResource.FromString(last.resources[0].value)
    assert found.metadata.version == service_entry("a", weight=11).version
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(answers)
    await answers.aclose()
    assert not mcp.readers


async def test_pings_of_an_idle_reader_are_answered() -> None:
    """istiod pings every 30 s, also while nothing happens; here every 10 ms."""
    async with serving() as (mcp, address):
        await mcp.publish(state(service_entry("a")), None)
        options = [
            ("grpc.keepalive_time_ms", 10),
            ("grpc.http2.min_ping_interval_without_data_ms", 10),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            call = channel.stream_stream(
                METHOD, pb.DiscoveryRequest.SerializeToString, pb.DiscoveryResponse.FromString
            )()
            await call.write(pb.DiscoveryRequest(type_url=SE))
            await call.read()
            await asyncio.sleep(0.4)
            await call.write(pb.DiscoveryRequest(type_url=DR))
            assert (await call.read()).type_url == DR


def test_the_bounds_of_the_door() -> None:
    assert isinstance(door.LIMITS, Limits) and door.LIMITS.message <= 64 * 1024
