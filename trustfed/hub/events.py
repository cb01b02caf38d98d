"""What the hub decides, as it stands in its journal: one frozen Struct per kind of event.

Bodies hold what the fold needs and what an auditor asks for; when, who and why are fields of the journal's own event.
Times are Unix milliseconds, certificates and envelopes are the exact bytes (base64 in JSON). No secrets: tokens appear
as hashes only.
"""

from __future__ import annotations

import msgspec

from trustfed.hub.dashboard import events as dashboard
from trustfed.hub.evidence import events as evidence
from trustfed.hub.mesh import events as mesh
from trustfed.journal import approvals
from trustfed.journal.events import Codec

SCHEMA = 6  # of the fold's snapshot; raise it with every change of state.py


class HubCreated(msgspec.Struct, frozen=True):
    """The first event: `instance` names this journal, so that no reader resumes in another one."""

    instance: str
    trust_domain: str


class RootCreated(msgspec.Struct, frozen=True):
    """The first root, with version 1 of the root set document."""

    key_name: str
    certificate: bytes
    document: bytes


class RootPrepared(msgspec.Struct, frozen=True):
    """The next root is in the root set (`document`, signed under both versions); the active one certified `cross`."""

    key_name: str
    certificate: bytes
    cross: bytes
    document: bytes


class RootActivated(msgspec.Struct, frozen=True):
    """From here on this root signs the intermediates."""

    key_name: str


class RootRetired(msgspec.Struct, frozen=True):
    """The root set (`document`) no longer holds this root: what it signed is believed no more."""

    key_name: str
    document: bytes


class HubAuthorityCreated(msgspec.Struct, frozen=True):
    """An authority of the hub's own trust domain, which signs the hub's SVIDs."""

    authority: str
    key_name: str
    twin: bytes
    intermediate: bytes
    serial: str
    root: str
    dns_names: list[str]
    created_ms: int
    not_after_ms: int


class DomainInvited(msgspec.Struct, frozen=True):
    """A one-time token lets one newcomer enrol under this name until `expires_ms`; a `simulated` one pages nobody."""

    name: str
    owner: str
    dns_suffixes: list[str]
    token_hash: str
    expires_ms: int
    simulated: bool = False


class DomainEnrolled(msgspec.Struct, frozen=True):
    """The token is bound to this publication key (SPKI DER) for good."""

    name: str
    token_hash: str
    publication_key: bytes
    authority: str
    csr_hash: str
    at_ms: int


class DomainRemoved(msgspec.Struct, frozen=True):
    """The domain is out: its grants end, its intermediates are revoked, its cluster is refused."""

    name: str
    reason: str
    at_ms: int


class IntermediateSigned(msgspec.Struct, frozen=True):
    """A root signed an authority's intermediate; the same request gets these bytes again."""

    domain: str
    authority: str
    csr_hash: str
    serial: str
    root: str
    at_ms: int
    not_after_ms: int
    certificate: bytes


class IntermediateRevoked(msgspec.Struct, frozen=True):
    """This serial goes onto the CRL of the root that signed it."""

    serial: str
    reason: str
    at_ms: int


class CrlIssued(msgspec.Struct, frozen=True):
    """A root's list of revoked intermediates, complete; `number` only rises."""

    root: str
    number: int
    next_update_ms: int
    certificate_list: bytes


class EnvelopeAccepted(msgspec.Struct, frozen=True):
    """A domain's next bundle, verified to continue the one before it."""

    domain: str
    epoch: int
    sequence: int
    data: bytes


class EndpointsTold(msgspec.Struct, frozen=True):
    """Where a domain serves its own bundle and envelope, for its importers while the hub is away."""

    domain: str
    endpoints: list[str]


class RolePublished(msgspec.Struct, frozen=True):
    """A domain's part of the protected publication, over the envelope that was its newest: its TUF role, and where its
    nodes attest.
    """

    domain: str
    metadata: bytes
    cluster_document: bytes
    version: int


class TufRootInstalled(msgspec.Struct, frozen=True):
    """The next root of the protected publication, as its ceremony made it."""

    version: int
    document: bytes
    expires_ms: int


class GrantOffered(msgspec.Struct, frozen=True):
    """`importer` may accept the identities of `exporter`, once its own owner agrees."""

    id: str
    importer: str
    exporter: str
    from_ms: int
    until_ms: int
    reason: str


class GrantAccepted(msgspec.Struct, frozen=True):
    """The importing owner agreed, and pinned the exporter's publication key with this fingerprint."""

    id: str
    by: str
    fingerprint: str


class GrantEnded(msgspec.Struct, frozen=True):
    """The grant is over: by an owner, an operator, its own end, or the removal of a side."""

    id: str
    by: str
    reason: str
    at_ms: int


class ApiTokenIssued(msgspec.Struct, frozen=True):
    """A bearer token for the HTTPS API; what is kept is the SHA-256 of its 256-bit secret.

    `issued_by` is the person that its maker counts as, and so its bearer too (trustfed.journal.approvals); `made_by` is the
    identity that made it: with a token that is revoked goes what it made. `instead_of` is one that opens nothing any more,
    and that leaves the state for this one, for no more are held than MAX_TOKENS (trustfed.hub.access).
    """

    id: str
    name: str
    role: str
    token_hash: str
    expires_ms: int
    issued_by: str = ""
    made_by: str = ""
    instead_of: str = ""


class ApiTokenRevoked(msgspec.Struct, frozen=True):
    """This bearer token opens nothing any more; `because` is the token that was revoked, when that one made it."""

    id: str
    because: str = ""


HubEvent = (
    HubCreated
    | RootCreated
    | RootPrepared
    | RootActivated
    | RootRetired
    | HubAuthorityCreated
    | DomainInvited
    | DomainEnrolled
    | DomainRemoved
    | IntermediateSigned
    | IntermediateRevoked
    | CrlIssued
    | EnvelopeAccepted
    | EndpointsTold
    | RolePublished
    | TufRootInstalled
    | GrantOffered
    | GrantAccepted
    | GrantEnded
    | ApiTokenIssued
    | ApiTokenRevoked
    | mesh.MeshTold
    | mesh.MeshWithdrawn
    | approvals.ApprovalEvent
    | dashboard.DashboardEvent
    | evidence.EvidenceEvent
)

KINDS: dict[str, type[msgspec.Struct]] = {
    "hub.created": HubCreated,
    "root.created": RootCreated,
    "root.prepared": RootPrepared,
    "root.activated": RootActivated,
    "root.retired": RootRetired,
    "hub.authority_created": HubAuthorityCreated,
    "domain.invited": DomainInvited,
    "domain.enrolled": DomainEnrolled,
    "domain.removed": DomainRemoved,
    "intermediate.signed": IntermediateSigned,
    "intermediate.revoked": IntermediateRevoked,
    "crl.issued": CrlIssued,
    "envelope.accepted": EnvelopeAccepted,
    "endpoints.told": EndpointsTold,
    "role.published": RolePublished,
    "tuf.root_installed": TufRootInstalled,
    "grant.offered": GrantOffered,
    "grant.accepted": GrantAccepted,
    "grant.ended": GrantEnded,
    "token.issued": ApiTokenIssued,
    "token.revoked": ApiTokenRevoked,
    **mesh.EVENTS,
    **approvals.EVENTS,
    **dashboard.EVENTS,
    **evidence.EVENTS,
}


def codec() -> Codec:
    """The hub's events to and from their journal form."""
    return Codec(KINDS)
