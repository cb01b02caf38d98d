"""The clusters' door: the gRPC service Federation. It authenticates each call, then asks `Operations` and `Relay`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.hub.messages import grant_message
from trustfed.hub.operations import Operations
from trustfed.hub.peers import Peers, Unauthenticated
from trustfed.hub.relay import Relay, View
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.errors import answer
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.spiffe.x509svid import X509Svid

SERVICE = "trustfed.federation.v1.Federation"
MAX_MESSAGE = 2 * 1024 * 1024
HELLO_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
LAST_WRITE_SECONDS = 2.0
SILENCE_SECONDS = 60.0
"""A cluster that says nothing for so long, not even a heartbeat, is taken for gone."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Pace:
    """How fast one cluster may publish: a burst of ten envelopes, then one a second; the rest waits in its stream."""

    BURST = 10

    def __init__(self, clock: Clock) -> None:
        self._clock, self._free_at = clock, clock.monotonic() - self.BURST

    async def next(self) -> None:
        """Wait for the next turn."""
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now - self.BURST) + 1
        await self._clock.sleep(self._free_at - now)


class Federation:
    """The service's three methods."""

    def __init__(self, operations: Operations, relay: Relay, peers: Peers, clock: Clock) -> None:
        self._operations, self._relay, self._peers, self._clock = operations, relay, peers, clock
        self._log = logs.get("hub.rpc")

    def handlers(self) -> grpc.GenericRpcHandler:
        """What the gRPC server is given."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Sync": grpc.stream_stream_rpc_method_handler(
                    self._sync, pb.FromCluster.FromString, pb.FromHub.SerializeToString
                ),
                "SignIntermediate": grpc.unary_unary_rpc_method_handler(
                    self._unary(self._sign),
                    pb.SignIntermediateRequest.FromString,
                    pb.SignIntermediateResponse.SerializeToString,
                ),
                "DecideGrant": grpc.unary_unary_rpc_method_handler(
                    self._unary(self._decide),
                    pb.DecideGrantRequest.FromString,
                    pb.DecideGrantResponse.SerializeToString,
                ),
            },
        )

    async def _sign(self, peer: X509Svid, request: pb.SignIntermediateRequest) -> pb.SignIntermediateResponse:
        domain = peer.id.trust_domain.name
        admitted = await self._operations.sign_intermediate(domain, request.authority_id, request.csr)
        self._log.info("intermediate signed", domain=domain, authority=request.authority_id)
        return pb.SignIntermediateResponse(intermediate=admitted.intermediate.certificate, root=admitted.root)

    async def _decide(self, peer: X509Svid, request: pb.DecideGrantRequest) -> pb.DecideGrantResponse:
        domain = peer.id.trust_domain.name
        grant = await self._operations.decide(
            domain,
            request.grant_id,
            request.decision,
            actor=request.actor,
            reason=request.reason or "decided by its owner",
            fingerprint=request.exporter_key_fingerprint,
        )
        self._log.info("grant decided", grant=grant.id, domain=domain, decision=request.decision)
        return pb.DecideGrantResponse(grant=grant_message(self._operations.state, grant))

    async def _sync(self, _: object, context: Any) -> None:
        try:
            peer = self._authenticate(context)
            view, greeting = await self._hello(peer, context)
        except Exception as refused:
            await self._abort(context, refused)
            return
        self._log.info("cluster connected", domain=view.domain, software=view.software, position=view.position)
        # Each on its own: a cluster that does not read, and so holds up the writing, is still thrown out in time.
        writing = asyncio.create_task(self._write(view, greeting, context))
        tasks = {
            writing,
            asyncio.create_task(self._read(view, context)),
            asyncio.create_task(self._expire(view)),
            asyncio.create_task(_ended(view)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next((task.exception() for task in done if task.exception()), None)
        finally:
            self._relay.leave(view)
            view.end(Unavailable("the stream is over"))
            # gRPC cannot send the status while a write is under way: it gets a moment to finish.
            await asyncio.wait({writing}, timeout=LAST_WRITE_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._log.info("cluster disconnected", domain=view.domain)
        if error is not None:
            await self._abort(context, error)

    async def _hello(self, peer: X509Svid, context: Any) -> tuple[View, list[pb.FromHub]]:
        """Read the cluster's hello: its view, which collects what is to be sent from here on, and what goes first."""
        try:
            first = await asyncio.wait_for(context.read(), HELLO_SECONDS)
        except TimeoutError:
            raise Invalid(f"no hello within {HELLO_SECONDS:.0f} seconds") from None
        if first is grpc.aio.EOF or first.WhichOneof("message") != "hello":
            raise Invalid("the first message of a stream must be a hello")
        hello = first.hello
        if not hello.protocol_min <= PROTOCOL <= hello.protocol_max:
            raise Invalid(
                f"the cluster speaks protocol {hello.protocol_min} to {hello.protocol_max}, the hub {PROTOCOL}",
                hint="upgrade the older side",
            )
        now = self._clock.now()
        state = self._operations.state
        view = View(peer.id.trust_domain.name, peer, connected=now, heard=now)
        snapshot = self._relay.join(view, hello, state)
        answered = pb.HubHello(
            protocol=PROTOCOL,
            software=SOFTWARE,
            position=state.position,
            snapshot=snapshot,
            hub_instance=state.instance,
            time_ms=to_ms(now),
        )
        greeting = [pb.FromHub(hello=answered), *self._relay.take(view, state)]
        if snapshot:
            greeting.append(pb.FromHub(position=state.position, snapshot_end=pb.SnapshotEnd()))
            view.position = state.position
        return view, greeting

    async def _read(self, view: View, context: Any) -> None:
        pace = Pace(self._clock)
        while True:
            try:
                message = await asyncio.wait_for(context.read(), SILENCE_SECONDS)
            except TimeoutError:
                raise Unavailable(f"nothing was heard for {SILENCE_SECONDS:.0f} seconds") from None
            if message is grpc.aio.EOF:
                return
            view.heard = self._clock.now()
            match message.WhichOneof("message"):
                case "envelope":
                    await pace.next()
                    await self._operations.accept_envelope(view.domain, message.envelope)
                    self._peers.check(view.svid.chain[0], self._clock.now())  # its own bundle may have dropped it
                    view.mark(("stored", ""))
                case "acknowledge":
                    self._relay.acknowledge(view, message.acknowledge, self._operations.state)
                case "heartbeat":
                    pass
                case other:
                    raise Invalid(f"a cluster sends envelopes, acknowledgements and heartbeats, not {other}")

    async def _write(self, view: View, greeting: Sequence[pb.FromHub], context: Any) -> None:
        for message in greeting:
            await context.write(message)
        while view.over is None:
            try:
                await asyncio.wait_for(view.changed(), HEARTBEAT_SECONDS)
            except TimeoutError:
                beat = pb.Heartbeat(time_ms=to_ms(self._clock.now()))
                await context.write(pb.FromHub(heartbeat=beat))
            for message in self._relay.take(view, self._operations.state):
                await context.write(message)

    async def _expire(self, view: View) -> None:
        await self._clock.sleep((view.svid.not_after - self._clock.now()).total_seconds())
        raise Unauthenticated("the SVID of this stream has expired", hint="connect again with the new one")

    def _authenticate(self, context: Any) -> X509Svid:
        presented = context.auth_context().get("x509_pem_cert", [])
        return self._peers.verify(presented[0] if presented else None, self._clock.now())

    def _unary(
        self, method: Callable[[X509Svid, _Request], Awaitable[_Response]]
    ) -> Callable[[_Request, Any], Awaitable[_Response]]:
        async def handle(request: _Request, context: Any) -> _Response:
            try:
                return await method(self._authenticate(context), request)
            except Exception as error:
                await self._abort(context, error)
                raise

        return handle

    async def _abort(self, context: Any, error: BaseException) -> None:
        told = answer(error)
        code = grpc.StatusCode.UNAUTHENTICATED if isinstance(error, Unauthenticated) else _CODES[told.grpc_code]
        if isinstance(error, TrustfedError):
            log = self._log.warning if isinstance(error, Denied | Invalid) else self._log.info
            log("call refused", peer=context.peer(), error=error.message)
        await context.abort(code, told.grpc_message())


async def _ended(view: View) -> None:
    """Raise what the stream must end with, when it must."""
    raise await view.ended()
