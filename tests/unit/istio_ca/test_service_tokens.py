"""Service-account tokens: the account of a good one, and every forgery that verifiers have fallen for."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.istio_mesh import AUDIENCE, ISSUER, Issuer, rsa_key
from trustfed.cluster.istio_ca.service_tokens import Expected, check_audience, verify
from trustfed.errors import Denied, Invalid
from trustfed.spiffe import jose, keys

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
EXPECTED = Expected(ISSUER, (AUDIENCE,))
RSA, EC = Issuer(), Issuer("k2", ec.generate_private_key(ec.SECP256R1()))
KEYS: dict[str, keys.PublicKey] = {one.kid: one.key.public_key() for one in (RSA, EC)}


def check(token: str) -> Any:
    return verify(token, KEYS.get, EXPECTED, NOW)


def signed(payload: bytes | dict[str, Any], header: dict[str, Any] | None = None, issuer: Issuer = RSA) -> str:
    """Any header and any bytes as claims, with a signature that holds."""
    head = json.dumps({"alg": issuer.algorithm, "kid": issuer.kid, **(header or {})}).encode()
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    message = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, body))
    algorithm = jwt.get_algorithm_by_name(issuer.algorithm)
    signature = algorithm.sign(message, issuer.key)
    return (message + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@pytest.mark.parametrize("issuer", [RSA, EC], ids=["RS256", "ES256"])
def test_a_good_token_names_its_account(issuer: Issuer) -> None:
    account = check(issuer.token(now=NOW))
    assert (account.namespace, account.name, account.pod, account.node) == ("shop", "web", "web-0", "node-1")
    assert account.caller == "shop/web/uid-web"


def test_a_token_without_kubernetes_claims_is_known_by_its_subject() -> None:
    account = check(RSA.token(now=NOW, **{"kubernetes.io": None}))
    assert (account.key, account.pod) == ("shop/web", "")


def test_no_algorithm_but_two() -> None:
    claims = RSA.claims(now=NOW)
    public = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    hs256 = signed_hs(claims, public)
    for token in (jwt.encode(claims, None, algorithm="none", headers={"kid": "k1"}), hs256):
        with pytest.raises(Invalid, match="algorithm"):
            check(token)
    for algorithm in ("RS512", "PS256"):
        with pytest.raises(Denied, match="is not accepted"):
            check(jwt.encode(claims, RSA.key, algorithm=algorithm, headers={"kid": "k1"}))
    with pytest.raises(Denied, match="is not accepted"):
        p384 = ec.generate_private_key(ec.SECP384R1())
        check(jwt.encode(claims, p384, algorithm="ES384", headers={"kid": "k1"}))


def signed_hs(claims: dict[str, Any], secret: bytes) -> str:
    """HS256 with the public key as secret; pyjwt itself would refuse to make it."""
    import hashlib
    import hmac

    head = json.dumps({"alg": "HS256", "kid": "k1"}).encode()
    message = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, json.dumps(claims).encode()))
    code = hmac.digest(secret, message, hashlib.sha256)
    return (message + b"." + base64.urlsafe_b64encode(code).rstrip(b"=")).decode()


@pytest.mark.parametrize("name", ["jwk", "jku", "x5c", "x5u", "crit", "b64", "zip", "cty"])
def test_a_header_that_brings_its_own_rules_is_refused(name: str) -> None:
    values = {"jwk": keys.to_jwk(RSA.key.public_key()), "crit": ["exp"], "x5c": ["AA=="], "b64": False}
    with pytest.raises(Invalid, match="is not one of alg, kid, typ"):
        check(signed(RSA.claims(now=NOW), {name: values.get(name, "https://attacker.example/keys")}))


def test_a_key_of_another_kind_is_not_used() -> None:
    with pytest.raises(Invalid, match="does not go with a key"):
        check(signed(EC.claims(now=NOW), {"kid": "k1"}, EC))
    with pytest.raises(Denied, match="has no key"):
        check(RSA.token(now=NOW, headers={"kid": "k9"}))


def test_another_key_of_the_same_name_is_found_out() -> None:
    thief = Issuer("k2", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(Denied, match="signature does not hold"):
        check(thief.token(now=NOW))
    head, body, signature = RSA.token(now=NOW).split(".")
    other = RSA.token(now=NOW, namespace="kube-system").split(".")[1]
    with pytest.raises(Denied, match="signature does not hold"):
        check(f"{head}.{other}.{signature}")
    with pytest.raises(Denied, match="signature does not hold"):
        check(f"{head}.{body}.")


@pytest.mark.parametrize("exp", [None, True, "1893456000", 1893456000.5, -1, 1 << 60], ids=repr)
def test_exp_is_a_whole_number_or_nothing_holds(exp: Any) -> None:
    with pytest.raises(Invalid, match="exp is missing or no whole number"):
        check(RSA.token(now=NOW, exp=exp) if exp is not True else signed({**RSA.claims(now=NOW), "exp": True}))


@pytest.mark.parametrize("exp", ["NaN", "Infinity", "1e999", "1" * 30])
def test_exp_is_no_trick_of_json(exp: str) -> None:
    text = json.dumps(RSA.claims(now=NOW, exp=12345)).replace("12345", exp)
    with pytest.raises(Invalid):
        check(signed(text.encode()))


def test_time_holds_within_the_leeway_only() -> None:
    token = RSA.token(now=NOW, exp=int(NOW.timestamp()))
    assert verify(token, KEYS.get, EXPECTED, NOW + timedelta(seconds=29)).name == "web"
    with pytest.raises(Denied, match="expired"):
        verify(token, KEYS.get, EXPECTED, NOW + timedelta(seconds=30))
    early = RSA.token(now=NOW, nbf=int(NOW.timestamp()) + 31)
    with pytest.raises(Denied, match="not valid yet"):
        check(early)
    with pytest.raises(Invalid, match="nbf"):
        check(signed({**RSA.claims(now=NOW), "nbf": "0"}))


@pytest.mark.parametrize(
    "aud", [None, [], "kubernetes", ["istio-ca2", "ISTIO-CA"], {"istio-ca": 1}, [["istio-ca"]], ["x"] * 33], ids=repr
)
def test_a_token_for_somebody_else_is_refused(aud: Any) -> None:
    with pytest.raises(Denied, match="audience"):
        check(signed({**RSA.claims(now=NOW, aud=None), **({} if aud is None else {"aud": aud})}))


def test_one_of_several_audiences_is_enough() -> None:
    check_audience(["vault", AUDIENCE], (AUDIENCE, "other"))
    assert check(RSA.token(now=NOW, aud=AUDIENCE)).name == "web"


@pytest.mark.parametrize("iss", [None, ISSUER + "/", ISSUER.upper(), [ISSUER], "kubernetes/serviceaccount"], ids=repr)
def test_the_issuer_is_exactly_one(iss: Any) -> None:
    with pytest.raises(Denied, match="its issuer is"):
        check(signed({**RSA.claims(now=NOW, iss=None), **({} if iss is None else {"iss": iss})}))


def test_a_member_that_occurs_twice_is_refused() -> None:
    text = json.dumps(RSA.claims(now=NOW))[:-1] + ', "sub": "system:serviceaccount:kube-system:admin"}'
    with pytest.raises(Invalid, match="occurs twice"):
        check(signed(text.encode()))
    head = b'{"alg":"RS256","kid":"k1","kid":"k2"}'
    token = RSA.token(now=NOW).split(".")
    with pytest.raises(Invalid, match="occurs twice"):
        check(".".join([base64.urlsafe_b64encode(head).rstrip(b"=").decode(), *token[1:]]))


@pytest.mark.parametrize(
    "sub",
    [
        "system:serviceaccount:shop",
        "system:serviceaccount:shop:",
        "system:serviceaccount:shop:web:admin",
        "system:serviceaccount:Shop:web",
        "system:serviceaccount:shop:../admin",
        "system:serviceaccount:shop:a..b",
        "system:serviceaccount:shop/x:web",
        "system:serviceaccount:shop:web\n",
        "system:node:node-1",
        "web",
        7,
        None,
    ],
    ids=repr,
)
def test_a_subject_that_is_no_service_account_is_refused(sub: Any) -> None:
    with pytest.raises(Denied, match="no Kubernetes service account"):
        check(RSA.token(now=NOW, sub=None) if sub is None else signed({**RSA.claims(now=NOW), "sub": sub}))


@pytest.mark.parametrize(
    "said",
    [
        {"namespace": "kube-system", "serviceaccount": {"name": "web"}},
        {"namespace": "shop", "serviceaccount": {"name": "admin"}},
        {"namespace": "shop"},
        {"namespace": "shop", "serviceaccount": "web"},
        {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": {"name": "../x"}},
        {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": ["web-0"]},
        "shop",
    ],
    ids=repr,
)
def test_claims_that_do_not_agree_are_refused(said: Any) -> None:
    with pytest.raises(Denied):
        check(RSA.token(now=NOW, **{"kubernetes.io": said}))


def test_sizes_and_forms_are_bounded() -> None:
    good = RSA.token(now=NOW)
    for token in ("", "a.b", good + ".x", "x" * (jose.MAX_TOKEN + 1), json.dumps({"payload": "e30", "signatures": []})):
        with pytest.raises(Invalid):
            check(token)
    deep = json.dumps(RSA.claims(now=NOW))[:-1] + ', "x": ' + "[" * 20 + "]" * 20 + "}"
    with pytest.raises(Invalid, match="nested deeper"):
        check(signed(deep.encode()))


def test_no_error_repeats_the_token() -> None:
    token = RSA.token(now=NOW, aud="other")
    with pytest.raises(Denied) as caught:
        check(token)
    assert not any(part in caught.value.message + caught.value.hint for part in token.split("."))
