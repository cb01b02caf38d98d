"""gRPC over HTTP/2, frame by frame, against a raw client."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import h2.events
import h2.settings
import pytest

from tests.fakes.waiting import until
from tests.unit.h2grpc.client import RawClient, descriptors, framed, headers, serving, settled_descriptors
from trustfed.h2grpc.limits import Limits


async def _ask(tmp_path: Path, head: list[tuple[str, str]], body: bytes | None) -> tuple[dict[str, str], bytes]:
    async with serving(tmp_path) as (_, _, path):
        client = await RawClient.connect(path)
        stream = client.call(head, body)
        client.flush()
        outcome = await client.outcome(stream)
        await client.close()
        return outcome


async def test_a_unary_call(tmp_path: Path) -> None:
    found, body = await _ask(tmp_path, headers(), framed(b"hello"))
    assert (found[":status"], found["content-type"], found["grpc-status"]) == ("200", "application/grpc", "0")
    assert body == framed(b"hello")


async def test_request_split_at_every_byte(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, path):
        sample = await RawClient.connect(path)
        sample.call(headers(), framed(b"hello"))
        size = len(sample.http2.data_to_send())
        await sample.close()
        for cut in range(1, size):
            client = await RawClient.connect(path)
            stream = client.call(headers(), framed(b"hello"))
            raw = client.http2.data_to_send()
            client.writer.write(raw[:cut])
            await asyncio.sleep(0)
            client.writer.write(raw[cut:])
            assert (await client.outcome(stream))[1] == framed(b"hello"), cut
            await client.close()


@pytest.mark.parametrize("shape", ["Unary", "Bidi"])
async def test_message_split_over_data_frames_at_every_byte(tmp_path: Path, shape: str) -> None:
    body = framed(b"abc")
    async with serving(tmp_path) as (_, _, path):
        client = await RawClient.connect(path)
        for cut in range(len(body) + 1):
            stream = client.call(headers(f"/test.Echo/{shape}"), None, end=False)
            client.http2.send_data(stream, body[:cut])
            client.http2.send_data(stream, body[cut:], end_stream=True)
            client.flush()
            found, answer = await client.outcome(stream)
            assert found["grpc-status"] == "0"
            assert answer == framed(b"abc" if shape == "Unary" else b"cba")
        await client.close()


@pytest.mark.parametrize(
    ("head", "body", "http", "code"),
    [
        (headers(method="GET"), framed(b""), "405", 12),
        (headers(content_type="text/html"), framed(b""), "415", 2),
        (headers(content_type=None), framed(b""), "415", 2),
        (headers(content_type="application/grpc-web"), framed(b""), "415", 2),
        (headers(te=None), framed(b""), "200", 13),
        (headers("test.Echo/Unary"), framed(b""), "200", 12),
        (headers("//test.Echo/Unary"), framed(b""), "200", 12),
        (headers("/test.Echo/Unary/"), framed(b""), "200", 12),
        (headers("/test.Echo/Unary?x"), framed(b""), "200", 12),
        (headers("/test.Echo/%55nary"), framed(b""), "200", 12),
        (headers("/test.Echo/Nothing"), framed(b""), "200", 12),
        (headers("*"), framed(b""), "200", 12),
        (headers("/test.Echo/Unary", ("grpc-encoding", "gzip")), framed(b""), "200", 12),
        (headers("/test.Echo/Unary", ("grpc-timeout", "1x")), framed(b""), "200", 13),
        (headers("/test.Echo/Unary", ("grpc-timeout", "123456789S")), framed(b""), "200", 13),
        (headers("/test.Echo/Unary", ("grpc-timeout", "-1S")), framed(b""), "200", 13),
        (headers("/test.Echo/Unary", ("grpc-timeout", "0n")), framed(b""), "200", 4),
        (headers("/test.Echo/Unary", ("x-bin", "!!!!")), framed(b""), "200", 13),
        (headers("/test.Echo/Unary", *[(f"x-{n}", "1") for n in range(65)]), framed(b""), "200", 8),
        (headers(), None, "200", 12),
        (headers(), b"", "200", 12),
        (headers(), b"\0\0\0", "200", 12),
        (headers(), framed(b"abc")[:-1], "200", 12),
        (headers(), framed(b"a") + framed(b"b"), "200", 12),
        (headers(), framed(b"a", flag=1), "200", 12),
        (headers(), b"\0\x7f\xff\xff\xff", "200", 8),
        (headers("/test.Echo/Bidi"), framed(b"abc")[:-1], "200", 13),
    ],
)
async def test_refused(tmp_path: Path, head: list[tuple[str, str]], body: bytes | None, http: str, code: int) -> None:
    found, answer = await _ask(tmp_path, head, body)
    assert (found[":status"], found["grpc-status"], answer) == (http, str(code), b"")
    assert "grpc-message" in found


async def test_content_types_of_protobuf_are_taken(tmp_path: Path) -> None:
    for kind in ("application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"):
        assert (await _ask(tmp_path, headers(content_type=kind), framed(b"")))[0]["grpc-status"] == "0"


async def test_errors_become_statuses_and_unknown_ones_stay_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found, _ = await _ask(tmp_path, headers(), framed(b"denied"))
    assert found["grpc-status"] == "7"
    assert found["grpc-message"] == "no identity for you%0Ahint: ask for 50 %25 more"
    found, _ = await _ask(tmp_path, headers(), framed(b"broken"))
    assert found["grpc-status"] == "13"
    assert "secret" not in found["grpc-message"]
    (unforeseen,) = [record for record in caplog.records if record.exc_info]
    assert unforeseen.fields["error_id"] in found["grpc-message"]  # type: ignore[attr-defined]


async def test_metadata_and_deadline_reach_the_handler(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, echo, path):
        client = await RawClient.connect(path)
        more = [("workload.spiffe.io", "true"), ("x", "1"), ("x", "2"), ("y-bin", "AAE, Ag=="), ("grpc-timeout", "3S")]
        stream = client.call(headers("/test.Echo/Unary", *more), framed(b""))
        client.flush()
        await client.outcome(stream)
        call = echo.calls[0]
        assert call.metadata["workload.spiffe.io"] == ["true"]
        assert call.metadata["x"] == ["1", "2"]
        assert call.binary("y-bin") == [b"\x00\x01", b"\x02"]
        assert set(call.metadata) == {"workload.spiffe.io", "x", "y-bin"}
        assert call.deadline is not None
        assert 0 < call.deadline - asyncio.get_running_loop().time() <= 3
        await client.close()


async def test_deadline_ends_the_handler(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, echo, path):
        client = await RawClient.connect(path)
        stream = client.call(headers("/test.Echo/Slow", ("grpc-timeout", "20m")), framed(b"60"))
        watched = client.call(headers("/test.Echo/Watch", ("grpc-timeout", "20m")), framed(b"now"))
        client.flush()
        assert (await client.outcome(stream))[0]["grpc-status"] == "4"
        found, body = await client.outcome(watched)
        assert (found["grpc-status"], body) == ("4", framed(b"now"))
        await asyncio.sleep(0)
        assert (echo.cancelled, echo.released, echo.feeds) == (1, 1, [])
        await client.close()


@pytest.mark.parametrize("way", ["reset", "disconnect"])
async def test_a_caller_that_goes_away_ends_its_handlers(tmp_path: Path, way: str) -> None:
    async with serving(tmp_path) as (server, echo, path):
        client = await RawClient.connect(path)
        streams = [
            client.call(headers(f"/test.Echo/{name}"), framed(body))
            for name, body in (("Slow", b"60"), ("Watch", b"x"), ("Count", b"100000"))
        ]
        client.flush()
        await client.until(h2.events.DataReceived)
        if way == "reset":
            for stream in streams:
                client.http2.reset_stream(stream, 8)
            client.flush()
        else:
            await client.close()
        await until(lambda: (echo.cancelled, echo.released, echo.feeds) == (2, 1, []))
        await client.close()
        await until(lambda: not server.connections)
        assert echo.peers == ["accepted", "closed"]


async def test_watch_pushes_and_a_slow_reader_gets_only_the_newest(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, echo, path):
        client = await RawClient.connect(path)
        client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
        stream = client.call(headers("/test.Echo/Watch"), framed(b"0" * 60))
        client.flush()
        await client.until(h2.events.DataReceived)
        for number in range(1, 1000):
            echo.feeds[0].send(b"%03d" % number * 20)
        await asyncio.sleep(0.01)
        client.http2.increment_flow_control_window(10_000, stream)
        client.flush()
        echo.feeds[0].end()
        found, body = await client.outcome(stream)
        assert found["grpc-status"] == "0"
        assert body == framed(b"0" * 60) + framed(b"001" * 20) + framed(b"999" * 20)
        await client.close()


async def test_a_server_stream_asks_for_the_next_message_when_the_last_has_left(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, echo, path):
        client = await RawClient.connect(path)
        client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 3000})
        stream = client.call(headers("/test.Echo/Count"), framed(b"50"))
        client.flush()
        await client.until(h2.events.DataReceived)
        await asyncio.sleep(0.02)
        assert echo.pulled <= 3
        client.http2.increment_flow_control_window(1_000_000, stream)
        client.flush()
        found, body = await client.outcome(stream)
        assert found["grpc-status"] == "0"
        assert body == b"".join(framed(b"%d" % number + b"." * 1000) for number in range(50))
        await client.close()


async def test_bidi_gives_the_window_back_as_messages_are_taken(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(message=50_000)) as (_, _, path):
        client = await RawClient.connect(path)
        stream = client.call(headers("/test.Echo/Bidi"), None, end=False)
        message = os.urandom(40_000)
        for _ in range(10):
            rest = framed(message)
            while rest:
                room = min(client.http2.local_flow_control_window(stream), 16_384, len(rest))
                if room:
                    client.http2.send_data(stream, rest[:room])
                    rest = rest[room:]
                    client.flush()
                else:
                    await client.read()
                for event in client.events:
                    if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                        client.http2.acknowledge_received_data(event.flow_controlled_length, stream)
                        event.flow_controlled_length = 0
        client.http2.end_stream(stream)
        client.flush()
        while not any(isinstance(event, h2.events.StreamEnded) for event in client.events):
            await client.read()
            for event in client.events:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    client.http2.acknowledge_received_data(event.flow_controlled_length, stream)
                    event.flow_controlled_length = 0
            client.flush()
        assert (await client.outcome(stream))[1] == framed(message[::-1]) * 10
        await client.close()


async def test_ping_is_answered_and_a_table_resize_is_acknowledged(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, path):
        client = await RawClient.connect(path)
        client.http2.ping(b"12345678")
        client.flush()
        await client.until(h2.events.PingAckReceived)
        for size in (0, 4096, 100, 100):
            client.http2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
            client.flush()
            stream = client.call(headers(), framed(b"x"))
            client.flush()
            assert (await client.outcome(stream))[0]["grpc-status"] == "0"
        await client.close()


async def test_answers_before_the_request_is_complete_end_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, path):
        client = await RawClient.connect(path)
        stream = client.call(headers("/test.Echo/Nothing"), framed(b"x"), end=False)
        client.flush()
        assert (await client.outcome(stream))[0]["grpc-status"] == "12"
        again = client.call(headers(), framed(b"x"))
        client.flush()
        assert (await client.outcome(again))[0]["grpc-status"] == "0"
        await client.close()


async def test_close_says_goaway_and_ends_streams_with_unavailable(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, echo, path):
        client = await RawClient.connect(path)
        watched = client.call(headers("/test.Echo/Watch"), framed(b"x"))
        finishing = client.call(headers("/test.Echo/Slow"), framed(b"0.02"))
        endless = client.call(headers("/test.Echo/Slow"), framed(b"60"))
        client.flush()
        await client.until(h2.events.DataReceived)
        closing = asyncio.ensure_future(server.close(0.2))
        events: list[h2.events.Event] = []
        raw = b""
        while chunk := await client.reader.read(65536):
            raw += chunk
        await closing
        # h2's client refuses frames after GOAWAY, so GOAWAY (8 bytes, type 7) is taken out before it is read.
        at = raw.index(b"\x00\x00\x08\x07")
        events = client.http2.receive_data(raw[:at] + raw[at + 17 :])
        client.events += events
        assert (await client.outcome(watched))[0]["grpc-status"] == "14"
        assert (await client.outcome(finishing))[1] == framed(b"slept")
        assert (await client.outcome(endless))[0]["grpc-status"] == "14"
        assert server.connections == 0
        assert not path.exists()
        assert echo.feeds == []
        await client.close()


async def test_descriptors_return_to_the_base(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, path):
        base = settled_descriptors()
        for _ in range(50):
            client = await RawClient.connect(path)
            client.call(headers("/test.Echo/Watch"), framed(b"x"))
            client.flush()
            await client.until(h2.events.DataReceived)
            await client.close()
        await until(
            lambda: not server.connections and descriptors() <= base,
            lambda: f"{len(server.connections)} connections, {descriptors()} descriptors open, {base} before",
        )
