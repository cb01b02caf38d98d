"""The clusters' door for evidence: the gRPC service Fleet (trustfed/proto/evidence.proto).

1. the caller is an enrolled cluster, by its SVID (trustfed.hub.calls), and stays one while the stream lives
2. its hello names our protocol; its log key is endorsed by its domain's publication key, and is the one that is pinned
3. each message is paced per domain, so that no new stream begins anew, and bounded; what breaks a bound ends the stream
4. what a cluster says counts for its own trust domain alone
5. a delta is durable before it is `Taken`
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import msgspec

from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.evidence.standing import MAX_BYTES, Alarm, Standing
from trustfed.hub.calls import HEARTBEAT_SECONDS, LAST_WRITE_SECONDS, SILENCE_SECONDS, Calls, read_hello
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.keeper import Keeper
from trustfed.hub.evidence.numbers import bounded
from trustfed.hub.evidence.orders import Orders
from trustfed.hub.evidence.questions import Questions
from trustfed.hub.evidence.session import Session, Sessions
from trustfed.hub.evidence.views import Failure
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import PROTOCOL, SOFTWARE

SERVICE = "trustfed.evidence.v1.Fleet"
MAX_COUNTERS, MAX_FAILED = 2_000, 500
MAX_TEXT = 2_048
CLOCK_MS = 30_000
"""A cluster whose clock is further from the hub's than this is alarmed on."""
OUTCOMES = frozenset({"", "late", "expired", "unknown"})

_STANDING = msgspec.json.Decoder(Standing)
_log = logs.get("hub.evidence")


class Witnessing(Protocol):
    """What is done with the logs: trustfed.hub.evidence.witness."""

    @property
    def vkey(self) -> str:
        """The hub's own log key, "" while there is none."""

    async def greet(self, session: Session, log_key: bytes) -> None:
        """A cluster has connected, and shows this endorsement of its log key."""

    async def offered(self, session: Session, offer: pb.CheckpointOffer) -> None:
        """It offers a checkpoint of one of its logs."""

    async def cosigned(self, session: Session, said: pb.Cosignature) -> None:
        """It answers an offer of ours."""


