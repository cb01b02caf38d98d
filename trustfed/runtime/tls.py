"""TLS 1.3 from an SVID: OpenSSL proves possession and a path to the pool; who the peer is, the caller verifies in code.

TLS pools the anchors of several trust domains, and names no SPIFFE ID: a handshake that succeeded proves nothing about
the domain. Every caller takes `peer_chain` and gives it to `trustfed.spiffe.verify`, for each connection. Sessions are
never resumed, so that each connection is verified like new. Private keys never touch a disk.

When the chain is [leaf] and its authority is among the anchors, OpenSSL sends that authority along (from Python this
cannot be turned off). It is public, and a SPIFFE verifier neither needs nor believes it.
"""

from __future__ import annotations

import _ssl
import fcntl
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trustfed.errors import Invalid, Unavailable

ClientCertificate = Literal["required", "optional", "none"]
MAX_ANCHORS = 10_000
_MODES = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


@dataclass(frozen=True)
class KeyPair:
    """A certificate chain (DER, leaf first) and the leaf's private key."""

    chain: tuple[bytes, ...]
    key: EllipticCurvePrivateKey | RSAPrivateKey = field(repr=False)

    def chain_pem(self) -> bytes:
        """The chain as PEM."""
        return "".join(ssl.DER_cert_to_PEM_cert(der) for der in self.chain).encode()

    def key_pem(self) -> bytes:
        """The private key as PKCS#8 PEM, for libraries that take it from memory (grpcio). Never write or log it."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def server_context(
    keypair: KeyPair, anchors: Sequence[bytes], client: ClientCertificate = "required", alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """A server's side; `anchors` (DER): the pool that clients' certificates must chain to. Invalid or Unavailable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _settle(context, keypair, anchors, alpn)
    # No tickets, so nothing to resume: a resumed session would skip the certificate.
    context.num_tickets = 0
    context.verify_mode = _MODES[client]
    if client != "none" and not anchors:
        raise Invalid("a server that asks clients for certificates needs anchors")
    return context


def client_context(keypair: KeyPair | None, anchors: Sequence[bytes], alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A client's side: the server must chain to `anchors`.

    Its host name is not looked at; its SPIFFE ID must be, by the caller. Raises Invalid or Unavailable.
    """
    if not anchors:
        raise Invalid("a client needs anchors to know its server by")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    _settle(context, keypair, anchors, alpn)
    return context


class ReloadingContext:
    """A server's context whose certificate and anchors can be replaced while it listens.

    `context` stays the same object and is given to the server once; each handshake uses the newest generation.
    """

    def __init__(
        self,
        keypair: KeyPair,
        anchors: Sequence[bytes],
        client: ClientCertificate = "required",
        alpn: Sequence[str] = (),
    ) -> None:
        self._keypair, self._anchors, self._client, self._alpn = keypair, tuple(anchors), client, tuple(alpn)
        self._newest = server_context(keypair, anchors, client, alpn)
        self.context = server_context(keypair, anchors, client, alpn)
        # Called for each ClientHello, with or without a server name. The connection then verifies and answers with the
        # newest generation; the context it began with only carries the protocol settings.
        self.context.sni_callback = self._choose

    def replace(self, keypair: KeyPair | None = None, anchors: Sequence[bytes] | None = None) -> None:
        """New handshakes use these from now on; open connections stay. None: as it was. On an error nothing changes."""
        keypair = keypair or self._keypair
        anchors = self._anchors if anchors is None else tuple(anchors)
        self._newest = server_context(keypair, anchors, self._client, self._alpn)
        self._keypair, self._anchors = keypair, anchors

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest


def peer_chain(connection: ssl.SSLObject | ssl.SSLSocket | None) -> tuple[bytes, ...]:
    """The certificates that the peer sent (DER, leaf first), not judged; () if it sent none or there is no TLS.

    `connection` is asyncio's `transport.get_extra_info("ssl_object")`.
    """
    if connection is None:
        return ()
    leaf = connection.getpeercert(binary_form=True)
    if leaf is None:
        return ()
    # Public from Python 3.13 on; the same call has been there since 3.10. A leaf is always at hand.
    inner = getattr(connection, "_sslobj", None)
    read = getattr(inner, "get_unverified_chain", None)
    sent = read() if read else None
    chain = tuple(certificate.public_bytes(_ssl.ENCODING_DER) for certificate in sent or ())
    return chain if chain and chain[0] == leaf else (leaf,)


def _settle(context: ssl.SSLContext, keypair: KeyPair | None, anchors: Sequence[bytes], alpn: Sequence[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if len(anchors) > MAX_ANCHORS:
        raise Invalid(f"{len(anchors)} anchors; at most {MAX_ANCHORS} are loaded")
    try:
        # One by one: joined, the end of a cut one could swallow the beginning of the next.
        for der in anchors:
            context.load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError) as error:
        raise Invalid(f"an anchor is not a DER certificate: {error}") from None
    if keypair:
        _load(context, keypair)


def _load(context: ssl.SSLContext, keypair: KeyPair) -> None:
    """Give `context` the chain and key. OpenSSL's binding reads files only, so it gets one that exists in memory."""
    try:
        file = os.memfd_create("svid", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(file, 0o600)
            os.write(file, keypair.chain_pem() + keypair.key_pem())
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
    except ssl.SSLError as error:
        raise Invalid(
            f"the certificate and its key cannot be used for TLS: {error.reason}", hint="do they belong together?"
        ) from None
    except OSError as error:
        raise Unavailable(
            f"cannot hand a key to TLS in memory: {error.strerror}",
            hint="/proc must be mounted, with files left to open",
        ) from None
