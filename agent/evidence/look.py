"""The certificate that a TLS server shows, and has proved to have the key of; a handshake that is not finished will do.

1. TLS 1.3, or 1.2 with an ephemeral key: in both the server signs before it asks anything of us.
2. TLS 1.3: the handshake is complete on our side. A server that then misses our certificate says so too late to matter.
3. TLS 1.2: our answer to its whole first flight was made, so its signature held; what follows may fail.
"""

from __future__ import annotations

import _ssl
import asyncio
import ssl
from collections.abc import Sequence

from trustfed.errors import Unavailable
from trustfed.runtime.tls import peer_chain

_MOST_BYTES = 128 * 1024
"""Of a server's first flights."""
_CHUNK = 16 * 1024


def look_context(alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A client that takes any certificate: who the server is, is for `trustfed.spiffe.verify` to say."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # 1
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def chain_of(host: str, port: int, context: ssl.SSLContext, seconds: float) -> tuple[bytes, ...]:
    """The chain (DER, leaf first), not judged. Raises Unavailable."""
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return await _shown(reader, writer, context)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise Unavailable(f"{where} did not show a certificate within {seconds:.0f} s") from None
    except ssl.SSLError as error:
        raise Unavailable(f"{where} showed no certificate: {error.reason or 'TLS failed'}") from None
    except OSError as error:
        raise Unavailable(f"{where} cannot be reached: {error.strerror or type(error).__name__}") from None


async def _shown(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> tuple[bytes, ...]:
    incoming, outgoing, heard = ssl.MemoryBIO(), ssl.MemoryBIO(), 0
    connection = context.wrap_bio(incoming, outgoing)
    while True:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            answered = bool(outgoing.pending)
        else:
            return peer_chain(connection)  # 2
        # In TLS 1.3 nothing leaves between the server's certificate and the end of the handshake.
        if answered and (chain := _unfinished(connection)):
            return chain  # 3
        writer.write(outgoing.read())
        await writer.drain()
        data = await reader.read(_CHUNK)
        heard += len(data)
        if not data or heard > _MOST_BYTES:
            raise Unavailable("the server ended the handshake before it showed a certificate")
        incoming.write(data)


def _unfinished(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """The chain of a handshake under way, of which `getpeercert` does not speak yet; () before it came."""
    # Python 3.13 gives the bytes by a public method; before, only its inner object has it.
    inner = getattr(connection, "_sslobj", None)
    sent = inner.get_unverified_chain() if inner is not None else None
    return tuple(certificate.public_bytes(_ssl.ENCODING_DER) for certificate in sent or ())
