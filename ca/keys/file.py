"""Keys in encrypted files, the default store.

Trust: who can read both the files and what wraps them (machine key file or passphrase file), or this process's memory,
has the keys. Bit rot, truncation and swapped files are noticed; an older copy of the same file put back is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ca.keys.folder import KeyFolder
from ca.keys.memory import sign_in_turns
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
)
from ca.keys.wrapping import Wrapping


class FileKeys:
    """A KeyStore of `NAME.key` files in `directory`. A key is decrypted once and then held in memory.

    Disk and argon2id run in threads. Signatures are made in this process; put a SigningPool before it for batches.
    """

    def __init__(self, directory: Path, wrapping: Wrapping) -> None:
        self.folder = KeyFolder(directory, wrapping)
        self._held: dict[str, PrivateKey] = {}
        self._changing = asyncio.Lock()  # so that a key read before its destruction cannot be held after it

    @overload
    async def create(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def create(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def create(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore."""
        check_name(name)
        check_kind(kind)
        async with self._changing:
            key = self._held[name] = await asyncio.to_thread(self.folder.create, name, kind)
        return key.public_key()

    @overload
    async def public_key(self, name: str, kind: EcP256 = ...) -> EllipticCurvePublicKey: ...
    @overload
    async def public_key(self, name: str, kind: Ed25519) -> Ed25519PublicKey: ...

    async def public_key(self, name: str, kind: EcP256 | Ed25519 = EC_P256) -> PublicKey:
        """See KeyStore."""
        key = await self._key(name)
        check_key_kind(name, key, kind)
        return key.public_key()

    async def signs_notes(self, name: str) -> bool:
        """Whether the key is of kind ed25519, so that digests are nothing to it. Raises NotFound."""
        return isinstance(await self._key(name), Ed25519PrivateKey)

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        """See KeyStore."""
        check_messages(messages)
        return await sign_in_turns(await self._key(name), messages)

    async def destroy(self, name: str) -> None:
        """See KeyStore."""
        check_name(name)
        # Shielded: a caller who gives up must not leave a destroyed key in memory.
        await asyncio.shield(asyncio.ensure_future(self._destroy(name)))

    async def _destroy(self, name: str) -> None:
        async with self._changing:
            self._held.pop(name, None)
            await asyncio.to_thread(self.folder.destroy, name)

    async def _key(self, name: str) -> PrivateKey:
        check_name(name)
        if name not in self._held:
            async with self._changing:
                if name not in self._held:
                    self._held[name] = await asyncio.to_thread(self.folder.load, name)
        return self._held[name]
