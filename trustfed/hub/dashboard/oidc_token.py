"""An ID token, believed or not (OpenID Connect Core 1.0 §3.1.3.7, RFC 8725). Pure: token, keys and time give claims.

1. three parts of a signed token, at most MAX_TOKEN characters; `alg` is one of ALGORITHMS, and nothing is `crit`
2. the key comes from the provider's own set, by `kid`, fits `alg`, and is strong enough: never from the token
3. the signature holds
4. `iss` is the issuer, exactly
5. `aud` has our client_id; with other audiences `azp` names us, and whenever it is there
6. `exp` is to come, `iat` is at most MAX_AGE seconds old, `nbf` is not to come; a minute of skew is let pass
7. `nonce` is the one that this login began with
8. `sub` is there; then the roles in its claim give the highest role that is configured, or none, and nobody is let in
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from trustfed.errors import Denied, Invalid
from trustfed.hub.access import ROLES
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown

ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA")
MAX_TOKEN = 16_384
MAX_KEYS = 32
MAX_AGE = 600
SKEW = 60
MAX_ROLES = 1_000

Keys = Mapping[str, jwt.PyJWK]
"""By `kid`; a key without one is under ""."""


class UnknownKey(Denied):
    """The token names a key that the provider's set does not have: it may have a newer set."""


def read_keys(document: object) -> dict[str, jwt.PyJWK]:
    """The keys of a JWK set that may sign. Raises Invalid when it is none, or has none of use."""
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise Invalid("the provider's keys are no JWK set", hint=f"at most {MAX_KEYS} keys")
    found: dict[str, jwt.PyJWK] = {}
    for one in keys:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("kty") == "oct":
            continue
        try:
            key = jwt.PyJWK(one)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # of a kind that we do not know: whoever signs with it is refused
        kid = one.get("kid", "")
        if isinstance(kid, str):
            found[kid] = key
    if not found:
        raise Invalid("the provider's keys have none that may sign")
    return found


def claims_of(token: object, keys: Keys, *, issuer: str, client_id: str, nonce: str, now: datetime) -> dict[str, Any]:
    """The claims of a token that holds. Raises Denied, and UnknownKey for (2)."""
    header = _header(token)  # 1
    assert isinstance(token, str)
    algorithm, kid = header["alg"], header.get("kid", "")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None and not kid and len(keys) == 1:
        key = next(iter(keys.values()))
    if key is None:
        raise UnknownKey(f"the ID token is signed with the key {shown(kid)}, which the provider does not publish")
    _check_key(key, algorithm)  # 2
    # What PyJWT would check by the machine's clock, and laxly, is checked below.
    options: Any = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
    try:
        claims: dict[str, Any] = jwt.decode(token, key.key, algorithms=[algorithm], options=options)  # 3
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Denied("the signature of the ID token does not hold") from None
    if claims.get("iss") != issuer:  # 4
        raise Denied(f"the ID token is of the issuer {shown(claims.get('iss'))}, not of {issuer}")
    _check_audience(claims, client_id)  # 5
    _check_times(claims, to_ms(now) / 1000)  # 6
    said = claims.get("nonce")
    if not isinstance(said, str) or not nonce or not hmac.compare_digest(said.encode(), nonce.encode()):  # 7
        raise Denied("the ID token is of another login", hint="log in again, in one window only")
    sub = claims.get("sub")
    if not isinstance(sub, str) or not 1 <= len(sub) <= 255:  # 8
        raise Denied("the ID token names nobody")
    return claims


def role_of(claims: Mapping[str, Any], claim: str, roles: Mapping[str, str]) -> str:
    """The highest role that the groups in `claim` give. Raises Denied when they give none."""
    value: Any = claims
    for member in claim.split("."):
        value = value.get(member) if isinstance(value, Mapping) else None
    groups = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    given = {roles[group] for group in groups[:MAX_ROLES] if isinstance(group, str) and group in roles}
    if not given:
        raise Denied(
            "your account has no role here", hint=f"ask for a group of the hub's [oidc] roles, in the claim {claim}"
        )
    return max(given, key=ROLES.index)


def _header(token: object) -> dict[str, Any]:
    if not isinstance(token, str) or not 16 <= len(token) <= MAX_TOKEN or token.count(".") != 2:
        raise Denied("the provider gave no ID token that can be read")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Denied("the provider gave no ID token that can be read") from None
    if header.get("alg") not in ALGORITHMS:
        raise Denied(f"the ID token is signed with {shown(header.get('alg'))}", hint=f"one of: {', '.join(ALGORITHMS)}")
    if "crit" in header or "b64" in header:
        raise Denied("the ID token has critical extensions, which are not known here")
    return header


def _check_key(jwk: jwt.PyJWK, algorithm: str) -> None:
    key: Any = jwk.key
    fits = {
        "ES256": isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1),
        "RS256": isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192,
        "PS256": isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192,
        "EdDSA": isinstance(key, ed25519.Ed25519PublicKey),
    }
    declared = jwk._jwk_data.get("alg", algorithm)
    if not fits[algorithm] or declared != algorithm:
        raise Denied(f"the provider's key does not fit {algorithm}")


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    said = claims.get("aud")
    audiences = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    if client_id not in audiences:
        raise Denied("the ID token is for another client", hint="compare client_id with the provider's")
    azp = claims.get("azp")
    if (len(audiences) > 1 or azp is not None) and azp != client_id:
        raise Denied("the ID token was made for another client")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    def moment(name: str, *, needed: bool) -> float | None:
        value = claims.get(name)
        if value is None and not needed:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e11:
            raise Denied(f"the ID token has no time {name}")
        return float(value)

    exp, iat, nbf = moment("exp", needed=True), moment("iat", needed=True), moment("nbf", needed=False)
    assert exp is not None and iat is not None
    if exp <= now - SKEW:
        raise Denied("the ID token has expired", hint="compare the clocks of the hub and the provider")
    if iat < now - MAX_AGE - SKEW or iat > now + SKEW or (nbf is not None and nbf > now + SKEW):
        raise Denied("the ID token is not of now", hint="compare the clocks of the hub and the provider")
