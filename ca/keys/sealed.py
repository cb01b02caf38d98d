"""The format of a key file, pure: bytes in, private key out, and back.

    trustfed-key 1\\n            the format and its version
    {"check": ..., ...}\\n       one line of canonical JSON: name, kind, source, wrapping, check, nonce
    AES-256-GCM(PKCS #8 DER)    to the end of the file

All that stands before the ciphertext is its associated data, so no byte of a file can change unnoticed. `check` tells a
wrong passphrase from a damaged file; it is derived apart from the encryption key and reveals no more than the GCM tag.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ca.keys.port import EC_P256, ED25519, KINDS, PrivateKey
from ca.keys.wrapping import Parameters, Wrapping
from trustfed.errors import Invalid

MAX_FILE_BYTES = 4096
_MAGIC = b"trustfed-key 1\n"
_MEMBERS = {"check", "kind", "name", "nonce", "source", "wrapping"}
_WORDS = {EC_P256: "P-256", ED25519: "Ed25519"}
_DAMAGED = "restore it from a backup; if there is none, the authority of this key must be replaced"


def seal(name: str, key: PrivateKey, wrapping: Wrapping, randomness: Callable[[int], bytes]) -> bytes:
    """Return the bytes of the key file of `name`; `randomness(n)` returns n secret random bytes."""
    parameters = wrapping.parameters()
    encryption, check = _keys(wrapping.derive(parameters))
    nonce = randomness(12)
    header = {
        "check": check.hex(),
        "kind": ED25519 if isinstance(key, Ed25519PrivateKey) else EC_P256,
        "name": name,
        "nonce": nonce.hex(),
        "source": wrapping.source,
        "wrapping": parameters,
    }
    prefix = _MAGIC + _encoded(header) + b"\n"
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return prefix + AESGCM(encryption).encrypt(nonce, plain, prefix)


def unseal(name: str, content: bytes, wrapping: Wrapping) -> PrivateKey:
    """Return the private key in `content`, the file of `name`. Raises Invalid, each fault with its own words."""
    # 1. The format and version are ours.
    if not content.startswith(_MAGIC):
        if content.startswith(b"trustfed-key "):
            raise Invalid(f"the file of key {name} has a version we do not know", hint="use a newer trustfed")
        raise Invalid(f"the file of key {name} is not a key file", hint=_DAMAGED)
    # 2. The header is there, canonical, and has exactly its members.
    line, separator, ciphertext = content[len(_MAGIC) :].partition(b"\n")
    header = _decoded(line) if separator else None
    if header is None:
        raise Invalid(f"the file of key {name} is damaged: its header cannot be read", hint=_DAMAGED)
    # 3. It is this key's file, not another's under its name.
    if header["name"] != name:
        raise Invalid(f"the file of key {name} holds another key, {header['name'][:80]!r}", hint=_DAMAGED)
    if header["kind"] not in KINDS:
        raise Invalid(f"key {name} has a kind we do not know", hint="use a newer trustfed")
    # 4. It was wrapped from the same source, with the same secret.
    if header["source"] != wrapping.source:
        raise Invalid(
            f"key {name} is wrapped by {header['source'][:20]!r}, the configuration says {wrapping.source!r}",
            hint="correct the configuration",
        )
    encryption, check = _keys(wrapping.derive(header["wrapping"]))
    if not bytes_eq(check.hex().encode(), header["check"].encode()):
        raise Invalid(f"key {name} was wrapped with another {wrapping.source} secret", hint=wrapping.remedy)
    # 5. Every byte is as we wrote it.
    prefix = content[: len(content) - len(ciphertext)]
    try:
        plain = AESGCM(encryption).decrypt(bytes.fromhex(header["nonce"]), ciphertext, prefix)
    except (InvalidTag, ValueError):
        raise Invalid(f"the file of key {name} is damaged: it does not decrypt", hint=_DAMAGED) from None
    # 6. What we wrote is a key of the kind that the header says.
    try:
        key = load_der_private_key(plain, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if header["kind"] == ED25519 and isinstance(key, Ed25519PrivateKey):
        return key
    if header["kind"] == EC_P256 and isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    raise Invalid(f"the file of key {name} holds no {_WORDS[header['kind']]} key", hint=_DAMAGED)


def _keys(wrapping_key: bytes) -> tuple[bytes, bytes]:
    encryption = HKDFExpand(hashes.SHA256(), 32, b"trustfed-key 1 encryption").derive(wrapping_key)
    check = HKDFExpand(hashes.SHA256(), 8, b"trustfed-key 1 check").derive(wrapping_key)
    return encryption, check


def _encoded(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _decoded(line: bytes) -> dict[str, Any] | None:
    """Return the header, or None unless it is exactly what `seal` would have written."""
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or set(header) != _MEMBERS or _encoded(header) != line:
        return None
    wrapping: Parameters = header["wrapping"]
    texts = [header[member] for member in sorted(_MEMBERS - {"wrapping"})]
    if not isinstance(wrapping, dict) or not all(isinstance(text, str) and text.isascii() for text in texts):
        return None
    nonce = header["nonce"]
    return header if len(nonce) == 24 and all(digit in "0123456789abcdef" for digit in nonce) else None
