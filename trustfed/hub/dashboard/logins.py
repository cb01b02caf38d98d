"""How somebody comes to have a session: by a link that works once, or by the word of an OpenID provider."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlencode

from trustfed.errors import Denied, NotFound, TrustfedError, Unavailable
from trustfed.hub.access import Caller, ended
from trustfed.hub.dashboard import login_links
from trustfed.hub.dashboard.events import LoginEnded, LoginOpened
from trustfed.hub.dashboard.sessions import Session, Sessions, id_of
from trustfed.hub.operations import Operations
from trustfed.runtime import logs
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown

_log = logs.get("hub.login")


class Logins:
    """Logins of one hub; `address` is where browsers find it: "https://hub.example:9443"."""

    def __init__(
        self, operations: Operations, sessions: Sessions, randomness: Callable[[int], bytes], address: str
    ) -> None:
        self._operations, self._sessions, self._randomness = operations, sessions, randomness
        self.address = address
        sessions.hold_to(lambda session: not ended(operations.state, session.actor, operations.now()))

    async def link(self, caller: Caller, name: str, role: str, life: timedelta) -> tuple[str, int]:
        """(the URL, when it ends in Unix ms) of a new login link; the secret in it is returned once and kept nowhere."""
        caller.must_be(role if role in ("viewer", "auditor", "operator") else "admin")
        link_id, text, secret_hash = login_links.new_link(self._randomness)
        now = self._operations.now()
        await self._operations.record(
            caller,
            lambda state: login_links.link(
                state.dashboard,
                caller,
                link_id,
                secret_hash,
                name=name,
                role=role,
                life=life,
                now=now,
                ended=lambda actor: ended(state, actor, now),
            ),
        )
        return f"{self.address}/dashboard/login/link?{urlencode({'token': text})}", to_ms(now + life)

    async def by_link(self, text: str) -> str:
        """The cookie's value of the session that a link is for. Denied when it opens nothing (any more)."""
        now = self._operations.now()
        found = login_links.held(self._operations.state.dashboard, text, now)
        if ended(self._operations.state, found.actor, now):
            raise Denied(
                "the token that made this login link was revoked, or has expired",
                hint="`trustfed hub login` makes a new one",
            )
        caller, secret = Caller(found.actor, found.role, found.person), self._sessions.fresh()
        await self._operations.record(
            caller, lambda state: login_links.spend(state.dashboard, text, id_of(secret), now), "trustfed hub login"
        )
        return await self._begin(secret, caller, "link")

    async def by_provider(self, caller: Caller) -> str:
        """The cookie's value of a session for somebody whom an OpenID provider named."""
        secret = self._sessions.fresh()
        opened = LoginOpened(id_of(secret), caller.role, "oidc")
        await self._operations.record(caller, lambda _: [opened], "OpenID Connect")
        return await self._begin(secret, caller, "oidc")

    async def end(self, caller: Caller, session: Session, why: str) -> None:
        """End a session, and say so in the journal; it is over at once. Raises Unavailable for what could not be written."""
        unwritten, hint = [], ""
        try:
            await self._sessions.end([session])
        except Unavailable as error:
            unwritten.append("the list of logins, so a restart would open it again")
            hint = error.hint
        try:
            await self._operations.record(caller, lambda _: [LoginEnded(session.id, why)], why)
        except Unavailable as error:
            unwritten.append("the journal")
            hint = hint or error.hint
        if unwritten:
            raise Unavailable(
                f"the login {session.id} has ended, but that could not be written to {', nor to '.join(unwritten)}",
                hint=hint or "look after the hub's disk",
            )

    async def replaced(self, session: Session) -> None:
        """End the session that a browser brought to a new login; the new one stands whatever of that fails."""
        try:
            await self.end(session.caller, session, "logged in anew")
        except Unavailable as error:
            _log.warning("the end of a session was not written", session=session.id, error=error.message)

    def session(self, session_id: str) -> Session:
        """The open session with this id. Raises NotFound."""
        for one in self._sessions.alive():
            if one.id == session_id:
                return one
        raise NotFound(f"no open session has the id {shown(session_id)}", hint="trustfed hub logins")

    async def _begin(self, secret: str, caller: Caller, how: str) -> str:
        try:
            session, ended = await self._sessions.begin(secret, caller, how)
        except Unavailable as error:
            raise Unavailable(
                f"the login could not be kept: {error.message}",
                hint="log in anew when the hub's disk is well; a link that was opened is spent",
            ) from error
        _log.info("session began", actor=session.actor, role=session.role, how=how, session=session.id)
        for one in ended:
            why = "another role" if one.role != session.role else "more sessions than one may have"
            try:
                await self._operations.record(caller, lambda _, one=one, why=why: [LoginEnded(one.id, why)], why)  # type: ignore[misc]
            except TrustfedError as error:  # it is over all the same
                _log.warning("the end of a session was not recorded", session=one.id, error=error.message)
        return secret
