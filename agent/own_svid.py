"""The node's own SVID: renewed at half life over its present one, or by nonce when that no longer works.

One that expired while the cluster was away heals by itself. Where the cluster refuses, `verdict` says what a person must
do; a token given at the start (agent serve --join) is such a person's word, and is used then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec

from agent import enrolment, rotation
from agent.enrolment import Banned
from agent.identity import Node, NodeIdentity, checked_key, public_bytes
from agent.link import Link
from agent.rotation import Chance
from trustfed.errors import Conflict, Denied, TrustfedError, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.certificate import read, serial_text
from trustfed.spiffe.verify import verify_x509_svid

log = logs.get("agent.own_svid")

_REFUSED = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(seconds=8)
"""Between two tries: without its SVID a node is cut off, and however many are, they are back soon after their cluster."""
_LOOK_SECONDS = 30.0
"""How long this waits at most: a clock that was set, or a machine that slept, is noticed by then."""
_MAX_RETIRED = 64
_LATE = 0.75
"""From this part of its life on, an SVID that could not be renewed over mTLS is renewed by nonce."""


class Restart(Conflict):
    """This node is somebody else from now on: the process must begin anew."""


class OwnSvid:
    """Keeps the node's SVID alive; `run` ends only when cancelled.

    `on_ban` is called when the cluster says, at renewal, that this node is banned: without an SVID that lives it cannot
    say so on the stream. `enrol_anew` uses the token of the start, if there is one.
    """

    def __init__(
        self,
        node: Node,
        link: Link,
        clock: Clock,
        chance: Chance,
        on_ban: Callable[[str], None] = lambda _: None,
        enrol_anew: Callable[[], Awaitable[NodeIdentity]] | None = None,
    ) -> None:
        self._node, self._link, self._clock, self._chance = node, link, clock, chance
        self._on_ban, self._enrol_anew = on_ban, enrol_anew
        self.verdict = ""
        """Why the cluster refuses to renew this node, and what a person must do; "" while it does not."""
        identity = node.identity
        self.slot = rotation.after_issue(identity.issued_at, identity.svid.not_after, chance)
        self._news = asyncio.Event()
        self._retired: tuple[str, ...] = ()

    def ordered(self, authorities: Iterable[str], before: datetime, spread: timedelta) -> None:
        """Replace it soon if it began before a moment, and one of these authorities signed it, or none is named."""
        named = dict.fromkeys(authorities)
        if self._node.identity.issued_at < before and (not named or self._signed_by(named)):
            self.slot = rotation.forced(self.slot, self._clock.now(), spread, self._chance)
            self._news.set()

    def reissue(self, authorities: Iterable[str], spread: timedelta) -> None:
        """Replace it soon if one of these authorities signed it."""
        named = dict.fromkeys(authorities)
        self._retired = (*(one for one in self._retired if one not in named), *named)[-_MAX_RETIRED:]
        if self._signed_by(named):
            self.slot = rotation.forced(self.slot, self._clock.now(), spread, self._chance)
            self._news.set()

    def _signed_by(self, authorities: Iterable[str]) -> bool:
        issuer = read(self._node.identity.svid.chain[0], "the node's SVID").parsed.issuer.rfc4514_string()
        return any(issuer.endswith(f" authority {authority}") for authority in authorities)

    async def run(self) -> None:
        """Renew when due, for ever."""
        while True:
            now = self._clock.now()
            self.slot = rotation.rewound(self.slot, now)
            wait = (self.slot.due - now).total_seconds()
            if wait > 0:
                await news_or_time(self._news, self._clock, min(wait, _LOOK_SECONDS))
                continue
            await self.once()

    async def once(self) -> None:
        """One try, bounded."""
        try:
            doors = len(enrolment.doors(self._node.identity))
            async with asyncio.timeout((2 + doors) * rotation.TRY_SECONDS):
                await self.renew()
            self.verdict = ""
        except Restart:
            raise
        except Exception as error:  # whatever the cluster sends, the present SVID is used on
            said = error if isinstance(error, TrustfedError) else Unavailable(_said(error))
            now, before = self._clock.now(), self.slot.error
            self.slot = rotation.after_failure(self.slot, now, said.message, self._chance, _LONGEST_WAIT)
            if isinstance(said, Denied):
                # Only a person can change this; it is asked again now and then, because a person may have.
                self.slot = replace(self.slot, due=max(self.slot.due, now + _REFUSED))
                self.verdict = f"{said.message}; {said.hint or enrolment.AGAIN}"
            end = self._node.identity.svid.not_after
            if self.slot.error == before:
                return  # said once, not for weeks
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
        if self._signed_by(self._retired):  # the order came while this was under way
            self.slot = replace(self.slot, due=min(self.slot.due, now + _REFUSED))
        log.info("node SVID renewed", not_after=renewed.svid.not_after.isoformat())

    async def _over_present(self, identity: NodeIdentity) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        request = pb.RenewNodeRequest(
            command_id=uuid4().hex, public_key=public_bytes(key), predecessor_serial=serial_text(identity.svid.serial)
        )
        answer = await self._link.call("RenewNode", request, pb.RenewNodeResponse)
        now, chain = self._clock.now(), tuple(answer.chain)
        svid = verify_x509_svid(chain, self._node.identity.home.bundle, now, expected=identity.svid.id)
        checked_key(key, chain[0])
        await self._node.adopt(lambda present: replace(present, svid=svid, key=key, issued_at=now))

    async def _by_nonce(self, identity: NodeIdentity) -> None:
        try:
            renewed = await asyncio.to_thread(enrolment.renew, identity, self._clock.now())
        except Denied as error:
            if isinstance(error, Banned):
                self._on_ban(error.message)
            if self._enrol_anew is None:
                raise
            # Too long away, or attested anew elsewhere: the token says that this node may come back.
            log.warning("the old SVID is not renewed, enrolling anew", error=error.message)
            renewed = await self._anew(error)

        def change(present: NodeIdentity) -> NodeIdentity:
            # A newer home bundle may have come over the stream meanwhile.
            newer = max(present.home, renewed.home, key=lambda envelope: envelope.level)
            return replace(renewed, home=newer)

        await self._node.adopt(change)

    async def _anew(self, refusal: Denied) -> NodeIdentity:
        """Enrol by the token of the start. Raises what the cluster said of the renewal when the token is no good."""
        assert self._enrol_anew is not None
        try:
            return await self._enrol_anew()
        except (Unavailable, Restart):
            raise
        except TrustfedError as error:
            self._enrol_anew = None
            log.warning("the token given at the start does not bring this node back", error=error.message)
            raise refusal from None


def _said(error: Exception) -> str:
    return "the cluster did not answer in time" if isinstance(error, TimeoutError) else errors.answer(error).line()
