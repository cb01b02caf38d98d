"""Starts the reader's process, gives it an order, takes its answer: bounded in time and size, and nothing heavy stays here.

The process gets our environment, because the AWS SDK looks there, and our standard error for its log. Nothing secret is in its
arguments; what it is asked and answers goes over pipes that nobody else has.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator

from trustfed.errors import Unavailable
from trustfed.reading.order import Answer, Order, read_answer, write_order

# -P: what lies in the folder that this process was started in is not code of ours.
_ARGV = (sys.executable, "-P", "-m", "trustfed.reading")
_GRACE = 10.0
"""Seconds beyond the order's own limit: to start, to find credentials, to end."""


def start(*, aws: bool) -> subprocess.Popen[bytes]:
    """A process that loads what it needs (with `aws` also for S3 and STS) while it waits for its order.

    It ends by itself when the starter does. Raises Unavailable when this machine has no room for a process.
    """
    with _startable():
        return subprocess.Popen([*_ARGV, *(["aws"] if aws else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def needs_aws(order: Order) -> bool:
    """Whether AWS credentials are needed for an order."""
    return order.location.kind == "s3" or order.sign is not None


def read(order: Order, started: subprocess.Popen[bytes] | None = None) -> Answer:
    """Visit a store, and wait for it. Raises what the reader refuses, Unavailable when it does not answer in time.

    `started` is a process from `start`, which is used up by this.
    """
    limit = _limit(order)
    with started or start(aws=needs_aws(order)) as process:
        timer = threading.Timer(_seconds(order), process.kill)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(write_order(order))
                process.stdin.close()
            data = bytearray()
            while len(data) <= limit and (part := process.stdout.read(65_536)):
                data += part
        finally:
            process.kill()
            timer.cancel()
    return _answer(bytes(data), limit)


async def read_async(order: Order) -> Answer:
    """The same without blocking the loop. Cancelled, it ends the process."""
    limit = _limit(order)
    argv = [*_ARGV, *(["aws"] if needs_aws(order) else [])]
    with _startable():
        process = await asyncio.create_subprocess_exec(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        async with asyncio.timeout(_seconds(order)):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(write_order(order))
                await process.stdin.drain()
            process.stdin.close()
            data = bytearray()
            while len(data) <= limit and (part := await process.stdout.read(65_536)):
                data += part
    except TimeoutError:
        data = bytearray()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return _answer(bytes(data), limit)


@contextlib.contextmanager
def _startable() -> Iterator[None]:
    """No descriptor, process or memory left, or no Python any more: that passes, and must end nobody who asks a store."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the store's reader cannot be started: {(error.strerror or str(error)).lower()}",
            hint="descriptors, processes or memory of this machine or service are used up",
        ) from None


def _answer(data: bytes, limit: int) -> Answer:
    if not data:
        raise Unavailable("the store was not read in time", hint="is the store slow, or this machine overloaded?")
    return read_answer(data, limit)


def _seconds(order: Order) -> float:
    return 2 * order.limits.seconds + _GRACE


def _limit(order: Order) -> int:
    """Bytes of the largest answer: what was downloaded, in base64, and what is said of it."""
    return order.max_bytes * 4 // 3 + 1024 * 1024
