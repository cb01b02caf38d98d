"""The agent's connection to its cluster: mTLS with the node's SVID; the server is verified in the home bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from agent import addresses
from agent.identity import Node
from trustfed.errors import TrustfedError, Unavailable
from trustfed.proto import evidence_pb2 as evidence_pb
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import VerifiedChannel, unary
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.tls import client_context
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.certificate import read
from trustfed.spiffe.verify import verify_x509_svid

SERVICE = "/trustfed.node.v1.Node/"
EVIDENCE = "/trustfed.evidence.v1.NodeEvidence/"
TRY_SECONDS = 10.0

Answer = TypeVar("Answer")


class Link:
    """One channel at a time, up while the sync stream is. `stale` is set when a newer SVID should be presented."""

    def __init__(self, node: Node, clock: Clock) -> None:
        self._node, self._clock = node, clock
        self._channel: VerifiedChannel | None = None
        self._turn = addresses.Turn()
        self.address = node.identity.grpc
        """What was dialled last."""
        self.bound: datetime | None = None
        """When the authority that certified the server dialled last ends."""
        self.stale = asyncio.Event()
        node.on_svid(self.stale.set)

    @property
    def addresses(self) -> Sequence[str]:
        """All addresses of the cluster, in the order in which they are tried."""
        return addresses.in_turn(self._node.identity.grpc, self._node.identity.grpc_addresses)

    @property
    def connected(self) -> bool:
        """Whether the cluster can be asked now."""
        return self._channel is not None

    def dial(self) -> VerifiedChannel:
        """A new channel with the present SVID and the present home bundle; it connects with its first call."""
        identity = self._node.identity
        self.address = self._turn.next(self.addresses)
        host, port = parse_address(self.address)
        context = client_context(identity.keypair(), identity.home.bundle.x509_authorities, alpn=("h2",))

        def verify(chain: tuple[bytes, ...]) -> None:
            present = self._node.identity
            bundle = present.home.bundle
            # NotBefore was a matter for TLS, which looks at the wall clock; whether it has ended is for what we know.
            verify_x509_svid(chain, bundle, self._clock.now(), expected=present.server_id)
            self.bound = _end(chain[0], bundle)

        self.stale.clear()
        self.bound = None
        return VerifiedChannel(host, port, context, verify)

    def worked(self) -> None:
        """The address dialled last is the cluster's."""
        self._turn.worked()

    def failed(self) -> bool:
        """The address dialled last did not answer. True when none of them has: then it is time to wait."""
        return self._turn.failed(self.address, self.addresses)

    def use(self, channel: VerifiedChannel | None) -> None:
        """Calls go over `channel` from now on; None: there is none."""
        self._channel = channel

    async def call(
        self,
        method: str,
        request: Any,
        answer: type[Answer],
        seconds: float = TRY_SECONDS,
        service: str = SERVICE,
    ) -> Answer:
        """One call, bounded. Raises what the cluster says, Unavailable when it cannot be reached."""
        if self._channel is None:
            raise Unavailable("the cluster is not connected", hint="trustfed agent status")
        return await unary(self._channel, service + method, request, answer, seconds)

    async def report(self, request: evidence_pb.NodeReport) -> evidence_pb.NodeReportAnswer | None:
        """Hand facts to the cluster, like `call`; None from one that is older than evidence, and takes none."""
        try:
            return await self.call("Report", request, evidence_pb.NodeReportAnswer, service=EVIDENCE)
        except TrustfedError as error:
            said = error.__context__
            if isinstance(said, GRPCError) and said.status is Status.UNIMPLEMENTED:
                return None
            raise


def _end(leaf: bytes, home: Bundle) -> datetime | None:
    """The latest end of the authorities that the server's certificate names as its issuer."""
    issuer = read(leaf, "the server's SVID").issuer
    twins = [read(der, "an authority") for der in home.x509_authorities]
    return max((twin.not_after for twin in twins if twin.subject == issuer), default=None)
