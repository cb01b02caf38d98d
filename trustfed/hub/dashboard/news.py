"""Names of what has changed, from where it changes to whoever has a page open. Nothing queues: names only gather.

"counters", "standing", "failed", "stream", "alarms", "domains"   kinds of the fleet's changes
"domain:NAME"                                                     one trust domain
"journal", "approvals"                                            a decision of the hub

A mark says how much a page knows: whoever follows from one is told at once what came between, also what came while its
connection was broken. A mark of another process knows nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable

from trustfed.errors import Unavailable
from trustfed.hub.evidence.fleet import Fleet

MAX_FOLLOWERS = 500
MAX_OF_ONE = 6
"""Open pages of one session: as many connections as a browser opens to one origin."""
_MAX_GATHERED = 200
_DIGITS = 18
_MAX_KNOWN = 5_000
"""Names whose last change is known; beyond this all marks are forgotten."""


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
        self._begin()

    @property
    def mark(self) -> str:
        """What a page that is made from now on knows."""
        return f"{self._of}.{self._changes}"

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

    def follow(self, holder: str, wanted: Iterable[str], mark: str) -> Follower:
        """A new follower for a session, from a mark on; `leave` when done. Raises Unavailable when there are too many."""
        if sum(1 for one in self._followers if one.holder == holder) >= MAX_OF_ONE:
            raise Unavailable(f"{MAX_OF_ONE} pages of this session are live already", hint="close one of them")
        if len(self._followers) >= MAX_FOLLOWERS:
            raise Unavailable(f"{MAX_FOLLOWERS} pages are live already", hint="reload the page to see what is new")
        names = frozenset(wanted)
        follower = Follower(holder, names)
        follower.tell([name for name in names if self._changed_since(name, mark)], every_domain=False)
        self._followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget a follower."""
        self._followers.discard(follower)

    def _tell(self, names: Iterable[str], every_domain: bool) -> None:
        names = frozenset(names)
        if len(self._last) + len(names) > _MAX_KNOWN:
            self._begin()
        self._changes += 1
        self._last.update(dict.fromkeys(names, self._changes))
        if every_domain:
            self._every_domain = self._changes
        for follower in self._followers:
            follower.tell(names, every_domain)

    def _begin(self) -> None:
        self._of, self._changes, self._every_domain = secrets.token_hex(8), 0, 0
        self._last: dict[str, int] = {}

    def _changed_since(self, name: str, mark: str) -> bool:
        of, _, number = mark.partition(".")
        if of != self._of or not (number.isascii() and number.isdigit() and len(number) <= _DIGITS):
            return True
        last = self._last.get(name, 0)
        if name.startswith("domain:"):
            last = max(last, self._every_domain)
        return last > int(number)
