"""The requests by which clusters and nodes get in carry one proof over everything, of one kind."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from trustfed.errors import Denied, Invalid
from trustfed.federation import enrolment
from trustfed.federation.enrolment import ATTEST, ENROL, MAX_REQUEST, RENEW, RESIGN, check_proof, proof_input, read

KINDS = (ENROL, RESIGN, ATTEST, RENEW)
MEMBERS = {"token": "trustfed-cluster-1-x", "csr": "AAAA", "authority_id": "0011223344556677"}


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _request(key: ec.EllipticCurvePrivateKey, kind: str) -> dict[str, str]:
    proof = key.sign(proof_input(kind, MEMBERS), ec.ECDSA(SHA256()))
    return {**MEMBERS, "proof": enrolment.text(proof)}


def test_what_was_signed_holds(key: ec.EllipticCurvePrivateKey) -> None:
    for kind in KINDS:
        check_proof(kind, _request(key, kind), key.public_key(), "the request")


def test_no_member_can_be_changed_or_moved_to_another_kind(key: ec.EllipticCurvePrivateKey) -> None:
    """Whoever is in between can neither alter, add nor drop a member, nor use a request where another kind is wanted."""
    for kind in KINDS:
        request = _request(key, kind)
        for member in MEMBERS:
            for other in (
                {**request, member: request[member] + "A"},
                {k: v for k, v in request.items() if k != member},
            ):
                with pytest.raises(Denied):
                    check_proof(kind, other, key.public_key(), "the request")
        with pytest.raises(Denied):
            check_proof(kind, {**request, "more": ""}, key.public_key(), "the request")
        for other_kind in set(KINDS) - {kind}:
            with pytest.raises(Denied):
                check_proof(other_kind, request, key.public_key(), "the request")
        stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
        with pytest.raises(Denied):
            check_proof(kind, request, stranger, "the request")


def test_values_cannot_flow_from_one_member_into_the_next(key: ec.EllipticCurvePrivateKey) -> None:
    """The signed encoding keeps members apart: moving a character over the border breaks the proof."""
    request = _request(key, ENROL)
    moved = {**request, "authority_id": request["authority_id"] + '","csr":"', "csr": request["csr"]}
    with pytest.raises(Denied):
        check_proof(ENROL, moved, key.public_key(), "the request")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"token": 1, "csr": "", "authority_id": ""}',
        b'{"token": "", "csr": ""}',
        b'{"token": "", "csr": "", "authority_id": "", "more": ""}',
        b'{"token": "", "token": "", "csr": "", "authority_id": ""}',
        b"[" * 100_000,
        b'{"token": ' + b"[" * 5_000,
        b'{"token": "\xff", "csr": "", "authority_id": ""}',
        json.dumps({**MEMBERS, "csr": "A" * MAX_REQUEST}).encode(),
    ],
    ids=["empty", "array", "number", "missing", "unknown", "twice", "deep", "deep-inside", "not-utf8", "oversize"],
)
def test_malformed_requests_are_invalid(body: bytes) -> None:
    """One clear error each, and nothing of the body in it."""
    with pytest.raises(Invalid) as caught:
        read(body, "the request", set(MEMBERS))
    assert "AAAA" not in str(caught.value)


def test_binary_members_have_one_spelling() -> None:
    """No blanks, no line ends, no other alphabet: what is signed is what is read."""
    for spoilt in ("AA A", "AAA\n", "AA-_", "AAA"):
        with pytest.raises(Invalid):
            enrolment.binary({"csr": spoilt}, "csr")
    assert enrolment.binary({"csr": base64.b64encode(b"abc").decode()}, "csr") == b"abc"
