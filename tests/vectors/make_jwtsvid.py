"""JWT-SVID vectors: `NAME.jwt`, held against `bundles.json` (a map of two domains), at `forge.NOW`, for AUDIENCE."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.vectors.forge import HOME, NOW, PEER, Vector, key, rsa_key
from tests.vectors.make_bundle import document, jwk, rsa_jwk

AUDIENCE = f"spiffe://{HOME}/orders"
T = int(NOW.timestamp())
HEADER: dict[str, object] = {"alg": "ES256", "kid": "one", "typ": "JWT"}
CLAIMS: dict[str, object] = {
    "sub": f"spiffe://{HOME}/payments/api",
    "aud": [AUDIENCE],
    "iat": T - 60,
    "exp": T + 240,
}
_DIGESTS = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
ONE = key("jwt one")
PUBLIC = ONE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def bundles() -> bytes:
    """Two domains; both use the kid `one`, each with its own key."""
    home = [
        jwk(ONE, "jwt-svid", "one"),
        jwk(key("jwt p384", ec.SECP384R1()), "jwt-svid", "p384"),
        jwk(key("jwt p521", ec.SECP521R1()), "jwt-svid", "p521"),
        rsa_jwk(rsa_key("jwt rsa", 2048), "jwt-svid", "rsa"),
        jwk(key("wit"), "wit-svid", "wit"),
    ]
    peer = [jwk(key("peer one"), "jwt-svid", "one"), jwk(key("peer two"), "jwt-svid", "two")]
    return document({"trust_domains": {HOME: {"keys": home}, PEER: {"keys": peer}}})


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: bytes, claims: bytes, signer: ec.EllipticCurvePrivateKey = ONE) -> str:
    """A token over any bytes at all, genuinely signed."""
    signed = f"{b64(header)}.{b64(claims)}"
    return f"{signed}.{b64(_signature(signed.encode(), signer))}"


def token(
    header: dict[str, object] | None = None,
    signer: ec.EllipticCurvePrivateKey = ONE,
    drop: str = "",
    **claims: object,
) -> str:
    head = {name: value for name, value in {**HEADER, **(header or {})}.items() if value is not None}
    body = {name: value for name, value in {**CLAIMS, **claims}.items() if name != drop}
    return raw(json.dumps(head).encode(), json.dumps(body).encode(), signer)


def _signature(signed: bytes, signer: ec.EllipticCurvePrivateKey) -> bytes:
    size = (signer.key_size + 7) // 8
    der = signer.sign(signed, ec.ECDSA(_DIGESTS[signer.key_size], deterministic_signing=True))
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der))


def accepted() -> list[Vector]:
    good = {
        "es256": token(),
        "es384": token({"alg": "ES384", "kid": "p384"}, key("jwt p384", ec.SECP384R1())),
        "es512": token({"alg": "ES512", "kid": "p521"}, key("jwt p521", ec.SECP521R1())),
        "no-typ": token({"typ": None}),
        "typ-jose": token({"typ": "JOSE"}),
        "audience-text": token(aud=AUDIENCE),
        "two-audiences": token(aud=["other", AUDIENCE]),
        "exp-fraction": token(exp=T + 0.5),
        "no-iat": token(drop="iat"),
        "more-claims": token(jti="a", roles=["x", {"y": None}]),
        "peer": token(signer=key("peer one"), sub=f"spiffe://{PEER}/payments/api"),
    }
    return [Vector(name, "none", {".jwt": text.encode()}) for name, text in good.items()]


def headers() -> dict[str, tuple[str, str]]:
    other = "is not one of alg, kid, typ"
    jwk_header = {"jwk": jwk(key("attacker"), "sig", "one")}
    body = b64(json.dumps(CLAIMS).encode())
    unsigned = b64(b'{"alg":"none","kid":"one"}') + f".{body}."
    confused = b64(b'{"alg":"HS256","kid":"one"}') + f".{body}"
    confused += "." + b64(hmac.digest(PUBLIC, confused.encode(), hashlib.sha256))
    claims = json.dumps(CLAIMS).encode()
    return {
        "alg-none": (unsigned, "'none' is not allowed"),
        "alg-none-upper-case": (token({"alg": "NONE"}), "'NONE' is not allowed"),
        "alg-hs256-with-public-key": (confused, "'HS256' is not allowed"),
        "alg-missing": (token({"alg": None}), "None is not allowed"),
        "alg-eddsa": (token({"alg": "EdDSA"}), "'EdDSA' is not allowed"),
        "alg-es256k": (token({"alg": "ES256K"}), "'ES256K' is not allowed"),
        "alg-list": (token({"alg": ["ES256"]}), "is not allowed"),
        "alg-of-another-curve": (token({"alg": "ES384"}), "does not go with a key of kind P-256"),
        "alg-rsa-with-ec-key": (token({"alg": "RS256"}), "does not go with a key of kind P-256"),
        "alg-ec-with-rsa-key": (token({"kid": "rsa"}), "does not go with a key of kind RSA"),
        "typ-wit": (token({"typ": "wit+jwt"}), "neither JWT nor JOSE"),
        "typ-lower-case": (token({"typ": "jwt"}), "neither JWT nor JOSE"),
        "typ-number": (token({"typ": 1}), "neither JWT nor JOSE"),
        "header-jwk": (token(jwk_header, key("attacker")), f"'jwk' {other}"),
        "header-jku": (token({"jku": "https://evil.example/keys"}), f"'jku' {other}"),
        "header-x5c": (token({"x5c": ["MIIB"]}), f"'x5c' {other}"),
        "header-x5u": (token({"x5u": "https://evil.example/cert"}), f"'x5u' {other}"),
        "header-crit": (token({"crit": ["exp"], "exp": 1}), f"'crit' {other}"),
        "header-b64": (token({"b64": False, "crit": ["b64"]}), f"'b64' {other}"),
        "header-zip": (token({"zip": "DEF"}), f"'zip' {other}"),
        "header-private": (token({"tenant": "a"}), f"'tenant' {other}"),
        "kid-missing": (token({"kid": None}), "kid is missing"),
        "kid-empty": (token({"kid": ""}), "kid is missing, empty"),
        "kid-number": (token({"kid": 1}), "kid is missing"),
        "kid-too-long": (token({"kid": "k" * 300}), "longer than 256"),
        "kid-unknown": (token({"kid": "three"}), "no JWT authority with the kid 'three'"),
        "kid-of-other-domain": (token({"kid": "two"}, key("peer two")), "no JWT authority with the kid 'two'"),
        "kid-of-wit-authority": (token({"kid": "wit"}, key("wit")), "no JWT authority with the kid 'wit'"),
        "kid-reused-by-other-domain": (token(signer=key("peer one")), "signature does not hold"),
        "header-member-twice": (raw(b'{"alg":"ES256","kid":"two","kid":"one"}', claims), "'kid' occurs twice"),
        "header-not-an-object": (raw(b'["ES256"]', claims), "not a JSON object"),
        "header-not-json": (raw(b"{", claims), "not JSON"),
    }


def claims() -> dict[str, tuple[str, str]]:
    def body(text: str) -> str:
        return raw(json.dumps(HEADER).encode(), text.encode())

    start = json.dumps(CLAIMS)[:-1]
    number = "not a number of seconds"
    return {
        "exp-missing": (token(drop="exp"), "no exp"),
        "exp-true": (token(exp=True), number),
        "exp-null": (token(exp=None), number),
        "exp-text": (token(exp=str(T + 60)), number),
        "exp-negative": (token(exp=-1), number),
        "exp-year-10000": (token(exp=253402300800), number),
        "exp-huge": (body(start.replace(f'"exp": {T + 240}', '"exp": ' + "9" * 400) + "}"), "more than 20 digits"),
        "exp-infinite": (body(start.replace(f'"exp": {T + 240}', '"exp": 1e999') + "}"), "not finite"),
        "exp-nan": (body(start.replace(f'"exp": {T + 240}', '"exp": NaN') + "}"), "NaN is not JSON"),
        "exp-now": (token(exp=T), "it expired at"),
        "expired": (token(exp=T - 30), "it expired at"),
        "nbf-later": (token(nbf=T + 30), "(nbf)"),
        "nbf-text": (token(nbf="now"), number),
        "iat-later": (token(iat=T + 30), "(iat)"),
        "iat-true": (token(iat=True), number),
        "aud-missing": (token(drop="aud"), "aud is missing"),
        "aud-empty": (token(aud=[]), "aud is missing or not 1"),
        "aud-number": (token(aud=7), "aud is missing or not 1"),
        "aud-object": (token(aud={AUDIENCE: 1}), "aud is missing or not 1"),
        "aud-mixed": (token(aud=[AUDIENCE, 1]), "empty or not text"),
        "aud-empty-text": (token(aud=""), "empty or not text"),
        "aud-other": (token(aud=["reports"]), "not for the audience"),
        "aud-prefix": (token(aud=[AUDIENCE + "/x"]), "not for the audience"),
        "aud-too-many": (token(aud=[AUDIENCE] * 65), "not 1 to 64 texts"),
        "sub-missing": (token(drop="sub"), "not text"),
        "sub-number": (token(sub=1), "not text"),
        "sub-no-spiffe-id": (token(sub="alice"), "does not start with spiffe://"),
        "sub-not-lower-case": (token(sub=f"spiffe://{HOME.upper()}/a"), "not lower case"),
        "sub-trust-domain": (token(sub=f"spiffe://{HOME}"), "not a workload"),
        "sub-of-other-domain": (token(sub=f"spiffe://{PEER}/payments/api"), "signature does not hold"),
        "sub-of-unknown-domain": (token(sub="spiffe://nowhere/a"), "no bundle of trust domain nowhere"),
        "claim-twice": (body(start + f', "aud": ["{AUDIENCE}"]}}'), "'aud' occurs twice"),
        "claims-not-an-object": (body('["sub"]'), "not a JSON object"),
        "claims-lone-surrogate": (body(start + ', "x": "\\ud800"}'), "lone surrogate"),
        "claims-deep": (body(start + ', "x": ' + "[" * 40 + "]" * 40 + "}"), "nested deeper"),
        "claims-very-deep": (body(start + ', "x": ' + "[" * 5000 + "]" * 5000 + "}"), "nested deeper"),
        "claims-not-utf8": (raw(json.dumps(HEADER).encode(), b'{"sub":"\xff"}'), "not UTF-8"),
        "claims-byte-order-mark": (body("\ufeff" + start + "}"), "not JSON"),
    }


def shapes() -> dict[str, tuple[str, str]]:
    head, body, signature = token().split(".")
    flipped = base64.urlsafe_b64decode(signature + "==")
    flipped = flipped[:-1] + bytes([flipped[-1] ^ 1])
    der = ONE.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    whole = json.dumps({"protected": head, "payload": body, "signature": signature})
    stray = head[:-1] + chr(ord(head[-1]) + 1)
    long = raw(json.dumps(HEADER).encode(), json.dumps({**CLAIMS, "pad": "x" * 13000}).encode())
    hold = "signature does not hold"
    return {
        "empty": ("", "1 segments"),
        "two-segments": (f"{head}.{body}", "2 segments"),
        "four-segments": (f"{head}.{body}.{signature}.{signature}", "4 segments"),
        "encrypted": (f"{head}..{body}.{body}.{signature}", "5 segments"),
        "json-serialisation": (whole, "1 segments"),
        "blank-at-end": (f"{head}.{body}.{signature}\n", "signature: not base64url"),
        "padded": (f"{head}.{body}.{signature}==", "signature: not base64url"),
        "standard-base64": (f"{head}.{body}.{'+/' * 43}", "signature: not base64url"),
        "stray-bits": (f"{stray}.{body}.{signature}", "stray bits"),
        "no-signature": (f"{head}.{body}.", hold),
        "altered-signature": (f"{head}.{body}.{b64(flipped)}", hold),
        "der-signature": (f"{head}.{body}.{b64(der)}", hold),
        "zero-signature": (f"{head}.{body}.{b64(bytes(64))}", hold),
        "other-key": (token(signer=key("attacker")), hold),
        "altered-claims": (f"{head}.{b64(json.dumps({**CLAIMS, 'admin': True}).encode())}.{signature}", hold),
        "too-long": (long, "longer than 16384"),
    }


def vectors() -> list[Vector]:
    bad = {**headers(), **claims(), **shapes()}
    return accepted() + [
        Vector(name, name.replace("-", " "), {".jwt": text.encode()}, error) for name, (text, error) in bad.items()
    ]
