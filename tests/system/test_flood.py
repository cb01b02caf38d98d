"""Floods against a real server process: others are served, and memory stays bounded.

Run as root the flooder is another user, as on a node; otherwise it is the same one, whose connections are fewer then.
The same module is the server (`serve SOCKET`) and the flooder (`flood SOCKET KIND`) when run as a program.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hpack
import pytest
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tests.unit.h2grpc.client import RawClient, framed, headers
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.server import GrpcServer
from trustfed.h2grpc.service import Call, Feed, Unary, Watch

ROOT = Path(__file__).resolve().parents[2]
SELF = (sys.executable, "-m", "tests.system.test_flood")
SECONDS = 0.8
ANSWER = bytes(range(256)) * 8
FLOODER = 65_534
MEGABYTES = 64
"""What a flood may add to the server's resident memory: well below what unbounded queues would take."""


# The server.


class Anyone:
    def close(self) -> None:
        """Nothing was opened for it."""


def _watch(_call: Call, _message: bytes, feed: Feed) -> Callable[[], None]:
    feed.send(ANSWER)
    return lambda: None


async def _serve(path: Path) -> None:
    server = GrpcServer(
        {"/test.Echo/Watch": Watch(_watch), "/test.Echo/Unary": Unary(lambda _call, message: message)},
        accept=lambda _: Anyone(),
        limits=Limits(connections_per_user=512),
    )
    await server.serve_unix(path, 0o777)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    await server.close(0.1)


# The flooder.

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()


def _block(path: str, *more: tuple[str, str]) -> bytes:
    return bytes(hpack.Encoder().encode([(name, value, True) for name, value in headers(path, *more)]))


def _requests(each: Callable[[int], bytes]) -> Iterator[bytes]:
    """Endless chunks of what `each` makes of odd stream numbers, from 1 again for each connection."""
    while True:
        yield HELLO
        for start in range(1, 40_000, 128):
            yield b"".join(each(number) for number in range(start, start + 128, 2))
        yield b""


def _pushing(chunks: Iterator[bytes], path: str, end: float, connections: int = 8) -> None:
    """Write chunks as fast as they are taken, over several connections, each anew when it is cut."""
    opened: list[tuple[socket.socket, bytes]] = []
    while time.monotonic() < end:
        while len(opened) < connections:
            with suppress(OSError):
                fresh = socket.socket(socket.AF_UNIX)
                fresh.settimeout(0.05)
                fresh.connect(path)
                opened.append((fresh, HELLO))
        kept = []
        for target, first in opened:
            chunk = next(chunks)
            try:
                target.sendall(first + (chunk if chunk != HELLO else b""))
                with suppress(BlockingIOError):
                    target.recv(1 << 20, socket.MSG_DONTWAIT)
                kept.append((target, b""))
            except OSError:
                target.close()
        opened = kept


def _connecting(path: str, end: float) -> None:
    """10,000 connections, silent ones."""
    kept = []
    tried = 0
    while time.monotonic() < end and tried < 10_000:
        tried += 1
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        with suppress(OSError):
            one.connect(path)
            kept.append(one)
    print(f"{tried} connections tried", flush=True)
    time.sleep(max(0.0, end - time.monotonic()))


def _not_reading(path: str, end: float) -> None:
    """Hundreds of connections that ask for a hundred answers each and read none."""
    ask = _block("/test.Echo/Watch")
    body = framed(b"")
    requests = b"".join(
        HeadersFrame(number, data=ask, flags=["END_HEADERS"]).serialize()
        + DataFrame(number, data=body, flags=["END_STREAM"]).serialize()
        for number in range(1, 200, 2)
    )
    kept = []
    for _ in range(400):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(0.05)
        with suppress(OSError):
            one.connect(path)
            one.sendall(HELLO + WindowUpdateFrame(0, window_increment=1 << 20).serialize() + requests)
        kept.append(one)
        if time.monotonic() > end:
            break
    time.sleep(max(0.0, end - time.monotonic()))


