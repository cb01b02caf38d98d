"""The key port: private keys stay behind these four methods, whatever keeps them.

Trust: who holds a store's keys can mint identities of the trust domain, so a store never returns, logs or reprs key
material, never signs with another key than the one named, and has no fall-back to a weaker store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, overload

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trustfed.errors import Invalid

EcP256: TypeAlias = Literal["ec-p256"]
Ed25519: TypeAlias = Literal["ed25519"]
EC_P256: EcP256 = "ec-p256"
ED25519: Ed25519 = "ed25519"
KINDS = (EC_P256, ED25519)
PublicKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey
PrivateKey: TypeAlias = EllipticCurvePrivateKey | Ed25519PrivateKey
MAX_MESSAGES = 1_000
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024 * 1024
MAX_NOTE_BYTES = 64 * 1024
"""The longest message for an ed25519 key: it cannot be hashed before it travels to where the key is."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class KeyStore(Protocol):
    """Named signing keys. Safe to share between the coroutines of one event loop; one process owns a store's names.

    A key is of kind "ec-p256" (everything of SPIFFE and of the federation) or "ed25519" (signed notes, C2SP signed-note).

    Every method raises Invalid for a malformed argument, Denied when the store refuses us, and Unavailable when the
    store cannot be used now (the hint says what to do). No method blocks the loop for more than about a millisecond.
    """

    @overload
    async def create(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def create(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def create(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """Make a new key and return its public half; durable on return. Raises Conflict when the name exists."""
        ...

    @overload
    async def public_key(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def public_key(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def public_key(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """Return the public half of a key. Raises NotFound; Invalid when the key is of another kind."""
        ...

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        """Sign up to 1,000 messages of at most 4 MiB each, 64 MiB in all: ECDSA with SHA-256, ASN.1 DER, in order.

        An ed25519 key signs the messages themselves (RFC 8032), 64 KiB each at most, and gives 64 bytes for each.
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


def check_key_kind(name: str, key: object, kind: str) -> None:
    """Raise Invalid unless `key`, found under `name`, is of this kind."""
    check_kind(kind)
    if not _is_of(key, kind):
        raise Invalid(f"key {name} is of another kind than {kind}", hint="choose another name")


def _is_of(key: object, kind: str) -> bool:
    if kind == ED25519:
        return isinstance(key, Ed25519PublicKey | Ed25519PrivateKey)
    return isinstance(key, EllipticCurvePublicKey | EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)


def check_notes(messages: Sequence[bytes]) -> None:
    """Raise Invalid when a message is too long for an ed25519 key."""
    for number, message in enumerate(messages):
        if len(message) > MAX_NOTE_BYTES:
            raise Invalid(
                f"message {number} of the batch has {len(message)} bytes",
                hint=f"an ed25519 key signs at most {MAX_NOTE_BYTES}",
            )


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
