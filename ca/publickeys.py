"""Which public keys we certify: P-256, P-384, RSA of 2,048 to 4,096 bits; checked before anything is done with one.

Weak keys make forgeable identities, huge ones make every verifier pay. An EC key must be an uncompressed point on its
named curve, in the one encoding of RFC 5480, because the bytes are copied into the certificate as they stand.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trustfed.errors import Invalid

CertifiedKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

RSA_BITS = range(2048, 4097)
_HINT = "use P-256, P-384, or RSA of 2048 to 4096 bits"
_MAX_SPKI = 600  # bytes; RSA 4096 takes 550

# SubjectPublicKeyInfo up to the point's X and Y: algorithm, named curve, BIT STRING, 0x04 (RFC 5480 §2).
_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + b"\x04"
_P384 = bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200") + b"\x04"


def load_public_key(spki: bytes) -> CertifiedKey:
    """Read a SubjectPublicKeyInfo (DER). Raises Invalid for what we do not certify."""
    if not isinstance(spki, bytes) or len(spki) > _MAX_SPKI:
        raise Invalid("the public key is larger than any key that is accepted", hint=_HINT)
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid("the public key is malformed, of an unknown kind, or not on its curve", hint=_HINT) from error
    check_public_key(key)
    if spki.startswith((_P256, _P384)):
        return key  # type: ignore[return-value]  # check_public_key refused every other kind
    if key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo) != spki:
        raise Invalid("the public key is not in its one DER encoding", hint="send an uncompressed SubjectPublicKeyInfo")
    return key  # type: ignore[return-value]


def check_public_key(key: object) -> None:
    """Raise Invalid unless the key is of a kind and size that we certify."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in ("secp256r1", "secp384r1"):
            raise Invalid(f"public keys on curve {key.curve.name} are not accepted", hint=_HINT)
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in RSA_BITS:
            raise Invalid(f"an RSA key of {key.key_size} bits is not accepted", hint=_HINT)
        exponent = key.public_numbers().e
        if exponent < 65537 or exponent >= 1 << 32:
            raise Invalid("the RSA key's public exponent is not accepted", hint="use 65537")
    else:
        raise Invalid(f"public keys of kind {type(key).__name__} are not accepted", hint=_HINT)


def spki_of(key: CertifiedKey) -> bytes:
    """The SubjectPublicKeyInfo (DER) of a key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_key_id(spki: bytes, key: CertifiedKey) -> bytes:
    """What `key_id` gives, straight from an SPKI that `load_public_key` has accepted as `key`'s."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        prefix = _P256 if spki.startswith(_P256) else _P384
        return hashlib.sha256(spki[len(prefix) - 1 :]).digest()[:20]
    return key_id(key)


def key_id(key: CertifiedKey) -> bytes:
    """The subject key identifier: the first 160 bits of SHA-256 over the subjectPublicKey (RFC 7093 §2, method 1)."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    else:
        bits = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    return hashlib.sha256(bits).digest()[:20]


def algorithm_of(key: CertifiedKey) -> str:
    """What an inventory calls this kind of key: "ec-p256", "ec-p384", or "rsa-" and its bits."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ec-p256" if key.curve.name == "secp256r1" else "ec-p384"
    return f"rsa-{key.key_size}"
