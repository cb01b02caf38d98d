"""One cluster's Follow stream at the hub: what is to be sent on it, and why it must end."""

from __future__ import annotations

import asyncio
from collections import deque

from trustfed.errors import TrustfedError, Unavailable
from trustfed.proto import evidence_pb2 as pb
from trustfed.spiffe.x509svid import X509Svid

MAX_WAITING = 256
"""Messages that wait for one cluster to read; one that is further behind is thrown out, and connects again."""


class Session:
    """A stream that said hello. It belongs to the loop."""

    def __init__(self, domain: str, svid: X509Svid, store: str, features: frozenset[str]) -> None:
        self.domain, self.svid, self.store, self.features = domain, svid, store, features
        self._waiting: deque[pb.FromHub] = deque()
        self._news, self._over = asyncio.Event(), asyncio.Event()
        self._error: TrustfedError = Unavailable("the stream is over")

    def send(self, message: pb.FromHub) -> None:
        """Queue a message; a cluster that does not read is thrown out."""
        if len(self._waiting) >= MAX_WAITING:
            self.end(Unavailable("the cluster does not read what it is sent"))
            return
        self._waiting.append(message)
        self._news.set()

    def end(self, error: TrustfedError | None = None) -> None:
        """End the stream with this error; the first one counts."""
        if not self._over.is_set():
            self._error = error or self._error
            self._over.set()
            self._news.set()

    @property
    def over(self) -> bool:
        """Whether it is ending: what comes from here on is not heard."""
        return self._over.is_set()

    async def ended(self) -> None:
        """Raise what the stream must end with, when it must."""
        await self._over.wait()
        raise self._error

    async def next(self) -> pb.FromHub | None:
        """The next message to write; None once it is over."""
        while not self._over.is_set():
            if self._waiting:
                return self._waiting.popleft()
            self._news.clear()
            await self._news.wait()
        return None


class Sessions:
    """The newest stream of each trust domain."""

    def __init__(self) -> None:
        self._by_domain: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_domain)

    def get(self, domain: str) -> Session | None:
        """The stream of a domain, if it has one."""
        return self._by_domain.get(domain)

    def names(self) -> list[str]:
        """The domains that have one, by name."""
        return sorted(self._by_domain)

    def join(self, session: Session) -> None:
        """From now on this is the domain's stream; another one ends."""
        old = self._by_domain.get(session.domain)
        if old is not None:
            old.end(Unavailable("another stream of this trust domain has taken its place"))
        self._by_domain[session.domain] = session

    def leave(self, session: Session) -> bool:
        """The stream has ended; whether the domain has none now."""
        if self._by_domain.get(session.domain) is not session:
            return False
        del self._by_domain[session.domain]
        return True
