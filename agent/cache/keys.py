"""Where the sealing key comes from: a port, and its drivers machine-local file and passphrase file.

Both keep one file outside of the folder that they seal (`cache.key`; `evidence.key` for agent.evidence):

    trustfed-cache-key 1 machine SECRET CHECK\\n
    trustfed-cache-key 1 passphrase N R P SALT CHECK\\n        figures of scrypt (RFC 7914), hex salt

CHECK tells a wrong passphrase or a damaged file from all else; it is derived apart from the sealing key.
"""

from __future__ import annotations

import re
from typing import Protocol

from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from agent.cache import counter
from agent.cache.disk import Disk
from agent.cache.refusal import Refused
from agent.cache.sealing import Randomness
from trustfed.errors import Invalid, TrustfedError
from trustfed.runtime.secret_file import SecretFile

NAME = "cache.key"
MIN_PASSPHRASE = 12
_MAX_BYTES = 512
_FORMAT = "trustfed-cache-key 1 "
_MACHINE = re.compile(r"machine ([0-9a-f]{64}) ([0-9a-f]{16})\n", re.ASCII)
_PASSPHRASE = re.compile(r"passphrase (\d{1,8}) (\d{1,3}) (\d{1,3}) ([0-9a-f]{32}) ([0-9a-f]{16})\n", re.ASCII)
# One of OWASP's equal choices, and the one with little memory (16 MiB): an agent is small.
_FIGURES = (2**14, 8, 5)
# What a file may ask of us: neither weaker than the above in memory, nor more than an agent can give.
_USES = ((32, b"sealing"), (8, b"check"))
_N, _R, _P = range(2**14, 2**17 + 1), range(8, 9), range(1, 17)


class SealingKey(Protocol):
    """A source of the 32 bytes that the cache is sealed with."""

    def open(self) -> bytes:
        """The key as it was made. Raises NotFound when none was made yet, Refused, Unavailable."""
        ...

    def make(self) -> bytes:
        """A new key, durable on return, in the place of any before it. Raises Refused, Denied, Unavailable."""
        ...


class MachineKey:
    """A random key in a file 0600 of this machine. Trust: who reads it and the cache has the keys of the SVIDs."""

    def __init__(self, disk: Disk, randomness: Randomness, name: str = NAME) -> None:
        self._disk, self._randomness, self._name = disk, randomness, name

    def open(self) -> bytes:
        """The key in the file."""
        found = _read(self._disk, self._name, _MACHINE, "machine")
        secret, check = bytes.fromhex(found[1]), found[2]
        key, expected = _split(secret)
        if not bytes_eq(check.encode(), expected.encode()):
            raise Refused("damaged_key", f"{self._name} is damaged")
        return key

    def make(self) -> bytes:
        """A new random key."""
        secret = self._randomness(32)
        key, check = _split(secret)
        counter.replace(self._disk, self._name, f"{_FORMAT}machine {secret.hex()} {check}\n".encode())
        return key


class PassphraseKey:
    """A key stretched from a passphrase; the file in data_dir holds its salt only.

    Trust: who reads the passphrase, the salt and the cache has the keys of the SVIDs; who has not the passphrase must
    guess it, at 16 MiB and some tenths of a second for each guess.
    """

    def __init__(self, disk: Disk, passphrase: SecretFile, randomness: Randomness, name: str = NAME) -> None:
        self._disk, self._passphrase, self._randomness, self._name = disk, passphrase, randomness, name

    def open(self) -> bytes:
        """The key of the passphrase and the salt in the file."""
        found = _read(self._disk, self._name, _PASSPHRASE, "passphrase")
        n, r, p = (int(number) for number in found.groups()[:3])
        if n not in _N or n & (n - 1) or r not in _R or p not in _P:
            raise Refused("damaged_key", f"{self._name} asks for figures of scrypt that are not taken")
        key, check = self._stretch(bytes.fromhex(found[4]), (n, r, p))
        if not bytes_eq(check.encode(), found[5].encode()):
            raise Refused(
                "wrong_passphrase",
                f"the passphrase in {self._passphrase.path} is not the one the cache was sealed with",
                "bring back the passphrase, or let the agent begin a new cache",
            )
        return key

    def make(self) -> bytes:
        """A key of the passphrase and a new salt."""
        salt = self._randomness(16)
        key, check = self._stretch(salt, _FIGURES)
        figures = " ".join(map(str, _FIGURES))
        counter.replace(self._disk, self._name, f"{_FORMAT}passphrase {figures} {salt.hex()} {check}\n".encode())
        return key

    def _stretch(self, salt: bytes, figures: tuple[int, int, int]) -> tuple[bytes, str]:
        n, r, p = figures
        try:
            passphrase = read_passphrase(self._passphrase)
        except TrustfedError as error:
            raise Refused("no_passphrase", error.message, error.hint) from None
        return _split(Scrypt(salt, 32, n, r, p).derive(passphrase))


def read_passphrase(file: SecretFile) -> bytes:
    """The passphrase. Raises Invalid for one that is too short, and what SecretFile raises."""
    passphrase = file.read()
    if len(passphrase) < MIN_PASSPHRASE:
        raise Invalid(f"the passphrase in {file.path} is too short", hint=f"use at least {MIN_PASSPHRASE} characters")
    return passphrase


def _read(disk: Disk, name: str, grammar: re.Pattern[str], sealing: str) -> re.Match[str]:
    text = disk.read(name, _MAX_BYTES).decode("latin-1")
    if not text.startswith(_FORMAT):
        if re.match(r"trustfed-cache-key \d+ ", text):
            raise Refused("unknown_version", f"{name} has a version that this trustfed does not know")
        raise Refused("damaged_key", f"{name} is damaged")
    rest = text[len(_FORMAT) :]
    kind = rest.partition(" ")[0]
    if kind in ("machine", "passphrase") and kind != sealing:
        raise Refused("other_sealing", f"the cache was sealed by {kind}, the configuration says {sealing}")
    found = grammar.fullmatch(rest)
    if found is None:
        raise Refused("damaged_key", f"{name} is damaged")
    return found


def _split(secret: bytes) -> tuple[bytes, str]:
    """The sealing key and its check."""
    key, check = (HKDFExpand(SHA256(), size, b"trustfed-cache " + use).derive(secret) for size, use in _USES)
    return key, check.hex()
