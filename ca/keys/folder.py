"""Key files of one directory, blocking calls. Signing workers import this, so it imports little (no asyncio)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ca.keys.digests import generated
from ca.keys.port import EC_P256, PrivateKey, check_name
from ca.keys.private_files import PrivateDirectory
from ca.keys.sealed import MAX_FILE_BYTES, seal, unseal
from ca.keys.wrapping import Wrapping
from trustfed.errors import Conflict, NotFound


@dataclass(frozen=True)
class KeyFolder:
    """`NAME.key` files in a directory 0700. Raises as private_files and sealed do, beside what each method says."""

    directory: Path
    wrapping: Wrapping

    def create(self, name: str, kind: str = EC_P256) -> PrivateKey:
        """Make a key; its file is durable on return. Raises Conflict when the name exists."""
        check_name(name)
        key = generated(kind)
        try:
            PrivateDirectory(self.directory).create(f"{name}.key", seal(name, key, self.wrapping, os.urandom))
        except Conflict:
            raise Conflict(f"key {name} exists already", hint="choose another name, or destroy it first") from None
        return key

    def load(self, name: str) -> PrivateKey:
        """Read and decrypt a key. Raises NotFound, Invalid."""
        check_name(name)
        try:
            content = PrivateDirectory(self.directory).read(f"{name}.key", limit=MAX_FILE_BYTES)
        except NotFound:
            raise NotFound(f"key {name} does not exist", hint=f"it would be {self.directory / name}.key") from None
        return unseal(name, content, self.wrapping)

    def destroy(self, name: str) -> None:
        """Remove a key's file. Copies that a file system, a snapshot or a backup keeps are not ours to remove."""
        check_name(name)
        PrivateDirectory(self.directory).remove(f"{name}.key")
