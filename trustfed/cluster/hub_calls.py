"""What this cluster asks of the hub beside its stream: the root's signature, and that it take note of grant decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

from trustfed.cluster import events as e
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.state import ClusterState, Grant
from trustfed.errors import TrustfedError
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import VerifiedChannel, unary
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.hub_calls")

SERVICE = "/trustfed.federation.v1.Federation/"
_CALL_SECONDS = 10.0
_RETRY_SECONDS = 5.0


class HubCalls:
    """Calls over the connection that the stream has opened; Unavailable while there is none."""

    def __init__(
        self, fold: Fold[ClusterState], channel: Callable[[], VerifiedChannel], news: HubNews, clock: Clock
    ) -> None:
        self._fold, self._channel, self._from_hub, self._clock = fold, channel, news, clock
        self._decided = asyncio.Event()

    def look(self) -> None:
        """Something was decided here, the hub has forgotten something, or it is there again."""
        self._decided.set()

    async def certify(self, authority: str, csr: bytes) -> bytes:
        """The hub's root signs one intermediate."""
        request = pb.SignIntermediateRequest(command_id=f"sign-{authority}", authority_id=authority, csr=csr)
        path = SERVICE + "SignIntermediate"
        answer = await unary(self._channel(), path, request, pb.SignIntermediateResponse, _CALL_SECONDS)
        return answer.intermediate

    async def tell_decisions(self) -> None:
        """Tell the hub what this side decided about grants until it has it all; ends only when cancelled."""
        while True:
            waiting = self._untold()
            for grant in waiting:
                try:
                    await self._tell(grant)
                except TrustfedError as error:
                    log.warning("the hub has not taken a grant decision yet", grant=grant.id, error=error.message)
                except Exception as error:  # the others are told all the same
                    log.exception("the hub has not taken a grant decision yet", error=error, grant=grant.id)
            await news_or_time(self._decided, self._clock, _RETRY_SECONDS if waiting else None)

    async def _tell(self, grant: Grant) -> None:
        request = pb.DecideGrantRequest(
            grant_id=grant.id,
            decision="accept" if grant.state == "accepted" else "end",
            reason=grant.ended_reason or grant.reason,
            actor=grant.ended_by or "owner",
            exporter_key_fingerprint=PublicationKey(grant.exporter_key).fingerprint,
        )
        await unary(self._channel(), SERVICE + "DecideGrant", request, pb.DecideGrantResponse, _CALL_SECONDS)
        self._from_hub.forgotten.discard(grant.id)

        def decide(state: ClusterState) -> list[TypedEvent]:
            # Another decision may have been made meanwhile: that one is yet to be told.
            now = state.grants.get(grant.id)
            return [] if now is None or now.confirmed or now.state != grant.state else [e.GrantConfirmed(grant.id, 0)]

        await self._fold.execute(
            decide, command_id=uuid4().hex, actor="hub", reason="the hub has it", now=self._clock.now()
        )

    def _untold(self) -> list[Grant]:
        state = self._fold.state
        every = [g for g in state.grants.values() if not g.local]
        own = [g for g in every if g.importer == state.trust_domain and g.state != "offered"]
        return [g for g in own if not g.confirmed or g.id in self._from_hub.forgotten]
