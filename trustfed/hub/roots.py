"""The federation's roots: decisions about their rollover. Pure."""

from __future__ import annotations

from datetime import datetime

from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.federation.roots import MAX_ROOTS
from trustfed.hub.events import (
    CrlIssued,
    HubAuthorityCreated,
    HubCreated,
    HubEvent,
    RootActivated,
    RootCreated,
    RootRetired,
)
from trustfed.hub.events import RootPrepared as Prepared
from trustfed.hub.records import Root
from trustfed.hub.state import HubState
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown


def create(state: HubState, hub: HubCreated, root: RootCreated, authority: HubAuthorityCreated) -> list[HubEvent]:
    """The first events of a hub; Conflict when there are others before."""
    if state.position:
        raise Conflict("this hub was set up already", hint="trustfed hub serve")
    return [hub, root, authority]


def check_may_prepare(state: HubState) -> int:
    """The number of the next root, if one may be prepared now."""
    waiting = [root.key_name for root in state.roots if root.status == "prepared"]
    if waiting:
        raise Conflict(f"{waiting[0]} is prepared already", hint="activate it first")
    if len(state.trusted_roots) >= MAX_ROOTS:
        raise Conflict(f"the root set holds {MAX_ROOTS} roots, and no more")
    return len(state.roots) + 1


def prepare(state: HubState, prepared: Prepared, version: int) -> list[HubEvent]:
    """Publish the next root; it signs nothing until it is activated."""
    check_may_prepare(state)
    if version != len(state.root_documents) + 1:
        raise Conflict("the root set changed in between", hint="try again")
    return [prepared]


def activate(state: HubState) -> list[HubEvent]:
    """Let the prepared root sign from now on."""
    prepared = [root for root in state.roots if root.status == "prepared"]
    if not prepared:
        raise Conflict("no root is prepared", hint="prepare one first, and let every cluster receive it")
    return [RootActivated(prepared[0].key_name)]


def check_may_retire(state: HubState, key_name: str, now: datetime, *, force: bool) -> Root:
    """The root, if nothing that takes part still stands on it; `force` is for a root whose key was stolen."""
    root = root_named(state, key_name)
    if root.status != "retiring":
        raise Conflict(f"{key_name} is {root.status}", hint="only a root that another one replaced can be retired")
    if any(view.root == key_name for view in state.authorities[-1:]):
        raise Conflict(f"the hub's own authority still stands on {key_name}", hint="try again in a few seconds")
    standing = sorted(
        {
            signed.domain
            for signed in state.intermediates.values()
            if signed.root == key_name and not signed.revoked_ms and signed.not_after_ms > to_ms(now)
        }
    )
    if standing and not force:
        raise Conflict(
            f"{len(standing)} trust domains have valid intermediates of {key_name}: {', '.join(standing[:10])}",
            hint="wait until they have new ones; or force it: they must then ask to be signed again",
        )
    return root


def retire(state: HubState, retired: RootRetired, version: int, now: datetime, *, force: bool) -> list[HubEvent]:
    """Take a replaced root out of the root set."""
    check_may_retire(state, retired.key_name, now, force=force)
    if version != len(state.root_documents) + 1:
        raise Conflict("the root set changed in between", hint="try again")
    return [retired]


def record_authority(state: HubState, authority: HubAuthorityCreated) -> list[HubEvent]:
    """Record a further authority of the hub's own domain."""
    if any(known.authority == authority.authority for known in state.authorities):
        raise Conflict(f"authority {authority.authority} exists already")
    return [authority]


def record_crl(state: HubState, crl: CrlIssued) -> list[HubEvent]:
    """Record a root's next CRL; its number only rises."""
    held = state.crls.get(crl.root)
    if held is not None and crl.number <= held.number:
        raise Conflict(f"CRL {crl.number} of {crl.root} does not follow {held.number}")
    return [crl]


def root_named(state: HubState, key_name: str) -> Root:
    """The root with this key name."""
    for root in state.roots:
        if root.key_name == key_name:
            return root
    raise NotFound(f"no root is named {shown(key_name)}")


REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
)


def check_crl_reason(reason: str) -> str:
    """A reason of RFC 5280 §5.3.1, or Invalid."""
    if reason not in REASONS:
        raise Invalid(f"revocation reason {shown(reason)} is unknown", hint=f"one of: {', '.join(REASONS)}")
    return reason