def _flood(path: str, kind: str) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(FLOODER)
        os.setuid(FLOODER)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    end = time.monotonic() + SECONDS
    block = _block("/test.Echo/Unary")
    large = _block("/test.Echo/Unary", *[(f"x-{number}", "v" * 200) for number in range(50)])
    body = framed(b"")

    def request(number: int) -> bytes:
        return HeadersFrame(number, data=block, flags=["END_HEADERS"]).serialize()

    if kind == "rapid reset":
        _pushing(_requests(lambda n: request(n) + RstStreamFrame(n, error_code=8).serialize()), path, end)
    elif kind == "ping":
        _pushing(_requests(lambda _: PingFrame(0, opaque_data=b"12345678").serialize()), path, end)
    elif kind == "provoked reset":
        spoil = struct.Struct(">HBBBLL")
        _pushing(_requests(lambda n: request(n) + spoil.pack(0, 4, 8, 0, n, 2**31 - 1)), path, end)
    elif kind == "large headers":
        _pushing(
            _requests(lambda n: HeadersFrame(n, data=large, flags=["END_HEADERS", "END_STREAM"]).serialize()), path, end
        )
    elif kind == "calls":
        _pushing(_requests(lambda n: request(n) + DataFrame(n, data=body, flags=["END_STREAM"]).serialize()), path, end)
    elif kind == "connections":
        _connecting(path, end)
    elif kind == "not reading":
        _not_reading(path, end)
    else:
        raise SystemExit(f"no flood {kind}")


# The test.


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, Path]]:
    """A server process of its own; its pid and its socket."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # the flooder is another user
        path = Path(directory) / "s.sock"
        process = subprocess.Popen([*SELF, "serve", path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process.pid, path
            process.terminate()
            assert process.wait(10) == 0
            assert not path.exists()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _resident(pid: int) -> float:
    """Megabytes resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the server is gone")


async def _call(client: RawClient) -> float:
    client.events.clear()
    start = time.perf_counter()
    stream = client.call(headers("/test.Echo/Unary"), framed(ANSWER))
    client.flush()
    found, body = await client.outcome(stream)
    assert (found["grpc-status"], body) == ("0", framed(ANSWER))
    client.http2.acknowledge_received_data(len(body), stream)
    return time.perf_counter() - start


async def _calls(client: RawClient, running: asyncio.subprocess.Process) -> AsyncIterator[float]:
    while running.returncode is None:
        yield await _call(client)
        await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    "kind", ["rapid reset", "ping", "provoked reset", "large headers", "calls", "connections", "not reading"]
)
async def test_others_are_served(server: tuple[int, Path], kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    pid, path = server
    descriptors = Path(f"/proc/{pid}/fd")
    client = await RawClient.connect(path)
    for _ in range(50):
        await _call(client)
    quiet = sorted([await _call(client) for _ in range(100)])
    base, open_before = _resident(pid), len(list(descriptors.iterdir()))
    peak = base
    flooder = await asyncio.create_subprocess_exec(*SELF, "flood", str(path), kind, cwd=ROOT)
    times = []
    async for took in _calls(client, flooder):
        times.append(took)
        if len(times) % 20 == 1:
            peak = max(peak, _resident(pid))
        if os.getuid() == 0 and len(times) % 50 == 10:  # newcomers get in too
            newcomer = await RawClient.connect(path)
            await _call(newcomer)
            await newcomer.close()
    assert await flooder.wait() == 0
    peak = max(peak, _resident(pid))
    await _call(client)
    await client.close()
    for _ in range(200):
        if len(list(descriptors.iterdir())) < open_before:
            break
        await asyncio.sleep(0.02)
    assert len(list(descriptors.iterdir())) == open_before - 1
    assert peak - base < MEGABYTES
    times.sort()
    with capsys.disabled():
        print(
            f"\nflood of {kind}: another user's {len(times)} calls p50 {times[len(times) // 2] * 1e3:.1f} ms"
            f" p99 {times[int(len(times) * 0.99)] * 1e3:.1f} ms (quiet p99 {quiet[98] * 1e3:.1f}),"
            f" resident {base:.0f} -> {peak:.0f} MB"
        )


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        import uvloop

        uvloop.run(_serve(Path(sys.argv[2])))
    else:
        _flood(*sys.argv[2:4])
