"""A cluster's state: what its journal adds up to (trustfed.cluster.fold), and what can be asked of it."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from ca.lifecycle import AuthorityState, Level
from trustfed.cluster import events as e
from trustfed.cluster.evidence.state import EvidenceState
from trustfed.cluster.istio_ca.state import IstioState
from trustfed.cluster.mesh.state import Mesh
from trustfed.federation.roots import RootSet, reopen
from trustfed.journal.approvals import Proposal
from trustfed.journal.table import Table


class Domain(Struct, frozen=True):
    """Who this cluster is."""

    instance: str
    trust_domain: str
    publication_key_name: str
    publication_key: bytes


class Hub(Struct, frozen=True):
    """Where the hub is and who it must be."""

    trust_domain: str
    id: str
    grpc: str
    https: str


class Invitation(Struct, frozen=True):
    """A one-time node token: only its hash is kept. `key_hash` is the first key that used it."""

    token_hash: str
    name: str
    groups: tuple[str, ...]
    expires_at: datetime
    key_hash: str = ""


class Node(Struct, frozen=True):
    name: str
    groups: tuple[str, ...]
    attestor: str
    evidence: str
    key_hash: str
    chain: tuple[bytes, ...]
    attested_at: datetime
    banned: str = ""
    banned_at: datetime | None = None


class Grant(Struct, frozen=True):
    id: str
    importer: str
    exporter: str
    from_: datetime
    until: datetime
    reason: str
    exporter_key: bytes
    state: str = "offered"  # offered | accepted | ended
    confirmed: bool = False  # the hub has this side's decision
    accepted_at: datetime | None = None
    ended_at: datetime | None = None
    ended_by: str = ""
    ended_reason: str = ""
    local: bool = False  # of a foreign peer: the hub knows nothing of it
    stale_limit: int = 0  # seconds that the exporter's bundle is used after its last confirmation; 0: as policy says


class Peer(Struct, frozen=True):
    """The newest bundle of a domain this one imports or imported: kept after a grant ends, so that none goes back."""

    trust_domain: str
    key: bytes  # the publication key that was pinned when it came
    epoch: int
    sequence: int
    envelope: bytes
    received_at: datetime | None = None  # None: it came before such times were kept
    first_received_at: datetime | None = None  # of all its bundles under this pin, since it was last granted


class ForeignPeer(Struct, frozen=True):
    """A SPIFFE trust domain outside this federation; the bundle of it that is held is its `Peer`, signed by ourselves."""

    trust_domain: str
    profile: str
    url: str
    endpoint_id: str
    ca: bytes
    anchors: bytes  # how its endpoint is known until a bundle of it was accepted
    readers: tuple[str, ...]
    grant: str
    added_at: datetime
    sequence: int | None = None
    keys: str = ""  # fingerprint of the key set that was accepted last; "" before the first
    refresh_hint: int = 0
    accepted_at: datetime | None = None
    fault: str = ""
    message: str = ""
    refused_keys: str = ""
    fault_at: datetime | None = None


class ClusterState(Struct, frozen=True):
    domain: Domain | None = None
    hub: Hub | None = None
    dns_suffixes: tuple[str, ...] = ()
    root_documents: tuple[bytes, ...] = ()
    authorities: Table[AuthorityState] = Table()
    level: Level = Level(0, 0)
    floor: Level = Level(0, 0)  # an operator's new epoch: envelopes are cut no lower
    envelope: bytes = b""
    carries: tuple[str, ...] = ()
    entries: Table[e.EntryPut] = Table()
    peer_lists: Table[tuple[str, ...]] = Table()
    invitations: Table[Invitation] = Table()
    nodes: Table[Node] = Table()
    grants: Table[Grant] = Table()
    peers: Table[Peer] = Table()
    hub_instance: str = ""
    hub_position: int = 0
    foreign: Table[ForeignPeer] = Table()
    endpoints: Table[tuple[str, ...]] = Table()  # of peers, by trust domain
    reserves: Table[int] = Table()  # node group → seconds that its reserve SVIDs live
    held: Level = Level(0, 0)  # the level that every live reader once had
    role: e.RoleSigned | None = None  # of the protected publication, as it was signed last
    mesh: Mesh = Mesh()
    istio: IstioState = IstioState()
    evidence: EvidenceState = EvidenceState()
    proposals: Table[Proposal] = Table()  # what takes two people

    @property
    def trust_domain(self) -> str:
        return self.domain.trust_domain if self.domain else ""

    def imports(self, now: datetime) -> dict[str, Grant]:
        """The grants by which this domain accepts another's identities now, by exporter."""
        return self.pins(now, begun=True)

    def pins(self, now: datetime, *, begun: bool = False) -> dict[str, Grant]:
        """The grants this domain has accepted and that have not ended, by exporter; without `begun` also those to come.

        Of several for one exporter, which all pin the same key, the one that lasts longest.
        """
        found: dict[str, Grant] = {}
        for g in self.grants.values():
            if g.importer != self.trust_domain or g.state != "accepted" or now >= g.until or (begun and now < g.from_):
                continue
            known = found.get(g.exporter)
            if known is None or (known.until, known.id) < (g.until, g.id):
                found[g.exporter] = g
        return found

    def importers(self, now: datetime) -> dict[str, Grant]:
        """The grants by which others accept this domain's identities now, by importer."""
        return {
            g.importer: g
            for g in self.grants.values()
            if g.exporter == self.trust_domain and g.state == "accepted" and g.from_ <= now < g.until
        }


def newest_roots(state: ClusterState) -> RootSet:
    """The newest root set this cluster holds; every document in the journal was verified before it was recorded."""
    return reopen(state.root_documents[-1])
