"""One bounded HTTP/1.1 exchange with a store: a connection of its own, no redirects, no proxies, no compression.

Everything together, from the name's address to the last byte of the answer, has `seconds`; the head of an answer is at
most 16 KiB (h11), its body at most what the caller says. A connection that ends before its answer is Unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

import h11

from bundle_publisher.targets.address import Address
from trustfed.errors import Invalid, Unavailable

_PART = 65_536


@dataclass(frozen=True)
class Reply:
    """What came back: status, the headers that count (lower case), and the body, if it was asked for."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Ask:
    """One request: `path` as it goes out; `read` is how many bytes of a successful answer's body are wanted at most."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    read: int = 0


async def exchange(address: Address, tls: ssl.SSLContext | None, ask: Ask, seconds: float) -> Reply:
    """Ask and return the reply, whatever its status. Unavailable (not reached, cut, slow), Invalid (too large, no HTTP)."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=tls, server_hostname=address.host if tls else None
            )
            try:
                return await _talk(address, reader, writer, ask)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise Unavailable(
            f"{address} has not answered within {seconds:g} s", hint="is it slow, far away, or behind a firewall?"
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(
            f"{address} has a certificate that is not accepted: {error.verify_message}",
            hint="ca_file names other authorities than the system's",
        ) from None
    except (OSError, h11.RemoteProtocolError) as error:
        raise Unavailable(
            f"{address} cannot be used: {_reason(error)}", hint="check the address and that it is up"
        ) from None


async def _talk(address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask) -> Reply:
    connection = h11.Connection(h11.CLIENT)
    headers = [
        ("Host", address.authority),
        ("User-Agent", "trustfed"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
        *ask.headers,
    ]
    if ask.method == "PUT":
        headers.append(("Content-Length", str(len(ask.body))))
    writer.write(connection.send(h11.Request(method=ask.method, target=ask.path, headers=headers)) or b"")
    if ask.body:
        writer.write(connection.send(h11.Data(data=ask.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    # Not waited for yet: a server that refuses answers before it has read everything.
    sending = asyncio.ensure_future(writer.drain())
    try:
        return await _reply(address, reader, connection, ask)
    finally:
        sending.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await sending


async def _reply(address: Address, reader: asyncio.StreamReader, connection: h11.Connection, ask: Ask) -> Reply:
    status, headers, parts, length = 0, dict[str, str](), list[bytes](), 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PART))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
            if not (200 <= status < 300 and ask.read):
                return Reply(status, headers, b"")
        elif isinstance(event, h11.Data):
            length += len(event.data)
            if length > ask.read:
                raise Invalid(f"{address} holds more than {ask.read} bytes under {ask.path}")
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return Reply(status, headers, b"".join(parts))
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("it hung up without an answer")


def _reason(error: Exception) -> str:
    if isinstance(error, h11.RemoteProtocolError):
        return "the answer is no whole HTTP/1.1 answer"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
