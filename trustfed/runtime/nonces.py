"""Nonces that nobody can make, keep or use twice, and that cost no memory until they come back."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from datetime import datetime

from trustfed.errors import Denied, Unavailable
from trustfed.runtime.timestamps import to_ms

LIFE_MS = 120_000
MAX_SPENT = 10_000


class Nonces:
    """Gives out nonces for two minutes each. They end with the process: who holds one then asks again."""

    def __init__(self, randomness: Callable[[int], bytes]) -> None:
        self._key = randomness(32)
        self._randomness = randomness
        self._spent: dict[str, int] = {}

    def give(self, now: datetime) -> tuple[str, int]:
        """A new nonce, and when it ends (Unix ms)."""
        end = to_ms(now) + LIFE_MS
        head = end.to_bytes(8, "big") + self._randomness(16)
        return base64.urlsafe_b64encode(head + self._seal(head)).decode(), end

    def spend(self, nonce: str, now: datetime) -> None:
        """Denied unless `nonce` came from here, is not over, and was never spent. Unavailable in a flood."""
        again = Denied(
            "the nonce is not one of this server, is over, or was used", hint="GET /v1/nonce gives a new one"
        )
        try:
            raw = base64.b64decode(nonce, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise again from None
        head, seal = raw[:24], raw[24:]
        # The decoded bytes are what is remembered: base64 has more than one spelling of them.
        spelling = raw.hex()
        if len(raw) != 56 or not hmac.compare_digest(seal, self._seal(head)) or spelling in self._spent:
            raise again
        at, end = to_ms(now), int.from_bytes(head[:8], "big")
        if end <= at:
            raise again
        if len(self._spent) >= MAX_SPENT:
            self._spent = {spent: until for spent, until in self._spent.items() if until > at}
            if len(self._spent) >= MAX_SPENT:
                raise Unavailable("too many nonces are in use", hint="try again in two minutes")
        self._spent[spelling] = end

    def _seal(self, head: bytes) -> bytes:
        return hmac.digest(self._key, head, "sha256")
