"""A stream of messages: one that is begun and never finished ends its stream, a pause between two does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import h2.events

from tests.unit.h2grpc.client import RawClient, framed, headers, serving
from trustfed.h2grpc.limits import Limits


async def test_a_message_of_a_stream_that_is_never_finished_ends_it(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(drip=0.0)) as (_, _, path):
        client = await RawClient.connect(path)
        stream = client.call(headers("/test.Echo/Bidi"), framed(b"whole") + framed(b"cut off")[:8], end=False)
        client.flush()
        outcome = (await client.outcome(stream))[0]
        assert (outcome["grpc-status"], outcome["grpc-message"]) == ("4", "a message was never finished")
        await client.close()


async def test_a_stream_may_be_silent_between_whole_messages(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(drip=0.0)) as (server, _, path):
        client = await RawClient.connect(path)
        stream = client.call(headers("/test.Echo/Bidi"), framed(b"one"), end=False)
        client.flush()
        await client.until(h2.events.DataReceived)  # the echo: the message was taken
        (connection,) = server._connections
        connection.sweep(asyncio.get_running_loop().time() + 3600)
        client.http2.send_data(stream, framed(b"two"), end_stream=True)
        client.flush()
        outcome, answered = await client.outcome(stream)
        assert outcome["grpc-status"] == "0" and answered == framed(b"eno") + framed(b"owt")
        await client.close()
