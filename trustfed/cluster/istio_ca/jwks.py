"""The JWKS driver: tokens are verified here, with the keys that their issuer publishes in a file or at an https URL.

Keys are kept, and read again when they are old or a token names a key that is not among them; the latter once in a while
only, because anybody may name any key. While they cannot be read the last good ones hold, up to KEEP.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from ca.publickeys import RSA_BITS
from trustfed.cluster.foreign.workers import Workers
from trustfed.cluster.istio_ca import service_tokens
from trustfed.cluster.istio_ca.accounts import Account
from trustfed.cluster.istio_ca.service_tokens import Expected
from trustfed.errors import Invalid, TrustfedError, Unavailable
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.files import read_bounded
from trustfed.runtime.guarded_fetch import fetch
from trustfed.runtime.pace import Paces
from trustfed.runtime.reach import Reach
from trustfed.spiffe import keys, strict_json
from trustfed.spiffe.keys import PublicKey

log = logs.get("cluster.istio_ca")

MAX_JWKS = 256 * 1024
MAX_KEYS = 64
REFRESH = timedelta(minutes=5)
KEEP = timedelta(hours=24)
"""How long keys are used that cannot be read again: a key that its issuer withdrew shall not hold for ever."""
UNKNOWN_SECONDS = 10.0
"""Between two looks that a token with an unknown key may cause."""
_FETCH_SECONDS = 5.0

Read = Callable[[], bytes]
"""Reads the JWKS document; blocks. Raises TrustfedError."""


def from_file(path: Path) -> Read:
    """From a file."""
    return lambda: read_bounded(path, MAX_JWKS)


def from_url(url: str, ca_file: Path | None, reach: Reach) -> Read:
    """From an https URL, under every guard of trustfed.runtime.guarded_fetch."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)

    def read() -> bytes:
        body = fetch(url, context, reach=reach, seconds=_FETCH_SECONDS).body
        assert body is not None  # no entity tag was sent
        return body

    return read


def read_keys(document: bytes) -> dict[str, PublicKey]:
    """The keys (kid → key) of a JWKS that can verify RS256 or ES256; keys of other kinds are left out.

    Raises Invalid for a document that is malformed, too large or holds a secret, names a kid twice, or has no such key.
    """
    listed = strict_json.parse_object(document, what="JWKS", limit=MAX_JWKS).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise Invalid("JWKS: keys is no list, or a too long one", hint=f"at most {MAX_KEYS} keys")
    found: dict[str, PublicKey] = {}
    for at, jwk in enumerate(listed):
        if not isinstance(jwk, dict):
            raise Invalid(f"JWKS: key {at} is no object")
        key = keys.from_jwk(jwk, f"JWKS: key {at}")
        kid = jwk.get("kid")
        if key is None or not _verifies(jwk, key):
            continue
        if not isinstance(kid, str) or not 1 <= len(kid) <= keys.MAX_KEY_ID:
            raise Invalid(f"JWKS: key {at} has no kid")
        if kid in found:
            raise Invalid(f"JWKS: the kid of key {at} occurs twice")
        found[kid] = key
    if not found:
        raise Invalid("JWKS: there is no key for RS256 or ES256 in it")
    return found


def _verifies(jwk: Mapping[str, object], key: PublicKey) -> bool:
    if jwk.get("use", "sig") != "sig":
        return False
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size in RSA_BITS and jwk.get("alg", "RS256") == "RS256"
    return keys.curve_of(key) == "P-256" and jwk.get("alg", "ES256") == "ES256"


class JwksReviewer:
    """Verifies tokens in this process; asks nobody while the keys are fresh."""

    def __init__(self, read: Read, expected: Expected, clock: Clock) -> None:
        self._read, self._expected, self._clock = read, expected, clock
        self._keys: dict[str, PublicKey] = {}
        self._read_at: float | None = None
        self._paces = Paces(1, UNKNOWN_SECONDS)
        self._turn = asyncio.Lock()
        self._workers = Workers(1, "jwks")
        self._error: TrustfedError | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def review(self, token: str) -> Account:
        """See Reviewer."""
        taken = service_tokens.parse(token)
        if not self._usable():
            await self._refresh("none")
        elif taken.key_id not in self._keys:
            await self._refresh("unknown")
        elif self._age() >= REFRESH.total_seconds() and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(
                self._refresh("old")
            )  # nobody waits for it: the held ones still hold
        if not self._usable():
            why = self._error.message if self._error else "it was never read"
            raise Unavailable(f"the keys of {self._expected.issuer} are not known: {why}", hint="it is tried again")
        return service_tokens.verify(token, self._keys.get, self._expected, self._clock.now())

    def _usable(self) -> bool:
        return bool(self._keys) and self._age() < KEEP.total_seconds()

    def _age(self) -> float:
        return float("inf") if self._read_at is None else self._clock.monotonic() - self._read_at

    async def _refresh(self, why: str) -> None:
        """Read the keys again, unless that was just done; what fails leaves the held ones."""
        async with self._turn:
            if not self._paces.take(why, self._clock.monotonic()):
                return
            try:
                found = read_keys(await self._workers.run(self._read))
            except TrustfedError as error:
                self._error = error
                log.warning("keys of service-account tokens not read", error=error.message, held=len(self._keys))
                return
            self._keys, self._read_at, self._error = found, self._clock.monotonic(), None
