"""Names of what has changed, from where it changes to whoever has a page open. Nothing queues: names only gather.

"counters", "standing", "failed", "stream", "alarms", "domains"   kinds of the fleet's changes
"domain:NAME"                                                     one trust domain
"journal", "approvals"                                            a decision of the hub
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from trustfed.errors import Unavailable
from trustfed.hub.evidence.fleet import Fleet

MAX_FOLLOWERS = 500
MAX_OF_ONE = 6
"""Open pages of one session: as many connections as a browser opens to one origin."""
_MAX_GATHERED = 200


class Follower:
    """What one open page has not heard yet, of the names that it asked for."""

    def __init__(self, holder: str, wanted: frozenset[str]) -> None:
        self.holder, self._wanted = holder, wanted
        self._gathered: set[str] = set()
        self._woken = asyncio.Event()

    def tell(self, names: Iterable[str], every_domain: bool) -> None:
        """Gather the names that are wanted, and wake up for them."""
        found = self._wanted.intersection(names)
        if every_domain:
            found |= {name for name in self._wanted if name.startswith("domain:")}
        if found and len(self._gathered) < _MAX_GATHERED:
            self._gathered |= found
            self._woken.set()

    def wake(self) -> None:
        """Look around, without news."""
        self._woken.set()

    async def next(self, seconds: float) -> set[str]:
        """What has changed, as soon as something has; nothing after so many seconds, or when woken."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return set()
        self._woken.clear()
        found, self._gathered = self._gathered, set()
        return found


class News:
    """Everybody who follows."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._followers: set[Follower] = set()
        self.closed = False

    async def run(self) -> None:
        """Tell what changes in the fleet, for as long as the hub serves."""
        async for change in self._fleet.subscribe():
            names = {*change.kinds, *(f"domain:{name}" for name in change.domains)}
            self._tell(names, every_domain=not change.domains)

    def tell(self, *names: str) -> None:
        """Something of these names has changed."""
        self._tell(names, every_domain=False)

    def wake(self) -> None:
        """Let every stream look whether it may go on."""
        for follower in self._followers:
            follower.wake()

    def close(self) -> None:
        """End all streams: the hub stops."""
        self.closed = True
        self.wake()

    def follow(self, holder: str, wanted: Iterable[str]) -> Follower:
        """A new follower for a session; `leave` when done. Raises Unavailable when there are too many."""
        if sum(1 for one in self._followers if one.holder == holder) >= MAX_OF_ONE:
            raise Unavailable(f"{MAX_OF_ONE} pages of this session are live already", hint="close one of them")
        if len(self._followers) >= MAX_FOLLOWERS:
            raise Unavailable(f"{MAX_FOLLOWERS} pages are live already", hint="reload the page to see what is new")
        follower = Follower(holder, frozenset(wanted))
        self._followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget a follower."""
        self._followers.discard(follower)

    def _tell(self, names: Iterable[str], every_domain: bool) -> None:
        names = frozenset(names)
        for follower in self._followers:
            follower.tell(names, every_domain)
