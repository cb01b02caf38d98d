"""JWT-SVIDs beyond their vectors: signing with keys here and elsewhere, time and leeway, and hostile bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import forge
from tests.vectors.forge import NOW, key
from tests.vectors.generate import HERE, load
from tests.vectors.make_jwtsvid import AUDIENCE
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.bundle import Bundle, BundleMap, JwtAuthority
from trustfed.spiffe.ids import SpiffeId, TrustDomain

HOME = TrustDomain(forge.HOME)
ID = SpiffeId.of(HOME, "/payments/api")
KEYS = {
    "ES256": key("a"),
    "ES384": key("a", ec.SECP384R1()),
    "ES512": key("a", ec.SECP521R1()),
}
RSA = rsa.generate_private_key(65537, 2048)
BUNDLES = BundleMap.parse((HERE / "jwtsvid" / "bundles.json").read_bytes())
LATER = NOW + timedelta(minutes=5)


def holding(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> BundleMap:
    return BundleMap({HOME: Bundle(HOME, (), (JwtAuthority("k", private.public_key()),))})


@pytest.mark.parametrize("alg", [*KEYS, "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_what_is_signed_here_verifies(alg: str) -> None:
    private = KEYS.get(alg, RSA)
    token = jwtsvid.sign(ID, ["orders", "b"], NOW, LATER, private, kid="k", alg=alg, claims={"jti": "x"})
    svid = jwtsvid.verify(token, holding(private), "orders", NOW)
    assert (svid.id, svid.audience, svid.issued_at, svid.expires_at) == (ID, ("orders", "b"), NOW, LATER)
    assert svid.claims["jti"] == "x"
    assert svid.token == token
    assert token not in repr(svid)


@pytest.mark.parametrize("alg", KEYS)
def test_a_key_elsewhere_may_answer_in_der_or_raw(alg: str) -> None:
    private = KEYS[alg]
    digest = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}[alg]
    to_sign = jwtsvid.signing_input(ID, "orders", NOW, LATER, "k", alg=alg)
    der = private.sign(to_sign, ec.ECDSA(digest))
    size = (private.key_size + 7) // 8
    raw = b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der))
    assert jwtsvid.assemble(to_sign, der) == jwtsvid.assemble(to_sign, raw)
    assert jwtsvid.verify(jwtsvid.assemble(to_sign, der), holding(private), "orders", NOW).audience == ("orders",)


def test_a_key_elsewhere_may_be_rsa() -> None:
    to_sign = jwtsvid.signing_input(ID, "orders", NOW, LATER, "k", alg="RS256")
    signature = RSA.sign(to_sign, padding.PKCS1v15(), hashes.SHA256())
    assert jwtsvid.verify(jwtsvid.assemble(to_sign, signature), holding(RSA), "orders", NOW).id == ID


@pytest.mark.parametrize(
    ("signature", "error"),
    [(b"", "neither DER nor 64"), (b"x" * 63, "neither DER"), (b"0\x06\x02\x01\x01\x02\x01", "DER")],
)
def test_a_signature_of_no_known_form_is_refused(signature: bytes, error: str) -> None:
    with pytest.raises(Invalid, match=error):
        jwtsvid.assemble(jwtsvid.signing_input(ID, "orders", NOW, LATER, "k"), signature)


@pytest.mark.parametrize("signed", [b"", b"a.b", b"\xff.\xff", b"e30.e30", b"eyJhbGciOiJub25lIn0.e30"])
def test_only_a_signing_input_is_assembled(signed: bytes) -> None:
    with pytest.raises(Invalid):
        jwtsvid.assemble(signed, bytes(64))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"id": SpiffeId(HOME)}, "not a workload"),
        ({"audience": []}, "aud is missing"),
        ({"audience": ""}, "empty or not text"),
        ({"audience": ["a", ""]}, "empty or not text"),
        ({"expires_at": NOW}, "would expire"),
        ({"kid": ""}, "kid is missing"),
        ({"alg": "HS256"}, "'HS256'"),
        ({"alg": "none"}, "'none'"),
        ({"alg": "ES384"}, "does not go with a key of kind P-256"),
        ({"claims": {"sub": "spiffe://other/a"}}, "the claim sub is not the caller's"),
        ({"claims": {"exp": 1}}, "the claim exp is not the caller's"),
        ({"claims": {"pad": "x" * 20000}}, "more than the 16384"),
        ({"key": rsa.generate_private_key(65537, 1024)}, "RSA key of 1024 bits"),
    ],
)
def test_nothing_is_signed_that_no_verifier_accepts(change: dict[str, object], error: str) -> None:
    arguments = {"id": ID, "audience": "a", "issued_at": NOW, "expires_at": LATER, "key": key("a"), "kid": "k"}
    with pytest.raises(Invalid, match=error):
        jwtsvid.sign(**{**arguments, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("alg", ["none", "HS256", "EdDSA", ""])
def test_no_signing_input_for_another_algorithm(alg: str) -> None:
    with pytest.raises(Invalid, match="is not one of ES256"):
        jwtsvid.signing_input(ID, "a", NOW, LATER, "k", alg=alg)


def test_times_are_never_later_than_asked() -> None:
    token = jwtsvid.sign(ID, "a", NOW, NOW + timedelta(seconds=9.9), key("a"), kid="k")
    svid = jwtsvid.verify(token, holding(key("a")), "a", NOW)
    assert svid.expires_at == NOW + timedelta(seconds=9)


@pytest.mark.parametrize(
    ("now", "leeway", "valid"),
    [
        (LATER - timedelta(microseconds=1), 0, True),
        (LATER, 0, False),
        (LATER + timedelta(seconds=4), 5, True),
        (LATER + timedelta(seconds=5), 5, False),
        (NOW - timedelta(seconds=1), 0, False),
        (NOW - timedelta(seconds=5), 5, True),
    ],
)
def test_leeway_bears_with_clocks_and_no_more(now: datetime, leeway: float, valid: bool) -> None:
    token = jwtsvid.sign(ID, "a", NOW, LATER, key("a"), kid="k")
    if valid:
        assert jwtsvid.verify(token, holding(key("a")), "a", now, leeway=leeway).id == ID
    else:
        with pytest.raises(Denied, match=r"expired|not valid before"):
            jwtsvid.verify(token, holding(key("a")), "a", now, leeway=leeway)


def test_a_token_without_issue_time_has_none() -> None:
    token = next(vector for vector in load("jwtsvid") if vector.name == "no-iat").files[".jwt"].decode()
    assert jwtsvid.verify(token, BUNDLES, AUDIENCE, NOW).issued_at is None


def test_expiry_is_in_utc() -> None:
    token = jwtsvid.sign(ID, "a", NOW, LATER, key("a"), kid="k")
    assert jwtsvid.verify(token, holding(key("a")), "a", NOW).expires_at.tzinfo is UTC


@given(st.one_of(st.text(), st.text("eyJhbGciOiJub25lIn0._-=", max_size=80)))
def test_random_text_is_refused(text: str) -> None:
    with pytest.raises(TrustfedError):
        jwtsvid.verify(text, BUNDLES, AUDIENCE, NOW)


@given(st.sampled_from(load("jwtsvid")), st.data())
def test_a_damaged_token_is_never_believed(vector: forge.Vector, data: st.DataObject) -> None:
    token = vector.files[".jwt"].decode() or "."
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[at]))
    with pytest.raises(TrustfedError) as refusal:
        jwtsvid.verify(token[:at] + other + token[at + 1 :], BUNDLES, AUDIENCE, NOW)
    assert refusal.value.message.isprintable()


def test_no_refusal_repeats_the_token() -> None:
    """A refused token may be somebody's good one, sent to the wrong place: its signature must not reach a log."""
    for vector in load("jwtsvid"):
        token = vector.files[".jwt"].decode()
        signature = token.rpartition(".")[2]
        if vector.error and len(signature) > 40:
            with pytest.raises(TrustfedError) as refusal:
                jwtsvid.verify(token, BUNDLES, AUDIENCE, NOW)
            assert signature[:20] not in refusal.value.message + refusal.value.hint
