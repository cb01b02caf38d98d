"""Which public keys are certified: every refusal by name."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.publickeys import key_id, load_public_key, spki_key_id
from tests.unit.ca.material import spki
from trustfed.errors import Invalid

SPKI = PublicFormat.SubjectPublicKeyInfo
GOOD = spki()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_accepts_the_two_curves(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve).public_key()
    data = key.public_bytes(Encoding.DER, SPKI)
    assert load_public_key(data) == key
    assert spki_key_id(data, key) == key_id(key)


@pytest.mark.parametrize("bits", [2048, 4096])
def test_accepts_rsa(bits: int) -> None:
    key = rsa.generate_private_key(65537, bits).public_key() if bits == 2048 else _rsa(bits, 65537)
    data = key.public_bytes(Encoding.DER, SPKI)
    assert load_public_key(data) == key
    assert spki_key_id(data, key) == key_id(key)


def _rsa(bits: int, exponent: int) -> rsa.RSAPublicKey:
    """A public key of that size; nobody has its private half."""
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) + 1).public_key()


def _flipped() -> bytes:
    return GOOD[:-1] + bytes((GOOD[-1] ^ 1,))


def _compressed() -> bytes:
    point = (
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    )
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


FAULTS = {
    "empty": b"",
    "not DER": b"hello",
    "truncated": GOOD[:-1],
    "trailing byte": GOOD + b"\x00",
    "point off the curve": _flipped(),
    "point at infinity": bytes.fromhex("3019301306072a8648ce3d020106082a8648ce3d030107030200") + b"\x00",
    "compressed point": _compressed(),
    "P-224": spki(ec.generate_private_key(ec.SECP224R1())),
    "P-521": spki(ec.generate_private_key(ec.SECP521R1())),
    "secp256k1": spki(ec.generate_private_key(ec.SECP256K1())),
    "Ed25519": ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, SPKI),
    "X25519": x25519.X25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, SPKI),
    "DSA": dsa.generate_private_key(1024).public_key().public_bytes(Encoding.DER, SPKI),
    "RSA 1024": _rsa(1024, 65537).public_bytes(Encoding.DER, SPKI),
    "RSA 2047": _rsa(2047, 65537).public_bytes(Encoding.DER, SPKI),
    "RSA 4097": _rsa(4097, 65537).public_bytes(Encoding.DER, SPKI),
    "RSA 16384": _rsa(16384, 65537).public_bytes(Encoding.DER, SPKI),
    "RSA exponent 3": _rsa(2048, 3).public_bytes(Encoding.DER, SPKI),
    "RSA huge exponent": _rsa(2048, (1 << 40) + 1).public_bytes(Encoding.DER, SPKI),
    "a megabyte": bytes(1 << 20),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refuses(fault: str) -> None:
    with pytest.raises(Invalid):
        load_public_key(FAULTS[fault])
