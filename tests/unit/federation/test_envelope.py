"""Envelopes: what a hub, a store or a thief could put in a reader's hands, and that the reader refuses it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation import dsse
from trustfed.federation.envelope import (
    MAX_BYTES,
    MAX_NUMBER,
    PAYLOAD_TYPE,
    Envelope,
    Level,
    PublicationKey,
    assemble,
    open_envelope,
    payload_to_sign,
)
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

WEST, EAST = TrustDomain("west"), TrustDomain("east")
SIGNER, THIEF = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
KEY, OTHER_KEY = PublicationKey.of(SIGNER.public_key()), PublicationKey.of(THIEF.public_key())
SHA = ec.ECDSA(hashes.SHA256())


def twin(domain: TrustDomain) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{domain} authority 1")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, start, start + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(domain.id)]), False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


TWIN = twin(WEST)


def body(sequence: int, *, domain: TrustDomain = WEST, hint: int = 60) -> bytes:
    return Bundle(domain, (TWIN,) if domain == WEST else (), sequence=sequence, refresh_hint=hint).marshal()


def seal(epoch: int, sequence: int, *, hint: int = 60) -> Envelope:
    level, document = Level(WEST, epoch, sequence), body(sequence, hint=hint)
    return assemble(level, document, SIGNER.sign(payload_to_sign(level, document), SHA), KEY)


def sign_payload(payload: bytes, *, kind: str = PAYLOAD_TYPE) -> bytes:
    """What the domain's own key could sign if its software were wrong."""
    signature = SIGNER.sign(dsse.encoding_to_sign(kind, payload), SHA)
    return dsse.encode(kind, payload, [dsse.Signature(KEY.key_id, signature)])


def spelled(**change: object) -> bytes:
    document = {"body": body(3).decode(), "epoch": 1, "sequence": 3, "trust_domain": "west", **change}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_round_trip_keeps_every_byte() -> None:
    sealed = seal(1, 3)
    opened = open_envelope(sealed.data, WEST, KEY)
    assert opened == sealed and opened.data == sealed.data and opened.body == body(3)
    assert opened.level == Level(WEST, 1, 3) and str(opened.level) == "west 1.3"
    assert opened.bundle.x509_authorities == (TWIN,) and opened.bundle.sequence == 3


