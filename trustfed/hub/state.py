"""The hub's state: a fold over its journal. Pure: `apply(state, event)` gives the next state, whatever the time.

Every record carries the journal position of its last change, so what a reader missed is found without reading history:
it is everything with a position above the reader's own.
"""

from __future__ import annotations

from functools import singledispatch

import msgspec
from msgspec.structs import replace

from trustfed.hub import events as e
from trustfed.hub.dashboard import events as dashboard_events
from trustfed.hub.dashboard import state as dashboard
from trustfed.hub.evidence import events as evidence_events
from trustfed.hub.evidence import state as evidence
from trustfed.hub.mesh import events as mesh_events
from trustfed.hub.mesh import state as mesh
from trustfed.hub.records import (
    ApiToken,
    Crl,
    Domain,
    Grant,
    HubAuthority,
    Intermediate,
    PublishedRole,
    Root,
    TufRoot,
)
from trustfed.journal import approvals
from trustfed.journal.table import Table


class HubState(msgspec.Struct, frozen=True):
    """Everything the hub has decided, as of `position` (the number of events folded)."""

    position: int = 0
    instance: str = ""
    trust_domain: str = ""
    roots: tuple[Root, ...] = ()
    root_documents: tuple[bytes, ...] = ()  # version n at index n - 1
    authorities: tuple[HubAuthority, ...] = ()
    domains: Table[Domain] = msgspec.field(default_factory=Table)
    invitations: Table[str] = msgspec.field(default_factory=Table)  # token hash → domain
    grants: Table[Grant] = msgspec.field(default_factory=Table)
    grants_of: Table[tuple[str, ...]] = msgspec.field(default_factory=Table)  # domain → ids, either side
    intermediates: Table[Intermediate] = msgspec.field(default_factory=Table)  # by serial
    serials_of: Table[tuple[str, ...]] = msgspec.field(default_factory=Table)  # domain → serials, oldest first
    crls: Table[Crl] = msgspec.field(default_factory=Table)  # by root key name
    tokens: Table[ApiToken] = msgspec.field(default_factory=Table)
    roles: Table[PublishedRole] = msgspec.field(default_factory=Table)  # of the protected publication, by domain
    tuf_roots: tuple[TufRoot, ...] = ()  # version n at index n - 1
    mesh: mesh.HubMesh = mesh.HubMesh()
    proposals: Table[approvals.Proposal] = msgspec.field(default_factory=Table)  # what takes two people
    dashboard: dashboard.DashboardState = dashboard.DashboardState()
    evidence: evidence.HubEvidence = evidence.HubEvidence()

    @property
    def active_root(self) -> Root:
        """The root that signs now."""
        return next(root for root in self.roots if root.status == "active")

    @property
    def trusted_roots(self) -> list[Root]:
        """The roots in the newest root set."""
        return [root for root in self.roots if root.status != "retired"]

    def signed_for(self, domain: str) -> list[Intermediate]:
        """The intermediates of one domain, oldest first; those that had expired when a later one was signed are gone."""
        return [self.intermediates[serial] for serial in self.serials_of.get(domain) or ()]

    def grants_with(self, domain: str) -> list[Grant]:
        """Every grant in which `domain` is a side."""
        return [self.grants[grant_id] for grant_id in self.grants_of.get(domain) or ()]

    def imports(self, importer: str, exporter: str) -> bool:
        """Whether `importer` has accepted a grant for `exporter` that has not ended."""
        return any(
            grant.status == "accepted" and grant.importer == importer and grant.exporter == exporter
            for grant in self.grants_with(importer)
        )

    def importers_of(self, exporter: str) -> list[str]:
        """The domains that accepted a grant for `exporter`."""
        return [g.importer for g in self.grants_with(exporter) if g.exporter == exporter and g.status == "accepted"]


def apply(state: HubState, event: msgspec.Struct) -> HubState:
    """The state after one more event."""
    return _apply(event, replace(state, position=state.position + 1))


@singledispatch
def _apply(event: msgspec.Struct, state: HubState) -> HubState:
    raise TypeError(f"{type(event).__name__} is not an event of the hub")


@_apply.register
def _(event: e.HubCreated, s: HubState) -> HubState:
    return replace(s, instance=event.instance, trust_domain=event.trust_domain)


@_apply.register
def _(event: e.RootCreated, s: HubState) -> HubState:
    root = Root(event.key_name, event.certificate, "active")
    return replace(s, roots=(root,), root_documents=(event.document,))


