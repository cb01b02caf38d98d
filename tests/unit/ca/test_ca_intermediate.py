"""Only the intermediate that ca.root makes is adopted, and whatever is adopted harms no chain."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority import authority_subject, make_authority_csr, make_twin
from ca.constraints import intermediate_constraints
from ca.intermediate import check_intermediate
from ca.issuance import Issued, LeafRequest, issue_x509
from ca.issuer import Issuer
from ca.keys.memory import MemoryKeys
from ca.publickeys import key_id, spki_of
from ca.root import IntermediateRequest, Root, make_root, sign_intermediate
from trustfed.errors import Invalid
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HOME = TrustDomain("home")
SUFFIXES = ("home.example",)


class Kept:
    async def record(self, drafts: Any) -> None: ...


class World:
    """A root whose key is at hand, and one authority with its twin."""

    keys: MemoryKeys
    root: Root
    twin: bytes
    root_key: Any

    @classmethod
    async def make(cls) -> World:
        world = cls()
        world.keys = MemoryKeys()
        await world.keys.create("root")
        await world.keys.create("a1")
        world.root = await make_root("fed", 1, "root", world.keys, now=NOW, randomness=os.urandom)
        world.twin = await make_twin(
            HOME, "a1", "a1", world.keys, not_after=NOW + timedelta(hours=72), now=NOW, randomness=os.urandom
        )
        return world

    async def good(self, crl_url: str = "") -> bytes:
        csr = await make_authority_csr(HOME, "a1", "a1", self.keys)
        request = IntermediateRequest(HOME, "a1", csr, SUFFIXES, NOW + timedelta(days=7), crl_url)
        return await sign_intermediate(self.root, request, self.keys, Kept(), now=NOW, randomness=os.urandom)

    async def spoiled(self, change: Callable[[dict[str, Any]], None], digest: Any = None) -> bytes:
        """What a root with a will of its own signs: `change` edits the fields of a good one."""
        root = x509.load_der_x509_certificate(self.root.certificate)
        public = await self.keys.public_key("a1")
        root_public: Any = root.public_key()
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        fields: dict[str, Any] = {
            "subject": authority_subject(HOME, "a1"),
            "key": public,
            "serial": 7,
            "basic": (x509.BasicConstraints(True, 0), True),
            "usage": (usage, True),
            "ski": (x509.SubjectKeyIdentifier(key_id(public)), False),
            "aki": (x509.AuthorityKeyIdentifier(key_id(root_public), None, None), False),
            "san": (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(HOME.id)]), False),
            "constraints": (intermediate_constraints(HOME, SUFFIXES), True),
        }
        change(fields)
        subject, key, serial = fields.pop("subject"), fields.pop("key"), fields.pop("serial")
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(root.subject).public_key(key)
        builder = builder.serial_number(serial).not_valid_before(NOW - timedelta(seconds=10))
        builder = builder.not_valid_after(NOW + timedelta(days=7))
        for value, critical in fields.values():
            builder = builder.add_extension(value, critical=critical)
        throwaway = ec.generate_private_key(ec.SECP256R1())
        draft = builder.sign(throwaway, digest or hashes.SHA256())
        if digest is not None:
            return draft.public_bytes(Encoding.DER)
        from ca import der

        (signature,) = await self.keys.sign("root", [draft.tbs_certificate_bytes])
        return der.signed(draft.tbs_certificate_bytes, signature)

    def check(self, intermediate: bytes) -> None:
        check_intermediate(intermediate, HOME, "a1", self.twin, SUFFIXES, [self.root.certificate])


def _unknown(oid: str, value: bytes, critical: bool) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        fields["other"] = (x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical)

    return change


def _usage(fields: dict[str, Any]) -> None:
    fields["usage"] = (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)


SPOILED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown-critical": _unknown("1.2.3.4", b"\x05\x00", True),
    "unknown-not-critical": _unknown("1.2.3.4", b"\x05\x00", False),
    "seventeen-kib": _unknown("1.2.3.4", b"\x04\x82\x44\x00" + b"0" * 17408, False),
    "no-keycertsign": _usage,
    "no-key-usage": lambda f: f.pop("usage"),
    "other-key-identifier": lambda f: f.update(ski=(x509.SubjectKeyIdentifier(b"x" * 20), False)),
    "no-key-identifier": lambda f: f.pop("ski"),
    "own-domain-excluded": lambda f: f.update(
        constraints=(x509.NameConstraints(None, [x509.UniformResourceIdentifier("home")]), True)
    ),
    "constraints-not-critical": lambda f: f.update(constraints=(f["constraints"][0], False)),
    "no-constraints": lambda f: f.pop("constraints"),
    "other-suffixes": lambda f: f.update(constraints=(intermediate_constraints(HOME, ()), True)),
    "path-length": lambda f: f.update(basic=(x509.BasicConstraints(True, 1), True)),
    "no-ca": lambda f: f.update(basic=(x509.BasicConstraints(False, None), True)),
    "another-domain": lambda f: f.update(
        san=(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://away")]), False)
    ),
    "another-authority": lambda f: f.update(subject=authority_subject(HOME, "a2")),
    "another-key": lambda f: f.update(key=ec.generate_private_key(ec.SECP256R1()).public_key()),
}


@pytest.mark.parametrize("fault", SPOILED)
async def test_a_spoiled_intermediate_is_refused(fault: str) -> None:
    world = await World.make()
    with pytest.raises(Invalid):
        world.check(await world.spoiled(SPOILED[fault]))


async def test_the_unspoiled_one_is_what_the_root_makes() -> None:
    world = await World.make()
    world.check(await world.spoiled(lambda fields: None))


async def test_one_that_the_root_did_not_sign_is_refused() -> None:
    world = await World.make()
    with pytest.raises(Invalid):
        world.check(await world.spoiled(lambda fields: None, hashes.SHA384()))
    with pytest.raises(Invalid):
        world.check(await world.spoiled(lambda fields: None, hashes.SHA256()))
    for garbage in (b"", b"\x30\x03\x02\x01\x01", world.twin, (await world.good())[:-1]):
        with pytest.raises(Invalid):
            world.check(garbage)


@pytest.mark.parametrize("crl_url", ["", "https://hub.example/v1/crl/1"])
async def test_what_is_adopted_harms_no_chain(crl_url: str) -> None:
    world = await World.make()
    good = await world.good(crl_url)
    world.check(good)
    issuer = Issuer.load(HOME, "a1", "a1", world.twin, intermediate=good, dns_suffixes=SUFFIXES)
    key = spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    request = LeafRequest(SpiffeId.parse("spiffe://home/web"), key, 3600, chain="root")
    (issued,) = await issue_x509(issuer, [request], world.keys, Kept(), now=NOW, randomness=os.urandom)
    assert isinstance(issued, Issued)
    assert len(issued.chain) == 2
    verify_x509_svid(issued.chain, Bundle(HOME, (world.twin,)), NOW)
