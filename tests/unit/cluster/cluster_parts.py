"""A cluster without doors or disks: fold, issuance, authorities and admission over memory drivers and a manual clock."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority import make_authority_csr
from ca.keys.memory import MemoryKeys
from ca.lifecycle import AuthorityState, Consumer, Kind, Level, Status
from tests.fakes.clocks import ManualClock
from tests.fakes.hub import HUB, FakeHub
from tests.fakes.journals import FaultyJournal
from trustfed.cluster import enrolment as cluster_enrolment
from trustfed.cluster import entries, nodes
from trustfed.cluster import events as e
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.admission import NodeAdmission
from trustfed.cluster.attestation.config import AttestationConfig
from trustfed.cluster.attestation.open import open_attestors
from trustfed.cluster.attestation.port import Attestors
from trustfed.cluster.authorities import Authorities
from trustfed.cluster.config import Policy
from trustfed.cluster.entries import EntrySpec, Ttls
from trustfed.cluster.fold import cluster_fold
from trustfed.cluster.issuance import Issuance
from trustfed.cluster.presence import Presence
from trustfed.cluster.state import ClusterState, Node
from trustfed.federation import enrolment
from trustfed.federation.names import cluster_id, hub_id
from trustfed.federation.token import EnrolmentToken
from trustfed.journal.memory import MemoryLedger, MemorySnapshots
from trustfed.journal.ports import Journal, Ledger
from trustfed.runtime.metrics import Registry
from trustfed.runtime.nonces import Nonces
from trustfed.spiffe.ids import TrustDomain

TD = "td-a"
TTLS = Ttls(3600, 86_400, 300, 3600)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class ClusterParts:
    """`await ClusterParts.make()`, `await close()`; `await restart()` keeps journal, ledger and keys."""

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        keys: MemoryKeys,
        policy: Policy,
        clock: ManualClock,
        attestors: Attestors | None = None,
    ) -> None:
        self.journal, self.ledger, self.keys, self.policy, self.clock = journal, ledger, keys, policy, clock
        self.snapshots, self.registry = MemorySnapshots(), Registry()
        self.fold = cluster_fold(journal, self.snapshots)
        self.issuance = Issuance(self.fold, ledger, keys, policy, clock, os.urandom, self.registry)
        self.authorities = Authorities(self.fold, keys, policy, clock, os.urandom, self.issuance.last_leaf)
        self.presence = Presence()
        self.admission = NodeAdmission(
            self.fold,
            self.issuance,
            attestors or open_attestors(AttestationConfig(), TrustDomain(TD), clock),
            self.presence,
            Nonces(os.urandom),
            policy,
            Addresses(("cluster.example:8443", "second.example:8443"), ("cluster.example:8444",)),
            clock,
        )
        self.hub: FakeHub

    @classmethod
    async def make(
        cls,
        *,
        journal: Journal | None = None,
        ledger: Ledger | None = None,
        keys: MemoryKeys | None = None,
        policy: Policy | None = None,
        attestors: Attestors | None = None,
        enrolled: bool = True,
    ) -> ClusterParts:
        clock = ManualClock(datetime.now(UTC).replace(microsecond=0))
        made = cls(
            journal or FaultyJournal(),
            ledger or MemoryLedger(),
            keys or MemoryKeys(),
            policy or Policy(),
            clock,
            attestors,
        )
        await made.fold.start()
        made.hub = await FakeHub.make()
        if enrolled:
            await made.enrol()
        return made

    async def enrol(self) -> None:
        """What trustfed.cluster.enrolment does, with the root at hand instead of a hub's HTTPS door."""
        await cluster_enrolment.make_keys(self.fold, self.keys, self.authorities, TrustDomain(TD), self.clock)
        (authority,) = [a for a in self.all() if a.kind is Kind.X509]
        documents = tuple(self.hub.root_documents)
        self.hub.dns_suffixes = ("svc.example",)
        await self.record(
            e.Enrolled(
                HUB.name, str(hub_id(HUB)), "127.0.0.1:1", "https://127.0.0.1:1", ("svc.example",), documents, self.now
            )
        )
        await self.authorities.certify_one(authority, self)

    async def certify(self, authority: str, csr: bytes) -> bytes:
        """The Certifier port, answered by the root."""
        return await self.hub.intermediate(TD, authority, csr, ttl=timedelta(days=300))

    async def restart(self) -> ClusterParts:
        """Another process with the same journal, ledger and keys."""
        await self.close()
        again = ClusterParts(self.journal, self.ledger, self.keys, self.policy, self.clock)
        again.hub = self.hub
        await again.fold.start()
        return again

    async def close(self) -> None:
        await self.fold.close()

    @property
    def state(self) -> ClusterState:
        return self.fold.state

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def all(self) -> list[AuthorityState]:
        return list(self.state.authorities.values())

    def one(self, kind: Kind, status: Status) -> AuthorityState:
        (found,) = [a for a in self.all() if a.kind is kind and a.status is status]
        return found

    async def record(self, *events: Any) -> None:
        await self.fold.execute(lambda s: events, command_id=os.urandom(8).hex(), actor="test", now=self.now)

    async def decide(self, decide: Any) -> None:
        await self.fold.execute(decide, command_id=os.urandom(8).hex(), actor="test", now=self.now)

    async def entry(self, **fields: Any) -> e.EntryPut:
        given = {"spiffe_id": f"spiffe://{TD}/web", "parent": "node/n1", "selectors": ("unix:uid:1",), **fields}
        new_id = given.get("id") or os.urandom(4).hex()
        await self.decide(lambda s: entries.put_entry(s, EntrySpec(**given), new_id, TTLS, self.now))
        return self.state.entries[new_id]

    async def token(self, name: str = "n1", groups: tuple[str, ...] = ("default",), ttl: timedelta = HOUR) -> str:
        secret = os.urandom(32)
        token = EnrolmentToken(
            "node",
            "https://127.0.0.1:1",
            TrustDomain(TD),
            cluster_id(TrustDomain(TD)),
            name,
            1,
            "sha256:" + "0" * 64,
            secret,
            (self.now + ttl).replace(microsecond=0),
        )
        await self.decide(lambda s: nodes.invite(s, token.secret_hash(), name, groups, ttl, self.now))
        return token.encode()

    async def node(self, name: str = "n1", groups: tuple[str, ...] = ("default",)) -> tuple[Node, NodeKey]:
        key = NodeKey()
        key.answer = await self.admission.attest(key.attestation(await self.token(name, groups)))
        return self.state.nodes[name], key

    async def node_without_roots(self, name: str = "n1") -> tuple[Node, NodeKey]:
        """A node of a cluster that was never enrolled."""
        await self.record(e.NodeAttested(name, ("default",), "join_token", "", "", (b"c",), self.now))
        return self.state.nodes[name], NodeKey()

    async def round(self, *consumers: Consumer, at: timedelta | None = None) -> None:
        """Let time pass, then do all that is due."""
        if at is not None:
            self.clock.move(at.total_seconds())
        while await self.authorities.advance(consumers):
            pass

    def level(self) -> Level:
        return self.state.level


