"""The open streams of the Workload API: each gets its answer at once, then again whenever that answer changes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from agent.answers import X509_SVIDS
from agent.evidence.holders import WORKLOAD_API, Holders, Holding, Pairs
from agent.identification import Identification
from agent.peer import Caller
from agent.store import Store
from trustfed.errors import Denied, TrustfedError, Unavailable
from trustfed.h2grpc.service import Feed
from trustfed.runtime.clock import Clock

PATIENCE_SECONDS = 5.0
"""How long a call waits for what is on its way: the first sync, a first SVID. Then it is told to come back."""
_PER_TURN = 200


class Watcher:
    """One open stream: who asked for what, and what was last sent."""

    __slots__ = ("caller", "feed", "holding", "kind", "sent", "task", "timer")

    def __init__(self, caller: Caller, kind: str, feed: Feed) -> None:
        self.caller, self.kind, self.feed = caller, kind, feed
        self.sent: bytes | None = None
        self.holding: Holding | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None


class Streams:
    """Keeps the watchers up to date with the store."""

    def __init__(
        self, store: Store, identification: Identification, clock: Clock, holders: Holders | None = None
    ) -> None:
        self._store, self._identification, self._clock, self._holders = store, identification, clock, holders
        self._watchers: dict[Watcher, None] = {}
        self._stale: deque[Watcher] = deque()
        store.on_change(self._on_change)

    def __len__(self) -> int:
        return len(self._watchers)

    def open(self, caller: Caller, kind: str, feed: Feed) -> Callable[[], None]:
        """Answer a new stream; gives the function that forgets it."""
        watcher = Watcher(caller, kind, feed)
        self._watchers[watcher] = None
        self._bring(watcher)
        return lambda: self._forget(watcher)

    def _forget(self, watcher: Watcher) -> None:
        self._watchers.pop(watcher, None)
        if watcher.holding is not None and self._holders is not None:
            self._holders.let_go(watcher.holding)
            watcher.holding = None
        if watcher.timer is not None:
            watcher.timer.cancel()
        if watcher.task is not None:
            watcher.task.cancel()

    def _on_change(self) -> None:
        """Everybody may be concerned; they are worked off in parts, so that calls in between are answered."""
        idle = not self._stale
        self._stale = deque(self._watchers)
        if idle and self._stale:
            self._work()

    def _work(self) -> None:
        for _ in range(min(_PER_TURN, len(self._stale))):
            watcher = self._stale.popleft()
            if watcher in self._watchers:
                self._bring(watcher)
        if self._stale:
            asyncio.get_running_loop().call_soon(self._work)

    def _bring(self, watcher: Watcher) -> None:
        """Send a watcher what it lacks; end its stream when it may have nothing any more."""
        try:
            if not self._store.serving():
                return self._wait(watcher)
            ids = self._identification.now(watcher.caller)
            if ids is None:
                if watcher.task is None:
                    watcher.task = asyncio.get_running_loop().create_task(self._look_up(watcher))
                return None
            answers = self._store.answers(ids, self._clock.now()) if ids else None
            message = answers.get(watcher.kind) if answers is not None else None
            if not watcher.caller.alive():
                raise Denied("the calling process has ended")
            if not ids:
                raise no_identity()
            if answers is None or message is None:
                return self._wait(watcher)
        except TrustfedError as error:
            return watcher.feed.end(error)
        if watcher.timer is not None:
            watcher.timer.cancel()
            watcher.timer = None
        if message != watcher.sent:
            watcher.sent = message
            watcher.feed.send(message)
            if watcher.kind == X509_SVIDS and self._holders is not None:
                self._hold(watcher, answers.held, self._holders)
        return None

    def _hold(self, watcher: Watcher, pairs: Pairs, holders: Holders) -> None:
        before, watcher.holding = watcher.holding, holders.take(pairs, WORKLOAD_API)
        if before is not None:
            holders.let_go(before)

    async def _look_up(self, watcher: Watcher) -> None:
        try:
            await self._identification.wait(watcher.caller)
        except TrustfedError as error:
            watcher.feed.end(error)
            return
        finally:
            watcher.task = None
        if watcher in self._watchers:
            self._bring(watcher)

    def _wait(self, watcher: Watcher) -> None:
        """What it wants may come soon. A stream that was served before has lost it: that is said at once."""
        if watcher.sent is not None:
            watcher.feed.end(Unavailable("the SVID has expired and could not be renewed", hint="see the agent's log"))
        elif watcher.timer is None:
            loop = asyncio.get_running_loop()
            watcher.timer = loop.call_later(PATIENCE_SECONDS, self._give_up, watcher)

    def _give_up(self, watcher: Watcher) -> None:
        watcher.feed.end(not_yet())


def no_identity() -> Denied:
    """What a process gets that no entry fits."""
    return Denied("no identity is registered for this process", hint="trustfed entry list shows who gets one")


def not_yet() -> Unavailable:
    """What a process gets whose identity is on its way."""
    return Unavailable("the agent has not received this identity yet", hint="try again; see the agent's log")
