"""The rules of the protected publication's root, each refusal named after its fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bundle_publisher.tuf import root
from bundle_publisher.tuf.metadata import ONLINE
from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.federation.envelope import PublicationKey

NOW = datetime(2026, 6, 1, tzinfo=UTC)
YEAR = timedelta(days=365)


def keys(count: int) -> list[ec.EllipticCurvePrivateKey]:
    return [ec.generate_private_key(ec.SECP256R1()) for _ in range(count)]


def public(private: ec.EllipticCurvePrivateKey) -> PublicationKey:
    return PublicationKey.of(private.public_key())


PEOPLE = keys(3)
NEWCOMERS = keys(3)
HUB = {role: public(key) for role, key in zip(ONLINE, keys(3), strict=True)}


def made(*, signers: int = 2, end: datetime = NOW + YEAR) -> bytes:
    document = root.create(HUB, [public(key) for key in PEOPLE], 2, end)
    for key in PEOPLE[:signers]:
        document = root.sign(document, key)
    return document


FIRST = made()


def next_one(*, old: int = 2, new: int = 2) -> bytes:
    document = root.renew(FIRST, NOW + 2 * YEAR, offline=[public(key) for key in NEWCOMERS])
    for key in [*PEOPLE[:old], *NEWCOMERS[:new]]:
        document = root.sign(document, key, previous=FIRST)
    return document


def test_a_first_root_and_its_successor_are_taken() -> None:
    assert root.check_next(FIRST, [], NOW).signed.version == 1
    second = next_one()
    assert root.check_next(second, [FIRST], NOW).signed.version == 2
    assert root.standing(second, FIRST).complete
    assert [held.version for held in root.open_chain([FIRST, second])] == [1, 2]
    assert root.online_keys(root.open_chain([second])[0]) == HUB


@pytest.mark.parametrize(
    ("document", "chain", "kind", "message"),
    [
        (made(signers=1), [], Denied, r"lacks 1 signature\(s\) of its own keys"),
        (made(signers=0), [], Denied, r"lacks 2 signature\(s\)"),
        (next_one(old=1), [FIRST], Denied, r"and 1 of version 1's"),
        (next_one(new=1), [FIRST], Denied, r"lacks 1 signature\(s\) of its own"),
        (next_one(old=0), [FIRST], Denied, r"and 2 of version 1's"),
        (next_one(), [], Conflict, "the first is missing"),
        (FIRST, [FIRST], Conflict, "does not follow version 1"),
        (made(end=NOW), [], Invalid, "expired on 2026-06-01"),
    ],
)
def test_a_root_is_not_taken_when(document: bytes, chain: list[bytes], kind: type[TrustfedError], message: str) -> None:
    with pytest.raises(kind, match=message):
        root.check_next(document, chain, NOW)


def _changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(FIRST)
    change(document)
    return json.dumps(document).encode()


def _short(signed: dict[str, Any]) -> None:
    del signed["roles"]["timestamp"]


def _shared(signed: dict[str, Any]) -> None:
    signed["roles"]["timestamp"]["keyids"] = signed["roles"]["root"]["keyids"][:1]


def _two_online(signed: dict[str, Any]) -> None:
    signed["roles"]["timestamp"]["keyids"] = signed["roles"]["timestamp"]["keyids"] + ["0" * 64]


def _renamed(signed: dict[str, Any]) -> None:
    role = signed["roles"]["timestamp"]
    signed["keys"]["ab" * 32] = signed["keys"].pop(role["keyids"][0])
    role["keyids"] = ["ab" * 32]


def _another_scheme(signed: dict[str, Any]) -> None:
    for key in signed["keys"].values():
        key["scheme"] = "ecdsa-sha2-nistp384"


def _rsa(signed: dict[str, Any]) -> None:
    for key in signed["keys"].values():
        key["keytype"], key["scheme"] = "rsa", "rsassa-pss-sha256"


def _no_key(signed: dict[str, Any]) -> None:
    for key in signed["keys"].values():
        key["keyval"]["public"] = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda signed: signed.update(consistent_snapshot=False), "consistent snapshots"),
        (_short, "no TUF metadata|exactly the roles"),
        (_shared, "exactly one role"),
        (_two_online, "exactly one role"),
        (_renamed, "another id|one form"),
        (_another_scheme, "one form"),
        (_rsa, "one form"),
        (_no_key, "no public key"),
        (lambda signed: signed["roles"]["root"].update(threshold=9), "threshold"),
        (lambda signed: signed.update(version=1.5), "whole number|no TUF metadata"),
        (lambda signed: signed.update(_type="targets"), "no TUF metadata|not of root"),
    ],
)
def test_a_root_of_another_form_is_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        root.standing(_changed(lambda document: change(document["signed"])))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"signed":{},"signed":{}}', b"{" * 100_000, b"x" * 70_000])
def test_what_is_no_root_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        root.standing(data)


def test_one_root_signed_by_other_people_is_the_same_root() -> None:
    draft = root.create(HUB, [public(key) for key in PEOPLE], 2, NOW + YEAR)
    one = root.sign(root.sign(draft, PEOPLE[0]), PEOPLE[1])
    two = root.sign(root.sign(draft, PEOPLE[1]), PEOPLE[2])
    assert root.same(one, two)
    assert not root.same(one, draft)
    assert not root.same(one, made(end=NOW + 2 * YEAR))


def test_a_signature_that_another_key_made_under_a_name_counts_nothing() -> None:
    document = json.loads(made(signers=2))
    document["signatures"][1]["sig"] = document["signatures"][0]["sig"]
    with pytest.raises(Denied, match="lacks 1"):
        root.check_next(json.dumps(document).encode(), [], NOW)


def test_a_damaged_signature_is_not_passed_on() -> None:
    document = json.loads(FIRST)
    document["signatures"][0]["sig"] = "zz"
    with pytest.raises(Invalid, match="not hexadecimal"):
        root.sign(json.dumps(document).encode(), PEOPLE[2])
