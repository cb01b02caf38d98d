"""The cluster's stream of evidence to the hub (trustfed/proto/evidence.proto, Fleet), beside the stream of trust.

What it sends goes on from what the hub holds; what it is asked it answers within two seconds; what it is ordered goes to
`Orders`. Nothing here stops anything else, and a hub without the service is asked again now and then, quietly.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from grpclib.client import Stream

from trustfed.cluster.evidence.deltas import Changes, delta_of
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.witnessing import Witnessing
from trustfed.cluster.identity import OwnIdentity
from trustfed.cluster.state import ClusterState, newest_roots
from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import VerifiedChannel, receive, stream
from trustfed.runtime.https_client import exactly
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.tls import client_context
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.runtime.waiting import news_or_time, together
from trustfed.spiffe.ids import SpiffeId

log = logs.get("cluster.evidence")

FOLLOW = "/trustfed.evidence.v1.Fleet/Follow"
MAX_QUESTIONS, MAX_QUESTION, MAX_ANSWER = 4, 64 << 10, 1 << 20
QUESTION_SECONDS = 2.0
MAX_ORDERS = 16
_HELLO_SECONDS, _HEARTBEAT_SECONDS, _SILENCE_SECONDS = 10.0, 15.0, 60.0
_FIRST_WAIT, _LONGEST_WAIT, _WITHOUT_WAIT = 0.2, 10.0, 120.0
_DEBOUNCE_SECONDS = 0.5
_LONGEST_LOOK = 5.0
_ROWS = 500
_UNTAKEN = 8
"""Deltas that the hub has not said it holds."""
_UNKNOWN_METHOD = ("gRPC status 12", "Method not found", "UNIMPLEMENTED")


class Rows(Protocol):
    """The evidence store, as far as the hub is told of it (trustfed.evidence.store)."""

    @property
    def store_id(self) -> str: ...

    async def changed_since(self, cursor: int, limit: int) -> Changes: ...


Answerer = Callable[[str, bytes], Awaitable[bytes]]
Taker = Callable[[pb.Order], Awaitable[pb.OrderDone]]


class FleetLink:
    """One stream at a time; `run` keeps it."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        identity: OwnIdentity,
        rows: Callable[[], Rows],
        own: ClusterLogs,
        witnessing: Witnessing,
        standing: Callable[[], Awaitable[bytes]],
        answer: Answerer,
        take: Taker,
        clock: Clock,
        registry: Registry,
        features: tuple[str, ...] = (),
    ) -> None:
        self._state, self._identity, self._rows, self._own = state, identity, rows, own
        self._features = features
        self._witnessing, self._standing, self._answer, self._take_order = witnessing, standing, answer, take
        self._clock = clock
        self._news, self._standing_news, self._log_news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._taken = asyncio.Event()
        self._cursor = self._held = 0
        self._flying: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._quiet = False
        self.error = ""
        self.connected = False
        own.on_note(self._log_news.set)
        registry.gauge("cluster_evidence_hub_connected", "1 while the hub follows this cluster's evidence").read(
            lambda: float(self.connected)
        )
        registry.gauge("cluster_evidence_hub_behind", "changes that the hub does not hold yet").read(
            lambda: float(max(self._cursor - self._held, 0))
        )
        self._asked = registry.counter("cluster_evidence_questions_total", "questions of the hub", labels=("outcome",))

    def changed(self) -> None:
        """There is something new in the evidence, or in how this cluster stands."""
        self._news.set()
        self._standing_news.set()

    def status(self) -> dict[str, object]:
        """For `trustfed evidence status`."""
        return {"connected": self.connected, "cursor": self._cursor, "held": self._held, "error": self.error or None}

    async def run(self) -> None:
        """Stay connected, with full jitter; ends only when cancelled."""
        wait = _FIRST_WAIT
        while True:
            started, least = self._clock.monotonic(), 0.0
            try:
                await self._session()
            except TrustfedError as error:
                least = self._ended(error)
            except Exception as error:  # whatever a hub sends ends its stream, never this process
                self.error = f"the stream broke: {type(error).__name__}"
                log.exception("stream of evidence to the hub broke", error=error)
            finally:
                self.connected = False
            wait = _FIRST_WAIT if self._clock.monotonic() - started > _LONGEST_WAIT else min(wait * 2, _LONGEST_WAIT)
            await self._clock.sleep(random.uniform(least / 2, max(wait, least)))  # noqa: S311 - jitter

    def _ended(self, error: TrustfedError) -> float:
        """Say why, once; gives how long to wait at least."""
        without = any(sign in error.message for sign in _UNKNOWN_METHOD)
        if error.message != self.error and not (without and self._quiet):
            tell = log.info if without else log.warning
            tell("the hub does not follow this cluster's evidence", error=error.message)
        self.error, self._quiet = error.message, without
        return _WITHOUT_WAIT if without else 0.0

    async def _session(self) -> None:
        state = self._state()
        if state.hub is None:
            raise Unavailable("this cluster is not enrolled")
        host, port = parse_address(state.hub.grpc)
        context = client_context(self._identity.keypair, newest_roots(state).roots, alpn=("h2",))
        channel = VerifiedChannel(host, port, context, exactly(SpiffeId.parse(state.hub.id)))
        try:
            async with stream(channel, FOLLOW, pb.FromCluster, pb.FromHub) as opened:
                await opened.send_message(pb.FromCluster(hello=self._hello()))
                await self._greeted(await receive(opened, _HELLO_SECONDS, "the hub"))
                self.connected, self.error = True, ""
                log.info("the hub follows this cluster's evidence", cursor=self._cursor)
                for news in (self._news, self._standing_news, self._log_news):
                    news.set()
                jobs = [self._deltas(opened), self._standings(opened), self._checkpoints(opened), self._beats(opened)]
                await together([*jobs, self._receive(opened)], asyncio.Event())
        finally:
            for task in self._flying:
                task.cancel()
            channel.close()

    def _hello(self) -> pb.FleetHello:
        return pb.FleetHello(
            protocol_min=PROTOCOL,
            protocol_max=PROTOCOL,
            features=self._features,
            software=SOFTWARE,
            log_key=self._own.endorsement,
            store=self._rows().store_id,
            time_ms=to_ms(self._clock.now()),
        )

    async def _greeted(self, first: pb.FromHub) -> None:
        if first.WhichOneof("message") != "welcome":
            raise Invalid("the hub did not begin with a welcome")
        if first.welcome.protocol != PROTOCOL:
            raise Invalid(f"the hub speaks protocol {first.welcome.protocol}, this cluster {PROTOCOL}")
        self._cursor = self._held = first.welcome.cursor
        await self._witnessing.begin(first.welcome.log_key[:1024])

    async def _deltas(self, opened: Any) -> None:
        """What changed since what the hub holds, in order; at most a few ahead of its word."""
        ahead = 0
        while True:
            while self._cursor > self._held and ahead >= _UNTAKEN:
                await self._taken.wait()
                self._taken.clear()
                ahead = 0
            self._news.clear()
            rows = await self._rows().changed_since(self._cursor, _ROWS)
            message = delta_of(rows, self._cursor)
            if message is None:
                await news_or_time(self._news, self._clock, _LONGEST_LOOK)
                continue
            await self._send(opened, pb.FromCluster(delta=message))
            self._cursor, ahead = message.cursor, ahead + 1

    async def _standings(self, opened: Any) -> None:
        """How this cluster stands, whenever that is another picture than before."""
        said = b""
        while True:
            await news_or_time(self._standing_news, self._clock, _LONGEST_LOOK)
            started = self._clock.monotonic()
            data = await self._standing()
            took = self._clock.monotonic() - started
            if _apart_from_time(data) != _apart_from_time(said):
                await self._send(opened, pb.FromCluster(standing=data))
                said = data
            # A picture of 100,000 identities takes its time: a tenth of one core is enough for it.
            await self._clock.sleep(max(_DEBOUNCE_SECONDS, 9 * took))

    async def _checkpoints(self, opened: Any) -> None:
        while True:
            await self._log_news.wait()
            self._log_news.clear()
            offer = await self._witnessing.offer()
            if offer is not None:
                await self._send(opened, pb.FromCluster(checkpoint=offer))

    async def _beats(self, opened: Any) -> None:
        while True:
            await self._clock.sleep(_HEARTBEAT_SECONDS)
            beat = pb.Heartbeat(time_ms=to_ms(self._clock.now()))
            await self._send(opened, pb.FromCluster(heartbeat=beat))

    async def _receive(self, opened: Stream[pb.FromCluster, pb.FromHub]) -> None:
        while True:
            message: pb.FromHub = await receive(opened, _SILENCE_SECONDS, "the hub")
            match message.WhichOneof("message"):
                case "taken":
                    # Never beyond what was sent: a hub cannot make this cluster leave anything out.
                    self._held = max(self._held, min(message.taken.cursor, self._cursor))
                    self._taken.set()
                case "cosignature":
                    if await self._witnessing.answered(message.cosignature):
                        self._log_news.set()
                case "checkpoint":
                    judged = await self._witnessing.judged(message.checkpoint)
                    await self._send(opened, pb.FromCluster(cosignature=judged))
                case "question":
                    await self._question(opened, message.question)
                case "order":
                    self._fly(self._order(opened, message.order), MAX_QUESTIONS + MAX_ORDERS)

    async def _question(self, opened: Any, question: pb.Question) -> None:
        if not self._fly(self._answered(opened, question), MAX_QUESTIONS):
            busy = pb.Answer(
                id=question.id, error=f"{MAX_QUESTIONS} questions are being answered", error_code="unavailable"
            )
            self._asked.add(outcome="busy")
            await self._send(opened, pb.FromCluster(answer=busy))

    def _fly(self, work: Any, most: int) -> bool:
        """Begin this beside the stream, unless so many are under way."""
        if len(self._flying) >= most:
            work.close()
            return False
        task = asyncio.create_task(work)
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)
        return True

    async def _answered(self, opened: Any, question: pb.Question) -> None:
        answer = pb.Answer(id=question.id, as_of_ms=to_ms(self._clock.now()))
        try:
            if len(question.kind) > 64 or len(question.body) > MAX_QUESTION:
                raise Invalid("the question is too long")
            async with asyncio.timeout(QUESTION_SECONDS):
                body = await self._answer(question.kind, question.body)
            if len(body) > MAX_ANSWER:
                raise Invalid(f"the answer has {len(body)} bytes", hint="ask for less")
            answer.body = body
        except TimeoutError:
            answer.error, answer.error_code = f"no answer within {QUESTION_SECONDS:.0f} s", "unavailable"
        except Exception as error:  # answer() keeps what is unknown to itself
            said = errors.answer(error)
            answer.error, answer.error_code = said.line(), code_of(error)
        self._asked.add(outcome=answer.error_code or "answered")
        await self._send(opened, pb.FromCluster(answer=answer))

    async def _order(self, opened: Any, order: pb.Order) -> None:
        done = await self._take_order(order)
        await self._send(opened, pb.FromCluster(done=done))

    async def _send(self, opened: Any, message: pb.FromCluster) -> None:
        async with self._turn:
            await opened.send_message(message)


def code_of(error: Exception) -> str:
    """The word for an error of ours, as the wire has it."""
    names = {"Invalid": "invalid", "Denied": "denied", "NotFound": "not_found", "Conflict": "conflict"}
    return names.get(type(error).__name__, "unavailable")


def _apart_from_time(data: bytes) -> bytes:
    """A standing without its `as_of_ms`: when only that changed, nothing did."""
    head, mark, rest = data.partition(b'"as_of_ms":')
    return head + rest.lstrip(b"0123456789") if mark else data