def test_form_is_dsse() -> None:
    """The vector of the DSSE specification (protocol.md, "Test vectors")."""
    assert dsse.encoding_to_sign("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    document = json.loads(seal(1, 1).data)
    assert document["payloadType"] == PAYLOAD_TYPE and document["signatures"][0]["keyid"] == KEY.fingerprint


def test_later_levels_continue() -> None:
    first = seal(1, 3)
    for later in (seal(1, 4), seal(1, 900), seal(2, 4)):
        assert open_envelope(later.data, WEST, KEY, after=first) == later
        assert open_envelope(later.data, WEST, KEY, after=first.level) == later


def test_same_level_with_the_same_body_is_the_one_held() -> None:
    held, again = seal(1, 3), seal(1, 3)
    assert again.data != held.data  # another signature over the same
    assert open_envelope(again.data, WEST, KEY, after=held) is held


def test_fork_at_equal_level() -> None:
    with pytest.raises(Denied, match=r"west 1\.3 does not continue west 1\.3"):
        open_envelope(seal(1, 3, hint=61).data, WEST, KEY, after=seal(1, 3))
    with pytest.raises(Denied, match="does not continue"):
        open_envelope(seal(1, 3).data, WEST, KEY, after=Level(WEST, 1, 3))


@pytest.mark.parametrize("old", [(1, 2), (1, 9)])
def test_replayed(old: tuple[int, int]) -> None:
    held = seal(2, 3)
    with pytest.raises(Denied, match=rf"west {old[0]}\.{old[1]} goes back: west 2\.3 is held"):
        open_envelope(seal(*old).data, WEST, KEY, after=held)


def test_another_key() -> None:
    sealed = seal(1, 3)
    with pytest.raises(Denied, match="is pinned"):
        open_envelope(sealed.data, WEST, OTHER_KEY)
    forged = json.loads(sealed.data)
    level, document = Level(WEST, 1, 3), body(3)
    forged["signatures"][0]["sig"] = base64.b64encode(THIEF.sign(payload_to_sign(level, document), SHA)).decode()
    with pytest.raises(Denied, match="did not make"):  # the pinned key's id as a hint, another key's signature
        open_envelope(json.dumps(forged).encode(), WEST, KEY)


def test_signature_of_another_payload() -> None:
    sealed, other = json.loads(seal(1, 3).data), json.loads(seal(1, 4).data)
    sealed["signatures"] = other["signatures"]
    with pytest.raises(Denied, match="did not make"):
        open_envelope(json.dumps(sealed).encode(), WEST, KEY)


def test_another_domains_envelope() -> None:
    sealed = seal(1, 3)
    with pytest.raises(Denied, match="another trust domain"):
        open_envelope(sealed.data, EAST, KEY)
    with pytest.raises(Denied, match="another trust domain"):
        open_envelope(sealed.data, WEST, KEY, after=Level(EAST, 1, 1))


def test_another_payload_type() -> None:
    with pytest.raises(Invalid, match="is of type"):
        open_envelope(sign_payload(spelled(), kind="application/vnd.trustfed.roots+json"), WEST, KEY)
    relabelled = json.loads(sign_payload(spelled(), kind="text/plain"))
    relabelled["payloadType"] = PAYLOAD_TYPE
    with pytest.raises(Denied, match="did not make"):
        open_envelope(json.dumps(relabelled).encode(), WEST, KEY)


@pytest.mark.parametrize("count", [0, 2, 50])
def test_not_exactly_one_signature(count: int) -> None:
    document = json.loads(seal(1, 3).data)
    document["signatures"] *= count
    with pytest.raises(Invalid, match="signature"):
        open_envelope(json.dumps(document).encode(), WEST, KEY)


@pytest.mark.parametrize(
    "payload",
    [
        spelled(epoch=0),
        spelled(epoch=-1),
        spelled(epoch=True),
        spelled(epoch=1.0),
        spelled(epoch="1"),
        spelled(epoch=None),
        spelled(epoch=MAX_NUMBER + 1),
        spelled(epoch=10**30),
        spelled(sequence=0),
        spelled(sequence=4),
        spelled(body=7),
        spelled(body="{}"),
        spelled(body="not json"),
        spelled(body="\ud800"),
        spelled(body=Bundle(WEST).marshal().decode()),
        spelled(more=1),
        b"[]",
        b"",
        b"{}",
        spelled() + b" ",
        spelled().replace(b'"epoch":1', b'"epoch": 1'),
        spelled().replace(b'"epoch":1', b'"epoch":2,"epoch":1'),
        spelled().replace(b'"epoch":1,', b""),
        json.dumps(json.loads(spelled())).encode(),
        b"\xff" + spelled(),
        b"[" * 100_000,
    ],
)
def test_bad_payload_though_signed(payload: bytes) -> None:
    with pytest.raises(Invalid):
        open_envelope(sign_payload(payload), WEST, KEY)


def test_payload_of_another_domain_though_signed_by_the_pinned_key() -> None:
    with pytest.raises(Denied, match="another trust domain, 'east'"):
        open_envelope(sign_payload(spelled(trust_domain="east")), WEST, KEY)


def test_cut_at_any_byte() -> None:
    data = seal(1, 3).data
    for length in range(0, len(data), 7):
        with pytest.raises(Invalid):
            open_envelope(data[:length], WEST, KEY)


def test_oversize() -> None:
    with pytest.raises(Invalid, match="more than the"):
        open_envelope(b" " * (MAX_BYTES + 1), WEST, KEY)
    huge = b'{"keys":[],"spiffe_sequence":3,"x":"' + b'"'.rjust(2, b"\\") * 500_000 + b'"}'
    level = Level(WEST, 1, 3)
    with pytest.raises(Invalid):
        assemble(level, huge, SIGNER.sign(payload_to_sign(level, huge), SHA), KEY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b'"x"',
        b'{"payload":"","payloadType":"","signatures":[]}',
        b'{"payload":"","payloadType":"application/vnd.trustfed.envelope+json","signatures":{}}',
        b'{"payload":"","payloadType":"application/vnd.trustfed.envelope+json","signatures":[1]}',
        b'{"payload":"","payloadType":"application/vnd.trustfed.envelope+json","signatures":[{"sig":""}]}',
        b'{"payload":"!","payloadType":"application/vnd.trustfed.envelope+json","signatures":[{"keyid":"","sig":""}]}',
        b'{"payload":5,"payloadType":"application/vnd.trustfed.envelope+json","signatures":[{"keyid":"","sig":""}]}',
        b'{"payload":"","payload":"","payloadType":"x","signatures":[]}',
        b'{"a":' * 50_000,
        b"\xff\xfe",
    ],
)
def test_not_dsse(data: bytes) -> None:
    with pytest.raises(Invalid):
        open_envelope(data, WEST, KEY)


