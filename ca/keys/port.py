"""The key port: private keys stay behind these four methods, whatever keeps them.

Trust: who holds a store's keys can mint identities of the trust domain, so a store never returns, logs or reprs key
material, never signs with another key than the one named, and has no fall-back to a weaker store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from trustfed.errors import Invalid

EC_P256 = "ec-p256"
KINDS = (EC_P256,)
MAX_MESSAGES = 1_000
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024 * 1024

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class KeyStore(Protocol):
    """Named signing keys. Safe to share between the coroutines of one event loop; one process owns a store's names.

    Every method raises Invalid for a malformed argument, Denied when the store refuses us, and Unavailable when the
    store cannot be used now (the hint says what to do). No method blocks the loop for more than about a millisecond.
    """

    async def create(self, name: str, kind: str = EC_P256) -> EllipticCurvePublicKey:
        """Make a new key and return its public half; durable on return. Raises Conflict when the name exists."""
        ...

    async def public_key(self, name: str) -> EllipticCurvePublicKey:
        """Return the public half of a key. Raises NotFound."""
        ...

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        """Sign up to 1,000 messages of at most 4 MiB each, 64 MiB in all: ECDSA with SHA-256, ASN.1 DER, in order.

        The batch is the normal case: all are signed or the call raises. Raises NotFound.
        """
        ...

    async def destroy(self, name: str) -> None:
        """Forget a key for good. A name that does not exist is no error."""
        ...


def check_name(name: str) -> None:
    """Raise Invalid unless `name` may name a key: it becomes a file name and a URL segment as it stands."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"key name {str(name)[:80]!r} is malformed", hint="1 to 64 of a-z, 0-9 and '-', not beginning with '-'"
        )


def check_kind(kind: str) -> None:
    """Raise Invalid unless keys of this kind can be made."""
    if kind not in KINDS:
        raise Invalid(f"key kind {str(kind)[:40]!r} is unknown", hint=f"one of: {', '.join(KINDS)}")


def check_messages(messages: Sequence[bytes]) -> None:
    """Raise Invalid when a batch is over its bounds."""
    if len(messages) > MAX_MESSAGES:
        raise Invalid(f"a batch of {len(messages)} messages is too large", hint=f"at most {MAX_MESSAGES} in one call")
    for number, message in enumerate(messages):
        if len(message) > MAX_MESSAGE_BYTES:
            raise Invalid(
                f"message {number} of the batch has {len(message)} bytes", hint=f"at most {MAX_MESSAGE_BYTES} bytes"
            )
    if (size := sum(map(len, messages))) > MAX_BATCH_BYTES:
        raise Invalid(f"a batch of {size} bytes is too large", hint=f"at most {MAX_BATCH_BYTES} bytes in one call")
