"""Tells an istiod that has just started of every service once more: its directory source can lose what it read first.

Run against istiod 1.29.6: in about one start of thirty (one of three on a busy machine) it reads the files before its registry
of services listens; it holds the ServiceEntries then, and gives no proxy their clusters, until one of them changes. Its xDS port
opens after that registry listens. So who is found behind that port anew is given a change: an annotation with a number, on
ServiceEntries only.

A start is seen by a connection that is held, on which nothing is said: it ends with the process, so that no start is too quick
to be missed (one takes 0.15 s, without Kubernetes). It is replaced before istiod tires of it (120 s).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.sockets import parse_address

log = logs.get("feed.announcing")

LOOK_SECONDS = 0.5
AFTER_SECONDS = (1.0, 10.0)
"""From the moment the port is found open to each announcement; the second is for an istiod that is slow to start."""
RENEW_SECONDS = 20.0
_CONNECT_SECONDS = 5.0


class Held(Protocol):
    """A connection."""

    @property
    def ended(self) -> bool:
        """Whether the other side, or its process, ended it."""
        ...

    def close(self) -> None: ...


class Announcing:
    """Watches one istiod; `connect` gives a connection to it, or None while its port is closed."""

    def __init__(
        self, connect: Callable[[], Awaitable[Held | None]], announce: Callable[[], Awaitable[None]], clock: Clock
    ) -> None:
        self._connect, self._announce, self._clock = connect, announce, clock
        self._held: list[Held] = []  # newest last; the one before it is looked at once more after it was replaced
        self._renew_at = 0.0
        self._due: list[float] = []

    @property
    def up(self) -> bool:
        """Whether istiod's port was open at the last look."""
        return bool(self._held)

    async def run(self) -> None:
        """Announce after each start, and after our own; ends only when cancelled."""
        try:
            while True:
                await self._look()
                if self._due and self._due[0] <= self._clock.monotonic():
                    self._due.pop(0)
                    log.info("istiod has started: services are announced once more")
                    await self._announce()
                await self._clock.sleep(LOOK_SECONDS)
        finally:
            self._let_go()

    async def _look(self) -> None:
        if any(one.ended for one in self._held):
            self._let_go()
            self._due = []
        now = self._clock.monotonic()
        if self._held and now < self._renew_at:
            return
        new = await self._connect()
        if new is None:
            self._let_go()
            self._due = []
            return
        if not self._held:
            self._due = [now + after for after in AFTER_SECONDS]
        self._let_go(self._held[:-1])
        self._held.append(new)
        self._renew_at = now + RENEW_SECONDS

    def _let_go(self, some: list[Held] | None = None) -> None:
        for one in list(self._held) if some is None else some:
            one.close()
            self._held.remove(one)


class Connection(asyncio.Protocol):
    """A TCP connection on which nothing is said."""

    def __init__(self) -> None:
        self.ended = False
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """It is not any more."""
        self.ended = True

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()


async def connect(address: str) -> Connection | None:
    """A connection to HOST:PORT; None when nobody answers there within seconds."""
    host, port = parse_address(address)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, made = await asyncio.get_running_loop().create_connection(Connection, host, port)
    except OSError:  # TimeoutError is one
        return None
    return made
