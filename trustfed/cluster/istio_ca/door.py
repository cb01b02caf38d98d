"""The door of Istio's CA protocol: gRPC over TLS with a certificate of the home authority; callers show tokens, no certificates.

Clients know it by the home twins (CA_ROOT_CA) and by a DNS name, so its certificate names those that are configured, and
comes without the intermediate: against the twin the root's name constraints play no part. It ends with other SVIDs of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.issuance import LeafRequest
from ca.profiles import SYSTEM_SVID
from trustfed.cluster.identity import OwnIdentity
from trustfed.cluster.issuance import Issuance
from trustfed.cluster.istio_ca.config import local_names
from trustfed.errors import Conflict, Unavailable
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_server import OPTIONS
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.ids import SpiffeId, TrustDomain

log = logs.get("cluster.istio_ca")

PATH = "/trustfed/istio-ca"
MAX_MESSAGE = 64 * 1024
_RETRY_SECONDS = 5.0
MAX_CALLS = 500
"""At once; more are refused with RESOURCE_EXHAUSTED, which agents take as a reason to ask again."""


class DoorIdentity(OwnIdentity):
    """The door's own SVID, which also has the DNS names."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        issuance: Issuance,
        ttl: timedelta,
        clock: Clock,
        dns_names: tuple[str, ...],
        suffixes: Callable[[], tuple[str, ...]],
    ) -> None:
        super().__init__(trust_domain, issuance, ttl, clock)
        self._id = SpiffeId.of(trust_domain, PATH)
        self._names, self._suffixes = dns_names, suffixes

    async def begin(self) -> None:
        """The first certificate, as soon as an authority may sign: until then the other doors go on without this one."""
        while True:
            try:
                await self.renew()
                return
            except Unavailable as error:
                log.warning("the door of Istio's CA protocol waits", error=error.message, hint=error.hint)
                await self._clock.sleep(_RETRY_SECONDS)

    async def renew(self) -> None:
        """See OwnIdentity."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = LeafRequest(
            spiffe_id=self._id,
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            ttl=int(self._ttl.total_seconds()),
            dns_names=self._names,
            profile=SYSTEM_SVID,
            slot="system",
        )
        local = local_names(self._names, self._suffixes())
        issued, authority = await self._issuance.local_server(request, local)
        self._adopt(issued, key, authority)


class Door:
    """One listener; `run` opens it and keeps it until it is cancelled."""

    def __init__(self, listen: str, identity: DoorIdentity, handlers: Any) -> None:
        self._listen, self._identity, self._handlers = listen, identity, handlers
        self._newest: Any = None
        self._used: Any = None
        self.address = ""

    async def run(self) -> None:
        """Raises Conflict when the address is taken, Invalid for names that cannot be certified."""
        await self._identity.begin()
        self._identity.on_change(self._replace)
        # Options of the other doors, with a bound of its own on what a caller may send.
        options = [(name, MAX_MESSAGE if name == "grpc.max_receive_message_length" else v) for name, v in OPTIONS]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CALLS)
        server.add_generic_rpc_handlers((self._handlers,))
        self._used = self._newest
        credentials = grpc.dynamic_ssl_server_credentials(
            self._used, self._changed, require_client_authentication=False
        )
        host, _ = parse_address(self._listen)
        try:
            port = server.add_secure_port(self._listen, credentials)
        except RuntimeError:
            raise Conflict(f"istio_ca cannot listen at {self._listen}", hint="is another process there?") from None
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        await server.start()
        log.info("Istio's CA protocol is served", address=self.address)
        try:
            await self._identity.run()
        finally:
            await asyncio.shield(server.stop(1))

    def _replace(self, keypair: KeyPair) -> None:
        pair = (keypair.key_pem(), keypair.chain_pem())
        self._newest = grpc.ssl_server_certificate_configuration([pair], root_certificates=None)

    def _changed(self) -> Any:
        """Asked by gRPC before each handshake: None means that nothing changed (see grpc_server.ServerIdentity)."""
        newest = self._newest
        if newest is self._used:
            return None
        self._used = newest
        return newest
