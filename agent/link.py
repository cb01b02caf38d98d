"""The agent's connection to its cluster: mTLS with the node's SVID; the server is verified in the home bundle."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from agent.identity import Node
from trustfed.errors import Unavailable
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import VerifiedChannel, unary
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import client_context
from trustfed.spiffe.verify import verify_x509_svid

SERVICE = "/trustfed.node.v1.Node/"
TRY_SECONDS = 10.0

Answer = TypeVar("Answer")


class Link:
    """One channel at a time, up while the sync stream is. `stale` is set when a newer SVID should be presented."""

    def __init__(self, node: Node, clock: Clock) -> None:
        self._node, self._clock = node, clock
        self._channel: VerifiedChannel | None = None
        self.stale = asyncio.Event()
        node.on_svid(self.stale.set)

    def dial(self) -> VerifiedChannel:
        """A new channel with the present SVID and the present home bundle; it connects with its first call."""
        identity = self._node.identity
        host, port = parse_address(identity.grpc)
        context = client_context(identity.keypair(), identity.home.bundle.x509_authorities, alpn=("h2",))

        def verify(chain: tuple[bytes, ...]) -> None:
            present = self._node.identity
            verify_x509_svid(chain, present.home.bundle, self._clock.now(), expected=present.server_id)

        self.stale.clear()
        return VerifiedChannel(host, port, context, verify)

    def use(self, channel: VerifiedChannel | None) -> None:
        """Calls go over `channel` from now on; None: there is none."""
        self._channel = channel

    async def call(self, method: str, request: Any, answer: type[Answer], seconds: float = TRY_SECONDS) -> Answer:
        """One call, bounded. Raises what the cluster says, Unavailable when it cannot be reached."""
        if self._channel is None:
            raise Unavailable("the cluster is not connected", hint="trustfed agent status")
        return await unary(self._channel, SERVICE + method, request, answer, seconds)
