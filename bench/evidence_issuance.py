"""What evidence adds to issuance: the same SVIDs with and without it, in turn, in processor time.

Without: prepared, linted, on record in a SQLite ledger, signed. With: their Merkle log, to whom each serial went, the hashes
of what was signed, and all of it folded into the figures. Both in this process, which has no other work. Then a real cluster
is asked over its node door, so that the share can be given of what a node's SVID costs there as a whole.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.figures import Run
from bench.procs import processor_time
from bench.trustfed import Trustfed
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from trustfed.cluster.evidence.serials import Serials
from trustfed.cluster.evidence.signed import Signatures
from trustfed.cluster.evidence.witness import OfIssuance
from trustfed.cluster.state import Node
from trustfed.evidence.store import EvidenceStore
from trustfed.journal.sqlite import Store, open_store
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.process import settle

GROUP = "evidence"
ROUNDS, CALLS, SIZE = 24, 16, 50
"""A round is what a busy cluster issues in the 0.2 s between two looks at its ledger."""
_ENTRIES = 800
"""So that no slot gets more certificates in the bench than an agent asks for in a day."""
CALLERS, DOOR_SECONDS, SETTLE_SECONDS = 4, 4.0, 3.0


async def take(run: Run, folder: Path, product: Trustfed) -> None:
    """Add the share, of the processor time that issuance takes without evidence: by itself, and as nodes are answered."""
    plain, whole = await measured(folder)
    run.own(GROUP, "an X509-SVID without evidence, processor time: by itself", "ms", 1000 * plain)
    run.own(GROUP, "what evidence adds to it: Merkle log, hashes, figures", "%", 100 * (whole / plain - 1))
    for size in (SIZE, 1):
        door = at_the_door(product, size) - (whole - plain)
        run.own(GROUP, f"an X509-SVID by {size} over the node door without evidence, processor time", "ms", 1000 * door)
        run.own(
            GROUP, f"what evidence adds to an X509-SVID by {size} over the node door", "%", 100 * (whole - plain) / door
        )


def at_the_door(product: Trustfed, size: int) -> float:
    """Seconds of a cluster's processor time for one SVID, TLS, gRPC, evidence and all that is done behind included."""
    product.issue(size, CALLERS, 1.0)
    time.sleep(SETTLE_SECONDS)
    pid = product.processes()["cluster (SPIRE: server)"]
    begun = processor_time([pid])
    taken = product.issue(size, CALLERS, DOOR_SECONDS)
    time.sleep(SETTLE_SECONDS)
    return (processor_time([pid]) - begun) / (taken.per_second * DOOR_SECONDS)


async def measured(folder: Path) -> tuple[float, float]:
    """Seconds of processor time of one SVID, without and with evidence: medians over neighbouring rounds."""
    sides = [await _Side.open(folder / name, evidence=name == "with") for name in ("without", "with")]
    try:
        settle()  # as a cluster does once its doors are open
        for side in sides:
            await side.round()
        taken = [[await side.round() for side in sides[:: 1 - 2 * (number % 2)]] for number in range(ROUNDS)]
    finally:
        for side in sides:
            await side.close()
    pairs = [pair[:: 1 - 2 * (number % 2)] for number, pair in enumerate(taken)]
    plain = statistics.median(pair[0] for pair in pairs)
    return plain, plain * statistics.median(pair[1] / pair[0] for pair in pairs)


class _Side:
    """One cluster's issuance over files."""

    def __init__(self, parts: ClusterParts, store: Store, node: Node) -> None:
        self._parts, self._store, self._node = parts, store, node
        self._signatures: Signatures | None = None
        self._evidence: EvidenceStore | None = None
        keys = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(SIZE)]
        self._keys = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]
        self._calls = 0

    @classmethod
    async def open(cls, folder: Path, *, evidence: bool) -> _Side:
        store = open_store(folder)
        parts = await ClusterParts.make(ledger=store.ledger)
        node, _ = await parts.node()
        for number in range(_ENTRIES):
            await parts.entry(id=f"entry-{number}", spiffe_id=f"spiffe://{TD}/ns/default/sa/service-{number}")
        side = cls(parts, store, node)
        if evidence:
            side._signatures = Signatures(store.ledger, parts.clock, parts.registry)
            serials = Serials(store.ledger.find)
            parts.issuance.witness = OfIssuance(serials, side._signatures, lambda: parts.state, parts.clock)
            side._evidence = await EvidenceStore.open(folder, store.ledger, TD, parts.clock)
        else:
            await store.facts_log.close()
        return side

    async def close(self) -> None:
        if self._evidence is not None:
            await self._evidence.close()
        await self._parts.close()
        await self._store.close()

    async def round(self) -> float:
        """Processor time of one SVID, all behind it included."""
        requests = [self._request() for _ in range(CALLS)]
        answers = []
        begun = time.process_time()
        for request in requests:
            answer = await self._parts.issuance.x509(self._node, pb.IssueX509Request.FromString(request))
            answers.append(answer.SerializeToString())
        if self._signatures is not None and self._evidence is not None:
            await self._signatures.flush()
            await self._store.facts_log.integrated(self._store.ledger.position)
            await self._evidence.follow()
        seconds = time.process_time() - begun
        assert all(
            result.chain for answer in map(pb.IssueX509Response.FromString, answers) for result in answer.results
        )
        self._parts.clock.move(60)
        return seconds / (CALLS * SIZE)

    def _request(self) -> bytes:
        self._calls += 1
        slots = [
            pb.X509Slot(
                entry_id=f"entry-{(self._calls * SIZE + number) % _ENTRIES}",
                slot="x509",
                public_key=key,
            )
            for number, key in enumerate(self._keys)
        ]
        return pb.IssueX509Request(slots=slots, command_id=os.urandom(16).hex()).SerializeToString()
