"""How often one trust domain may have the hub write something down: counted per domain, so no new stream begins anew.

Envelopes and confirmations wait in their stream. Roles and endpoints do not, since that would hold up what came after
them: the newest waits beside the stream, and takes the place of the one before. What still waits when the stream ends is
said again by the cluster's next one. A domain pays for itself alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence

from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces
from trustfed.runtime.waiting import news_or_time

MESSAGES = (10, 1.0)
"""Envelopes, confirmations, and reports of a whole mesh: ten at once, then one a second."""
ENDPOINTS = (4, 600.0)
"""Other bundle endpoints: each is an event here and in every importer's journal."""
SAME_ENVELOPE = (5, 600.0)
"""Roles that list the same envelope as the one before: each is an event, and a new edition at every target."""
NEW_ENVELOPE = (20, 300.0)
"""Roles that list another envelope: importers take these no faster either."""


class Turns:
    """The paces of every domain, for as long as the hub's process lives."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.envelopes, self.confirmations = Paces(*MESSAGES), Paces(*MESSAGES)
        self.meshes = Paces(*MESSAGES)
        self.endpoints = Paces(*ENDPOINTS)
        self._same, self._new = Paces(*SAME_ENVELOPE), Paces(*NEW_ENVELOPE)
        self._listed: dict[str, bytes] = {}

    def role(self, domain: str, said: pb.Published) -> float:
        """Seconds until this role's turn; 0: now, and its turn is taken."""
        now, digest = self.clock.monotonic(), hashlib.sha256(said.envelope).digest()
        paces = self._same if self._listed.get(domain) == digest else self._new
        if paces.take(domain, now):
            self._listed[domain] = digest
            return 0.0
        return max(paces.wait(domain, now), 0.001)


class Waiting:
    """What waits beside one stream: the newest role, and the endpoints of its hello."""

    def __init__(self, turns: Turns, domain: str) -> None:
        self._turns, self._domain = turns, domain
        self._role: pb.Published | None = None
        self._news = asyncio.Event()
        self.endpoints: Sequence[str] | None = None

    def put(self, role: pb.Published) -> None:
        """The newest role; the one that waited is not wanted any more."""
        self._role = role
        self._news.set()

    async def roles(self, take: Callable[[pb.Published], Awaitable[None]]) -> None:
        """Hand each role to `take` when it is its turn; ends only with an error of `take`."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._role is not None:
                wait = self._turns.role(self._domain, self._role)
                if wait > 0:
                    # Another one may come meanwhile: over a new envelope it may have its turn at once.
                    await news_or_time(self._news, self._turns.clock, wait)
                    continue
                role, self._role = self._role, None
                await take(role)
                del role  # with manifests it is more than a megabyte, and the next one may come in a day

    async def told(self, tell: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        """Tell the endpoints when it is their turn; ends only with an error of `tell`."""
        if self.endpoints is not None:
            await self._turns.endpoints.turn(self._domain, self._turns.clock)
            await tell(self.endpoints)
        await asyncio.Event().wait()
