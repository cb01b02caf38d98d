"""Each flood ends its own connection, early, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import h2.events
import h2.settings
import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.waiting import until
from tests.unit.h2grpc.client import Echo, RawClient, descriptors, framed, headers, serving, settled_descriptors
from trustfed.errors import Denied
from trustfed.h2grpc.limits import Ledger, Limits, Patience, Readable
from trustfed.h2grpc.server import GrpcServer

CALM = 11
TIGHT = Limits(patience=50, patience_per_second=1)


async def _flood(tmp_path: Path, frames: list[Frame], limits: Limits = TIGHT) -> int:
    """Send frames; give the error code of the GOAWAY (-1: just closed). Another client is served after it."""
    async with serving(tmp_path, limits) as (server, echo, path):
        client = await RawClient.connect(path)
        client.flush()
        client.writer.write(b"".join(frame.serialize() for frame in frames))
        code = await client.goaway()
        await client.close()
        other = await RawClient.connect(path)
        stream = other.call(headers(), framed(b"x"))
        other.flush()
        assert (await other.outcome(stream))[0]["grpc-status"] == "0"
        await other.close()
        await until(lambda: not server.connections)
        assert echo.feeds == []
        return code


def _request(identifier: int, path: str = "/test.Echo/Unary", *flags: str) -> HeadersFrame:
    block = hpack.Encoder().encode([(name, value, True) for name, value in headers(path)])
    return HeadersFrame(identifier, data=block, flags=["END_HEADERS", *flags])


ONE = _request(1, "/test.Echo/Bidi")
FLOODS: dict[str, list[Frame]] = {
    "ping": [PingFrame(0, opaque_data=b"12345678")] * 60,
    "ping acknowledgements": [PingFrame(0, opaque_data=b"12345678", flags=["ACK"])] * 60,
    "settings": [SettingsFrame(0, settings={1: 4096})] * 60,
    "priority": [PriorityFrame(1, depends_on=0, stream_weight=1)] * 60,
    "unknown frames": [ExtensionFrame(0x42, 0, body=b"")] * 60,
    "window updates": [WindowUpdateFrame(0, window_increment=1)] * 60,
    "empty data": [ONE, *[DataFrame(1, data=b"")] * 60],
    "rapid reset": [
        frame
        for number in range(1, 200, 2)
        for frame in (_request(number, "/test.Echo/Slow"), RstStreamFrame(number, error_code=8))
    ],
    "provoked resets by an overflowing window": [
        frame
        for number in range(1, 200, 2)
        for frame in (_request(number), WindowUpdateFrame(number, window_increment=2**31 - 1))
    ],
    "provoked resets by refused calls": [_request(number, "/no/Thing") for number in range(1, 400, 2)],
    "data on a stream that was reset": [
        _request(1, "/no/Thing"),
        *[DataFrame(1, data=b"x")] * 400,
    ],
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_useless_frames_is_told_to_calm_down(tmp_path: Path, name: str) -> None:
    assert await _flood(tmp_path, FLOODS[name]) == CALM


async def test_too_many_streams(tmp_path: Path) -> None:
    frames = [_request(number, "/test.Echo/Slow") for number in range(1, 23, 2)]
    assert await _flood(tmp_path, list(frames), Limits(concurrent_streams=10)) == 1


async def test_a_flood_of_continuations(tmp_path: Path) -> None:
    first = HeadersFrame(1, data=b"")
    small = [ContinuationFrame(1, data=b"")] * 100
    assert await _flood(tmp_path, [first, *small]) == 1
    big = [ContinuationFrame(1, data=b"\0" * 16_000)] * 10
    assert await _flood(tmp_path, [first, *big]) == CALM


async def test_a_header_bomb(tmp_path: Path) -> None:
    """One big entry in the dynamic table, then a reference of one byte to it, again and again."""
    block = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 4000
    assert await _flood(tmp_path, [HeadersFrame(1, data=block, flags=["END_HEADERS"])]) == CALM
    plain = hpack.Encoder().encode([(f"n{number}", "v" * 20, True) for number in range(1000)])
    frame = HeadersFrame(1, data=plain[:16_000])
    rest = ContinuationFrame(1, data=plain[16_000:], flags=["END_HEADERS"])
    assert await _flood(tmp_path, [frame, rest]) == CALM


async def test_answers_earn_patience(tmp_path: Path) -> None:
    """grpc-go sends a PING and a WINDOW_UPDATE for each answer, and cancels each stream after it."""
    async with serving(tmp_path, TIGHT) as (_, _, path):
        client = await RawClient.connect(path)
        for _ in range(300):
            stream = client.call(headers("/test.Echo/Watch"), framed(b"x"))
            client.flush()
            client.events.clear()
            await client.until(h2.events.DataReceived)
            client.http2.ping(b"12345678")
            client.http2.increment_flow_control_window(10)
            client.http2.reset_stream(stream, 8)
            client.flush()
        await client.close()


async def test_unfinished_requests_are_bounded_in_all(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(held_per_connection=100_000)) as (_, _, path):
        client = await RawClient.connect(path)
        client.flush()
        await client.until(h2.events.RemoteSettingsChanged)
        frames: list[Frame] = [WindowUpdateFrame(0, window_increment=1)]
        body = framed(b"x" * 60_000)[:-1]
        for number in (1, 3):
            parts = [DataFrame(number, data=body[at : at + 15_000]) for at in range(0, len(body), 15_000)]
            frames += [_request(number), *parts]
        # No more than the socket takes at once: a client that still writes when the server closes hears of nothing.
        client.writer.write(b"".join(frame.serialize() for frame in frames))
        assert await client.goaway() == CALM
        await client.close()


async def test_what_waits_to_be_worked_off_is_bounded_and_the_peer_hears_why(tmp_path: Path) -> None:
    """More comes while others have their turn: nothing of it is worked off before it is too much."""
    async with serving(tmp_path, Limits(held_per_connection=50_000, slice=1_000, turn=1e-9)) as (_, _, path):
        client = await RawClient.connect(path)
        client.flush()
        await client.until(h2.events.RemoteSettingsChanged)
        body = framed(b"x" * 60_000)
        first, *others = (DataFrame(1, data=body[at : at + 30_000]).serialize() for at in range(0, len(body), 30_000))
        client.writer.write(_request(1).serialize() + first)
        for _ in range(5):  # one slice of it in each turn of the loop
            await asyncio.sleep(0)
        client.writer.write(b"".join(others))
        assert await client.goaway() == CALM
        await client.close()


async def test_empty_messages_that_nobody_reads_are_bounded_too(tmp_path: Path) -> None:
    """They count: a few streams of 50,000 each took all the time there was, and a hundred times the bytes that were counted."""
    async with serving(tmp_path, Limits(held_per_connection=100_000)) as (_, _, path):
        client = await RawClient.connect(path)
        client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})  # so no echo leaves
        client.call(headers("/test.Echo/Bidi"), framed(b"") * 3_000, end=False)
        client.flush()
        assert await client.goaway() == CALM
        await client.close()


async def test_a_peer_that_reads_nothing_is_not_read_and_then_cut(tmp_path: Path) -> None:
    limits = Limits(stall=0.0, write_buffer=1000, patience=1_000_000)
    async with serving(tmp_path, limits) as (server, _, path):
        raw = socket.socket(socket.AF_UNIX)
        raw.setblocking(False)
        raw.connect(str(path))
        ping = PingFrame(0, opaque_data=b"12345678").serialize() * 100
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
        sent = 0
        for _ in range(3000):
            try:
                sent += raw.send(ping)
            except BlockingIOError:
                await asyncio.sleep(0.002)
                if sent and not server.connections:
                    break
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            raise AssertionError("the server took and kept everything")
        assert sent < 3_000_000
        raw.close()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(handshake=0.0), b""),
        (Limits(handshake=0.0), b"PRI * HT"),
        (Limits(drip=0.0), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize() + b"\0\0"),
        (Limits(idle=0.0), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()),
    ],
)
async def test_silence_and_drip_end(tmp_path: Path, limits: Limits, said: bytes) -> None:
    async with serving(tmp_path, limits) as (server, _, path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(said)
        await asyncio.wait_for(reader.read(), 30)  # until the end
        writer.close()
        await until(lambda: not server.connections)


async def test_a_request_that_is_never_finished_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(drip=0.0)) as (_, _, path):
        client = await RawClient.connect(path)
        stream = client.call(headers(), b"\0", end=False)
        client.flush()
        assert (await client.outcome(stream))[0]["grpc-status"] == "4"
        await client.close()


async def test_an_answer_that_is_never_read_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(stall=0.0)) as (_, echo, path):
        client = await RawClient.connect(path)
        client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1})
        stream = client.call(headers("/test.Echo/Watch"), framed(b"x" * 100))
        client.flush()
        assert (await client.outcome(stream))[0]["reset"] == "8"
        assert echo.feeds == []
        await client.close()


async def test_what_waits_for_its_turn_is_bounded_per_user(tmp_path: Path) -> None:
    limits = Limits(held_per_user=150_000, turn=0.0)  # nobody's input is worked off at once
    async with serving(tmp_path, limits) as (_, echo, path):
        sockets = []
        for _ in range(6):
            one = socket.socket(socket.AF_UNIX)
            one.connect(str(path))
            one.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize() + b"\0" * 50_000)
            sockets.append(one)
        await until(lambda: echo.peers.count("closed") >= 3)
        for one in sockets:
            one.close()


async def test_a_quiet_stream_is_not_late_when_its_next_message_must_wait(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, echo, path):
        client = await RawClient.connect(path)
        client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
        stream = client.call(headers("/test.Echo/Watch"), framed(b"12345"))
        client.flush()
        await client.until(h2.events.DataReceived)
        (connection,) = server._connections
        for other in connection._session.streams.values():
            other.since -= 3600  # an hour without news
        echo.feeds[0].send(b"news")
        connection.sweep(asyncio.get_running_loop().time())
        client.http2.increment_flow_control_window(100, stream)
        client.flush()
        echo.feeds[0].end()
        assert (await client.outcome(stream))[1] == framed(b"12345") + framed(b"news")
        await client.close()


async def test_connections_are_bounded_per_user(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(connections_per_user=5)) as (server, echo, path):
        clients = [await RawClient.connect(path) for _ in range(8)]
        for client in clients:
            client.flush()
        await asyncio.sleep(0.05)
        assert server.connections == 5
        assert echo.peers == ["accepted"] * 5
        for client in clients:
            await client.close()


async def test_a_connection_too_many_can_replace_the_oldest(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(connections_per_user=2, replace=True)) as (server, echo, path):
        calling, silent = [await RawClient.connect(path) for _ in range(2)]
        calling.call(headers("/test.Echo/Watch"), framed(b"x"))
        calling.flush()
        silent.flush()
        await calling.until(h2.events.DataReceived)
        third = await RawClient.connect(path)
        answered = third.call(headers(), framed(b"y"))
        third.flush()
        assert (await third.outcome(answered))[0]["grpc-status"] == "0"
        assert server.connections == 2 and len(echo.feeds) == 1 and await silent.goaway() == -1
        third.call(headers("/test.Echo/Watch"), framed(b"z"))
        third.flush()
        await third.until(h2.events.DataReceived)
        fourth = await RawClient.connect(path)
        fourth.flush()
        assert await calling.goaway() == -1  # all have calls: the oldest of them
        assert (server.connections, len(echo.feeds)) == (2, 1) and echo.peers.count("closed") == 2
        for client in (calling, silent, third, fourth):
            await client.close()


async def test_a_giant_window_brings_no_copy_of_a_whole_answer(tmp_path: Path) -> None:
    """The socket's buffer holds little more than its mark, whatever the peer has room for and does not read."""
    async with serving(tmp_path, Limits()) as (server, echo, path):
        client = await RawClient.connect(path)
        client.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        client.http2.increment_flow_control_window(2**30)
        client.call(headers("/test.Echo/Watch"), framed(b""))
        client.flush()
        while not echo.feeds:
            await asyncio.sleep(0.005)
        (connection,) = server._connections
        echo.feeds[0].send(bytes(8 * 1024 * 1024))
        await asyncio.sleep(0.02)
        assert connection._session is not None
        assert connection._transport.get_write_buffer_size() + connection._session.http2.unsent < 256 * 1024
        await client.close()