SEALED = seal(1, 3)


@given(st.integers(0, len(SEALED.data) * 8 - 1))
@settings(max_examples=200, deadline=None)
def test_flipped_bits_are_never_believed(position: int) -> None:
    """One flipped bit gives a refusal, or (a spare bit of base64) exactly the same content; never another error."""
    altered = bytearray(SEALED.data)
    altered[position // 8] ^= 1 << position % 8
    try:
        opened = open_envelope(bytes(altered), WEST, KEY)
    except TrustfedError:
        return
    assert (opened.level, opened.body) == (SEALED.level, SEALED.body)


def test_the_other_root_of_the_signature_is_no_fork() -> None:
    """Anybody can turn (r, s) into (r, -s): it must stay the same envelope, or relays could feign forks."""
    held = seal(1, 3)
    document = json.loads(held.data)
    r, s = utils.decode_dss_signature(base64.b64decode(document["signatures"][0]["sig"]))
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    document["signatures"][0]["sig"] = base64.b64encode(utils.encode_dss_signature(r, order - s)).decode()
    assert open_envelope(json.dumps(document).encode(), WEST, KEY, after=held) is held


def test_what_readers_would_refuse_is_not_made() -> None:
    level = Level(WEST, 1, 3)
    with pytest.raises(Invalid, match=r"spiffe_sequence 4, not 3"):
        payload_to_sign(level, body(4))
    with pytest.raises(Invalid):
        payload_to_sign(level, b"\xff")
    with pytest.raises(Denied):
        assemble(level, body(3), THIEF.sign(payload_to_sign(level, body(3)), SHA), KEY)
    with pytest.raises(Denied):
        assemble(level, body(3), b"", KEY)


def test_levels() -> None:
    assert Level(WEST, 1, 9) < Level(WEST, 2, 1) < Level(WEST, 2, 2)
    assert max(Level(WEST, 1, 2), Level(WEST, 1, 1)).sequence == 2
    with pytest.raises(ValueError, match="no order"):
        _ = Level(WEST, 1, 1) < Level(EAST, 1, 2)
    for epoch, sequence in ((0, 1), (1, 0), (True, 1), (1, MAX_NUMBER + 1), (-1, 1)):
        with pytest.raises(Invalid):
            Level(WEST, epoch, sequence)


def test_publication_keys() -> None:
    assert KEY.fingerprint.startswith("sha256:") and len(KEY.fingerprint) == 71
    assert PublicationKey(KEY.spki) == KEY != OTHER_KEY
    bad = [
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ]
    for key in bad:
        with pytest.raises(Invalid, match="P-256"):
            PublicationKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for spki in (b"", b"\x30\x00", KEY.spki[:-1], KEY.spki + b"\x00", b"x" * 100):
        with pytest.raises(Invalid):
            PublicationKey(spki)
