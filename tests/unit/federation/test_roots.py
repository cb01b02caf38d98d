"""Root sets: a reader follows only what the version before and the version itself both vouch for."""

from __future__ import annotations

import base64
import functools
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from trustfed.errors import Denied, Invalid
from trustfed.federation import dsse, names, roots
from trustfed.federation.roots import RootSet, advance, assemble, key_id, listed, pin, pinned
from trustfed.spiffe.ids import TrustDomain

HUB = names.hub_id(TrustDomain("hub"))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SHA = ec.ECDSA(hashes.SHA256())


class Root:
    """A root as a test needs it: key and certificate."""

    def __init__(
        self, name: str, *, start: datetime = NOW - timedelta(days=1), days: int = 10, ca: bool = True
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.der = certificate(name, self.key, self.key, start=start, days=days, ca=ca)

    def sign(self, root_set: RootSet) -> dsse.Signature:
        return dsse.Signature(key_id(self.key.public_key()), self.key.sign(root_set.payload_to_sign(), SHA))


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    signer: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    start: datetime = NOW,
    days: int = 10,
    ca: bool = True,
) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7, start, start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca, 1 if ca else None), True)
        .add_extension(usage, True)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


@functools.cache
def root(name: str) -> Root:
    return Root(name)


def version(number: int, *members: Root, threshold: int = 1) -> RootSet:
    return RootSet.of(number, [member.der for member in members], HUB, threshold)


def signed(root_set: RootSet, *signers: Root) -> bytes:
    return dsse.encode(roots.PAYLOAD_TYPE, root_set.data, [signer.sign(root_set) for signer in signers])


A, B, C = root("a"), root("b"), root("c")
V1 = version(1, A)


def test_round_trip() -> None:
    document = assemble(V1, [A.sign(V1)])
    assert pin(document, 1, V1.hash) == V1 == RootSet.parse(V1.marshal())
    assert V1.hub == HUB and V1.roots == (A.der,) and V1.threshold == 1
    assert V1.hash.startswith("sha256:") and list(V1.key_ids.values()) == [A.der]


def test_walk_through_a_rollover() -> None:
    both, after = version(2, A, B), version(3, B)
    walk = [assemble(both, [A.sign(both), B.sign(both)], V1), assemble(after, [A.sign(after), B.sign(after)], both)]
    assert advance(V1, walk, NOW) == after
    assert advance(both, walk[1:], NOW) == after
    assert advance(V1, [], NOW) == V1


def test_a_root_may_sign_for_both_versions() -> None:
    both = version(2, A, B)
    assert advance(V1, [signed(both, A)], NOW) == both


def test_the_version_already_held_is_skipped() -> None:
    second = version(2, A, B)
    assert advance(V1, [signed(V1, A), signed(second, A, B), signed(second, B, A)], NOW) == second


def test_fork_of_the_version_held() -> None:
    with pytest.raises(Denied, match="root set 1 does not follow root set 1: 2 must"):
        advance(V1, [signed(version(1, B), B)], NOW)


def test_skipped_version() -> None:
    third = version(3, A)
    with pytest.raises(Denied, match="root set 3 does not follow root set 1: 2 must"):
        advance(V1, [signed(third, A)], NOW)


def test_going_back() -> None:
    second = version(2, A)
    with pytest.raises(Denied, match="root set 1 does not follow root set 2"):
        advance(second, [signed(V1, A)], NOW)


def test_signed_only_by_the_new_side() -> None:
    with pytest.raises(Denied, match="root set 2 is signed by 0 of the 1 root keys that version 1 asks for"):
        advance(V1, [signed(version(2, B), B)], NOW)


def test_signed_only_by_the_old_side() -> None:
    with pytest.raises(Denied, match="root set 2 is signed by 0 of the 1 root keys that version 2 asks for"):
        advance(V1, [signed(version(2, B), A)], NOW)


def test_signed_by_strangers() -> None:
    with pytest.raises(Denied, match="signed by 0 of the 1"):
        advance(V1, [signed(version(2, A), C)], NOW)


