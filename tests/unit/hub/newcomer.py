"""A trust domain with real keys, made by hand: its authorities, envelopes, SVIDs, and the requests it sends to a hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority import make_authority_csr, make_twin, new_authority_id
from ca.issuance import Issued, Issuer, LeafRequest, issue_x509
from ca.keys.memory import MemoryKeys
from ca.profiles import NODE_SVID, SYSTEM_SVID, X509_SVID
from ca.record import Recordable
from trustfed.federation.enrolment import ENROL, RESIGN, proof_input, text
from trustfed.federation.envelope import Level, PublicationKey, assemble, payload_to_sign
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain


class Kept:
    """A recorder that keeps what it was given."""

    def __init__(self) -> None:
        self.drafts: list[Recordable] = []

    async def record(self, drafts: Sequence[Recordable]) -> None:
        self.drafts += drafts


class Newcomer:
    """One trust domain. `await Newcomer.make(name)`."""

    def __init__(self, name: str) -> None:
        self.trust_domain = TrustDomain(name)
        self.keys = MemoryKeys()
        self.key: PublicationKey
        self.authority = new_authority_id(os.urandom)
        self.csr = b""
        self.twins: list[bytes] = []
        self.epoch, self.sequence = 1, 0
        self.intermediate = b""

    @classmethod
    async def make(cls, name: str) -> Newcomer:
        made = cls(name)
        made.key = PublicationKey.of(await made.keys.create("publication"))
        await made.keys.create("authority")
        now = datetime.now(UTC)
        twin = await make_twin(
            made.trust_domain,
            made.authority,
            "authority",
            made.keys,
            not_after=now.replace(microsecond=0) + timedelta(hours=12),
            now=now,
            randomness=os.urandom,
        )
        made.twins = [twin]
        made.csr = await make_authority_csr(made.trust_domain, made.authority, "authority", made.keys)
        return made

    async def envelope(self, *, twins: Sequence[bytes] | None = None, step: int = 1, hint: int = 60) -> bytes:
        """The next envelope (or, with `step` 0, another of the same level)."""
        self.sequence += step
        body = Bundle(
            self.trust_domain,
            tuple(self.twins if twins is None else twins),
            sequence=self.sequence,
            refresh_hint=hint,
        ).marshal()
        level = Level(self.trust_domain, self.epoch, self.sequence)
        (signature,) = await self.keys.sign("publication", [payload_to_sign(level, body)])
        return assemble(level, body, signature, self.key).data

    async def enrolment(self, token: str, *, envelope: bytes | None = None) -> dict[str, str]:
        """The request of POST /v1/enrol."""
        document = {
            "token": token,
            "publication_key": text(self.key.spki),
            "authority_id": self.authority,
            "csr": text(self.csr),
            "envelope": text(envelope if envelope is not None else await self.envelope()),
        }
        return await self._proved(ENROL, document)

    async def resign(self, nonce: str) -> dict[str, str]:
        """The request of POST /v1/resign."""
        document = {
            "trust_domain": self.trust_domain.name,
            "authority_id": self.authority,
            "csr": text(self.csr),
            "nonce": nonce,
        }
        return await self._proved(RESIGN, document)

    async def svid(self, path: str = "/trustfed/cluster", ttl: int = 3600, now: datetime | None = None) -> KeyPair:
        """An SVID by this domain's authority, with the root chain."""
        issuer = Issuer.load(
            self.trust_domain, self.authority, "authority", self.twins[0], intermediate=self.intermediate
        )
        key = ec.generate_private_key(ec.SECP256R1())
        profile = X509_SVID
        if path.startswith("/trustfed/"):
            profile = NODE_SVID if path.startswith("/trustfed/node/") else SYSTEM_SVID
        request = LeafRequest(
            spiffe_id=SpiffeId.of(self.trust_domain, path),
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            ttl=ttl,
            chain="root",
            profile=profile,
        )
        (issued,) = await issue_x509(
            issuer, [request], self.keys, Kept(), now=now or datetime.now(UTC), randomness=os.urandom
        )
        assert isinstance(issued, Issued), issued
        return KeyPair(issued.chain, key)

    async def _proved(self, kind: str, document: dict[str, str]) -> dict[str, str]:
        (proof,) = await self.keys.sign("publication", [proof_input(kind, document)])
        return {**document, "proof": text(proof)}
