"""Issuance: the ID from the entry, one bad item spoils no other, nothing is signed that is not on record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.keys.memory import MemoryKeys
from ca.lifecycle import Kind, Status
from tests.unit.cluster.cluster_parts import HOUR, TD, ClusterParts, spki
from trustfed.cluster import authority_commands as commands
from trustfed.errors import Invalid, Unavailable
from trustfed.journal.events import Fact
from trustfed.journal.memory import MemoryLedger
from trustfed.proto import node_pb2 as pb


def key() -> bytes:
    return spki(ec.generate_private_key(ec.SECP256R1()))


def der(made: Any) -> bytes:
    return bytes(made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def slots(*entries: str, public_key: bytes | None = None) -> pb.IssueX509Request:
    made = [pb.X509Slot(entry_id=entry, slot="x509", public_key=public_key or key()) for entry in entries]
    return pb.IssueX509Request(command_id="c", slots=made)


class FaultyLedger(MemoryLedger):
    failing = False

    async def append(self, facts: Sequence[Fact]) -> None:
        if self.failing:
            raise Unavailable("the disk is full")
        await super().append(facts)


class WatchedKeys(MemoryKeys):
    def __init__(self) -> None:
        super().__init__()
        self.signed = 0
        self.failing = False
        self.before: Any = None

    async def sign(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        if self.before:
            await self.before()
        if self.failing:
            raise Unavailable("the key store is away")
        self.signed += len(messages)
        return await super().sign(name, messages)


async def test_the_id_is_the_entrys(parts: ClusterParts) -> None:
    node, _ = await parts.node()
    await parts.entry(id="web", dns_names=("web.svc.example",), x509_ttl=60)
    public = key()
    (result,) = (await parts.issuance.x509(node, slots("web", public_key=public))).results
    leaf = x509.load_der_x509_certificate(result.chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TD}/web"]
    assert leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public
    assert leaf.not_valid_after_utc == parts.now + timedelta(seconds=60)
    (fact,) = await parts.ledger.find("x509.issued", f"{leaf.serial_number:032x}")
    assert (fact.body["node"], fact.body["entry"], fact.body["instance"]) == ("n1", "web", "n1/web")


async def test_entries_of_others_are_as_if_they_were_not(parts: ClusterParts) -> None:
    node, _ = await parts.node()
    await parts.entry(id="theirs", parent="node/n2")
    await parts.entry(id="late", spiffe_id=f"spiffe://{TD}/l", expires_at=parts.now + timedelta(seconds=1))
    parts.clock.move(1)
    results = (await parts.issuance.x509(node, slots("theirs", "nothing", "late", "x" * 5000))).results
    assert {result.error_code for result in results} == {"not_found"}
    assert len({result.error.replace(result.entry_id[:128], "") for result in results}) == 1


async def test_one_bad_item_spoils_no_other(parts: ClusterParts) -> None:
    node, _ = await parts.node()
    await parts.entry(id="web")
    request = slots("web", "web", "web", "nothing", "web")
    request.slots[1].public_key = b"garbage"
    request.slots[2].public_key = der(rsa.generate_private_key(65537, 1024))
    results = (await parts.issuance.x509(node, request)).results
    assert [result.error_code for result in results] == ["", "invalid", "invalid", "not_found", ""]
    assert [bool(result.chain) for result in results] == [True, False, False, False, True]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x30\x00",
        key() + b"\x00",
        key()[:-1],
        b"\x30" * 70_000,
        der(ec.generate_private_key(ec.SECP192R1())),
        der(rsa.generate_private_key(3, 2048)),
    ],
    ids=["empty", "short", "longer", "cut", "huge", "p192", "exponent-3"],
)
async def test_weak_huge_and_broken_keys(parts: ClusterParts, bad: bytes) -> None:
    node, _ = await parts.node()
    await parts.entry(id="web")
    (result,) = (await parts.issuance.x509(node, slots("web", public_key=bad or b"x"))).results
    assert result.error_code == "invalid"
    with pytest.raises(Invalid):
        await parts.issuance.node_svid("n1", bad, "", "c")


async def test_a_nodes_own_key_is_p256(parts: ClusterParts) -> None:
    for made in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(Invalid, match="P-256"):
            await parts.issuance.node_svid("n1", der(made), "", "c")


async def test_too_many_slots(parts: ClusterParts) -> None:
    node, _ = await parts.node()
    with pytest.raises(Invalid, match="501 slots"):
        await parts.issuance.x509(node, slots(*["web"] * 501))
    with pytest.raises(Invalid, match="501 slots"):
        await parts.issuance.jwt(node, pb.IssueJwtRequest(slots=[pb.JwtSlot(entry_id="web")] * 501))


async def test_without_a_record_nothing_is_signed() -> None:
    ledger, keys = FaultyLedger(), WatchedKeys()
    parts = await ClusterParts.make(ledger=ledger, keys=keys)
    node, _ = await parts.node()
    await parts.entry(id="web")
    ledger.failing, before = True, keys.signed
    with pytest.raises(Unavailable, match="disk is full"):
        await parts.issuance.x509(node, slots("web"))
    with pytest.raises(Unavailable, match="disk is full"):
        await parts.issuance.jwt(node, pb.IssueJwtRequest(slots=[pb.JwtSlot(entry_id="web", audience=["a"])]))
    assert keys.signed == before
    await parts.close()


async def test_a_key_store_that_is_away_or_lost_the_key() -> None:
    keys = WatchedKeys()
    parts = await ClusterParts.make(keys=keys)
    node, _ = await parts.node()
    await parts.entry(id="web")
    keys.failing = True
    with pytest.raises(Unavailable, match="key store is away"):
        await parts.issuance.x509(node, slots("web"))
    keys.failing = False
    await keys.destroy(parts.one(Kind.X509, Status.ACTIVE).key_name)
    with pytest.raises(Unavailable, match="cannot sign"):  # never "not found": that would be the entry
        await parts.issuance.x509(node, slots("web"))
    await parts.close()


async def test_what_a_tainted_authority_signs_meanwhile_reaches_nobody() -> None:
    keys = WatchedKeys()
    parts = await ClusterParts.make(keys=keys)
    node, _ = await parts.node()
    await parts.entry(id="web")
    first = parts.one(Kind.X509, Status.ACTIVE)

    async def tainted() -> None:
        keys.before = None
        await parts.decide(lambda s: commands.taint(s, first.id, False, parts.now))

    keys.before = tainted
    with pytest.raises(Unavailable, match="tainted meanwhile"):
        await parts.issuance.x509(node, slots("web"))
    await parts.close()


async def test_nothing_outlives_its_authority_or_its_entry(parts: ClusterParts) -> None:
    node, _ = await parts.node()
    await parts.entry(id="web", x509_ttl=86_400, expires_at=parts.now + 2 * HOUR)
    await parts.entry(id="api", spiffe_id=f"spiffe://{TD}/api", x509_ttl=86_400, jwt_ttl=3600)
    authority = parts.one(Kind.X509, Status.ACTIVE)
    (result,) = (await parts.issuance.x509(node, slots("web"))).results
    assert result.not_after_ms == int((parts.now + 2 * HOUR).timestamp() * 1000)
    parts.clock.move(71.5 * 3600)
    (result,) = (await parts.issuance.x509(node, slots("api"))).results
    assert result.not_after_ms == int(authority.not_after.timestamp() * 1000)
    (token,) = (
        await parts.issuance.jwt(node, pb.IssueJwtRequest(slots=[pb.JwtSlot(entry_id="api", audience=["a"])]))
    ).results
    assert token.expires_at_ms <= int(parts.one(Kind.JWT, Status.ACTIVE).not_after.timestamp() * 1000)
    parts.clock.move(1800)
    with pytest.raises(Unavailable, match="may sign now"):
        await parts.issuance.x509(node, slots("api"))


@pytest.mark.parametrize("audience", [[], [""], ["x" * 1025], ["a"] * 17], ids=["none", "empty", "long", "many"])
async def test_audiences_are_bounded(parts: ClusterParts, audience: list[str]) -> None:
    node, _ = await parts.node()
    await parts.entry(id="web")
    request = pb.IssueJwtRequest(
        slots=[pb.JwtSlot(entry_id="web", audience=audience), pb.JwtSlot(entry_id="web", audience=["ok"])]
    )
    results = (await parts.issuance.jwt(node, request)).results
    assert [result.error_code for result in results] == ["invalid", ""]


async def test_root_chains_wait_for_the_intermediate() -> None:
    parts = await ClusterParts.make(enrolled=False)
    await parts.hub.make()
    from trustfed.cluster import enrolment
    from trustfed.spiffe.ids import TrustDomain

    await enrolment.make_keys(parts.fold, parts.keys, parts.authorities, TrustDomain(TD), parts.clock)
    node, _ = await parts.node_without_roots()
    await parts.entry(id="web", chain="root")
    await parts.entry(id="api", spiffe_id=f"spiffe://{TD}/api")
    results = (await parts.issuance.x509(node, slots("web", "api"))).results
    assert [result.error_code for result in results] == ["unavailable", ""]
    await parts.close()


async def test_many_at_once_are_all_on_record(parts: ClusterParts) -> None:
    node, _ = await parts.node()
    await parts.entry(id="web")
    answers = await asyncio.gather(*(parts.issuance.x509(node, slots(*["web"] * 5)) for _ in range(10)))
    serials = {x509.load_der_x509_certificate(r.chain[0]).serial_number for a in answers for r in a.results}
    assert len(serials) == 50
    for serial in serials:
        assert await parts.ledger.find("x509.issued", f"{serial:032x}")
