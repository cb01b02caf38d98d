"""Keeps the bundles of foreign peers fresh: fetch, judge, adopt; the last good one stays through every failure.

One task for each peer whose grant stands, so that none delays another beyond the few threads they share; those are apart
from the process's own, which a slow peer must not take. What is served is read and judged there or in pure rules; what is
believed is recorded by one decision, which fails when the peer was changed meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

from ca.keys.port import KeyStore
from trustfed.cluster import events as e
from trustfed.cluster.foreign import adoption, commands, endpoint, rules
from trustfed.cluster.foreign.config import ForeignConfig
from trustfed.cluster.foreign.course import Course
from trustfed.cluster.foreign.endpoint import Answer, Fetching
from trustfed.cluster.foreign.holdings import Holdings
from trustfed.cluster.foreign.rules import Fault, Offer, Refused, Verdict
from trustfed.cluster.foreign.workers import Workers
from trustfed.cluster.state import ClusterState, ForeignPeer
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.guarded_fetch import Resolve
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.foreign")

THREADS = 8
CONFIRM_EVERY = timedelta(hours=6)
"""How often it is journalled that a bundle which does not change is still the newest: a restart shall not forget it."""
Confirmed = Callable[[str, datetime], None]
"""Told after each fetch that found what is held to be the newest."""


@dataclass(frozen=True)
class Order:
    """An operator accepts what the endpoint serves now; `keys` is the fingerprint that was looked at, or ""."""

    actor: str
    reason: str
    keys: str


class ForeignPeers:
    """The foreign peers of one cluster."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        keys: KeyStore,
        config: ForeignConfig,
        confirmed: Confirmed,
        clock: Clock,
        registry: Registry,
        resolve: Resolve | None = None,
    ) -> None:
        self._fold, self._keys, self._confirmed, self._clock = fold, keys, confirmed, clock
        self._how = Fetching(config.reach(), config.timeout.total_seconds(), clock.now, resolve)
        self._least = config.least_refresh.total_seconds()
        self._after = fold.position
        self._workers = Workers(THREADS, "foreign")
        self._holdings = Holdings()
        self._courses: dict[str, Course] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._counter = registry.counter(
            "cluster_foreign_fetches_total", "fetches of foreign bundles", labels=("trust_domain", "outcome")
        )

    def course(self, name: str) -> Course:
        """How it goes with this peer."""
        return self._courses.setdefault(name, Course())

    async def run(self) -> None:
        """Follow every peer whose grant stands; ends only when cancelled."""
        for name, peer in self._fold.state.foreign.items():
            if peer.accepted_at is not None:
                self._confirmed(name, peer.accepted_at)
        try:
            self._reconcile()
            async for _, event in self._fold.subscribe(after=self._after):
                if isinstance(event, e.ForeignPeerChanged) and event.trust_domain in self._courses:
                    self._courses[event.trust_domain].news.set()
                if isinstance(
                    event,
                    e.ForeignPeerAdded | e.ForeignPeerChanged | e.ForeignPeerRemoved | e.GrantAccepted | e.GrantEnded,
                ):
                    self._reconcile()
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self, name: str) -> None:
        """Ask this peer's endpoint now. Raises what refuses it, NotFound, Conflict when its grant has ended."""
        await self._round(name, None)

    async def accept(self, name: str, order: Order) -> None:
        """Accept what the endpoint serves now, although it does not continue what is held. Raises as `refresh`."""
        if not order.reason.strip():
            raise Invalid("to accept a bundle that was refused needs a reason", hint='--reason "their owner says why"')
        await self._round(name, order)

    def _reconcile(self) -> None:
        state, now = self._fold.state, self._clock.now()
        wanted = {name for name, peer in state.foreign.items() if commands.granted(state, peer, now)}
        for name in [name for name in self._tasks if name not in wanted]:
            self._tasks.pop(name).cancel()
            self._courses.pop(name, None)
        for name in wanted - {name for name, task in self._tasks.items() if not task.done()}:
            self._tasks[name] = asyncio.create_task(self._follow(name))

    async def _follow(self, name: str) -> None:
        while True:
            course = self.course(name)
            before = course.error
            try:
                await self._round(name, None)
                if before:
                    log.info("foreign bundle is fresh again", trust_domain=name)
            except TrustfedError as error:
                if error.message != before:
                    log.error(
                        "foreign bundle not refreshed", trust_domain=name, error=error.message, fault=course.fault
                    )
            except Exception as error:  # the others go on, and so does this one
                course.failed(f"the fetch broke: {type(error).__name__}")
                log.exception("foreign bundle not refreshed", error=error, trust_domain=name)
            peer = self._fold.state.foreign.get(name)
            if peer is None:
                return
            wait = course.wait(peer, self._least, random.random())  # noqa: S311 - jitter
            course.next_at = datetime.fromtimestamp(self._clock.now().timestamp() + wait, self._clock.now().tzinfo)
            await news_or_time(course.news, self._clock, wait)

    async def _round(self, name: str, order: Order | None) -> None:
        """One fetch, judged and recorded."""
        peer = commands.known(self._fold.state, name)
        course = self.course(peer.trust_domain)
        async with course.turn:
            now, state = self._clock.now(), self._fold.state
            peer = commands.known(state, name)
            if not commands.granted(state, peer, now):
                raise Conflict(f"the grant of {peer.trust_domain} has ended", hint="trustfed peer add makes a new one")
            course.attempted_at = now
            try:
                known_by = endpoint.endpoint_bundle(state, peer, now)
                etag = course.tag_of(peer.url) if order is None and _settled(state, peer, now) else ""
                answer = await self._workers.run(partial(endpoint.ask, peer, known_by, etag, self._how))
                await self._take(peer, course, answer, order)
            except Refused as refused:
                course.refused(refused.fault, refused.message, refused.offer.keys if refused.offer else "")
                self._counter.add(trust_domain=peer.trust_domain, outcome="refused")
                await self._record_refusal(peer, course, refused)
                raise
            except TrustfedError as error:
                course.failed(error.message)
                self._counter.add(trust_domain=peer.trust_domain, outcome="failed")
                raise
            course.succeeded(peer.url, answer.etag, now)
            self._counter.add(trust_domain=peer.trust_domain, outcome="good")
            self._confirmed(peer.trust_domain, now)

    async def _take(self, peer: ForeignPeer, course: Course, answer: Answer, order: Order | None) -> None:
        """Believe the answer, and record what it changes. Raises Refused."""
        state, now, offer = self._fold.state, self._clock.now(), answer.offer
        if offer is None:
            return
        if order is not None and order.keys and order.keys != offer.keys:
            raise Denied(
                f"the endpoint of {peer.trust_domain} serves {offer.keys} now, not {order.keys}",
                hint="look again: trustfed peer show",
            )
        forced = False
        try:
            verdict = self._judge(state, peer, offer, now)
        except Refused as refused:
            if order is None or not refused.forceable:
                raise
            verdict, forced = self._judge(state, peer, offer, now, forced=True), True
        cut = adoption.needs_envelope(state, peer, verdict)
        if not cut and verdict is Verdict.SAME:
            # All is well again, the first bundle has served, hours have passed: worth an event, but no flood of them.
            if _settled(state, peer, now) or not course.may_turn(now):
                return
        elif order is None and not course.may_change(now):
            raise Refused(Fault.TOO_OFTEN, f"the bundle of {peer.trust_domain} changes too often", offer)
        data = await adoption.sign(state, peer, offer, self._keys, now) if cut else None

        def decide(s: ClusterState) -> list[TypedEvent]:
            self._judge(
                s, peer, offer, now, forced=forced
            )  # two peers that bring one key at once are not both believed
            return adoption.accepted(s, peer, offer, data, now, forced=forced)

        await self._fold.execute(
            decide,
            command_id=uuid4().hex,
            actor=order.actor if order else "cluster",
            reason=order.reason if order else "fetched from its endpoint",
            now=now,
        )
        log.info(
            "foreign bundle accepted",
            trust_domain=peer.trust_domain,
            sequence=offer.bundle.sequence,
            fingerprint=offer.keys,
        )

    def _judge(
        self, state: ClusterState, peer: ForeignPeer, offer: Offer, now: datetime, *, forced: bool = False
    ) -> Verdict:
        others = self._holdings.others(state, peer.trust_domain, now)
        return rules.judge(peer, offer, others, self._holdings.held(state, peer.trust_domain), forced=forced)

    async def _record_refusal(self, peer: ForeignPeer, course: Course, refused: Refused) -> None:
        now = self._clock.now()
        if peer.fault == refused.fault or not course.may_turn(now):
            return
        number = refused.offer.bundle.sequence if refused.offer else None
        keys = refused.offer.keys if refused.offer else ""
        event = e.ForeignBundleRefused(peer.trust_domain, refused.fault, refused.message, number, keys, now)

        def decide(state: ClusterState) -> list[TypedEvent]:
            return [event] if state.foreign.get(peer.trust_domain) == peer else []

        await self._fold.execute(
            decide, command_id=uuid4().hex, actor="cluster", reason="fetched from its endpoint", now=now
        )


def _settled(state: ClusterState, peer: ForeignPeer, now: datetime) -> bool:
    """Whether an answer that holds nothing new would change nothing at all: then the endpoint may just say so (304)."""
    fresh = peer.accepted_at is not None and now - peer.accepted_at < CONFIRM_EVERY
    first = bool(peer.anchors) and rules.serves_itself(peer)
    return fresh and not first and not peer.fault and peer.trust_domain in state.peers
