"""Which public keys we accept at all, and their two spellings: JWK (RFC 7517, RFC 7518 §6) and base64url.

Bounds are checked before a key is ever used: an RSA key of 100,000 bits is a denial of service, not a key.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trustfed.errors import Invalid
from trustfed.spiffe.ids import shown

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT = 2**32
MAX_KEY_ID = 256  # characters of a `kid`

CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_CURVE_NAMES = {curve.name: name for name, curve in CURVES.items()}
# Members that only a private or a symmetric key has (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
_SECRET_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


def accepted(key: object, what: str) -> PublicKey:
    """Return `key` if it is EC P-256, P-384 or P-521, or RSA of 2048 to 8192 bits. Raises Invalid."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVE_NAMES:
            raise Invalid(f"{what}: the curve {key.curve.name} is not P-256, P-384 or P-521")
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise Invalid(f"{what}: an RSA key of {key.key_size} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        exponent = key.public_numbers().e
        if exponent < 3 or exponent % 2 == 0 or exponent > MAX_RSA_EXPONENT:
            raise Invalid(f"{what}: an RSA key with a public exponent that is even or out of bounds")
        return key
    raise Invalid(f"{what}: the key is neither EC nor RSA")


def curve_of(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> str:
    """Return the JWK name of a key's curve, such as `P-256`."""
    return _CURVE_NAMES[key.curve.name]


def from_jwk(jwk: Mapping[str, object], what: str) -> PublicKey | None:
    """Read the public key of a JWK; None if its key type or curve is one we do not know (RFC 7517 §5).

    Raises Invalid for a JWK that holds a secret, for a malformed key and for one out of bounds.
    """
    kty = jwk.get("kty")
    if not isinstance(kty, str):
        raise Invalid(f"{what}: kty is missing or not text (SPIFFE bundle §4.2.1)")
    if kty == "oct":
        raise Invalid(f"{what}: a symmetric key (kty oct) in a bundle", hint="everybody can read it: replace that key")
    secrets = [member for member in _SECRET_MEMBERS if member in jwk]
    if secrets:
        raise Invalid(
            f"{what}: a private key (member {secrets[0]}) in a bundle", hint="everybody can read it: replace that key"
        )
    try:
        if kty == "EC":
            crv = jwk.get("crv")
            if not isinstance(crv, str):
                raise Invalid(f"{what}: crv is missing or not text (RFC 7518 §6.2.1.1)")
            if crv not in CURVES:
                return None
            size = (CURVES[crv].key_size + 7) // 8
            point = [_coordinate(jwk, member, size, what) for member in ("x", "y")]
            key: PublicKey = ec.EllipticCurvePublicNumbers(point[0], point[1], CURVES[crv]).public_key()
        elif kty == "RSA":
            modulus, exponent = (_number(jwk, member, MAX_RSA_BITS // 8 + 1, what) for member in ("n", "e"))
            key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        else:
            return None
    except (ValueError, OverflowError):
        raise Invalid(f"{what}: the numbers make no {kty} public key") from None
    return accepted(key, what)


def to_jwk(key: PublicKey) -> dict[str, object]:
    """Write a public key as the members of a JWK."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        point, size = key.public_numbers(), (key.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": curve_of(key),
            "x": base64url(point.x.to_bytes(size, "big")),
            "y": base64url(point.y.to_bytes(size, "big")),
        }
    numbers = key.public_numbers()
    return {"kty": "RSA", "n": _uint(numbers.n), "e": _uint(numbers.e)}


def base64url(data: bytes) -> str:
    """Encode without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_bytes(text: object, what: str) -> bytes:
    """Decode unpadded base64url, canonical form only (RFC 7515 §2, RFC 4648 §3.5). Raises Invalid."""
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise Invalid(f"{what}: not base64url without padding")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64url(data) != text:
        raise Invalid(f"{what}: base64url with stray bits at its end")
    return data


def base64_bytes(text: object, what: str) -> bytes:
    """Decode padded standard base64, canonical form only, as `x5c` has it (RFC 7517 §4.7). Raises Invalid."""
    if not isinstance(text, str):
        raise Invalid(f"{what}: not text")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Invalid(f"{what}: not base64 ({shown(text)})") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise Invalid(f"{what}: base64 with stray bits at its end")
    return data


def _coordinate(jwk: Mapping[str, object], member: str, size: int, what: str) -> int:
    data = base64url_bytes(jwk.get(member), f"{what}: {member}")
    if len(data) != size:
        raise Invalid(f"{what}: {member} has {len(data)} bytes, not {size} (RFC 7518 §6.2.1)")
    return int.from_bytes(data, "big")


def _number(jwk: Mapping[str, object], member: str, limit: int, what: str) -> int:
    data = base64url_bytes(jwk.get(member), f"{what}: {member}")
    if not 0 < len(data) <= limit:
        raise Invalid(f"{what}: {member} has {len(data)} bytes, not 1 to {limit}")
    return int.from_bytes(data, "big")


def _uint(number: int) -> str:
    return base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
