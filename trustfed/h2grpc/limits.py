"""What one connection, one user and all together may use; and who has used how much.

Each bound answers an attack that took down other servers: rapid reset (CVE-2023-44487), provoked resets
("MadeYouReset", CVE-2025-8671), CONTINUATION, PING, SETTINGS and empty-frame floods, HPACK bombs, tiny windows, drip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one server; sizes in bytes, times in seconds."""

    message: int = 64 * 1024
    header_list: int = 16 * 1024
    concurrent_streams: int = 100
    connections: int = 4096
    connections_per_user: int = 1024
    replace: bool = False
    """A connection too many takes the place of its user's oldest, one without a call first; else it is closed itself."""
    held_per_connection: int = 512 * 1024
    """Bytes of unfinished requests that one connection may make the server keep."""
    held_per_user: int = 4 * 1024 * 1024
    held: int = 16 * 1024 * 1024
    write_buffer: int = 16 * 1024
    patience: int = 500
    """Frames without use (see `Patience`) that a connection may send in a burst."""
    patience_per_second: int = 100
    slice: int = 2048
    """Bytes of one connection's input that are worked off before others get their turn."""
    turn: float = 0.004
    """Seconds that one user may keep the loop while others wait."""
    handshake: float = 5.0
    drip: float = 10.0
    """From the first byte of a frame or request to its last."""
    stall: float = 30.0
    """How long a peer may leave what it asked for unread."""
    idle: float = 1800.0
    """How long a connection without a call may stay."""


class Patience:
    """How many more useless frames a connection may send: a bucket filled by time and by messages it let us send.

    Clients legitimately send a PING or WINDOW_UPDATE for each message they receive (grpc-go measures its bandwidth so),
    and cancel streams they have had an answer from: so answers earn, and only resets of unanswered calls cost.
    """

    __slots__ = ("_burst", "_filled_at", "_left", "_rate")
    EARNED = 4

    def __init__(self, burst: int, rate: float, now: float) -> None:
        self._burst = float(burst)
        self._rate = rate
        self._left = self._burst
        self._filled_at = now

    def earn(self) -> None:
        left = self._left + self.EARNED
        self._left = left if left < self._burst else self._burst

    def spend(self, count: int, now: float) -> bool:
        """Take `count`; False when there is no patience left."""
        if self._left < count:
            self._left = min(self._burst, self._left + (now - self._filled_at) * self._rate)
            self._filled_at = now
        self._left -= count
        return self._left >= 0


class User:
    """What the connections of one Unix user hold together."""

    __slots__ = ("connections", "held", "spent", "waiting")

    def __init__(self) -> None:
        self.connections = 0
        self.held = 0
        self.spent = 0.0
        self.waiting: dict[Readable, None] = {}


class Readable:
    """A connection that has input to be worked off."""

    __slots__ = ()

    def work(self) -> bool:
        """Work off one slice; True if there is more."""
        raise NotImplementedError


class Ledger:
    """Who holds what, and whose turn it is."""

    def __init__(self, limits: Limits, clock: Callable[[], float], call_soon: Callable[[Callable[[], None]], object]):
        self.limits = limits
        self.users: dict[int, User] = {}
        self.connections = 0
        self.held = 0
        self.clock = clock
        self._call_soon = call_soon
        self._turning = False

    def admit(self, uid: int) -> User | None:
        """Count a connection of `uid`; None if it or all users together have too many."""
        user = self.users.get(uid)
        used = user.connections if user else 0
        if self.connections >= self.limits.connections or used >= self.limits.connections_per_user:
            return None
        if user is None:
            user = self.users[uid] = User()
        user.connections += 1
        self.connections += 1
        return user

    def leave(self, uid: int, user: User) -> None:
        user.connections -= 1
        self.connections -= 1
        if not user.connections:
            self.users.pop(uid, None)

    def hold(self, user: User, change: int) -> bool:
        """Count `change` bytes held for `user`; False if that is too much."""
        user.held += change
        self.held += change
        return change <= 0 or (user.held <= self.limits.held_per_user and self.held <= self.limits.held)

    def run(self, user: User, connection: Readable) -> None:
        """Work off `connection`'s input now, or in its user's turn if that user has had more than its share.

        The share lasts until the next turn, which comes when anybody has to wait for one.
        """
        if user.spent < self.limits.turn and not user.waiting:
            start = self.clock()
            more = connection.work()
            user.spent += self.clock() - start
        else:
            more = True
        if more:
            user.waiting[connection] = None
            if not self._turning:
                self._turning = True
                self._call_soon(self._turn)

    def _turn(self) -> None:
        """One round: every user works for its share of time, connection by connection."""
        self._turning = False
        again = False
        for user in list(self.users.values()):
            user.spent = 0.0
            start = self.clock()
            while user.waiting and user.spent < self.limits.turn:
                connection = next(iter(user.waiting))
                del user.waiting[connection]
                if connection.work():
                    user.waiting[connection] = None
                user.spent = self.clock() - start
            again = again or bool(user.waiting)
            user.spent = 0.0
        if again:
            self._turning = True
            self._call_soon(self._turn)
