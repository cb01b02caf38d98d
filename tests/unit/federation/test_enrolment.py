"""The proof over a request: any change of any part is refused."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from trustfed.errors import Denied, Invalid
from trustfed.federation import enrolment

KEY = ec.generate_private_key(ec.SECP256R1())
MEMBERS = {"token", "public_key", "proof"}


def signed(document: dict[str, str], kind: str = enrolment.ATTEST) -> dict[str, str]:
    proof = KEY.sign(enrolment.proof_input(kind, document), ec.ECDSA(SHA256()))
    return {**document, "proof": enrolment.text(proof)}


def test_a_whole_request_holds() -> None:
    request = signed({"token": "t", "public_key": "cGs="})
    assert enrolment.read(json.dumps(request).encode(), "it", MEMBERS) == request
    enrolment.check_proof(enrolment.ATTEST, request, KEY.public_key(), "it")
    assert enrolment.binary(request, "public_key") == b"pk"


@pytest.mark.parametrize("member", ["token", "public_key"])
def test_a_changed_part_is_refused(member: str) -> None:
    request = signed({"token": "t", "public_key": "cGs="})
    with pytest.raises(Denied, match="proof"):
        enrolment.check_proof(enrolment.ATTEST, {**request, member: "eA=="}, KEY.public_key(), "it")


def test_a_proof_for_another_kind_of_request_is_refused() -> None:
    request = signed({"token": "t", "public_key": "cGs="}, enrolment.RENEW)
    with pytest.raises(Denied, match="proof"):
        enrolment.check_proof(enrolment.ATTEST, request, KEY.public_key(), "it")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token":"t","public_key":"p"}',
        b'{"token":1,"public_key":"p","proof":"x"}',
        b'{"token":"t","token":"u","public_key":"p","proof":"x"}',
        b'{"token":"t","public_key":"p","proof":"x","more":"y"}',
        b'{"token":"\xff","public_key":"p","proof":"x"}',
        b"[" * 100_000,
        b'{"token":"' + b"a" * enrolment.MAX_REQUEST + b'"}',
    ],
)
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(Invalid):
        enrolment.read(body, "it", MEMBERS)


def test_binary_members_are_base64() -> None:
    with pytest.raises(Invalid, match="public_key is not base64"):
        enrolment.binary({"public_key": "!"}, "public_key")
