"""The two questions that a probe asks a gateway: does its port answer, and who answers one server name behind it.

A gateway that passes TLS through shows nothing of itself: it has no certificate. So the first is a TCP connection and no
more; the second is a TLS handshake with the name of one exported service, whose own sidecar answers. The handshake shows no
identity of ours: in TLS 1.3 the server's certificate comes before the client's is wanted, and whether the service would
admit *us* is not what is asked (a sidecar that knows only TLS 1.2 refuses first, and is not judged). Nothing here judges
the certificates.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Protocol

from trustfed.errors import Unavailable
from trustfed.runtime.reach import Reach
from trustfed.runtime.tls import peer_chain

ALPN = ("istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2")
"""What Istio's sidecars offer each other: a gateway in AUTO_PASSTHROUGH mode takes no other."""


class NoAnswer(Unavailable):
    """The connection stands, but nobody answered the handshake behind it."""


class Prober(Protocol):
    """Asks one gateway."""

    async def connect(self, address: str, port: int, seconds: float) -> float:
        """Seconds that a TCP connection took. Raises Unavailable, and Denied for an address that must not be reached."""
        ...

    async def ask(self, address: str, port: int, server_name: str, seconds: float) -> tuple[bytes, ...]:
        """The certificates (DER, leaf first, not judged) shown for a name. Raises as `connect`, and NoAnswer."""
        ...


class SocketProber:
    """The real one."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # who answers is verified in one bundle, by the caller
        self._context.options |= ssl.OP_NO_TICKET
        self._context.set_alpn_protocols(list(ALPN))

    async def connect(self, address: str, port: int, seconds: float) -> float:
        """Seconds that a TCP connection took, by the loop's clock."""
        connection, took = await self._connected(address, port, seconds)
        connection.close()
        return took

    async def ask(self, address: str, port: int, server_name: str, seconds: float) -> tuple[bytes, ...]:
        """The certificates shown for a server name."""
        connection, _ = await self._connected(address, port, seconds)
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(
                    sock=connection, ssl=self._context, server_hostname=server_name, limit=1024
                )
                return peer_chain(writer.get_extra_info("ssl_object"))
        except (OSError, TimeoutError, UnicodeError) as error:  # ssl.SSLError is an OSError
            if "ALERT" in str(getattr(error, "reason", "")):
                # In TLS 1.2 a client without a certificate is turned away before it is known who answers.
                raise Unavailable(f"{address} refused the handshake for {server_name} without a certificate") from None
            said = "nothing in time" if isinstance(error, TimeoutError) else type(error).__name__
            raise NoAnswer(f"{address} answered the handshake for {server_name} with {said}") from None
        finally:
            if writer is not None:
                writer.transport.abort()
            connection.close()

    async def _connected(self, address: str, port: int, seconds: float) -> tuple[socket.socket, float]:
        parsed, loop = self._reach.check(address), asyncio.get_running_loop()
        connection = socket.socket(socket.AF_INET6 if parsed.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            began = loop.time()
            async with asyncio.timeout(seconds):
                await loop.sock_connect(connection, (str(parsed), port))
            return connection, loop.time() - began
        except (OSError, TimeoutError) as error:
            connection.close()
            why = "nothing came in time" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
            raise Unavailable(f"{address} port {port} does not take a connection: {why}") from None
        except BaseException:
            connection.close()
            raise