class FleetService:
    """The service's one method."""

    def __init__(
        self,
        calls: Calls,
        sessions: Sessions,
        fleet: Fleet,
        keeper: Keeper,
        questions: Questions,
        orders: Orders,
        witness: Witnessing,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._calls, self._sessions, self._fleet, self._keeper = calls, sessions, fleet, keeper
        self._questions, self._orders, self._witness, self._clock = questions, orders, witness, clock
        self._all, self._deltas = Paces(200, 0.01), Paces(50, 0.05)
        self._standings, self._checkpoints = Paces(10, 0.5), Paces(10, 1.0)
        self._late = registry.counter("hub_fleet_late_rows_total", "Counters of clusters that came too late to count.")
        self._messages = registry.counter("hub_fleet_messages_total", "Messages of clusters about evidence.", ("kind",))
        registry.gauge("hub_fleet_streams", "Clusters with an open stream for evidence.").read(lambda: len(sessions))

    def handlers(self) -> grpc.GenericRpcHandler:
        """What the gRPC server is given."""
        follow = grpc.stream_stream_rpc_method_handler(
            self._follow, pb.FromCluster.FromString, pb.FromHub.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Follow": follow})

    def removed(self, domain: str) -> None:
        """A domain is out of the federation: its stream ends."""
        session = self._sessions.get(domain)
        if session is not None:
            session.end(Denied(f"trust domain {domain} was removed from the federation"))

    async def _follow(self, _: object, context: Any) -> None:
        try:
            peer = self._calls.authenticate(context)
            hello = await read_hello(context)
            session = Session(peer.id.trust_domain.name, peer, hello.store[:128], frozenset(hello.features[:32]))
            await self._begin(session, hello)
        except Exception as refused:
            await self._calls.abort(context, refused)
            return
        writing = asyncio.create_task(self._write(session, context))
        tasks = {
            writing,
            asyncio.create_task(self._read(session, context)),
            asyncio.create_task(self._calls.expire(session.svid)),
            asyncio.create_task(session.ended()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next((task.exception() for task in done if task.exception()), None)
        finally:
            session.end()
            self._leave(session)
            await asyncio.wait({writing}, timeout=LAST_WRITE_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if error is not None:
            await self._calls.abort(context, error)

    async def _begin(self, session: Session, hello: pb.FleetHello) -> None:
        domain, now = session.domain, self._now()
        self._real(domain, "simulated" in session.features)
        welcome = pb.FleetWelcome(
            protocol=PROTOCOL,
            software=SOFTWARE,
            cursor=self._keeper.cursor(domain, session.store),
            log_key=self._witness.vkey,
            time_ms=now,
        )
        session.send(pb.FromHub(welcome=welcome))
        self._sessions.join(session)
        self._fleet.stream(domain, True, now)
        self._clock_of(domain, hello.time_ms)
        try:
            await self._witness.greet(session, hello.log_key)
            self._orders.greet(session)
        except BaseException:
            self._leave(session)
            raise
        _log.info("cluster tells its evidence", domain=domain, software=hello.software[:64], cursor=welcome.cursor)

    def _leave(self, session: Session) -> None:
        if self._sessions.leave(session):
            self._questions.gone(session.domain)
            if session.domain in self._fleet.names:
                self._fleet.stream(session.domain, False, 0)
            _log.info("cluster tells no evidence", domain=session.domain)

    async def _read(self, session: Session, context: Any) -> None:
        handlers: dict[str, Callable[[Session, Any], Awaitable[None]]] = {
            "delta": self._delta,
            "standing": self._standing,
            "checkpoint": self._checkpoint,
            "cosignature": self._witness.cosigned,
            "answer": self._answer,
            "done": self._done,
            "heartbeat": self._heartbeat,
        }
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await context.read()
            except TimeoutError:
                raise Unavailable(f"nothing was heard for {SILENCE_SECONDS:.0f} seconds") from None
            if message is grpc.aio.EOF:
                return
            await self._all.turn(session.domain, self._clock)
            if session.over:
                return
            kind = message.WhichOneof("message")
            if kind not in handlers:
                raise Invalid(f"a cluster sends no {kind}", hint="is its software newer than the hub's?")
            self._messages.add(1, kind=kind)
            self._fleet.stream(session.domain, True, self._now())
            await handlers[kind](session, getattr(message, kind))
            del message

    async def _write(self, session: Session, context: Any) -> None:
        beating = asyncio.create_task(self._beat(session))
        try:
            while (message := await session.next()) is not None:
                await context.write(message)
        finally:
            beating.cancel()

    async def _beat(self, session: Session) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            session.send(pb.FromHub(heartbeat=pb.Heartbeat(time_ms=self._now())))

    async def _delta(self, session: Session, delta: pb.Delta) -> None:
        domain = session.domain
        await self._deltas.turn(domain, self._clock)
        if len(delta.counters) > MAX_COUNTERS or len(delta.failed) > MAX_FAILED:
            raise Invalid(f"a delta has at most {MAX_COUNTERS} counters and {MAX_FAILED} failed obligations")
        told = [(row.class_, row.bucket_ms, row.counts) for row in delta.counters]
        failed = [_failure(row) for row in delta.failed]
        late = await self._keeper.take(domain, session.store, delta.cursor, told, failed, whole=delta.whole)
        if late:
            self._late.add(late)
        cursor = self._keeper.cursor(domain, session.store)
        session.send(pb.FromHub(taken=pb.Taken(cursor=cursor)))

    async def _standing(self, session: Session, data: bytes) -> None:
        domain = session.domain
        await self._standings.turn(domain, self._clock)
        if len(data) > MAX_BYTES:
            raise Invalid(f"a standing has at most {MAX_BYTES} bytes")
        try:
            standing = _STANDING.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Invalid(f"a standing of {domain} cannot be read: {str(error)[:200]}") from None
        if standing.trust_domain != domain:
            raise Denied(f"{domain} cannot say how another trust domain stands")
        if not bounded(msgspec.to_builtins(standing)):
            raise Invalid(f"a standing of {domain} has a number that is none", hint="each fits into 53 bits")
        self._real(domain, standing.simulated)
        told = min(standing.as_of_ms, self._now())
        standing = msgspec.structs.replace(standing, as_of_ms=told, simulated=self._fleet.held(domain).simulated)
        self._keeper.stand(domain, standing, msgspec.json.encode(standing))

    def _real(self, domain: str, simulated: bool) -> None:
        """What is real pages people, and takes itself out of the alarms by no word: its invitation says. Raises Denied."""
        if simulated and not (domain in self._fleet.names and self._fleet.held(domain).simulated):
            raise Denied(f"{domain} was invited as a real trust domain, and cannot call itself simulated")

    async def _checkpoint(self, session: Session, offer: pb.CheckpointOffer) -> None:
        await self._checkpoints.turn(session.domain, self._clock)
        await self._witness.offered(session, offer)

    async def _answer(self, session: Session, answer: pb.Answer) -> None:
        self._questions.answered(session.domain, answer)

    async def _done(self, session: Session, done: pb.OrderDone) -> None:
        await self._orders.done(session.domain, done)

    async def _heartbeat(self, session: Session, beat: pb.Heartbeat) -> None:
        self._clock_of(session.domain, beat.time_ms)

    def _clock_of(self, domain: str, said_ms: int) -> None:
        offset, code = said_ms - self._now(), "cluster_clock"
        if said_ms and abs(offset) > CLOCK_MS:
            way = "ahead of" if offset > 0 else "behind"
            says = f"its clock is {abs(offset) // 1000} seconds {way} the hub's"
            if not any(one.what.code == code for one in self._fleet.alarms(domain)):
                self._fleet.alarm(domain, Alarm(code, "page", domain, says, self._now(), "set its clock: NTP"))
        else:
            self._fleet.calm(domain, code, domain)

    def _now(self) -> int:
        return to_ms(self._clock.now())


def _failure(row: pb.Failed) -> Failure:
    if row.outcome not in OUTCOMES:
        raise Invalid(f"an obligation fails late, expired or unknown, not {row.outcome[:20]!r}")
    texts = (row.id, row.class_, row.spiffe_id, row.instance, row.slot, row.predecessor, row.outcome, row.why)
    if not row.id or any(len(text) > MAX_TEXT for text in texts):
        raise Invalid(f"a failed obligation has an id, and no text of more than {MAX_TEXT} characters")
    return Failure(*texts, row.on_time_ms, row.hard_ms, row.ended_ms)
