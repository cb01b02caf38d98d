"""Confirmations: only the domain's own publication key makes one, for its own level, of a time that has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from trustfed.errors import Denied, Invalid
from trustfed.federation import confirmation, dsse
from trustfed.federation.confirmation import Confirmation, assemble, open_confirmation
from trustfed.federation.envelope import Level, PublicationKey
from trustfed.spiffe.ids import TrustDomain

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
WEST = TrustDomain("prod-us-west")
LEVEL = Level(WEST, 1, 7)
SECRET = ec.generate_private_key(ec.SECP256R1())
KEY = PublicationKey.of(SECRET.public_key())


def made(level: Level = LEVEL, at: datetime = NOW) -> Confirmation:
    return assemble(level, at, SECRET.sign(confirmation.payload_to_sign(level, at), ec.ECDSA(SHA256())), KEY)


def signed(payload: bytes, kind: str = confirmation.PAYLOAD_TYPE) -> bytes:
    value = SECRET.sign(dsse.encoding_to_sign(kind, payload), ec.ECDSA(SHA256()))
    return dsse.encode(kind, payload, [dsse.Signature(KEY.key_id, value)])


def test_says_what_was_signed() -> None:
    said = made()
    assert open_confirmation(said.data, WEST, KEY, NOW + timedelta(days=40)) == said
    assert (said.level, said.at) == (LEVEL, NOW)


def test_another_key() -> None:
    other = PublicationKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(Denied, match="did not make"):
        open_confirmation(made().data, WEST, other, NOW)


def test_another_domain() -> None:
    with pytest.raises(Denied, match="another trust domain"):
        open_confirmation(made().data, TrustDomain("prod-us-east"), KEY, NOW)


def test_of_the_future() -> None:
    ahead = NOW + confirmation.MAX_AHEAD + timedelta(seconds=1)
    data = made(at=ahead).data
    with pytest.raises(Denied, match="not come yet"):
        open_confirmation(data, WEST, KEY, NOW)
    assert open_confirmation(data, WEST, KEY, ahead).at == ahead


def test_an_envelope_is_no_confirmation() -> None:
    data = signed(
        b'{"at":1,"epoch":1,"sequence":1,"trust_domain":"prod-us-west"}', "application/vnd.trustfed.envelope+json"
    )
    with pytest.raises(Invalid, match="of type"):
        open_confirmation(data, WEST, KEY, NOW)


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b"[]",
        b'{"at":"1","epoch":1,"sequence":1,"trust_domain":"prod-us-west"}',
        b'{"at":true,"epoch":1,"sequence":1,"trust_domain":"prod-us-west"}',
        b'{"at":-1,"epoch":1,"sequence":1,"trust_domain":"prod-us-west"}',
        b'{"at":999999999999999,"epoch":1,"sequence":1,"trust_domain":"prod-us-west"}',
        b'{"at":1,"epoch":0,"sequence":1,"trust_domain":"prod-us-west"}',
        b'{"at":1,"epoch":1,"sequence":1.0,"trust_domain":"prod-us-west"}',
        b'{"at":1,"epoch":1,"sequence":1,"trust_domain":"prod-us-west","more":1}',
    ],
)
def test_malformed(payload: bytes) -> None:
    with pytest.raises(Invalid):
        open_confirmation(signed(payload), WEST, KEY, NOW)


def test_every_flipped_byte() -> None:
    data = made().data
    for index in range(len(data)):
        broken = bytearray(data)
        broken[index] ^= 1
        try:
            opened = open_confirmation(bytes(broken), WEST, KEY, NOW)
        except (Denied, Invalid):
            continue
        # Only the key's hint is not signed.
        assert (opened.level, opened.at) == (LEVEL, NOW)
