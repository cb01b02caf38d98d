"""The node's own SVID: renewed at half life over its present one, or by nonce when that no longer works."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec

from agent import enrolment, rotation
from agent.identity import Node, NodeIdentity, checked_key, public_bytes
from agent.link import Link
from agent.rotation import Chance
from trustfed.errors import Denied, TrustfedError, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.certificate import read
from trustfed.spiffe.verify import verify_x509_svid

log = logs.get("agent.own_svid")

_REFUSED = timedelta(seconds=30)
_LATE = 0.75
"""From this part of its life on, an SVID that could not be renewed over mTLS is renewed by nonce."""


class OwnSvid:
    """Keeps the node's SVID alive; `run` ends only when cancelled."""

    def __init__(self, node: Node, link: Link, clock: Clock, chance: Chance) -> None:
        self._node, self._link, self._clock, self._chance = node, link, clock, chance
        identity = node.identity
        self.slot = rotation.after_issue(identity.issued_at, identity.svid.not_after, chance)
        self._news = asyncio.Event()

    def reissue(self, authorities: Iterable[str], spread: timedelta) -> None:
        """Replace it soon if one of these authorities signed it."""
        issuer = read(self._node.identity.svid.chain[0], "the node's SVID").parsed.issuer.rfc4514_string()
        if any(issuer.endswith(f" authority {authority}") for authority in authorities):
            self.slot = rotation.forced(self.slot, self._clock.now(), spread, self._chance)
            self._news.set()

    async def run(self) -> None:
        """Renew when due, for ever."""
        while True:
            wait = (self.slot.due - self._clock.now()).total_seconds()
            if wait > 0:
                await news_or_time(self._news, self._clock, wait)
                continue
            await self.once()

    async def once(self) -> None:
        """One try, bounded."""
        try:
            async with asyncio.timeout(3 * rotation.TRY_SECONDS):
                await self.renew()
        except Exception as error:  # whatever the cluster sends, the present SVID is used on
            said = error if isinstance(error, TrustfedError) else Unavailable(_said(error))
            now = self._clock.now()
            self.slot = rotation.after_failure(self.slot, now, said.message, self._chance)
            if isinstance(said, Denied):
                # Only a person can change this; it is asked again now and then, because a person may have.
                self.slot = replace(self.slot, due=max(self.slot.due, now + _REFUSED))
            end = self._node.identity.svid.not_after
            log.error("node SVID not renewed", error=said.message, hint=said.hint, not_after=end.isoformat())

    async def renew(self) -> None:
        """Get a new SVID now. Raises Denied, Invalid, Unavailable."""
        now, identity = self._clock.now(), self._node.identity
        life = (identity.svid.not_after - identity.issued_at) * _LATE
        if identity.svid.not_after <= now:
            await self._by_nonce(identity)
        else:
            try:
                await self._over_present(identity)
            except Unavailable:
                if now < identity.issued_at + life:
                    raise
                await self._by_nonce(identity)
        renewed = self._node.identity
        self.slot = rotation.after_issue(renewed.issued_at, renewed.svid.not_after, self._chance)
        log.info("node SVID renewed", not_after=renewed.svid.not_after.isoformat())

    async def _over_present(self, identity: NodeIdentity) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        request = pb.RenewNodeRequest(
            command_id=uuid4().hex, public_key=public_bytes(key), predecessor_serial=f"{identity.svid.serial:x}"
        )
        answer = await self._link.call("RenewNode", request, pb.RenewNodeResponse)
        now, chain = self._clock.now(), tuple(answer.chain)
        svid = verify_x509_svid(chain, self._node.identity.home.bundle, now, expected=identity.svid.id)
        checked_key(key, chain[0])
        await self._node.adopt(lambda present: replace(present, svid=svid, key=key, issued_at=now))

    async def _by_nonce(self, identity: NodeIdentity) -> None:
        renewed = await asyncio.to_thread(enrolment.renew, identity, self._clock.now())

        def change(present: NodeIdentity) -> NodeIdentity:
            # A newer home bundle may have come over the stream meanwhile.
            newer = max(present.home, renewed.home, key=lambda envelope: envelope.level)
            return replace(renewed, home=newer)

        await self._node.adopt(change)


def _said(error: Exception) -> str:
    return "the cluster did not answer in time" if isinstance(error, TimeoutError) else errors.answer(error).line()