@_apply.register
def _(event: e.RootPrepared, s: HubState) -> HubState:
    root = Root(event.key_name, event.certificate, "prepared", event.cross)
    documents = (*s.root_documents, event.document)
    return replace(s, roots=(*s.roots, root), root_documents=documents)


@_apply.register
def _(event: e.RootActivated, s: HubState) -> HubState:
    return replace(s, roots=tuple(_activated(root, event.key_name) for root in s.roots))


@_apply.register
def _(event: e.RootRetired, s: HubState) -> HubState:
    kept = tuple(replace(root, status="retired") if root.key_name == event.key_name else root for root in s.roots)
    return replace(
        s,
        roots=kept,
        root_documents=(*s.root_documents, event.document),
        crls=s.crls.drop(event.key_name),
    )


def _activated(root: Root, key_name: str) -> Root:
    if root.key_name == key_name:
        return replace(root, status="active")
    return replace(root, status="retiring") if root.status == "active" else root


@_apply.register
def _(event: e.HubAuthorityCreated, s: HubState) -> HubState:
    made = HubAuthority(
        authority=event.authority,
        key_name=event.key_name,
        twin=event.twin,
        intermediate=event.intermediate,
        root=event.root,
        dns_names=tuple(event.dns_names),
        created_ms=event.created_ms,
        not_after_ms=event.not_after_ms,
    )
    return replace(s, authorities=(*s.authorities[-3:], made))


@_apply.register
def _(event: e.DomainInvited, s: HubState) -> HubState:
    old = s.domains.get(event.name)
    invitations = s.invitations.drop(old.token_hash) if old else s.invitations
    suffixes = tuple(event.dns_suffixes)
    fresh = Domain(event.name, event.owner, "invited", suffixes, event.token_hash, event.expires_ms, s.position)
    fresh = replace(fresh, simulated=event.simulated)
    if old:  # whoever enrols under a removed name goes on above its last level
        fresh = replace(fresh, epoch=old.epoch, sequence=old.sequence)
    return replace(
        s,
        domains=s.domains.put(event.name, fresh),
        invitations=invitations.put(event.token_hash, event.name),
    )


@_apply.register
def _(event: e.DomainEnrolled, s: HubState) -> HubState:
    domain = replace(
        s.domains[event.name],
        status="enrolled",
        publication_key=event.publication_key,
        first_authority=event.authority,
        first_csr_hash=event.csr_hash,
        enrolled_ms=event.at_ms,
        position=s.position,
    )
    return replace(s, domains=s.domains.put(event.name, domain))


@_apply.register
def _(event: e.DomainRemoved, s: HubState) -> HubState:
    old = s.domains[event.name]
    domain = replace(old, status="removed", removed_ms=event.at_ms, removed_reason=event.reason, position=s.position)
    role, roles = s.roles.get(event.name), s.roles
    if role:  # whoever enrols under this name later publishes above its version
        roles = roles.put(event.name, PublishedRole(role.version))
    return replace(
        s,
        domains=s.domains.put(event.name, domain),
        invitations=s.invitations.drop(old.token_hash),
        roles=roles,
        mesh=mesh.removed(s.mesh, event.name),
        evidence=evidence.removed(s.evidence, event.name),
    )


@_apply.register
def _(event: e.IntermediateSigned, s: HubState) -> HubState:
    signed = Intermediate(
        event.serial, event.domain, event.authority, event.csr_hash, event.root, event.not_after_ms, event.certificate
    )
    intermediates, serials = s.intermediates.put(event.serial, signed), [event.serial]
    for old in reversed(s.signed_for(event.domain)):
        if old.not_after_ms < event.at_ms:
            intermediates = intermediates.drop(old.serial)
        else:
            serials.insert(0, old.serial)
    return replace(s, intermediates=intermediates, serials_of=s.serials_of.put(event.domain, tuple(serials)))


@_apply.register
def _(event: e.IntermediateRevoked, s: HubState) -> HubState:
    old = s.intermediates[event.serial]
    revoked = replace(old, revoked_ms=event.at_ms, revoked_reason=event.reason, revoked_position=s.position)
    return replace(s, intermediates=s.intermediates.put(event.serial, revoked))


@_apply.register
def _(event: e.CrlIssued, s: HubState) -> HubState:
    crl = Crl(event.root, event.number, event.next_update_ms, event.certificate_list, s.position)
    return replace(s, crls=s.crls.put(event.root, crl))


@_apply.register
def _(event: e.EnvelopeAccepted, s: HubState) -> HubState:
    domain = replace(
        s.domains[event.domain],
        epoch=event.epoch,
        sequence=event.sequence,
        envelope=event.data,
        envelope_position=s.position,
    )
    return replace(s, domains=s.domains.put(event.domain, domain))