def test_thresholds_count_different_keys() -> None:
    two = version(1, A, B, C, threshold=2)
    following = version(2, A, B, C, threshold=3)
    with pytest.raises(Denied, match="1 of the 2"):
        advance(two, [signed(following, A, A, A)], NOW)
    with pytest.raises(Denied, match="2 of the 3 root keys that version 2"):
        advance(two, [signed(following, A, B)], NOW)
    assert advance(two, [signed(following, C, A, B)], NOW) == following
    with pytest.raises(Denied):
        pin(signed(two, A), 1, two.hash)
    assert pin(signed(two, A, C), 1, two.hash) == two


def test_signature_under_anothers_name() -> None:
    second = version(2, A)
    mixed = dsse.Signature(key_id(A.key.public_key()), B.sign(second).value)
    with pytest.raises(Denied):
        advance(V1, [dsse.encode(roots.PAYLOAD_TYPE, second.data, [mixed])], NOW)
    for garbage in (b"", b"\x30", b"x" * 64):
        bad = dsse.Signature(mixed.key_id, garbage)
        with pytest.raises(Denied):
            advance(V1, [dsse.encode(roots.PAYLOAD_TYPE, second.data, [bad])], NOW)


def test_signature_of_another_version() -> None:
    second, third = version(2, A), version(3, A)
    with pytest.raises(Denied):
        advance(V1, [dsse.encode(roots.PAYLOAD_TYPE, second.data, [A.sign(third)])], NOW)


def test_one_bad_step_spoils_the_walk() -> None:
    walk = [signed(version(2, A, B), A), signed(version(3, C), C), signed(version(4, C), C)]
    with pytest.raises(Denied, match="root set 3"):
        advance(V1, walk, NOW)


def test_roots_in_between_may_have_expired() -> None:
    old = Root("old", start=NOW - timedelta(days=100), days=10)
    first, second, third = version(1, old), version(2, old, A), version(3, A)
    assert advance(first, [signed(second, old), signed(third, old, A)], NOW) == third
    with pytest.raises(Denied, match="no root of root set 1 is valid"):
        advance(first, [], NOW)


def test_pin_wants_exactly_that_version_and_hash() -> None:
    second = version(2, A)
    for number, digest in ((2, V1.hash), (1, second.hash), (1, "sha256:" + "0" * 64), (1, "")):
        with pytest.raises(Denied, match="not the pinned"):
            pin(signed(V1, A), number, digest)
    with pytest.raises(Denied, match="signed by 0 of"):
        pin(signed(V1, B), 1, V1.hash)


def test_a_servers_list_is_believed_from_the_pinned_version_on() -> None:
    second, third = version(2, A, B), version(3, B)
    documents = (signed(V1, A), signed(second, A, B), signed(third, A, B))
    assert pinned(documents, 1, V1.hash, NOW) == pinned(documents, 3, third.hash, NOW) == third
    # What is listed before the pinned version is only counted.
    assert pinned((b"anything", *documents[1:]), 2, second.hash, NOW) == third
    with pytest.raises(Denied, match="not the pinned"):
        pinned(documents, 2, third.hash, NOW)
    with pytest.raises(Denied, match="has 3 root set versions, the token pins version 4"):
        pinned(documents, 4, third.hash, NOW)
    with pytest.raises(Denied, match="signed by 0 of"):
        pinned((*documents[:2], signed(third, A)), 2, second.hash, NOW)


def test_the_list_of_documents_is_read_strictly() -> None:
    assert listed(b'{"documents": ["a", "b"]}') == (b"a", b"b")
    assert listed(b'{"documents": []}') == ()
    for body in (
        b"",
        b"[]",
        b"{}",
        b'{"documents": "ab"}',
        b'{"documents": [1]}',
        b'{"documents": ["\\u00e9"]}',
        b'{"documents": ["a"], "documents": ["b"]}',
        b'{"documents": ' + b"[" * 100_000,
        b" " * (roots.MAX_ANSWER + 1),
    ):
        with pytest.raises(Invalid):
            listed(body)