async def test_who_is_not_accepted_is_closed(tmp_path: Path) -> None:
    seen: list[socket.socket] = []

    def nobody(lent: socket.socket) -> object:
        seen.append(lent)
        raise Denied("not you")

    server = GrpcServer(Echo().routes(), accept=nobody)  # type: ignore[arg-type]
    await server.serve_unix(tmp_path / "s", 0o700)
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    assert await reader.read() == b""
    writer.close()
    assert (len(seen), server.connections) == (1, 0)
    await server.close(0)


def test_users_take_turns() -> None:
    """One that keeps the loop busy waits while another is served; time is counted by the given clock."""
    now = 0.0
    order: list[str] = []
    later: list[object] = []

    class Work(Readable):
        def __init__(self, name: str, slices: int) -> None:
            self.name, self.slices = name, slices

        def work(self) -> bool:
            nonlocal now
            now += 0.003
            order.append(self.name)
            self.slices -= 1
            return self.slices > 0

    ledger = Ledger(Limits(turn=0.004), lambda: now, later.append)
    greedy, modest = ledger.admit(1), ledger.admit(2)
    assert greedy is not None
    assert modest is not None
    for _ in range(4):
        ledger.run(greedy, Work("greedy", 3))
    ledger.run(modest, Work("modest", 1))
    assert order == ["greedy", "modest"]
    while later:
        later.pop(0)()  # type: ignore[operator]
    assert order.count("greedy") == 12
    assert len(order) == 13


def test_patience_comes_back_with_time_and_answers() -> None:
    patience = Patience(3, 1.0, now=0.0)
    assert patience.spend(3, 0.0)
    assert not patience.spend(1, 0.0)
    assert patience.spend(1, 2.0)
    patience.earn()
    assert patience.spend(3, 2.0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=8), preface=st.booleans())
def test_any_bytes_end_in_a_closed_connection(tmp_path: Path, pieces: list[bytes], preface: bool) -> None:
    async def run() -> None:
        directory = tmp_path / "fuzz"
        directory.mkdir(exist_ok=True)
        async with serving(directory) as (server, echo, path):
            base = settled_descriptors()
            _, writer = await asyncio.open_unix_connection(str(path))
            if preface:
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            writer.close()
            await until(
                lambda: not server.connections and descriptors() <= base,
                lambda: f"{len(server.connections)} connections, {descriptors()} descriptors open, {base} before",
            )
            assert echo.peers in ([], ["accepted", "closed"])

    asyncio.run(run())