@_apply.register
def _(event: e.EndpointsTold, s: HubState) -> HubState:
    told = tuple(event.endpoints)
    domain = replace(s.domains[event.domain], bundle_endpoints=told, endpoints_position=s.position)
    return replace(s, domains=s.domains.put(event.domain, domain))


@_apply.register
def _(event: e.RolePublished, s: HubState) -> HubState:
    listed = s.domains[event.domain].envelope
    role = PublishedRole(event.version, event.metadata, event.cluster_document, listed)
    return replace(s, roles=s.roles.put(event.domain, role))


@_apply.register
def _(event: e.TufRootInstalled, s: HubState) -> HubState:
    return replace(s, tuf_roots=(*s.tuf_roots, TufRoot(event.document, event.expires_ms)))


@_apply.register
def _(event: e.GrantOffered, s: HubState) -> HubState:
    grant = Grant(
        event.id,
        event.importer,
        event.exporter,
        "offered",
        event.from_ms,
        event.until_ms,
        event.reason,
        s.position,
    )
    grants_of = s.grants_of
    for side in (event.importer, event.exporter):
        grants_of = grants_of.put(side, (*(grants_of.get(side) or ()), event.id))
    return replace(s, grants=s.grants.put(event.id, grant), grants_of=grants_of)


@_apply.register
def _(event: e.GrantAccepted, s: HubState) -> HubState:
    grant = replace(
        s.grants[event.id],
        status="accepted",
        accepted_by=event.by,
        fingerprint=event.fingerprint,
        position=s.position,
    )
    return replace(s, grants=s.grants.put(event.id, grant))


@_apply.register
def _(event: e.GrantEnded, s: HubState) -> HubState:
    grant = replace(
        s.grants[event.id],
        status="ended",
        ended_by=event.by,
        ended_reason=event.reason,
        ended_ms=event.at_ms,
        position=s.position,
    )
    return replace(s, grants=s.grants.put(event.id, grant))


@_apply.register
def _(event: e.ApiTokenIssued, s: HubState) -> HubState:
    token = ApiToken(
        event.id,
        event.name,
        event.role,
        event.token_hash,
        event.expires_ms,
        issued_by=event.issued_by,
        made_by=event.made_by,
    )
    held = s.tokens.drop(event.instead_of) if event.instead_of else s.tokens
    return replace(s, tokens=held.put(event.id, token))


@_apply.register
def _(event: e.ApiTokenRevoked, s: HubState) -> HubState:
    token = replace(s.tokens[event.id], revoked=True)
    return replace(s, tokens=s.tokens.put(event.id, token))


@_apply.register
def _(event: mesh_events.MeshTold, s: HubState) -> HubState:
    return replace(s, mesh=mesh.told(s.mesh, event))


@_apply.register
def _(event: mesh_events.MeshWithdrawn, s: HubState) -> HubState:
    return replace(s, mesh=mesh.withdrawn(s.mesh, event))


@_apply.register(approvals.ProposalMade)
@_apply.register(approvals.ProposalApproved)
@_apply.register(approvals.ProposalWithdrawn)
@_apply.register(approvals.ProposalRefused)
@_apply.register(approvals.GlassBroken)
def _(event: approvals.ApprovalEvent, s: HubState) -> HubState:
    return replace(s, proposals=approvals.apply(s.proposals, event))


@_apply.register
def _(event: dashboard_events.OwnerChanged, s: HubState) -> HubState:
    domain = replace(s.domains[event.domain], owner=event.owner, position=s.position)
    return replace(s, domains=s.domains.put(event.domain, domain))


@_apply.register(dashboard_events.LoginLinked)
@_apply.register(dashboard_events.LoginOpened)
@_apply.register(dashboard_events.LoginEnded)
@_apply.register(dashboard_events.ExceptionMade)
@_apply.register(dashboard_events.ExceptionEnded)
@_apply.register(dashboard_events.ActionTaken)
def _(event: dashboard_events.DashboardEvent, s: HubState) -> HubState:
    return replace(s, dashboard=dashboard.apply(s.dashboard, event, s.position))


@_apply.register(evidence_events.LogKeyPinned)
@_apply.register(evidence_events.LogsAccepted)
@_apply.register(evidence_events.LogCheckpoint)
@_apply.register(evidence_events.OrderMade)
@_apply.register(evidence_events.OrderEnded)
def _(event: evidence_events.EvidenceEvent, s: HubState) -> HubState:
    return replace(s, evidence=evidence.apply(s.evidence, event, s.position))
