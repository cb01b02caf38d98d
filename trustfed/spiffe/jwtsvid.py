"""JWT-SVIDs: signed for named audiences, verified in the bundle of the domain that `sub` names (JWT-SVID §2 to §4).

Verification, cheap steps first; nothing of the token is believed before step 8:

 1. at most MAX_TOKEN bytes, three segments of canonical base64url: compact serialisation and no other (§5.1)
 2. the header is one JSON object without repeated members, with `alg`, `kid`, `typ` and nothing else (§2): so no key
    can come from the header (jwk, jku, x5c, x5u) and no extension be called critical (crit)
 3. `alg` is one of the nine asymmetric algorithms (§2.1), `typ` is absent, JWT or JOSE (§2.3), `kid` is there
 4. the claims are one JSON object without repeated members, and `sub` is a SPIFFE ID with a path (§3.1)
 5. the bundle of the trust domain of `sub`, and of no other, has a JWT authority with that `kid` (§6.2)
 6. that key is of the kind and curve that `alg` needs (RFC 7518 §3.1)
 7. `aud` is text or a list of texts and holds `audience` (§3.2); `exp` is a number (not a boolean) after `now` (§3.3);
    `nbf` and `iat`, if there, are numbers and not after `now` (RFC 7519 §4.1)
 8. the signature holds (pyjwt)

`kid` is optional in the standard and required here, as go-spiffe and SPIRE require it (WIT-SVID, Appendix C): without
it a verifier would try key after key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trustfed.errors import Denied, Invalid
from trustfed.spiffe import jose, strict_json
from trustfed.spiffe.ids import SpiffeId, shown
from trustfed.spiffe.jose import assemble
from trustfed.spiffe.verify import BundleSource

__all__ = ["JwtSvid", "assemble", "sign", "signing_input", "verify"]

MAX_AUDIENCES = 64
_REGISTERED = {"sub", "aud", "exp", "iat"}
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class JwtSvid:
    """A verified JWT-SVID; times in UTC, `claims` as they stand in the token. Whoever has `token` is the workload."""

    id: SpiffeId
    audience: tuple[str, ...]
    expires_at: datetime
    issued_at: datetime | None
    claims: dict[str, Any]
    token: str = field(repr=False)


def sign(
    id: SpiffeId,
    audience: str | Sequence[str],
    issued_at: datetime,
    expires_at: datetime,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    kid: str,
    alg: str = "ES256",
    claims: Mapping[str, object] | None = None,
) -> str:
    """Sign a token with a key that this process holds. Raises Invalid."""
    return jose.sign(_payload(id, audience, issued_at, expires_at, claims=claims or {}), key, kid, alg)


def signing_input(
    id: SpiffeId,
    audience: str | Sequence[str],
    issued_at: datetime,
    expires_at: datetime,
    kid: str,
    *,
    alg: str = "ES256",
    claims: Mapping[str, object] | None = None,
) -> bytes:
    """Return the bytes that a key elsewhere (Vault, PKCS#11, KMS) must sign; `assemble` makes the token.

    Raises Invalid.
    """
    return jose.signing_input(_payload(id, audience, issued_at, expires_at, claims=claims or {}), kid, alg)


def verify(token: str, bundles: BundleSource, audience: str, now: datetime, *, leeway: float = 0) -> JwtSvid:
    """Return what `token` proves to `audience` at `now` (aware); `leeway` in seconds bears with clocks that differ.

    Raises Invalid for what is malformed, Denied for what is not to be believed, NotFound without that domain's bundle.
    """
    what = "JWT-SVID"
    jws = jose.parse(token, what)  # 1 to 3
    claims = strict_json.parse_object(jws.payload, what=f"{what} claims", limit=jose.MAX_TOKEN)  # 4
    id_ = SpiffeId.parse(claims.get("sub"))  # type: ignore[arg-type]  # what is not text is refused there
    if not id_.path:
        raise Invalid(f"{what}: sub is a trust domain, not a workload (JWT-SVID §3.1)")
    what = f"{what} of {id_}"
    authority = bundles.bundle(id_.trust_domain).jwt_authority(jws.key_id)  # 5
    if authority is None:
        raise Denied(
            f"{what}: trust domain {id_.trust_domain} has no JWT authority with the kid {shown(jws.key_id)}",
            hint=f"is the bundle of {id_.trust_domain} up to date?",
        )
    jose.check_key(jws.algorithm, authority.public_key, what)  # 6
    audiences = _audiences(claims.get("aud"), what)  # 7
    if audience not in audiences:
        raise Denied(f"{what}: it is not for the audience {shown(audience)}")
    expires_at = _time(claims, "exp", what)
    if expires_at is None:
        raise Invalid(f"{what}: no exp (JWT-SVID §3.3)")
    slack = timedelta(seconds=leeway)
    if now - slack >= expires_at:
        raise Denied(f"{what}: it expired at {expires_at:%Y-%m-%dT%H:%M:%SZ}")
    issued_at = _time(claims, "iat", what)
    for name, start in (("nbf", _time(claims, "nbf", what)), ("iat", issued_at)):
        if start is not None and now + slack < start:
            raise Denied(f"{what}: not valid before {start:%Y-%m-%dT%H:%M:%SZ} ({name})", hint="check both clocks")
    jose.check_signature(token, jws.algorithm, authority.public_key, what)  # 8
    return JwtSvid(id_, audiences, expires_at, issued_at, claims, token)


def _payload(
    id_: SpiffeId,
    audience: str | Sequence[str],
    issued_at: datetime,
    expires_at: datetime,
    *,
    claims: Mapping[str, object],
) -> bytes:
    what = f"JWT-SVID of {id_}"
    if not id_.path:
        raise Invalid(f"{what}: sub would be a trust domain, not a workload (JWT-SVID §3.1)")
    taken = sorted(claims.keys() & _REGISTERED)
    if taken:
        raise Invalid(f"{what}: the claim {taken[0]} is not the caller's to set")
    audiences = list(_audiences(audience if isinstance(audience, str) else list(audience), what))
    start, end = int(issued_at.timestamp()), int(expires_at.timestamp())  # whole seconds, never later than asked
    if end <= start:
        raise Invalid(f"{what}: it would expire within the second in which it is issued, or before")
    return strict_json.write({**claims, "sub": str(id_), "aud": audiences, "iat": start, "exp": end})


def _audiences(aud: object, what: str) -> tuple[str, ...]:
    listed = [aud] if isinstance(aud, str) else aud
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_AUDIENCES:
        raise Invalid(f"{what}: aud is missing or not 1 to {MAX_AUDIENCES} texts (JWT-SVID §3.2)")
    if not all(isinstance(one, str) and one for one in listed):
        raise Invalid(f"{what}: aud has an entry that is empty or not text (JWT-SVID §3.2)")
    return tuple(listed)


def _time(claims: Mapping[str, object], name: str, what: str) -> datetime | None:
    """Read a NumericDate (RFC 7519 §2): seconds since 1970, up to the year 9999."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise Invalid(f"{what}: {name} is {shown(value)}, not a number of seconds since 1970 (RFC 7519 §2)")
    return datetime.fromtimestamp(value, UTC)
