"""ID tokens that are believed, and each kind that is not."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trustfed.errors import Denied, Invalid
from trustfed.hub.dashboard.oidc_token import MAX_TOKEN, UnknownKey, claims_of, read_keys, role_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp())
ISSUER, CLIENT, NONCE = "https://id.example/realms/one", "hub", "n" * 43
EC, OTHER, RSA, ED = (
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
)


def _jwk(key: Any, kid: str, **more: str) -> dict[str, Any]:
    public = key.public_key()
    made = {
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    algorithm = next(found for kind, found in made.items() if isinstance(key, kind))
    return {**algorithm.to_jwk(public, as_dict=True), "kid": kid, **more}


KEYS = read_keys({"keys": [_jwk(EC, "ec"), _jwk(RSA, "rsa"), _jwk(ED, "ed"), {"kty": "oct", "k": "AA", "kid": "hmac"}]})
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": CLIENT, "sub": "42", "iat": AT, "exp": AT + 300, "nonce": NONCE}


def _token(
    key: Any = EC,
    algorithm: str = "ES256",
    kid: str | None = "ec",
    header: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(said, key, algorithm, headers={**({"kid": kid} if kid else {}), **(header or {})})


def _read(token: object) -> dict[str, Any]:
    return claims_of(token, KEYS, issuer=ISSUER, client_id=CLIENT, nonce=NONCE, now=NOW)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(EC, "ES256", "ec"), (RSA, "RS256", "rsa"), (RSA, "PS256", "rsa"), (ED, "EdDSA", "ed")],
)
def test_good_tokens_are_believed(key: Any, algorithm: str, kid: str) -> None:
    assert _read(_token(key, algorithm, kid))["sub"] == "42"
    assert _read(_token(key, algorithm, kid, aud=[CLIENT, "x"], azp=CLIENT))["azp"] == CLIENT


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://id.example/realms/two"},
        {"iss": ISSUER + "/"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": [CLIENT, "another"]},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"azp": "another"},
        {"exp": AT - 61},
        {"exp": None},
        {"exp": True},
        {"exp": str(AT + 300)},
        {"exp": 1e300},
        {"iat": AT - 661},
        {"iat": AT + 61},
        {"iat": None},
        {"nbf": AT + 61},
        {"nonce": None},
        {"nonce": "m" * 43},
        {"nonce": ""},
        {"sub": ""},
        {"sub": None},
        {"sub": "x" * 256},
    ],
    ids=str,
)
def test_claims_that_do_not_hold_are_refused(claims: dict[str, Any]) -> None:
    # With the library that is not asked about claims, so that also what it would not encode is there.
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    with pytest.raises(Denied):
        _read(jwt.api_jws.encode(json.dumps(said).encode(), EC, "ES256", headers={"kid": "ec"}))


def test_a_key_is_the_providers_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    public = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UnknownKey):
        _read(_token(kid="new"))
    with pytest.raises(UnknownKey):
        _read(_token(kid=None))
    with pytest.raises(Denied, match="signature"):
        _read(_token(OTHER))
    with pytest.raises(Denied, match="fit"):
        _read(_token(kid="rsa"))
    # The public key as an HMAC secret, no signature at all, and a key that the token brings along.
    monkeypatch.setattr(jwt.algorithms.HMACAlgorithm, "prepare_key", lambda _, key: key)
    for algorithm, key in (("HS256", public), ("none", None)):
        with pytest.raises(Denied, match="is signed with"):
            _read(_token(key, algorithm, "ec"))
    brought = {"jwk": _jwk(OTHER, "ec"), "jku": "https://evil.example/keys", "x5u": "https://evil.example/x"}
    with pytest.raises(Denied, match="signature"):
        _read(_token(OTHER, header=brought))


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"b64": False}])
def test_nothing_is_critical(header: dict[str, Any]) -> None:
    head, _, rest = _token().partition(".")
    known = json.loads(base64.urlsafe_b64decode(head + "=="))
    odd = base64.urlsafe_b64encode(json.dumps({**known, **header}).encode()).decode().rstrip("=")
    with pytest.raises(Denied):
        _read(f"{odd}.{rest}")


@pytest.mark.parametrize(
    "token", [None, 7, "", "a.b.c", "x" * 100, "...", "e30.e30.", "a" * (MAX_TOKEN + 1), b"a.b.c", ["a"]]
)
def test_what_is_no_token_is_refused(token: object) -> None:
    with pytest.raises(Denied):
        _read(token)


def test_each_changed_character_is_refused() -> None:
    token = _token()
    for at in range(0, len(token), 7):
        if token[at] != ".":
            with pytest.raises(Denied):
                _read(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :])


@pytest.mark.parametrize(
    "document", [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AA"}]}, {"keys": [{}] * 40}]
)
def test_what_are_no_keys_is_refused(document: object) -> None:
    with pytest.raises(Invalid):
        read_keys(document)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_weak_keys_and_keys_for_something_else_do_not_count() -> None:
    weak, p384 = rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP384R1())
    keys = read_keys(
        {"keys": [_jwk(weak, "weak"), _jwk(p384, "p384"), _jwk(EC, "ec", alg="ES384"), _jwk(RSA, "enc", use="enc")]}
    )
    assert "enc" not in keys
    for key, algorithm, kid in ((weak, "RS256", "weak"), (EC, "ES256", "ec"), (EC, "ES256", "p384")):
        with pytest.raises(Denied):
            claims_of(_token(key, algorithm, kid), keys, issuer=ISSUER, client_id=CLIENT, nonce=NONCE, now=NOW)


@pytest.mark.parametrize(
    ("claims", "claim", "role"),
    [
        ({"groups": ["x", "ops"]}, "groups", "operator"),
        ({"groups": ["ops", "readers", "admins"]}, "groups", "admin"),
        ({"groups": "readers"}, "groups", "viewer"),
        ({"realm": {"roles": ["admins"]}}, "realm.roles", "admin"),
        ({"groups": ["Admins"]}, "groups", ""),
        ({"groups": {"admins": True}}, "groups", ""),
        ({"groups": [["admins"], None, 7]}, "groups", ""),
        ({}, "groups", ""),
        ({"groups": None}, "groups.x", ""),
    ],
)
def test_the_highest_configured_group_gives_the_role(claims: dict[str, Any], claim: str, role: str) -> None:
    roles = {"admins": "admin", "ops": "operator", "readers": "viewer"}
    if role:
        assert role_of(claims, claim, roles) == role
    else:
        with pytest.raises(Denied, match="no role here"):
            role_of(claims, claim, roles)
