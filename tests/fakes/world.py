"""A small trust domain with real certificates from `ca`, for tests that need TLS between real identities."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority import make_authority_csr, make_twin, new_authority_id
from ca.issuance import Issued, Issuer, LeafRequest, issue_x509
from ca.keys.memory import MemoryKeys
from ca.profiles import NODE_SVID, SYSTEM_SVID, X509_SVID
from ca.record import Recordable
from ca.root import IntermediateRequest, Root, make_root, sign_intermediate
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain


@dataclass
class Records:
    """A recorder that keeps what it was given in memory."""

    drafts: list[Recordable] = field(default_factory=list)

    async def record(self, drafts: list[Recordable]) -> None:  # type: ignore[override]
        self.drafts.extend(drafts)


@dataclass
class DomainWorld:
    """One trust domain: root, authority, twin, intermediate, and SVIDs on demand."""

    trust_domain: TrustDomain
    keys: MemoryKeys
    root: Root
    issuer: Issuer
    now: datetime

    @classmethod
    async def make(cls, name: str, *, now: datetime | None = None) -> DomainWorld:
        now = now or datetime.now(UTC)
        domain, keys = TrustDomain.parse(name), MemoryKeys()
        await keys.create("root-1")
        root = await make_root("test", 1, "root-1", keys, now=now, randomness=os.urandom)
        id_ = new_authority_id(os.urandom)
        await keys.create("x509-1")
        end = (now + timedelta(hours=24)).replace(microsecond=0)
        twin = await make_twin(domain, id_, "x509-1", keys, not_after=end, now=now, randomness=os.urandom)
        csr = await make_authority_csr(domain, id_, "x509-1", keys)
        request = IntermediateRequest(domain, id_, csr, (), end)
        signed = await sign_intermediate(root, request, keys, Records(), now=now, randomness=os.urandom)
        return cls(domain, keys, root, Issuer.load(domain, id_, "x509-1", twin, intermediate=signed), now)

    @property
    def twin(self) -> bytes:
        return self.issuer.twin

    @property
    def bundle(self) -> Bundle:
        return Bundle(self.trust_domain, (self.twin,), (), 1, 60)

    async def svid(self, path: str, *, ttl: int = 3600, chain: str = "root") -> KeyPair:
        """An SVID of this domain, on a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        profile = X509_SVID
        if path.startswith("/trustfed/"):
            profile = NODE_SVID if path.startswith("/trustfed/node/") else SYSTEM_SVID
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        request = LeafRequest(
            SpiffeId.of(self.trust_domain, path),
            spki,
            ttl,
            chain="root" if chain == "root" else "leaf",
            profile=profile,
        )
        (issued,) = await issue_x509(self.issuer, [request], self.keys, Records(), now=self.now, randomness=os.urandom)
        assert isinstance(issued, Issued), issued
        return KeyPair(issued.chain, key)
