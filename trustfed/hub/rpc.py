"""The clusters' door: the gRPC service Federation. It authenticates each call, then asks `Operations` and `Relay`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.hub import clusters_say, protected
from trustfed.hub.calls import (
    HEARTBEAT_SECONDS,
    LAST_WRITE_SECONDS,
    SILENCE_SECONDS,
    Calls,
    read_hello,
)
from trustfed.hub.mesh.compose import HubMeshParts
from trustfed.hub.mesh.reports import Reports
from trustfed.hub.messages import grant_message
from trustfed.hub.operations import Operations
from trustfed.hub.peers import Peers
from trustfed.hub.relay import Relay, View
from trustfed.hub.turns import Turns, Waiting
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.spiffe.x509svid import X509Svid

SERVICE = "trustfed.federation.v1.Federation"
MAX_MESSAGE = 2 * 1024 * 1024
CONFIRMATIONS_SECONDS = 5.0
"""How far apart one cluster's batches of confirmations are, at least."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Federation:
    """The service's three methods."""

    def __init__(
        self,
        operations: Operations,
        relay: Relay,
        peers: Peers,
        clock: Clock,
        refused: Callable[[str, str], None] = lambda domain, why: None,
        mesh: HubMeshParts | None = None,
    ) -> None:
        """`refused` is told which domain's role was not taken, and why."""
        self._operations, self._relay, self._peers, self._clock = operations, relay, peers, clock
        self._refused, self._turns = refused, Turns(clock)
        self._mesh = mesh or HubMeshParts(operations, relay, clock)
        self._log = logs.get("hub.rpc")
        self._calls = Calls(peers, clock, self._log)

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
            view, greeting, waiting = await self._hello(peer, context)
        except Exception as refused:
            await self._calls.abort(context, refused)
            return
        self._log.info("cluster connected", domain=view.domain, software=view.software, position=view.position)
        reports = Reports(self._mesh.intake, view.domain)
        # Each on its own: a cluster that does not read, and so holds up the writing, is still thrown out in time.
        writing = asyncio.create_task(self._write(view, greeting, context))
        tasks = {
            writing,
            asyncio.create_task(self._read(view, waiting, reports, context)),
            asyncio.create_task(reports.run()),
            asyncio.create_task(waiting.roles(lambda role: self._published(view, role))),
            asyncio.create_task(waiting.told(lambda said: self._operations.tell_endpoints(view.domain, said))),
            asyncio.create_task(self._calls.expire(view.svid)),
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
            await self._calls.abort(context, error)

    async def _hello(self, peer: X509Svid, context: Any) -> tuple[View, list[pb.FromHub], Waiting]:
        """Read the cluster's hello: its view, which collects what is to be sent from here on, and what goes first."""
        hello = await read_hello(context)
        waiting = await self._endpoints(peer.id.trust_domain.name, tuple(hello.bundle_endpoints))
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
            mesh_digest=self._mesh.intake.digest(view.domain),
        )
        self._mesh.relay.greet(view, hello, answered.mesh_digest, self._mesh.intake.refused(view.domain), state)
        greeting = [pb.FromHub(hello=answered), *self._relay.take(view, state)]
        if snapshot:
            greeting.append(pb.FromHub(position=state.position, snapshot_end=pb.SnapshotEnd()))
            view.position = state.position
        return view, greeting, waiting

    async def _endpoints(self, domain: str, said: Sequence[str]) -> Waiting:
        """Take where the domain serves its own bundle, if that is news: now, or when it is its turn."""
        waiting = Waiting(self._turns, domain)
        if clusters_say.endpoints(self._operations.state, domain, said):
            if self._turns.endpoints.take(domain, self._clock.monotonic()):
                await self._operations.tell_endpoints(domain, said)
            else:
                waiting.endpoints = said
                self._log.warning("bundle endpoints change too often: they wait", domain=domain)
        return waiting

    async def _read(self, view: View, waiting: Waiting, reports: Reports, context: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await context.read()
            except TimeoutError:
                raise Unavailable(f"nothing was heard for {SILENCE_SECONDS:.0f} seconds") from None
            if message is grpc.aio.EOF:
                return
            view.heard = self._clock.now()
            await self._heard(view, waiting, reports, message)
            del message  # with manifests it is more than a megabyte, and the next one may take a while

    async def _heard(self, view: View, waiting: Waiting, reports: Reports, message: pb.FromCluster) -> None:
        turns = self._turns
        match message.WhichOneof("message"):
            case "envelope":
                await turns.envelopes.turn(view.domain, self._clock)
                await self._operations.accept_envelope(view.domain, message.envelope)
                self._peers.check(view.svid.chain[0], self._clock.now())  # its own bundle may have dropped it
                view.mark(("stored", ""))
            case "acknowledge":
                self._relay.acknowledge(view, message.acknowledge, self._operations.state)
            case "confirmation":
                await turns.confirmations.turn(view.domain, self._clock)
                state, now = self._operations.state, self._clock.now()
                confirmed = clusters_say.confirmed(state, view.domain, message.confirmation, now)
                if confirmed is not None:
                    self._relay.confirm(confirmed, state)
            case "published":
                said = message.published
                held = (said.metadata, said.cluster_document, said.envelope)
                known = protected.held_role(self._operations.state, view.domain, *held)
                # After a restore the manifests may not be here.
                if not known or (said.manifests and not await self._operations.holds_manifests(view.domain)):
                    waiting.put(said)
            case "mesh":
                if message.mesh.last:  # few bytes, and much to compare
                    await turns.meshes.turn(view.domain, self._clock)
                reports.put(message.mesh)
            case "heartbeat":
                pass
            case other:
                raise Invalid(f"a cluster sends no {other}", hint="is its software newer than the hub's?")

    async def _published(self, view: View, said: pb.Published) -> None:
        """Take a domain's part of the protected publication; what is refused is told to operators, and ends no stream."""
        try:
            about = (said.metadata, said.cluster_document, said.envelope, said.manifests)
            await self._operations.accept_role(view.domain, *about)
        except (Denied, Invalid, Conflict) as error:
            self._log.warning("role refused", domain=view.domain, error=error.message)
            self._refused(view.domain, error.message)
        self._peers.check(view.svid.chain[0], self._clock.now())  # its envelope may have come with it
        view.mark(("stored", ""))

    async def _write(self, view: View, greeting: Sequence[pb.FromHub], context: Any) -> None:
        for message in greeting:
            await context.write(message)
        monotonic = self._clock.monotonic
        beat_at, batch_at = monotonic() + HEARTBEAT_SECONDS, monotonic()
        while view.over is None:
            until = min(beat_at, batch_at) if view.confirmed else beat_at
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(until - monotonic(), 0.001)):
                    await view.changed()
            for message in self._relay.take(view, self._operations.state):
                await context.write(message)
            # One that came meanwhile, too: it goes before the routes that rest on it.
            while any(kind == "grant" for kind, _ in view.pending):
                for message in self._relay.take(view, self._operations.state):
                    await context.write(message)
            for message in self._mesh.relay.take(view):
                await context.write(message)
            if view.confirmed and monotonic() >= batch_at:
                for message in self._relay.take_confirmed(view, self._operations.state):
                    await context.write(message)
                batch_at = monotonic() + CONFIRMATIONS_SECONDS
            if monotonic() >= beat_at:
                beat = pb.Heartbeat(time_ms=to_ms(self._clock.now()))
                await context.write(pb.FromHub(heartbeat=beat))
                beat_at = monotonic() + HEARTBEAT_SECONDS

    def _authenticate(self, context: Any) -> X509Svid:
        return self._calls.authenticate(context)

    def _unary(
        self, method: Callable[[X509Svid, _Request], Awaitable[_Response]]
    ) -> Callable[[_Request, Any], Awaitable[_Response]]:
        async def handle(request: _Request, context: Any) -> _Response:
            try:
                return await method(self._authenticate(context), request)
            except Exception as error:
                await self._calls.abort(context, error)
                raise

        return handle


async def _ended(view: View) -> None:
    """Raise what the stream must end with, when it must."""
    raise await view.ended()
