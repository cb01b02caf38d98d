"""A grpcio server over mTLS whose certificate and anchors follow the process's SVID, with our errors on its wire.

grpcio pools the anchors it is given and says nothing of SPIFFE: `peer_certificate` is judged again, in code, per call.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trustfed.errors import Denied
from trustfed.runtime.errors import answer
from trustfed.runtime.tls import KeyPair

MAX_MESSAGE = 4 * 1024 * 1024
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_metadata_size", 16 * 1024),
    # Dead peers are found by our pings, and peers may ping idle connections: streams are quiet for hours.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.so_reuseport", 0),
)


class ServerIdentity:
    """What new handshakes use: replace it at any time, connections that are open stay."""

    def __init__(self, keypair: KeyPair, anchors: Sequence[bytes]) -> None:
        self._keypair, self._anchors = keypair, tuple(anchors)
        self._configuration = self._used = self._make()

    def replace(self, keypair: KeyPair | None = None, anchors: Sequence[bytes] | None = None) -> None:
        """What is None stays as it is."""
        self._keypair = keypair or self._keypair
        self._anchors = tuple(anchors) if anchors is not None else self._anchors
        self._configuration = self._make()

    def credentials(self) -> Any:
        """For `add_secure_port`; every client must present a certificate that chains to the anchors."""
        self._used = self._configuration
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            self._changed,
            require_client_authentication=True,
        )

    def _changed(self) -> Any:
        """Asked by gRPC, in a thread of its own, before each handshake: None means that nothing changed. Said to be new
        each time, gRPC makes its TLS factory anew under handshakes that use the old one, and crashes in a burst of them.
        """
        newest = self._configuration
        if newest is self._used:
            return None
        self._used = newest
        return newest

    def _make(self) -> Any:
        pool = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self._anchors)
        pair = (self._keypair.key_pem(), self._keypair.chain_pem())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=pool)


def peer_certificate(context: Any) -> bytes:
    """The client's certificate (DER), not judged. Raises Denied when there is none."""
    found = context.auth_context().get("x509_pem_cert")
    if not found:
        raise Denied("the caller presented no certificate")
    return x509.load_pem_x509_certificate(found[0]).public_bytes(Encoding.DER)


def answering(
    method: Callable[..., Awaitable[Any]],
) -> Callable[..., Awaitable[Any]]:
    """A handler whose errors become gRPC statuses: ours with their message, all others an opaque id."""

    @functools.wraps(method)
    async def handler(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except Exception as error:
            if isinstance(error, grpc.aio.AbortError):
                raise
            said = answer(error)
            code = next(status for status in grpc.StatusCode if status.value[0] == said.grpc_code)
            await context.abort(code, said.grpc_message())

    return handler