def test_unsigned_and_oversize() -> None:
    for document in (b"", b"{}", V1.data, dsse.encode(roots.PAYLOAD_TYPE, V1.data, []), b" " * (roots.MAX_BYTES + 1)):
        with pytest.raises(Invalid):
            pin(document, 1, V1.hash)
    with pytest.raises(Invalid, match="in one walk"):
        advance(V1, [b""] * (roots.MAX_WALK + 1), NOW)
    with pytest.raises(Invalid, match="signature"):
        pin(signed(V1, *[A] * 21), 1, V1.hash)


def test_cut_at_any_byte() -> None:
    document = signed(V1, A)
    for length in range(0, len(document), 5):
        with pytest.raises(Invalid):
            pin(document[:length], 1, V1.hash)


def test_an_envelope_is_no_root_set() -> None:
    document = json.loads(signed(V1, A))
    document["payloadType"] = "application/vnd.trustfed.envelope+json"
    with pytest.raises(Invalid, match="is of type"):
        pin(json.dumps(document).encode(), 1, V1.hash)


def test_bounds() -> None:
    for members, threshold in (([], 1), ([A], 0), ([A], 2), ([A, B], 3), ([A], -1)):
        with pytest.raises(Invalid):
            version(1, *members, threshold=threshold)
    with pytest.raises(Invalid, match="names one key twice"):
        version(1, A, A)
    with pytest.raises(Invalid):
        RootSet.of(1, [A.der] * (roots.MAX_ROOTS + 1), HUB)
    for number in (0, -1, 2**31, True):
        with pytest.raises(Invalid, match="version"):
            RootSet.of(number, [A.der], HUB)


def test_certificates_that_are_no_roots() -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    p384 = ec.generate_private_key(ec.SECP384R1())
    bad = {
        "not a CA": Root("leaf", ca=False).der,
        "signed by another key": certificate("x", A.key, B.key),
        "RSA": certificate("x", rsa_key, rsa_key),
        "P-384": certificate("x", p384, p384),
        "cut": A.der[:-1],
        "not DER": b"hello",
        "followed by more": A.der + b"\x00",
    }
    for fault, der in bad.items():
        with pytest.raises(Invalid, match="root"):
            RootSet.of(1, [der], HUB)
            pytest.fail(fault)


@pytest.mark.parametrize(
    "change",
    [
        {"hub": None},
        {"hub": {"spiffe_id": "spiffe://hub/trustfed/hub"}},
        {"hub": {"spiffe_id": "spiffe://hub/trustfed/hub", "trust_domain": "other"}},
        {"hub": {"spiffe_id": 1, "trust_domain": "hub"}},
        {"roots": "x"},
        {"roots": [1]},
        {"roots": ["!"]},
        {"threshold": True},
        {"threshold": 1.0},
        {"version": "1"},
        {"version": None},
        {"not_after": "2030"},
    ],
)
def test_bad_documents(change: dict[str, object]) -> None:
    document = {**json.loads(V1.data), **change}
    with pytest.raises(Invalid):
        RootSet.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def test_other_spellings() -> None:
    with pytest.raises(Invalid, match="canonical"):
        RootSet.parse(json.dumps(json.loads(V1.data)).encode())
    padded = json.loads(V1.data)
    padded["roots"] = [base64.b64encode(A.der).decode() + "\n"]
    with pytest.raises(Invalid):
        RootSet.parse(json.dumps(padded, sort_keys=True, separators=(",", ":")).encode())


def test_what_readers_would_refuse_is_not_made() -> None:
    second = version(2, B)
    with pytest.raises(Denied):
        assemble(second, [B.sign(second)], V1)
    with pytest.raises(Denied, match="cannot be first"):
        assemble(second, [B.sign(second)])
    with pytest.raises(Denied):
        assemble(V1, [B.sign(V1)])
