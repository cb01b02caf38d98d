"""Log keys: only the domain's own publication key says which key signs its logs, and only for logs of its name."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from trustfed.errors import Denied, Invalid
from trustfed.federation import confirmation, dsse, log_key
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.log_key import LogKey, assemble, open_log_key, payload_to_sign
from trustfed.journal.merkle.checkpoint import origin_of
from trustfed.journal.merkle.vkey import parse_vkey, vkey_of
from trustfed.spiffe.ids import TrustDomain

WEST = TrustDomain("prod-us-west")
SECRET = ec.generate_private_key(ec.SECP256R1())
KEY = PublicationKey.of(SECRET.public_key())
VKEY = vkey_of(origin_of("prod-us-west", "journal"), Ed25519PrivateKey.generate().public_key()).text


def sign(message: bytes) -> bytes:
    return SECRET.sign(message, ec.ECDSA(SHA256()))


def made(vkey: str = VKEY, domain: TrustDomain = WEST) -> LogKey:
    return assemble(domain, vkey, sign(payload_to_sign(domain, vkey)), KEY)


def signed(payload: bytes, kind: str = log_key.PAYLOAD_TYPE) -> bytes:
    return dsse.encode(kind, payload, [dsse.Signature(KEY.key_id, sign(dsse.encoding_to_sign(kind, payload)))])


def test_says_what_was_signed() -> None:
    opened = open_log_key(made().data, WEST, KEY)
    assert (opened.trust_domain, opened.vkey) == (WEST, VKEY)
    assert parse_vkey(opened.vkey).name == "trustfed/prod-us-west/journal"


def test_another_publication_key() -> None:
    other = PublicationKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(Denied, match="did not make"):
        open_log_key(made().data, WEST, other)


def test_another_domain() -> None:
    with pytest.raises(Denied, match="another trust domain"):
        open_log_key(made().data, TrustDomain("prod-us-east"), KEY)


def test_a_log_of_another_domain() -> None:
    for name in ("trustfed/prod-us-east/journal", "trustfed/prod-us-west.example/journal", "trustfed/prod"):
        foreign = vkey_of(name, Ed25519PrivateKey.generate().public_key()).text
        with pytest.raises(Denied, match="is not a log of that domain"):
            made(foreign)


def test_a_confirmation_is_no_log_key() -> None:
    data = signed(b'{"trust_domain":"prod-us-west","vkey":"x"}', confirmation.PAYLOAD_TYPE)
    with pytest.raises(Invalid, match="is of type"):
        open_log_key(data, WEST, KEY)


@pytest.mark.parametrize(
    "vkey",
    ["", "x", VKEY + "\n", VKEY.upper(), "trustfed/prod-us-west/a b" + VKEY[29:], VKEY + "A" * 100],
    ids=["empty", "short", "newline", "upper case", "blank", "too long"],
)
def test_what_is_no_key(vkey: str) -> None:
    with pytest.raises(Invalid, match="is no key of a log"):
        made(vkey)


@pytest.mark.parametrize(
    "payload",
    [b"{}", b"[]", b'{"trust_domain":"prod-us-west","vkey":1}', b'{"trust_domain":"prod-us-west","vkey":"x","more":1}'],
)
def test_another_form(payload: bytes) -> None:
    with pytest.raises(Invalid):
        open_log_key(signed(payload), WEST, KEY)
    with pytest.raises(Invalid):
        open_log_key(b"x" * 5000, WEST, KEY)
