"""Mesh statements: believed only with the pinned key's signature, for its own domain, and as what they say they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from trustfed.errors import Denied, Invalid
from trustfed.federation import dsse, mesh_statement
from trustfed.federation.envelope import MAX_NUMBER, PublicationKey
from trustfed.federation.mesh import MAX_BYTES, Export, Gateway, Item, ServicePort, body_of
from trustfed.federation.mesh_digest import digest
from trustfed.federation.mesh_statement import PAYLOAD_TYPE, Statement, assemble, check_size, open_statement
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import TrustDomain

WEST = TrustDomain("prod-us-west")
SECRET = ec.generate_private_key(ec.SECP256R1())
KEY = PublicationKey.of(SECRET.public_key())
GATEWAY = Gateway("west-1", "203.0.113.20", 15443, "prod-us-west")
EXPORT = Export(
    "payments.shop.svc.cluster.local",
    (ServicePort(8080, "http", "HTTP"),),
    ("spiffe://prod-us-west/ns/shop/sa/payments",),
    ("spiffe://prod-eu-central",),
    {"app": "payments"},
)


def sign(data: bytes) -> bytes:
    return SECRET.sign(data, ec.ECDSA(SHA256()))


def made(item: Item = GATEWAY, sequence: int = 7, domain: TrustDomain = WEST) -> Statement:
    return assemble(domain, item, sequence, sign(mesh_statement.payload_to_sign(domain, item, sequence)), KEY)


def forged(of_type: str = PAYLOAD_TYPE, **members: Any) -> bytes:
    """A statement whose payload says something else, signed all the same."""
    said = {
        "body": body_of(GATEWAY),
        "kind": "gateway",
        "name": "west-1",
        "sequence": 7,
        "trust_domain": "prod-us-west",
    }
    payload = strict_json.write({name: value for name, value in {**said, **members}.items() if value is not ...})
    signature = dsse.Signature(KEY.key_id, sign(dsse.encoding_to_sign(of_type, payload)))
    return dsse.encode(of_type, payload, [signature])


@pytest.mark.parametrize("item", [GATEWAY, EXPORT])
def test_says_what_was_signed(item: Item) -> None:
    said = made(item)
    assert open_statement(said.data, WEST, KEY) == said
    assert (said.trust_domain, said.item, said.sequence, said.name) == (WEST, item, 7, item.name)
    assert said.data.hex() not in repr(said)


def test_another_key() -> None:
    other = PublicationKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(Denied, match="did not make"):
        open_statement(made().data, WEST, other)


def test_another_domain() -> None:
    """B's word at A's place, although the same key signed it."""
    with pytest.raises(Denied, match="another trust domain, 'prod-us-west'"):
        open_statement(made().data, TrustDomain("prod-us-east"), KEY)


def test_changed_on_the_way() -> None:
    data = made().data
    payload = dsse.decode(data, PAYLOAD_TYPE, "it", max_bytes=MAX_BYTES, max_signatures=1)
    changed = payload[0].replace(b"203.0.113.20", b"203.0.113.21")
    with pytest.raises(Denied, match="did not make"):
        open_statement(dsse.encode(PAYLOAD_TYPE, changed, payload[1]), WEST, KEY)


def test_other_identities_than_its_own_may_not_answer() -> None:
    """A domain's own key cannot let another domain's SPIFFE ID answer, nor say so of another's."""
    body = body_of(replace(EXPORT, answers=("spiffe://prod-us-east/ns/shop/sa/payments",), callers=()))
    with pytest.raises(Invalid):  # a gateway's kind with an export's body
        open_statement(forged(body=body, name=EXPORT.host), WEST, KEY)
    with pytest.raises(Denied, match="answered by spiffe://prod-us-east"):
        open_statement(forged(kind="export", body=body, name=EXPORT.host), WEST, KEY)


def test_importing_from_itself() -> None:
    with pytest.raises(Denied, match="imports from itself"):
        open_statement(
            forged(kind="import", body={"name": "i", "exporter": "prod-us-west", "group": "g"}, name="i"), WEST, KEY
        )


@pytest.mark.parametrize(
    "members",
    [
        {"sequence": 0}, {"sequence": -1}, {"sequence": True}, {"sequence": "7"}, {"sequence": 1.0},
        {"sequence": MAX_NUMBER + 1}, {"sequence": None}, {"kind": "route"}, {"kind": 1}, {"kind": ["gateway"]},
        {"kind": "export"}, {"body": []}, {"body": None}, {"body": {}}, {"name": "west-2"}, {"name": None},
        {"more": 1}, {"name": ...}, {"sequence": ...}, {"body": {**body_of(GATEWAY), "owner": 3}},
        {"body": {**body_of(GATEWAY), "trust": "me"}}, {"body": {**body_of(GATEWAY), "address": "gateway.example"}},
    ],
    ids=repr,
)  # fmt: skip
def test_signed_nonsense(members: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        open_statement(forged(**members), WEST, KEY)


@pytest.mark.parametrize(
    "kind", ["application/vnd.trustfed.envelope+json", "application/vnd.trustfed.confirmation+json", ""]
)
def test_another_document_of_the_same_key_is_no_statement(kind: str) -> None:
    with pytest.raises(Invalid, match="is of type"):
        open_statement(forged(kind), WEST, KEY)


def test_two_signatures_none_and_no_envelope() -> None:
    payload = strict_json.write({"body": body_of(GATEWAY)})
    one = dsse.Signature(KEY.key_id, sign(payload))
    for data in (dsse.encode(PAYLOAD_TYPE, payload, []), dsse.encode(PAYLOAD_TYPE, payload, [one, one]), b"", b"{}"):
        with pytest.raises(Invalid):
            open_statement(data, WEST, KEY)


def test_a_statement_that_nobody_would_read_is_not_made() -> None:
    """What passes `check_size` is small enough at every sequence; what does not is refused before it is kept."""
    callers = tuple(f"spiffe://prod-eu-central/ns/{'n' * 60}/sa/{n:03}{'s' * 100}" for n in range(256))
    for count in (1, 150, 200):
        item = replace(EXPORT, callers=callers[:count])
        check_size(WEST, item)
        assert len(made(item, MAX_NUMBER).data) <= MAX_BYTES
    large = replace(EXPORT, callers=tuple(caller + "t" * 60 for caller in callers))
    with pytest.raises(Invalid, match="bytes long when it is told"):
        check_size(WEST, large)
    with pytest.raises(Invalid, match="more than"):
        made(large)
    open_statement(b" " * 9 + made().data, WEST, KEY)
    with pytest.raises(Invalid):
        open_statement(b" " * MAX_BYTES + made().data, WEST, KEY)


def test_one_digest_for_one_state() -> None:
    assert digest({}).hex().startswith("e3b0c442")
    one = digest({"a": "1", "b": "2"})
    assert one == digest({"b": "2", "a": "1"})
    assert len({one, digest({"a": "1"}), digest({"a": "2", "b": "2"}), digest({"a": "1", "c": "2"}), digest({})}) == 5
