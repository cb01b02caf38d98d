"""What issuance tells this room: serials for look-ups, hashes of certificates, and tries that were refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ca.issuance import Issued, LeafRequest
from trustfed.cluster.entries import serves
from trustfed.cluster.evidence.fleet_link import code_of
from trustfed.cluster.evidence.serials import IssuedTo, Serials
from trustfed.cluster.evidence.signed import Signatures
from trustfed.cluster.slots import RESERVE_SLOT, SLOT
from trustfed.cluster.state import ClusterState, Node
from trustfed.errors import TrustfedError
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms


class OfIssuance:
    """`trustfed.cluster.issuance.Witness`: nothing here waits."""

    def __init__(
        self, serials: Serials, signatures: Signatures, state: Callable[[], ClusterState], clock: Clock
    ) -> None:
        self._serials, self._signatures, self._state, self._clock = serials, signatures, state, clock

    def signed(
        self, authority: str, requests: Sequence[LeafRequest], results: Sequence[Issued | TrustfedError]
    ) -> None:
        """Keep to whom each serial went, and what was signed."""
        now = to_ms(self._clock.now()) // 1000 * 1000
        recorded: dict[str, IssuedTo] = {}
        certificates = []
        last, ends = None, 0
        for request, issued in zip(requests, results, strict=True):
            if isinstance(issued, Issued):
                if issued.not_after != last:  # most of a batch end together
                    last, ends = issued.not_after, to_ms(issued.not_after)
                recorded[issued.serial] = IssuedTo(request.node, request.entry, request.slot, now, ends)
                certificates.append((issued.serial, issued.chain[0]))
        self._serials.remember(recorded)
        self._signatures.signed(authority, certificates)

    def refused(self, node: Node, request: pb.X509Slot, error: TrustfedError) -> None:
        """A try: of an entry that this node does not serve only the node is kept."""
        entry = self._state().entries.get(request.entry_id)
        own = entry is not None and serves(entry, node, self._clock.now())
        slot = request.slot if request.slot in (SLOT, RESERVE_SLOT) else SLOT
        self._signatures.refused(node.name, request.entry_id if own else "", slot if own else "", code_of(error))
