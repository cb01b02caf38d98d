"""The JWKS driver: keys read, kept, read again with measure, and never believed when they hold a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.clocks import ManualClock
from tests.fakes.istio_mesh import AUDIENCE, ISSUER, Issuer, rsa_key
from trustfed.cluster.istio_ca.jwks import JwksReviewer, from_file, from_url, read_keys
from trustfed.cluster.istio_ca.service_tokens import Expected
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.runtime.reach import Reach
from trustfed.spiffe import keys

EXPECTED = Expected(ISSUER, (AUDIENCE,))


class Source:
    """A JWKS document that can be replaced, or made unreadable."""

    def __init__(self, document: bytes) -> None:
        self.document, self.reads, self.broken = document, 0, False

    def __call__(self) -> bytes:
        self.reads += 1
        if self.broken:
            raise Unavailable("the issuer cannot be reached")
        return self.document


def test_only_keys_that_can_verify_are_read() -> None:
    p256, p384 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1()))
    others: list[dict[str, Any]] = [
        {**keys.to_jwk(p256.public_key()), "kid": "e1"},
        {**keys.to_jwk(p384.public_key()), "kid": "e2"},
        {**keys.to_jwk(p256.public_key()), "kid": "e3", "use": "enc"},
        {**keys.to_jwk(rsa_key().public_key()), "kid": "r2", "alg": "RS512"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "o"},
    ]
    assert set(read_keys(Issuer().jwks(*others))) == {"k1", "e1"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"[]", "not a JSON object"),
        (b'{"keys": {}}', "no list"),
        (b'{"keys": []}', "no key for RS256"),
        (json.dumps({"keys": [{}] * 65}).encode(), "too long"),
        (json.dumps({"keys": ["x"]}).encode(), "no object"),
        (json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k"}]}).encode(), "symmetric"),
        (Issuer().jwks({**keys.to_jwk(rsa_key().public_key()), "kid": "k1"}), "occurs twice"),
        (Issuer().jwks({**keys.to_jwk(rsa_key().public_key()), "kid": "x", "d": "AQAB"}), "private key"),
        (Issuer().jwks(keys.to_jwk(rsa_key().public_key())), "has no kid"),
        (b" " * (256 * 1024 + 1), "more than the"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_document_that_is_not_to_be_believed(document: bytes, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        read_keys(document)


async def test_an_unknown_key_is_looked_for_once_in_a_while() -> None:
    clock, old, new = ManualClock(), Issuer("old"), Issuer("new", ec.generate_private_key(ec.SECP256R1()))
    source = Source(old.jwks())
    reviewer = JwksReviewer(source, EXPECTED, clock)
    assert (await reviewer.review(old.token(now=clock.now()))).key == "shop/web"
    for _ in range(50):
        with pytest.raises(Denied, match="has no key"):
            await reviewer.review(new.token(now=clock.now()))
    assert source.reads == 2
    source.document = new.jwks()
    clock.move(11)
    assert (await reviewer.review(new.token(now=clock.now()))).key == "shop/web"
    with pytest.raises(Denied, match="has no key"):
        await reviewer.review(old.token(now=clock.now()))


async def test_the_last_good_keys_hold_while_none_can_be_read() -> None:
    clock, issuer = ManualClock(), Issuer()
    source = Source(issuer.jwks())
    reviewer = JwksReviewer(source, EXPECTED, clock)
    await reviewer.review(issuer.token(now=clock.now()))
    source.broken = True
    for _ in range(23):
        clock.move(3600)
        await reviewer.review(issuer.token(now=clock.now()))
    source.broken, source.document = False, b'{"keys": []}'
    clock.move(3000)
    await reviewer.review(issuer.token(now=clock.now()))
    clock.move(3600)
    with pytest.raises(Unavailable, match="are not known: JWKS: there is no key"):
        await reviewer.review(issuer.token(now=clock.now()))


async def test_without_any_keys_nobody_is_believed() -> None:
    clock, issuer = ManualClock(), Issuer()
    source = Source(issuer.jwks())
    source.broken = True
    with pytest.raises(Unavailable, match="the issuer cannot be reached"):
        await JwksReviewer(source, EXPECTED, clock).review(issuer.token(now=clock.now()))
    with pytest.raises(Invalid):
        await JwksReviewer(source, EXPECTED, clock).review("no.token.at-all")
    assert source.reads == 1


def test_keys_from_a_file_and_only_from_good_addresses(tmp_path: Any) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(Issuer().jwks())
    assert set(read_keys(from_file(file)())) == {"k1"}
    with pytest.raises(Denied, match="loopback"):
        from_url("https://127.0.0.1:8443/keys", None, Reach())()
    with pytest.raises(Invalid, match="not an https"):
        from_url("http://keys.example/", None, Reach())()
