"""The gRPC server that clusters connect to: mutual TLS anchored at the roots, with certificates that change while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from ssl import DER_cert_to_PEM_cert

import grpc

from trustfed.errors import Conflict, Unavailable
from trustfed.hub.rpc import MAX_MESSAGE
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import KeyPair

MAX_CALLS = 4_000
CLOSING_SECONDS = 2.0
_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second process on the same port is refused, not served in turn
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 4),
    ("grpc.server_handshake_timeout_ms", 10_000),
]


class ClustersDoor:
    """One grpcio server. `present` may be called at any time: new handshakes use what was presented last."""

    def __init__(self) -> None:
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        self._newest: grpc.ServerCertificateConfiguration | None = None
        self._used: grpc.ServerCertificateConfiguration | None = None

    def present(self, keypair: KeyPair, roots: Sequence[bytes]) -> None:
        """Show this certificate, and let in who chains to one of these roots (DER); who it is, is verified per call."""
        pool = "".join(DER_cert_to_PEM_cert(root) for root in roots).encode()
        pair = (keypair.key_pem(), keypair.chain_pem())
        self._newest = grpc.ssl_server_certificate_configuration([pair], root_certificates=pool)

    def bind(self, address: str) -> str:
        """Take the address; HOST:PORT with the port that it has now."""
        if self._newest is None:
            raise Unavailable("the hub has no SVID to present yet")
        self._used = self._newest
        credentials = grpc.dynamic_ssl_server_credentials(
            self._used,
            self._changed,  # type: ignore[arg-type]  # None is part of its contract
            require_client_authentication=True,
        )
        host, _ = parse_address(address)
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise Conflict(f"{address} cannot be listened on", hint="is another process using it?") from None
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def add(self, handlers: grpc.GenericRpcHandler) -> None:
        """Serve these methods; before `open`."""
        self._server.add_generic_rpc_handlers((handlers,))

    async def open(self) -> None:
        """Serve from now on."""
        await self._server.start()

    async def close(self) -> None:
        """End all streams within two seconds."""
        await self._server.stop(CLOSING_SECONDS)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC, in a thread of its own, before each handshake: None means that nothing changed."""
        newest = self._newest
        if newest is self._used:
            return None
        self._used = newest
        return newest
