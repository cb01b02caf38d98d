"""The hub's commands that take two people: what they hold, and what each one does (trustfed.journal.approving)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from trustfed.errors import Conflict
from trustfed.hub import domains, roots
from trustfed.hub.events import HubEvent
from trustfed.hub.signing import RootSigner
from trustfed.hub.state import HubState
from trustfed.journal.approving import Command, Decide, Pinned, decided


class RootPreparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Put root number `number` into the root set, as its version `version`."""

    number: int
    version: int


class RootActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let this prepared root sign."""

    root: str


class RootRetirement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take this root out of the root set; `force` also while trust domains stand on it."""

    root: str
    force: bool


class IntermediateRevocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Put this intermediate onto its root's CRL, with a reason of RFC 5280."""

    serial: str
    reason: str


class DomainRemoval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take this trust domain out of the federation."""

    domain: str
    reason: str


def root_preparation(state: HubState) -> RootPreparation:
    """The next root, as it would be made now. Raises Conflict."""
    return RootPreparation(roots.check_may_prepare(state), len(state.root_documents) + 1)


def root_activation(state: HubState) -> RootActivation:
    """The root that is prepared now. Raises Conflict."""
    roots.activate(state)
    return RootActivation(next(root.key_name for root in state.roots if root.status == "prepared"))


NEXT_ROOT: Pinned[HubState] = Pinned(RootPreparation, root_preparation)
PREPARED_ROOT: Pinned[HubState] = Pinned(RootActivation, root_activation)


def commands(signer: RootSigner) -> Sequence[Command[HubState]]:
    """All of them; `signer` makes what the roots' keys must sign."""

    async def next_root(state: HubState, body: RootPreparation, now: datetime) -> Decide[HubState]:
        prepared, version = await signer.next(state, now)
        return lambda newest: roots.prepare(newest, prepared, version)

    async def without_root(state: HubState, body: RootRetirement, now: datetime) -> Decide[HubState]:
        retired, version = await signer.without(state, body.root, now, force=body.force)
        return lambda newest: roots.retire(newest, retired, version, now, force=body.force)

    return (
        Command(
            "root.prepare",
            RootPreparation,
            lambda body: f"put root-{body.number} into the root set",
            _may_prepare,
            next_root,
        ),
        decided("root.activate", RootActivation, _activate, lambda body: f"let {body.root} sign from now on"),
        Command("root.retire", RootRetirement, _retirement, _may_retire, without_root),
        decided(
            "intermediate.revoke",
            IntermediateRevocation,
            _revoke,
            lambda body: f"revoke the intermediate {body.serial}: {body.reason}",
        ),
        decided(
            "domain.remove",
            DomainRemoval,
            _remove,
            lambda body: f"take {body.domain} out of the federation: {body.reason}",
        ),
    )


def _may_prepare(state: HubState, body: RootPreparation, now: datetime) -> bool:
    if root_preparation(state) != body:
        raise Conflict("the root set changed since this was proposed", hint="propose it again")
    return True


def _may_retire(state: HubState, body: RootRetirement, now: datetime) -> bool:
    roots.check_may_retire(state, body.root, now, force=body.force)
    return True


def _activate(state: HubState, body: RootActivation, now: datetime) -> Sequence[HubEvent]:
    if root_activation(state) != body:
        raise Conflict(f"{body.root} is not the root that is prepared", hint="propose it again")
    return roots.activate(state)


def _revoke(state: HubState, body: IntermediateRevocation, now: datetime) -> Sequence[HubEvent]:
    return domains.revoke(state, body.serial, roots.check_crl_reason(body.reason), now)


def _remove(state: HubState, body: DomainRemoval, now: datetime) -> Sequence[HubEvent]:
    return domains.remove(state, body.domain, domains.check_reason(body.reason), now)


def _retirement(body: RootRetirement) -> str:
    return f"take {body.root} out of the root set" + (", also where trust domains stand on it" if body.force else "")
