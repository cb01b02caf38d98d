"""Keys that end with the process, for tests and trials.

Trust: nothing is kept, so nothing can be stolen later; a restart loses every key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import overload

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ca.keys.digests import digests_of, generated, sign_digests, sign_notes
from ca.keys.port import (
    EC_P256,
    EcP256,
    Ed25519,
    PrivateKey,
    PublicKey,
    check_key_kind,
    check_kind,
    check_messages,
    check_name,
    check_notes,
)
from trustfed.errors import Conflict, NotFound

HASHED_HERE = 256 * 1024  # bytes of a turn that are hashed in the loop, about 0.2 ms; more goes to a thread
TURN = 20  # signatures made before other coroutines get a turn: half a millisecond


class MemoryKeys:
    """A KeyStore in this process's memory."""

    def __init__(self) -> None:
        self._keys: dict[str, PrivateKey] = {}

    @overload
    async def create(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def create(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def create(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore."""
        check_name(name)
        check_kind(kind)
        if name in self._keys:
            raise Conflict(f"key {name} exists already", hint="choose another name, or destroy it first")
        self._keys[name] = generated(kind)
        return self._keys[name].public_key()

    @overload
    async def public_key(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def public_key(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def public_key(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore."""
        check_key_kind(name, self._key(name), kind)
        return self._key(name).public_key()

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        """See KeyStore."""
        check_messages(messages)
        return await sign_in_turns(self._key(name), messages)

    async def destroy(self, name: str) -> None:
        """See KeyStore."""
        check_name(name)
        self._keys.pop(name, None)

    def _key(self, name: str) -> PrivateKey:
        check_name(name)
        if name not in self._keys:
            raise NotFound(f"key {name} does not exist")
        return self._keys[name]


async def sign_in_turns(key: PrivateKey, messages: Sequence[bytes]) -> list[bytes]:
    """Sign in this process, giving way to other coroutines between every `TURN` messages."""
    if isinstance(key, Ed25519PrivateKey):
        check_notes(messages)
    signatures: list[bytes] = []
    for start in range(0, len(messages), TURN):
        if start:
            await asyncio.sleep(0)
        turn = messages[start : start + TURN]
        large = sum(map(len, turn)) > HASHED_HERE
        if isinstance(key, Ed25519PrivateKey):
            signatures += await asyncio.to_thread(sign_notes, key, turn) if large else sign_notes(key, turn)
        else:
            signatures += sign_digests(key, await asyncio.to_thread(digests_of, turn) if large else digests_of(turn))
    return signatures