class NodeKey:
    """A node's key and the requests it signs."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.key = ec.generate_private_key(curve or ec.SECP256R1())
        self.answer: dict[str, Any] = {}

    @property
    def public(self) -> bytes:
        return spki(self.key)

    @property
    def leaf(self) -> bytes:
        return base64.b64decode(self.answer["chain"][0])

    def attestation(
        self, payload: str, *, attestor: str = "join_token", changes: Mapping[str, str] | None = None
    ) -> bytes:
        """A request signed by this key; `changes` are made after it was signed."""
        document = {
            "attestor": attestor,
            "payload": payload,
            "public_key": enrolment.text(self.public),
            "software": "t",
        }
        return self._proved(enrolment.ATTEST, document, changes or {})

    def renewal(self, nonce: str, new: NodeKey) -> bytes:
        document = {"leaf": enrolment.text(self.leaf), "public_key": enrolment.text(new.public), "nonce": nonce}
        return self._proved(enrolment.RENEW, document, {})

    def _proved(self, kind: str, document: dict[str, str], changes: Mapping[str, str]) -> bytes:
        proof = self.key.sign(enrolment.proof_input(kind, document), ec.ECDSA(hashes.SHA256()))
        import json

        return json.dumps({**document, "proof": enrolment.text(proof), **changes}).encode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def settle(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def csr_of(parts: ClusterParts, authority: AuthorityState) -> bytes:
    return await make_authority_csr(TrustDomain(TD), authority.id, authority.key_name, parts.keys)
