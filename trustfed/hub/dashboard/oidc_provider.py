"""An OpenID provider, asked over the network: its configuration, its keys, and a token for a code. Three requests.

Discovery is what configuration names (OpenID Connect Discovery 1.0 §4) and must name the issuer exactly (§4.3); what it says of
further addresses is somebody else's word, so all of them go through trustfed.runtime.guarded_fetch: https, judged addresses,
no redirect of a form, bounded in bytes and time. Documents are kept for MINUTES and asked for by one at a time.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import jwt

from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.hub.dashboard.oidc_config import OidcConfig
from trustfed.hub.dashboard.oidc_token import read_keys
from trustfed.runtime.bounded_http import tls_context
from trustfed.runtime.clock import Clock
from trustfed.runtime.guarded_fetch import Form, fetch
from trustfed.runtime.reach import Target

KEEP_SECONDS = 15 * 60
LEAST_SECONDS = 60.0
"""Keys are asked for again no sooner, whoever sends tokens of keys that are not there."""
SECONDS = 8.0
AT_ONCE, MAX_WAITING = 2, 32
"""Requests under way, and that wait for one: each holds a thread of this process for as long as a provider hangs."""
MAX_DOCUMENT = 256 << 10


@dataclass(frozen=True)
class Endpoints:
    """What the provider's configuration says, as far as it is used."""

    authorization: str
    token: str
    keys: str


class Provider:
    """One provider."""

    def __init__(self, config: OidcConfig, clock: Clock) -> None:
        """Raises Invalid when its roots cannot be read."""
        self._config, self._clock = config, clock
        self._context = tls_context(str(config.ca_file) if config.ca_file else "")
        self._reach = config.reach()
        self._endpoints: tuple[Endpoints, float] | None = None
        self._keys: tuple[dict[str, jwt.PyJWK], float] | None = None
        self._turn = asyncio.Lock()
        self._threads, self._waiting = asyncio.Semaphore(AT_ONCE), 0

    async def endpoints(self) -> Endpoints:
        """Where it wants to be asked. Raises Unavailable, Denied, Invalid."""
        async with self._turn:
            held, now = self._endpoints, self._clock.monotonic()
            if held is None or now - held[1] >= KEEP_SECONDS:
                document = await self._get(self._config.discovery)
                self._endpoints = held = (_endpoints(document, self._config.issuer), now)
            return held[0]

    async def keys(self, *, newer: bool = False) -> Mapping[str, jwt.PyJWK]:
        """Its keys; `newer` asks again, unless that was done within a minute."""
        address = (await self.endpoints()).keys
        async with self._turn:
            held, now = self._keys, self._clock.monotonic()
            age = now - held[1] if held else KEEP_SECONDS
            if held is None or age >= KEEP_SECONDS or (newer and age >= LEAST_SECONDS):
                self._keys = held = (read_keys(await self._get(address)), now)
            return held[0]

    async def redeem(self, code: str, verifier: str, redirect_uri: str) -> object:
        """The ID token for a code (Core §3.1.3, RFC 7636 §4.5). Denied when the provider does not take the code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        authorization = ""
        if self._config.client_secret_file is None:
            form["client_id"] = self._config.client_id
        else:
            authorization = await asyncio.to_thread(self._basic)
        address = (await self.endpoints()).token
        try:
            answer = await self._ask(address, Form(urlencode(form).encode(), authorization))
        except Unavailable as error:
            if "answered with status 4" not in error.message:
                raise
            raise Denied("the provider did not take the code", hint="log in again; each code works once") from None
        return answer.get("id_token")

    async def _get(self, url: str) -> dict[str, Any]:
        return await self._ask(url, None)

    async def _ask(self, url: str, form: Form | None) -> dict[str, Any]:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many logins wait for the provider", hint="try again in a moment")
        self._waiting += 1
        try:
            async with self._threads:
                found = await asyncio.to_thread(
                    fetch, url, self._context, reach=self._reach, seconds=SECONDS, redirects=0, form=form
                )
        finally:
            self._waiting -= 1
        if found.body is None or len(found.body) > MAX_DOCUMENT:
            raise Invalid(f"{Target.parse(url).origin} answered with more than {MAX_DOCUMENT} bytes")
        try:
            document = json.loads(found.body)
        except (ValueError, RecursionError):
            raise Invalid(f"{Target.parse(url).origin} answered with something that is not JSON") from None
        if not isinstance(document, dict):
            raise Invalid(f"{Target.parse(url).origin} answered with something that is not a JSON object")
        return document

    def _basic(self) -> str:
        """Both parts are encoded first (RFC 6749 §2.3.1)."""
        assert self._config.client_secret_file is not None
        secret = self._config.client_secret_file.read().decode("utf-8", "replace")
        pair = f"{quote(self._config.client_id, safe='')}:{quote(secret, safe='')}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


def _endpoints(document: Mapping[str, Any], issuer: str) -> Endpoints:
    if document.get("issuer") != issuer:
        raise Denied(
            "the provider's configuration is of another issuer", hint="compare [oidc] issuer with what it says"
        )
    methods = document.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        raise Denied("the provider does not know PKCE with S256 (RFC 7636)")
    named = [document.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
    for address in named:
        if not isinstance(address, str):
            raise Invalid("the provider's configuration lacks an endpoint")
        try:
            Target.parse(address)
        except TrustfedError as error:
            raise Invalid(f"the provider's configuration names an address of no use: {error.message}") from None
    return Endpoints(*map(str, named))
