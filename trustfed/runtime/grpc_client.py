"""gRPC towards a server whose SPIFFE ID is checked on every connection before the first byte of a call leaves.

TLS proves a path to the pool of anchors; `verify` decides who the peer is, from the chain that it sent. It runs inside
the dial, so a connection to anybody else never becomes a channel.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import Connection, H2Protocol
from grpclib.protocol import Stream as H2Stream

from trustfed.errors import Invalid, Unavailable
from trustfed.runtime.errors import from_grpc
from trustfed.runtime.tls import peer_chain

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of the largest message that is taken from a server."""
Verify = Callable[[tuple[bytes, ...]], None]
"""Takes the peer's chain (DER, leaf first) and raises a TrustfedError unless it is the server that was meant."""

Answer = TypeVar("Answer")
_KEEPALIVE_SECONDS = 20.0
_KEEPALIVE_TIMEOUT = 10.0


class _BoundedStream(H2Stream):
    async def recv_data(self, size: int) -> bytes:
        if size > MAX_MESSAGE:
            raise Invalid(f"the server announced a message of {size} bytes; at most {MAX_MESSAGE} are taken")
        return await super().recv_data(size)


def _bounded(connection: Connection, *, stream_id: int | None = None, wrapper: Any = None) -> H2Stream:
    return _BoundedStream(
        connection, connection._connection, connection._transport, stream_id=stream_id, wrapper=wrapper
    )


class VerifiedChannel(Channel):
    """A channel to HOST:PORT over mTLS whose server `verify` accepted."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, verify: Verify) -> None:
        # A link that died without a word is noticed by pings, not by the next call's deadline.
        config = Configuration(
            _keepalive_time=_KEEPALIVE_SECONDS,
            _keepalive_timeout=_KEEPALIVE_TIMEOUT,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=5,
        )
        super().__init__(host, port, ssl=context, config=config)
        self._verify = verify

    async def _create_connection(self) -> H2Protocol:
        protocol = await super()._create_connection()
        try:
            connection = protocol.connection
            # grpclib believes the length that a message announces, up to 4 GiB: every stream of ours has a bound.
            connection.create_stream = functools.partial(_bounded, connection)  # type: ignore[method-assign]
            transport = connection._transport
            self._verify(peer_chain(transport.get_extra_info("ssl_object")))
        except BaseException:
            protocol.connection.close()
            raise
        return protocol


class UnixChannel(Channel):
    """A channel to a server of this machine, by the path of its Unix socket; its messages have the same bound."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=str(path))

    async def _create_connection(self) -> H2Protocol:
        protocol = await super()._create_connection()
        connection = protocol.connection
        connection.create_stream = functools.partial(_bounded, connection)  # type: ignore[method-assign]
        return protocol


async def unary(channel: Channel, path: str, request: Any, answer: type[Answer], timeout: float) -> Answer:
    """One call and its answer, in our errors; transport trouble and a passed deadline (seconds) are Unavailable."""
    method: UnaryUnaryMethod[Any, Answer] = UnaryUnaryMethod(channel, path, type(request), answer)
    async with _our_errors(path):
        return await method(request, timeout=timeout)


@asynccontextmanager
async def stream(channel: Channel, path: str, request: type[Any], answer: type[Any]) -> AsyncIterator[Stream[Any, Any]]:
    """A stream of both directions, in our errors, until the block ends; take messages with `receive`."""
    method: StreamStreamMethod[Any, Any] = StreamStreamMethod(channel, path, request, answer)
    async with _our_errors(path), method.open() as opened:
        yield opened
        await opened.cancel()


@asynccontextmanager
async def watch(
    channel: Channel, path: str, request: Any, answer: type[Any], metadata: Mapping[str, str]
) -> AsyncIterator[Stream[Any, Any]]:
    """One request and the stream that answers it, in our errors, until the block ends; take messages with `receive`."""
    method: UnaryStreamMethod[Any, Any] = UnaryStreamMethod(channel, path, type(request), answer)
    async with _our_errors(path), method.open(metadata=metadata) as opened:
        await opened.send_message(request, end=True)
        yield opened
        await opened.cancel()


async def receive(opened: Stream[Any, Any], seconds: float | None, path: str) -> Any:
    """The next message of an open `stream`. Unavailable when the server is silent, or ended without an error.

    How the server ended it is raised by the `stream` block, which must therefore see this call's errors.
    """
    try:
        # Not wait_for: below Python 3.12 it loses a cancellation that comes together with the message.
        async with asyncio.timeout(seconds):
            message = await opened.recv_message()
    except TimeoutError:
        raise Unavailable(f"{path} was silent for {seconds:.0f} s") from None
    if message is None:
        await opened.end()
        await opened.recv_trailing_metadata()  # raises the status, unless it was OK
        raise Unavailable(f"{path} was closed by the server")
    return message


@asynccontextmanager
async def _our_errors(path: str) -> AsyncIterator[None]:
    try:
        yield
    except GRPCError as error:
        raise from_grpc(error.status.value, error.message or "") from None
    except TimeoutError:
        raise Unavailable(f"{path} did not answer in time") from None
    except (DecodeError, NotImplementedError, ProtocolError) as error:
        raise Invalid(f"{path} sent what is no message: {str(error)[:120] or type(error).__name__}") from None
    except (OSError, StreamTerminatedError, ssl.SSLError) as error:
        raise Unavailable(f"{path} cannot be reached: {error}") from error
