"""The public keys of notes: who signed, by which algorithm, in one line of text (C2SP signed-note, tlog-cosignature).

    trustfed/prod.example/journal+1a2b3c4d+AZ...       NAME + key id in hex + base64(type byte, 32-byte Ed25519 key)

Two types: 0x01 signs the text of a note as it is, 0x04 is a witness's cosignature with a time. The id is a hint for
finding the key, not a proof of anything: the key itself is what a verifier trusts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trustfed.errors import Invalid

ED25519 = 0x01
COSIGNATURE = 0x04
MAX_NAME = 512  # bytes of UTF-8
MAX_TIME = (1 << 63) - 1
_SIGNATURE_BYTES = {ED25519: 64, COSIGNATURE: 72}
_TYPES = "0x01 (Ed25519) and 0x04 (Ed25519 cosignature)"


@dataclass(frozen=True)
class Vkey:
    """The public key of a signer: `name`, `kind` (ED25519 or COSIGNATURE), and the 32 bytes of an Ed25519 key."""

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.kind not in _SIGNATURE_BYTES:
            raise Invalid(f"the key of {self.name} has a type that is not known: {self.kind:#04x}", hint=_TYPES)
        if len(self.public) != 32:
            raise Invalid(f"the key of {self.name} has {len(self.public)} bytes", hint="an Ed25519 key has 32")

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before its signatures."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    @property
    def text(self) -> str:
        """The line of text, as `parse_vkey` reads it."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"

    def verifies(self, text: str, signature: bytes) -> bool:
        """Whether `signature` (what follows the key id) is this key's over the text of a note."""
        if len(signature) != _SIGNATURE_BYTES[self.kind]:
            return False
        message = text.encode()
        if self.kind == COSIGNATURE:
            at = cosigned_at(signature)
            if at > MAX_TIME:
                return False
            message = cosignature_message(text, at)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature[-64:], message)
        except (InvalidSignature, ValueError):
            return False
        return True


def vkey_of(name: str, key: Ed25519PublicKey, kind: int = ED25519) -> Vkey:
    """The key of `name` for notes. Raises Invalid when the name cannot be one."""
    return Vkey(name, kind, key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def parse_vkey(text: str) -> Vkey:
    """The key in one line of text, without its end of line. Raises Invalid; an id that is not the key's is one fault."""
    name, *rest = text.split("+", 2)
    malformed = Invalid(f"{text[:80]!r} is no key of a log or a cosigner", hint="NAME+8 hex digits+base64")
    if len(text) > MAX_NAME + 64 or len(rest) != 2 or not re.fullmatch(r"[0-9a-f]{8}", rest[0]):
        raise malformed
    material = strict_base64(rest[1])
    if not material:
        raise malformed
    key = Vkey(name, material[0], material[1:])
    if key.key_id.hex() != rest[0]:
        raise Invalid(f"the key of {key.name} does not have the id {rest[0]}", hint="a character got lost or changed?")
    return key


def check_name(name: str) -> None:
    """Raise Invalid unless `name` may name a key: no spaces, no '+', no control characters, at most 512 bytes."""
    plain = all(character.isprintable() and not character.isspace() and character != "+" for character in name)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not plain or not 1 <= size <= MAX_NAME:
        raise Invalid(f"{name[:80]!r} cannot name a key", hint=f"1 to {MAX_NAME} bytes, no spaces, no '+'")


def cosignature_message(text: str, at: int) -> bytes:
    """What a cosigner signs: that at Unix second `at` this was the largest consistent tree it had seen."""
    return b"cosignature/v1\ntime %d\n" % at + text.encode()


def cosigned_at(signature: bytes) -> int:
    """The Unix second in a cosignature: its first eight bytes."""
    return int.from_bytes(signature[:8], "big")


def strict_base64(text: str) -> bytes | None:
    """The bytes of standard base64 (RFC 4648 §4) in its one canonical form; None for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None
