"""JSON Web Signatures as narrow as JWT-SVID wants them: compact, nine algorithms, three headers (JWT-SVID §2).

The cryptography is pyjwt's; this decides what reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trustfed.errors import Denied, Invalid
from trustfed.spiffe import keys, strict_json
from trustfed.spiffe.ids import shown
from trustfed.spiffe.keys import PublicKey

if TYPE_CHECKING:
    from jwt.api_jws import PyJWS

MAX_TOKEN = 16 * 1024  # bytes of a token, signature included
# `alg` -> the curve it needs, or RSA (JWT-SVID §2.1, RFC 7518 §3.1)
ALGORITHMS = {
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    **{f"{family}{bits}": "RSA" for family in ("RS", "PS") for bits in (256, 384, 512)},
}
_HEADERS = {"alg", "kid", "typ"}


@dataclass(frozen=True)
class Jws:
    """A token taken apart; nothing in it is believed yet."""

    algorithm: str
    key_id: str
    payload: bytes


def parse(token: object, what: str) -> Jws:
    """Take a token apart and check its header; `what` names it in errors. Raises Invalid."""
    if not isinstance(token, str) or len(token) > MAX_TOKEN:
        raise Invalid(f"{what}: not text, or longer than {MAX_TOKEN} bytes")
    segments = token.split(".")
    if len(segments) != 3:
        raise Invalid(f"{what}: {len(segments)} segments, not the 3 of compact serialisation (JWT-SVID §5.1)")
    head, payload, _ = (
        keys.base64url_bytes(segment, f"{what}: the {part}")
        for part, segment in zip(("header", "claims", "signature"), segments, strict=True)
    )
    header = strict_json.parse_object(head, what=f"{what} header", limit=MAX_TOKEN)
    others = sorted(header.keys() - _HEADERS)
    if others:
        raise Invalid(f"{what} header: {shown(others[0])} is not one of alg, kid, typ (JWT-SVID §2)")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise Invalid(f"{what} header: the algorithm {shown(alg)} is not allowed (JWT-SVID §2.1)")
    if "typ" in header and header["typ"] not in ("JWT", "JOSE"):
        raise Invalid(f"{what} header: the typ {shown(header['typ'])} is neither JWT nor JOSE (JWT-SVID §2.3)")
    return Jws(alg, _key_id(header.get("kid")), payload)


def check_key(algorithm: str, key: PublicKey, what: str) -> None:
    """Refuse a key that is not of the kind and curve that the algorithm needs (RFC 7518 §3.1). Raises Invalid."""
    kind = keys.curve_of(key) if isinstance(key, ec.EllipticCurvePublicKey) else "RSA"
    if ALGORITHMS.get(algorithm) != kind:
        raise Invalid(f"{what}: the algorithm {shown(algorithm)} does not go with a key of kind {kind} (RFC 7518 §3.1)")


def check_signature(token: str, algorithm: str, key: PublicKey, what: str) -> None:
    """Verify the signature of a token that `parse` has accepted. Raises Denied."""
    from jwt.exceptions import PyJWTError  # noqa: PLC0415  # see _pyjwt

    try:
        _pyjwt().decode_complete(token, key, algorithms=[algorithm])
    except PyJWTError:
        raise Denied(f"{what}: the signature does not hold") from None


def sign(payload: bytes, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, key_id: str, algorithm: str) -> str:
    """Sign with a key that this process holds. Raises Invalid."""
    check_key(algorithm, keys.accepted(key.public_key(), "signing key"), "signing key")
    return _bounded(_pyjwt().encode(payload, key, algorithm=algorithm, headers={"kid": _key_id(key_id)}))


def signing_input(payload: bytes, key_id: str, algorithm: str) -> bytes:
    """Return the bytes that a key elsewhere must sign. Raises Invalid."""
    if algorithm not in ALGORITHMS:
        raise Invalid(f"the algorithm {shown(algorithm)} is not one of {', '.join(ALGORITHMS)}")
    header = strict_json.write({"alg": algorithm, "kid": _key_id(key_id), "typ": "JWT"})
    return f"{keys.base64url(header)}.{keys.base64url(payload)}".encode()


def assemble(signing_input: bytes, signature: bytes) -> str:
    """Join a signing input and its signature to a token. Raises Invalid.

    An ECDSA signature may come as `r || s` (recognised by its length) or as DER; key stores differ. Whether it is the
    right key's is for the caller to check.
    """
    text = signing_input.decode("ascii", "replace")
    curve = keys.CURVES.get(ALGORITHMS[parse(f"{text}.", "signing input").algorithm])
    if curve is not None:
        size = (curve.key_size + 7) // 8
        if len(signature) != 2 * size:
            try:
                signature = b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(signature))
            except (ValueError, OverflowError):
                raise Invalid(f"the signature is neither DER nor {2 * size} bytes long") from None
    return _bounded(f"{text}.{keys.base64url(signature)}")


def _key_id(kid: object) -> str:
    if not isinstance(kid, str) or not 1 <= len(kid) <= keys.MAX_KEY_ID:
        raise Invalid(f"kid is missing, empty or longer than {keys.MAX_KEY_ID} characters")
    return kid


def _bounded(token: str) -> str:
    if len(token) > MAX_TOKEN:
        raise Invalid(f"a token of {len(token)} bytes, more than the {MAX_TOKEN} that verifiers accept")
    return token


@cache
def _pyjwt() -> PyJWS:
    """Return pyjwt's signer, limited to our algorithms.

    Loaded at the first signature: pyjwt's package brings its JWKS client along, and with it urllib.request, http.client
    and ssl. The ground floor loads no network library by being imported, and never calls that client.
    """
    from jwt.api_jws import PyJWS  # noqa: PLC0415  # as said above

    return PyJWS(algorithms=list(ALGORITHMS))
