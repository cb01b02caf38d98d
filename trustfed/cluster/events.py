"""What a cluster decides: the event types of its journal. State is a fold over them (trustfed.cluster.fold)."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from trustfed.cluster.evidence.events import EVENTS as EVIDENCE_EVENTS
from trustfed.cluster.istio_ca.events import EVENTS as ISTIO_EVENTS
from trustfed.cluster.mesh.events import EVENTS
from trustfed.journal.approvals import EVENTS as APPROVAL_EVENTS
from trustfed.journal.events import Codec


class Keyed(Struct, frozen=True):
    """The keys of this trust domain exist; the enrolment that follows may be asked again with the same ones."""

    instance: str
    trust_domain: str
    publication_key_name: str
    publication_key: bytes  # SubjectPublicKeyInfo, DER
    at: datetime


class Enrolled(Struct, frozen=True):
    """The hub knows this domain: where the hub is, who it is, and which names the domain may certify."""

    hub_trust_domain: str
    hub_id: str
    hub_grpc: str
    hub_https: str
    dns_suffixes: tuple[str, ...]
    root_documents: tuple[bytes, ...]
    at: datetime


class RootsAdvanced(Struct, frozen=True):
    """Later versions of the root set, each signed under the version before it."""

    documents: tuple[bytes, ...]


class AuthorityPrepared(Struct, frozen=True):
    """An authority's key and, for X.509, its self-signed twin exist; nothing is signed with it yet."""

    id: str
    kind: str  # "x509" | "jwt"
    key_name: str
    twin: bytes
    public_key: bytes
    not_before: datetime
    not_after: datetime
    why: str


class AuthorityCertified(Struct, frozen=True):
    """The root signed the authority's intermediate."""

    id: str
    intermediate: bytes
    not_after: datetime  # the intermediate's own


class AuthorityActivated(Struct, frozen=True):
    """From here on this authority signs; `missing` had not acknowledged when it was forced."""

    id: str
    kind: str
    retires: str
    last_leaf_not_after: datetime | None  # the latest end of anything the retired one signed
    forced: bool
    missing: tuple[str, ...]  # up to 100 of them
    why: str
    at: datetime
    missing_count: int = 0


class AuthorityRetired(Struct, frozen=True):
    id: str
    last_leaf_not_after: datetime | None
    why: str
    at: datetime


class AuthorityReplaced(Struct, frozen=True):
    """An operator wants a successor now: it is prepared at once and gated as usual."""

    id: str


class AuthorityTainted(Struct, frozen=True):
    id: str
    remove_first: bool
    at: datetime


class AuthorityReissued(Struct, frozen=True):
    """Agents were told to replace everything that a tainted authority signed."""

    id: str
    missing: tuple[str, ...]
    spread_seconds: int
    at: datetime


class AuthorityRemoved(Struct, frozen=True):
    id: str
    why: str
    missing: tuple[str, ...] = ()


class BundlePublished(Struct, frozen=True):
    """A new envelope of this domain's own bundle; `carries` are the authorities in it."""

    epoch: int
    sequence: int
    carries: tuple[str, ...]
    envelope: bytes


class BundleHeld(Struct, frozen=True):
    """Every live reader has acknowledged this level, which carries the authority that stands by."""

    epoch: int
    sequence: int


class EpochBegun(Struct, frozen=True):
    """After a restore from a backup: the next envelope is cut at this level, above all that readers reported."""

    epoch: int
    sequence: int
    at: datetime


class EntryPut(Struct, frozen=True):
    """A registration entry was created or replaced."""

    id: str
    spiffe_id: str
    parent: str
    selectors: tuple[str, ...]
    x509_ttl: int
    jwt_ttl: int
    dns_names: tuple[str, ...]
    federates_with: tuple[str, ...]
    hint: str
    admin: bool
    chain: str
    expires_at: datetime | None
    owner: str
    created_at: datetime


class EntryDeleted(Struct, frozen=True):
    id: str


class PeersSet(Struct, frozen=True):
    """Several trust domains under one name, for entries that federate with `peers:NAME`; no members removes it."""

    name: str
    members: tuple[str, ...]


class NodeInvited(Struct, frozen=True):
    token_hash: str
    name: str
    groups: tuple[str, ...]
    expires_at: datetime
    at: datetime


class NodeAttested(Struct, frozen=True):
    """A node was admitted; the answer is kept so that the same key gets the same one while its token lives."""

    name: str
    groups: tuple[str, ...]
    attestor: str
    evidence: str  # what was used up: the token's hash
    key_hash: str
    chain: tuple[bytes, ...]
    at: datetime


class NodeBanned(Struct, frozen=True):
    name: str
    reason: str
    at: datetime


class GrantOffered(Struct, frozen=True):
    """What the hub says about a grant in which this domain imports or exports."""

    id: str
    importer: str
    exporter: str
    from_: datetime
    until: datetime
    reason: str
    exporter_key: bytes  # publication key as the hub knows it
    hub_position: int
    local: bool = False  # of a foreign peer: this domain's owner alone made it, and the hub knows nothing of it


class GrantAccepted(Struct, frozen=True):
    """This domain's owner accepts identities of the exporter and pins its publication key."""

    id: str
    exporter_key: bytes
    at: datetime


class GrantConfirmed(Struct, frozen=True):
    """The other side accepted (this domain exports), or the hub has this domain's acceptance."""

    id: str
    hub_position: int


class GrantEnded(Struct, frozen=True):
    id: str
    by: str
    reason: str
    at: datetime
    hub_position: int = 0


