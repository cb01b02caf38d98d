"""Login by an OpenID provider: authorization code with PKCE (OpenID Connect Core 1.0 §3.1, RFC 7636, RFC 9700).

1. `begin` makes state, nonce and verifier, each of 256 random bits, keeps them here under the hash of a cookie that only
   this browser has, for ten minutes, and gives the address that it is sent to
2. `finish` takes them away at once, whatever follows: a callback works once; `state` must be that of the cookie
3. an answer that names an issuer (RFC 9207) must name ours
4. the code is redeemed with the verifier, and the ID token verified (trustfed.hub.dashboard.oidc_token)
5. who it is for the journal: "oidc:" and a hash over the issuer and `sub`, under a key that only this hub's folder has. So
   the journal holds no name, and whoever reads it cannot try out whose a hash is
6. which person that is: the uid that the configuration binds the subject to, or else the account itself
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from trustfed.errors import Denied, Unavailable
from trustfed.hub.access import Caller
from trustfed.hub.dashboard.oidc_config import OidcConfig
from trustfed.hub.dashboard.oidc_provider import Provider
from trustfed.hub.dashboard.oidc_token import UnknownKey, claims_of, role_of
from trustfed.runtime.clock import Clock
from trustfed.spiffe.ids import shown

LIFE_SECONDS = 600
MAX_BEGUN = 1_000
MAX_PARAMETER = 4_096


@dataclass(frozen=True)
class _Begun:
    state: str
    nonce: str
    verifier: str
    following: str
    until: float


class Oidc:
    """Logins that began and have not ended."""

    def __init__(
        self,
        config: OidcConfig,
        provider: Provider,
        clock: Clock,
        randomness: Callable[[int], bytes],
        redirect_uri: str,
        key: bytes,
    ) -> None:
        """`key` is a secret of this hub (trustfed.hub.dashboard.oidc_key)."""
        self._config, self._provider, self._clock, self._randomness = config, provider, clock, randomness
        self._redirect_uri, self._key = redirect_uri, key
        self._bound = {self._actor(subject): f"uid:{uid}" for subject, uid in config.uids.items()}
        self._begun: dict[str, _Begun] = {}

    @property
    def name(self) -> str:
        """What the login page calls the provider."""
        return self._config.name or (urlsplit(self._config.issuer).hostname or "")

    async def begin(self, following: str) -> tuple[str, str]:
        """(the cookie's value, the provider's address). Raises Unavailable, Denied."""
        endpoint = (await self._provider.endpoints()).authorization
        now = self._clock.monotonic()
        self._begun = {key: one for key, one in self._begun.items() if one.until > now}
        if len(self._begun) >= MAX_BEGUN:
            raise Unavailable("too many logins have begun", hint="try again in some minutes")
        cookie, state, nonce, verifier = (self._text(32) for _ in range(4))  # 1
        self._begun[_hash(cookie)] = _Begun(state, nonce, verifier, following, now + LIFE_SECONDS)
        query = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._config.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _base64(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        return cookie, f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def finish(self, cookie: str, answer: dict[str, str]) -> tuple[Caller, str]:
        """(who it is, the path to go on to). Denied, in whatever way the answer is not that of this login."""
        begun = self._begun.pop(_hash(cookie), None)  # 2
        if begun is None or begun.until <= self._clock.monotonic():
            raise Denied("no login was begun in this browser, or it took too long", hint="begin again")
        if not hmac.compare_digest(answer.get("state", "").encode(), begun.state.encode()):
            raise Denied("the provider's answer is of another login", hint="begin again, in one window only")
        if answer.get("iss", self._config.issuer) != self._config.issuer:  # 3
            raise Denied("the answer is of another provider")
        code = answer.get("code", "")
        if not code or len(code) > MAX_PARAMETER:
            raise Denied(f"the provider said no: {shown(answer.get('error', 'it gave no code'))}", hint="begin again")
        token = await self._provider.redeem(code, begun.verifier, self._redirect_uri)  # 4
        claims = await self._verified(token, begun.nonce)
        role = role_of(claims, self._config.roles_claim, self._config.roles)
        actor = self._actor(claims["sub"])  # 5
        return Caller(actor, role, self.person(actor)), begun.following

    def person(self, actor: str) -> str:
        """Whom an account counts as where two people are needed."""
        return self._bound.get(actor, actor)  # 6

    async def _verified(self, token: object, nonce: str) -> dict[str, str]:
        config, now = self._config, self._clock.now()
        expected = {"issuer": config.issuer, "client_id": config.client_id, "nonce": nonce, "now": now}
        try:
            return claims_of(token, await self._provider.keys(), **expected)  # type: ignore[arg-type]
        except UnknownKey:
            return claims_of(token, await self._provider.keys(newer=True), **expected)  # type: ignore[arg-type]

    def _actor(self, sub: str) -> str:
        named = hmac.digest(self._key, f"{self._config.issuer}\n{sub}".encode(), "sha256")
        return f"oidc:{named.hex()[:24]}"

    def _text(self, size: int) -> str:
        return _base64(self._randomness(size))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
