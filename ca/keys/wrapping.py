"""Where the key that wraps key files comes from: a machine-local file or a passphrase file; only paths are held."""

from __future__ import annotations

import contextlib
import os
import string
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ca.keys.private_files import PrivateDirectory, read_secret
from trustfed.errors import Conflict, Invalid, NotFound, Unavailable

Parameters = dict[str, int | str]  # what a key file's header tells about its wrapping; not secret

SALT_BYTES = 16
# Bounds on what a header may ask of us: a forged one must cost neither memory nor minutes, and not weaken anything.
MEMORY_KIB = range(19 * 1024, 256 * 1024 + 1)
PASSES = range(2, 11)
LANES = range(1, 9)


class Wrapping(Protocol):
    """A source of 32-byte wrapping keys."""

    source: ClassVar[str]  # the word in the header that says which source wrapped the file
    remedy: ClassVar[str]  # what to do when it was another one

    @property
    def path(self) -> Path:
        """Where the secret lies."""
        ...

    def parameters(self) -> Parameters:
        """Return fresh parameters for a new file, with a new salt."""
        ...

    def derive(self, parameters: Parameters) -> bytes:
        """Return the 32-byte key for these parameters. Raises Invalid when they are out of bounds."""
        ...


@dataclass(frozen=True)
class MachineKeyFile:
    """A random key in a file 0600 of this machine, made on first use: a copy of the key files alone is worth nothing.

    Trust: who reads this file and the key files has the keys. Keep it out of backups of the key files.
    """

    path: Path
    source: ClassVar[str] = "machine"
    remedy: ClassVar[str] = "bring back the machine key file it was made with"

    _PREFIX: ClassVar[bytes] = b"trustfed-machine-key 1 "

    def parameters(self) -> Parameters:
        """Return a new salt, and make the machine key if this is its first use."""
        directory = PrivateDirectory(self.path.parent)
        try:
            directory.read(self.path.name, limit=256)
        except NotFound:
            with contextlib.suppress(Conflict):  # another process was first: its key counts
                directory.create(self.path.name, self._PREFIX + os.urandom(32).hex().encode() + b"\n")
        return {"salt": os.urandom(SALT_BYTES).hex()}

    def derive(self, parameters: Parameters) -> bytes:
        """Return the key for one file: HKDF-SHA256 (RFC 5869) of the machine key with the file's salt."""
        salt = _salt(parameters, {"salt"})
        try:
            content = PrivateDirectory(self.path.parent).read(self.path.name, limit=256)
        except NotFound:
            raise Unavailable(f"the machine key file {self.path} is missing", hint=self.remedy) from None
        secret = content.removeprefix(self._PREFIX).removesuffix(b"\n")
        if not content.startswith(self._PREFIX) or len(secret) != 64 or not _is_hex(secret.decode("latin-1")):
            raise Invalid(f"the machine key file {self.path} is damaged", hint=self.remedy)
        return HKDF(hashes.SHA256(), 32, salt, b"trustfed machine key").derive(bytes.fromhex(secret.decode()))


@dataclass(frozen=True)
class PassphraseFile:
    """A passphrase in a file (a Kubernetes secret, a tmpfs), stretched with argon2id (RFC 9106).

    The figures apply to new files: 64 MiB and 3 passes are RFC 9106's second recommendation. Old files keep theirs.
    """

    path: Path
    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 4
    source: ClassVar[str] = "passphrase"
    remedy: ClassVar[str] = "bring back the passphrase it was made with"

    def parameters(self) -> Parameters:
        """Return a new salt beside the configured argon2id figures."""
        return {
            "salt": os.urandom(SALT_BYTES).hex(),
            "memory_kib": self.memory_kib,
            "passes": self.passes,
            "lanes": self.lanes,
        }

    def derive(self, parameters: Parameters) -> bytes:
        """Return the key for one file; takes about 0.2 s and 64 MiB with the default figures."""
        salt = _salt(parameters, {"salt", "memory_kib", "passes", "lanes"})
        memory = _bounded(parameters, "memory_kib", MEMORY_KIB)
        passes, lanes = _bounded(parameters, "passes", PASSES), _bounded(parameters, "lanes", LANES)
        passphrase = read_secret(self.path, "passphrase file")
        if len(passphrase) < 12:
            raise Invalid(f"the passphrase in {self.path} is too short", hint="use at least 12 characters")
        try:
            return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(
                passphrase.encode()
            )
        except (MemoryError, UnsupportedAlgorithm) as error:
            raise Unavailable(f"argon2id cannot run here: {type(error).__name__}", hint="needs 256 MiB free") from None


def _salt(parameters: Parameters, members: set[str]) -> bytes:
    salt = parameters.get("salt")
    if set(parameters) != members or not isinstance(salt, str) or len(salt) != 2 * SALT_BYTES or not _is_hex(salt):
        raise Invalid("the wrapping parameters of a key file are malformed", hint="restore the file from a backup")
    return bytes.fromhex(salt)


def _bounded(parameters: Parameters, name: str, bounds: range) -> int:
    value = parameters[name]
    if type(value) is not int or value not in bounds:
        raise Invalid(
            f"argon2id {name} = {str(value)[:20]} is outside {bounds[0]} to {bounds[-1]}",
            hint="correct the configuration, or restore the key file from a backup",
        )
    return value


def _is_hex(text: str) -> bool:
    return all(character in string.hexdigits for character in text)


def wrapping_from(source: str, path: Path) -> Wrapping:
    """Return the wrapping that a source's name and path stand for: all a signing worker must be told."""
    sources: dict[str, type[MachineKeyFile] | type[PassphraseFile]] = {
        MachineKeyFile.source: MachineKeyFile,
        PassphraseFile.source: PassphraseFile,
    }
    return sources[source](path)