class GrantRepinned(Struct, frozen=True):
    """An operator of this side pinned another publication key for the exporter: its envelopes start anew, and the hub
    is asked for everything once more.
    """

    id: str
    exporter_key: bytes


class PeerBundle(Struct, frozen=True):
    """A peer's envelope that continues what was pinned; `key` is the pinned publication key that verified it."""

    trust_domain: str
    key: bytes
    epoch: int
    sequence: int
    envelope: bytes
    hub_position: int
    received_at: datetime | None = None


class PeerEndpoints(Struct, frozen=True):
    """Where a peer's domain itself serves its envelope, as it told the hub; what is read there is verified like any."""

    trust_domain: str
    endpoints: tuple[str, ...]  # https://HOST:PORT


class GrantLimited(Struct, frozen=True):
    """How long the exporter's bundle may be used after its domain last confirmed it; 0: as policy says."""

    id: str
    stale_limit: int  # seconds


class ReserveSet(Struct, frozen=True):
    """Nodes of this group keep reserve SVIDs of so long a life; 0: no longer."""

    group: str
    ttl: int  # seconds


class ForeignPeerAdded(Struct, frozen=True):
    """A SPIFFE trust domain that is no member of this federation: where its bundle is, and how its endpoint is known."""

    trust_domain: str
    profile: str  # "https_web" | "https_spiffe" (SPIFFE Federation §5.2)
    url: str
    endpoint_id: str  # https_spiffe: the SPIFFE ID that must answer
    ca: bytes  # https_web: PEM of the roots that the endpoint is known by; none: the system's
    anchors: bytes  # https_spiffe: the first bundle of the endpoint's domain, as an operator gave it
    readers: tuple[str, ...]  # networks from which the peer reads our bundle
    grant: str  # the id of the local grant that was made with it
    at: datetime


class ForeignPeerChanged(Struct, frozen=True):
    """The same settings, all of them, replaced; what was accepted stays."""

    trust_domain: str
    profile: str
    url: str
    endpoint_id: str
    ca: bytes
    anchors: bytes
    readers: tuple[str, ...]
    grant: str
    at: datetime


class ForeignPeerRemoved(Struct, frozen=True):
    trust_domain: str
    reason: str
    at: datetime


class ForeignBundleAccepted(Struct, frozen=True):
    """A foreign bundle passed (trustfed.cluster.foreign.rules), or an operator accepted it; its keys are in the
    `PeerBundle` beside it, if they or the hint changed.
    """

    trust_domain: str
    sequence: int | None  # the foreign domain's own; none: nothing protects from an older bundle
    keys: str  # fingerprint of the key set
    refresh_hint: int  # seconds, within bounds
    forced: bool
    at: datetime


class ForeignBundleRefused(Struct, frozen=True):
    """What the endpoint serves is not believed, and the bundle held stays; recorded when that begins or turns."""

    trust_domain: str
    fault: str
    message: str
    sequence: int | None
    keys: str
    at: datetime


class RoleSigned(Struct, frozen=True):
    """This domain's part of the protected publication, signed over its envelope of this level; versions only rise."""

    version: int
    signed_at: datetime
    document_hash: str  # SHA-256 of the cluster document
    epoch: int
    sequence: int
    metadata: bytes
    cluster_document: bytes
    mesh_digest: bytes = b""  # of the rendered resources (trustfed.federation.mesh_digest); b"": the role lists none
    mesh_version: int = 0  # when these were signed first: the version in their file
    mesh_sha256: str = ""  # of that file


class HubJoined(Struct, frozen=True):
    """The hub's journal this cluster counts in; its positions start anew."""

    hub_instance: str


CODEC = Codec(
    {
        "cluster.keyed": Keyed,
        "cluster.enrolled": Enrolled,
        "roots.advanced": RootsAdvanced,
        "authority.prepared": AuthorityPrepared,
        "authority.certified": AuthorityCertified,
        "authority.activated": AuthorityActivated,
        "authority.retired": AuthorityRetired,
        "authority.replaced": AuthorityReplaced,
        "authority.tainted": AuthorityTainted,
        "authority.reissued": AuthorityReissued,
        "authority.removed": AuthorityRemoved,
        "bundle.published": BundlePublished,
        "bundle.held": BundleHeld,
        "epoch.begun": EpochBegun,
        "entry.put": EntryPut,
        "entry.deleted": EntryDeleted,
        "peers.set": PeersSet,
        "node.invited": NodeInvited,
        "node.attested": NodeAttested,
        "node.banned": NodeBanned,
        "grant.offered": GrantOffered,
        "grant.accepted": GrantAccepted,
        "grant.confirmed": GrantConfirmed,
        "grant.ended": GrantEnded,
        "grant.repinned": GrantRepinned,
        "peer.bundle": PeerBundle,
        "hub.joined": HubJoined,
        "role.signed": RoleSigned,
        "peer.endpoints": PeerEndpoints,
        "grant.limited": GrantLimited,
        "reserve.set": ReserveSet,
        "foreign.added": ForeignPeerAdded,
        "foreign.changed": ForeignPeerChanged,
        "foreign.removed": ForeignPeerRemoved,
        "foreign.accepted": ForeignBundleAccepted,
        "foreign.refused": ForeignBundleRefused,
        **EVENTS,
        **EVIDENCE_EVENTS,
        **ISTIO_EVENTS,
        **APPROVAL_EVENTS,
    }
)
