"""Workloads of two trust domains that call each other while everything but their agents is cut off.

A connected workload holds its stream and calls with what was pushed last; a new one connects, gets its identity, calls once
and is gone; both fetch JWT-SVIDs. The cut is shorter than the shortest life that is left: no call may fail.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from grpclib.client import UnaryStreamMethod

from tests.system.faults.invariants import split
from tests.system.faults.observers import Failure
from tests.system.faults.proxy import PASS, Fault, Proxy
from tests.system.faults.world import World
from tests.system.stack import Agent
from tests.unit.agent.world import HEADER, SERVICE, Workload
from trustfed.demo import mtls
from trustfed.demo.mtls import Identity, Refusal
from trustfed.proto import workload_pb2 as pb
from trustfed.runtime.sockets import listen_tcp
from trustfed.runtime.tls import KeyPair, client_context
from trustfed.spiffe.bundle import Bundle, BundleMap
from trustfed.spiffe.ids import SpiffeId, TrustDomain

CALLS, NEWCOMERS, TOKENS = 10, 3, 2
"""Per second and trust domain."""
AUDIENCE = "partition"
MOST_FAILURES = 20
"""That are told; all are counted."""
KINDS = ("call", "new workload", "JWT-SVID")
Work = Callable[[], Awaitable[str]]
"""One call; what was wrong, or nothing."""


@dataclass
class Phase:
    """Calls and failures while something was so."""

    seconds: float = 0.0
    made: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0

    @property
    def per_second(self) -> float:
        return (sum(self.made.values()) - sum(self.failed.values())) / self.seconds if self.seconds else 0.0


@dataclass
class Report:
    """Before, during and after the cut."""

    cut: float
    before: Phase
    during: Phase
    after: Phase
    violations: list[str]

    @property
    def share(self) -> float:
        """Throughput during the cut, of that before."""
        return self.during.per_second / self.before.per_second

    def text(self) -> str:
        """For people."""
        phases = (("before", self.before), ("during", self.during), ("after", self.after))
        lines = [f"partition of {self.cut:.0f} s: {self.share:.1%} of the throughput before"]
        for name, phase in phases:
            made = ", ".join(f"{phase.made[kind]} x {kind} ({phase.failed[kind]} failed)" for kind in KINDS)
            lines.append(f"  {name}: {phase.per_second:.1f}/s, slowest {phase.worst * 1000:.0f} ms: {made}")
        return "\n".join([*lines, *("  ! " + one for one in self.violations)])


class Partition:
    """`run` takes 2 x `quiet` + `cut` seconds."""

    def __init__(self, world: World, quiet: float, cut: float) -> None:
        self._world, self._quiet, self._cut = world, quiet, cut
        self._phase = Phase()
        self._failures: list[str] = []

    def run(self) -> Report:
        """Call, cut, call on, heal, call on."""
        background = self._world.background
        members = background.do(self._begin())
        tasks = [background.start(work) for member in members for work in member.works()]
        try:
            before = self._spend(self._quiet)
            self._links(Fault(cut=True))
            during = self._spend(self._cut)
            self._links(PASS)
            after = self._spend(self._quiet)
        finally:
            for task in tasks:
                background.end(task)
            background.do(_close(members))
        return Report(self._cut, before, during, after, self._failures)

    async def _begin(self) -> list[_Member]:
        members = [_Member(agent, self._count) for agent in self._world.agents]
        for member, peer in zip(members, reversed(members), strict=True):
            member.peer = peer
            await member.start()
        return members

    def _spend(self, seconds: float) -> Phase:
        phase = self._phase = Phase()
        began = time.monotonic()
        time.sleep(seconds)
        phase.seconds = time.monotonic() - began
        return phase

    def _links(self, fault: Fault) -> None:
        async def turn(proxies: list[Proxy]) -> None:
            for proxy in proxies:
                proxy.fault = fault

        self._world.background.do(turn(list(self._world.stack.proxies.values())))

    async def _count(self, kind: str, work: Work) -> None:
        phase, began = self._phase, time.monotonic()
        try:
            async with asyncio.timeout(10):
                wrong = await work()
        except Failure as error:
            wrong = f"{type(error).__name__} {error}"[:200]
        phase.made[kind] += 1
        phase.worst = max(phase.worst, time.monotonic() - began)
        if wrong:
            phase.failed[kind] += 1
            if len(self._failures) < MOST_FAILURES:
                self._failures.append(f"{kind}: {wrong}")


async def _close(members: list[_Member]) -> None:
    for member in members:
        member.close()


Count = Callable[[str, Work], Awaitable[None]]


class _Member:
    """The workloads of one trust domain: a server, a caller with an open stream, newcomers."""

    def __init__(self, agent: Agent, count: Count) -> None:
        self._agent, self._count = agent, count
        self.peer: _Member
        self.id = SpiffeId.parse(f"spiffe://{agent.cluster.name}/work")
        self._workload = Workload(agent.socket)
        self._identity: Identity
        self._update: Callable[[Identity], None] | None = None
        self.address = ("", 0)

    async def start(self) -> None:
        self._identity = identity(await self._workload.x509())
        listener = listen_tcp("127.0.0.1:0")
        self.address = listener.getsockname()
        self._update = await mtls.serve(listener, lambda: self._identity, self.peer.id, lambda *_: None)

    def close(self) -> None:
        self._workload.close()

    def works(self) -> list[Awaitable[None]]:
        return [
            self._follow(),
            self._steadily(CALLS, "call", self._call),
            self._steadily(NEWCOMERS, "new workload", self._new),
            self._steadily(TOKENS, "JWT-SVID", self._token),
        ]

    async def _follow(self) -> None:
        """The stream that a connected workload holds: it never breaks, since its agent is up all the time."""
        path = SERVICE + "FetchX509SVID"
        method: Any = UnaryStreamMethod(self._workload.channel, path, pb.X509SVIDRequest, pb.X509SVIDResponse)
        async with method.open(metadata=HEADER) as stream:
            await stream.send_message(pb.X509SVIDRequest(), end=True)
            while True:
                message = await stream.recv_message()
                if message is None:
                    await self._count("call", _ended)
                    return
                self._identity = identity(message)
                if self._update is not None:
                    self._update(self._identity)

    async def _steadily(self, rate: float, kind: str, work: Work) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + 1 / rate, loop.time() - 1)
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._count(kind, work)

    async def _call(self) -> str:
        return await self._call_as(self._identity)

    async def _new(self) -> str:
        workload = Workload(self._agent.socket)
        try:
            return await self._call_as(identity(await workload.x509()))
        finally:
            workload.close()

    async def _token(self) -> str:
        found = await self._workload.jwt(AUDIENCE)
        return "" if found.svids else "no token"

    async def _call_as(self, mine: Identity) -> str:
        made = await mtls.call(*self.peer.address, mine, self.peer.id)
        return made.reason if isinstance(made, Refusal) else ""


def identity(answer: pb.X509SVIDResponse) -> Identity:
    """The first identity in an answer of the Workload API, for TLS."""
    svid = answer.svids[0]
    id_, chain = SpiffeId.parse(svid.spiffe_id), tuple(split(svid.x509_svid))
    key = load_der_private_key(svid.x509_svid_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    bundles = {id_.trust_domain: Bundle(id_.trust_domain, tuple(sorted(split(svid.bundle))))}
    for name, data in answer.federated_bundles.items():
        domain = TrustDomain.parse(name.removeprefix("spiffe://"))
        bundles[domain] = Bundle(domain, tuple(sorted(split(data))))
    keypair = KeyPair(chain, key)
    anchors = [der for bundle in bundles.values() for der in bundle.x509_authorities]
    context = client_context(keypair, anchors)
    return Identity(id_, keypair, BundleMap(bundles), "", mtls.authority_of(chain[0]), time.time(), context)


async def _ended() -> str:
    return "the stream of a connected workload ended"
