"""What falls due by itself: ends of grants, the hub's own SVID and authority, CRLs. Each look says when to look next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from trustfed.errors import TrustfedError
from trustfed.hub import grants, roots
from trustfed.hub.events import GrantOffered, HubEvent, IntermediateRevoked, RootActivated
from trustfed.hub.identity import Identity, Present
from trustfed.hub.signing import RootSigner, crls_due
from trustfed.hub.state import HubState
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import from_ms
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

LONGEST = timedelta(hours=1)
AGAIN = timedelta(seconds=5)
SHORTEST = timedelta(milliseconds=200)


# After these events something may be due sooner than thought.
CONCERNS = (GrantOffered, IntermediateRevoked, RootActivated)


class Chores:
    """Does what is due, then waits for the next due time or for news. A chore that fails is tried again."""

    def __init__(
        self,
        fold: Fold[HubState],
        signer: RootSigner,
        identity: Identity,
        clock: Clock,
        randomness: Callable[[int], bytes],
        renewed: Callable[[Present], None],
    ) -> None:
        """`renewed` is told each new SVID of the hub."""
        self._fold, self._signer, self._identity, self._clock = fold, signer, identity, clock
        self._randomness, self._renewed = randomness, renewed
        self.news = asyncio.Event()
        self._log = logs.get("hub.chores")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.do()
                wait = self._next() - self._clock.now()
            except TrustfedError as error:
                self._log.error("a chore failed", error=error.message)
                wait = AGAIN
            except Exception as error:
                self._log.exception("a chore failed", error)
                wait = AGAIN
            await news_or_time(self.news, self._clock, max(wait.total_seconds(), SHORTEST.total_seconds()))

    async def do(self) -> None:
        """Everything that is due now."""
        now = self._clock.now()
        if self._identity.authority_due(self._fold.state, now):
            state = self._fold.state
            hub = TrustDomain(state.trust_domain)
            authority = await self._identity.new_authority(hub, self._signer, state, now)
            await self._record(lambda state: roots.record_authority(state, authority), "the hub's own rotation")
        if self._identity.svid_due(self._fold.state, now):
            present = await self._identity.renew(self._fold.state, now)
            self._renewed(present)
            self._log.info("hub SVID renewed", not_after=present.not_after.isoformat())
        end = grants.next_end(self._fold.state)
        if end is not None and from_ms(end) <= now:
            await self._record(lambda state: grants.end_expired(state, now), "reached its end")
        for root in crls_due(self._fold.state, now):
            crl = await self._signer.crl(self._fold.state, root, now)
            await self._record(lambda state, crl=crl: roots.record_crl(state, crl), "")  # type: ignore[misc]

    def _next(self) -> datetime:
        """When the next chore is due; an hour from now at the latest."""
        end = grants.next_end(self._fold.state)
        due = [self._clock.now() + LONGEST, self._identity.next_due(self._fold.state)]
        if end is not None:
            due.append(from_ms(end))
        return min(due)

    async def _record(self, decide: Callable[[HubState], Sequence[HubEvent]], reason: str) -> None:
        command = self._randomness(16).hex()
        await self._fold.execute(decide, command_id=command, actor="hub", reason=reason, now=self._clock.now())
