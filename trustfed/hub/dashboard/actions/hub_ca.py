"""The hub's own CA commands as actions: its roots, its intermediates, and who is in the federation. Two people each."""

from __future__ import annotations

from collections.abc import Sequence

from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.hub import approvals, roots
from trustfed.hub.dashboard import figures
from trustfed.hub.dashboard.actions import touched
from trustfed.hub.dashboard.actions.action import Action, Blast, Fact, Field, Values
from trustfed.hub.dashboard.actions.fields import DOMAIN
from trustfed.hub.dashboard.actions.performing import command
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown

_REASONS = ("keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation")


def _serials(parts: DashboardParts, values: Values) -> Sequence[tuple[str, str]]:
    now, state = to_ms(parts.clock.now()), parts.hub.operations.state
    return [
        (one.serial, f"{one.serial[:16]}… of {one.authority}, ends {figures.stamp(one.not_after_ms)}")
        for one in state.signed_for(values.get("domain", ""))
        if not one.revoked_ms and one.not_after_ms > now
    ]


def _serial(parts: DashboardParts, text: str, values: Values) -> str:
    if text not in [serial for serial, _ in _serials(parts, values)]:
        raise NotFound(f"{values['domain']} has no valid intermediate {shown(text)}", hint="choose one of the list")
    return text


def _reason(parts: DashboardParts, text: str, values: Values) -> str:
    if text not in _REASONS:
        raise Invalid(f"{shown(text)} is no reason of RFC 5280 §5.3.1", hint=f"one of: {', '.join(_REASONS)}")
    return text


def _retiring(parts: DashboardParts, values: Values) -> Sequence[tuple[str, str]]:
    return [(one.key_name, one.key_name) for one in parts.hub.operations.state.roots if one.status == "retiring"]


def _root(parts: DashboardParts, text: str, values: Values) -> str:
    if text not in [name for name, _ in _retiring(parts, values)]:
        raise NotFound(f"no replaced root has the name {shown(text)}", hint="choose one of the list")
    return text


SERIAL = Field("serial", "Intermediate", options=_serials, check=_serial)
REASON = Field(
    "crl_reason", "Reason on the CRL", options=lambda parts, values: [(one, one) for one in _REASONS], check=_reason
)
ROOT = Field("root", "Root that was replaced", options=_retiring, check=_root)


def _federation(parts: DashboardParts, values: Values, more: Sequence[Fact] = (), warning: str = "") -> Blast:
    """What stands on the roots: everything."""
    totals, state = parts.fleet.totals(), parts.hub.operations.state
    enrolled = sum(1 for one in state.domains.values() if one.status == "enrolled")
    version = len(state.root_documents)
    behind = sum(1 for view in parts.hub.relay.all_views() if view.root_version < version)
    facts = [
        Fact("Trust domains on these roots", figures.number(enrolled)),
        Fact("Identities below them", figures.number(totals.identities)),
        Fact("Connected clusters without the newest root set", figures.number(behind)),
        *more,
    ]
    return Blast(facts, [warning] if warning else [])


def _preparing(parts: DashboardParts, values: Values) -> Blast:
    try:
        body = approvals.root_preparation(parts.hub.operations.state)
    except Conflict as error:
        return Blast(_federation(parts, values).facts, blocked=f"{error.message}.")
    return _federation(parts, values, [Fact("The next root", f"root-{body.number}, in root set {body.version}")])


def _activating(parts: DashboardParts, values: Values) -> Blast:
    try:
        body = approvals.root_activation(parts.hub.operations.state)
    except Conflict as error:
        return Blast(_federation(parts, values).facts, blocked=f"{error.message}.")
    warning = "Whoever has not got the newest root set cannot verify what is signed from then on."
    return _federation(parts, values, [Fact("Signs from then on", body.root)], warning)


def _root_going(parts: DashboardParts, values: Values) -> Blast:
    state, name = parts.hub.operations.state, values["root"]
    found, now = _federation(parts, values, [Fact("Goes", name)]), parts.clock.now()
    try:
        roots.check_may_retire(state, name, now, force=False)
    except (Conflict, NotFound) as error:
        return Blast(found.facts, blocked=f"{error.message}.")
    return Blast(found.facts, ["What this root signed is believed no more."])


def _revoking(parts: DashboardParts, values: Values) -> Blast:
    more = [Fact("Intermediate", values["serial"]), Fact("Reason on the CRL", values["crl_reason"])]
    warning = "Every identity that was issued below this intermediate is refused by whoever reads the CRL."
    return touched.domain(parts, values, more, [warning])


def _removing(parts: DashboardParts, values: Values) -> Blast:
    state, name = parts.hub.operations.state, values["domain"]
    grants = sum(1 for one in state.grants_with(name) if one.status != "ended")
    valid = len(_serials(parts, values))
    more = [
        Fact("Grants that end", figures.number(grants)),
        Fact("Intermediates that are revoked", figures.number(valid)),
    ]
    return touched.domain(parts, values, more, ["It can come back only by a new enrolment."])


HUB_CA: tuple[Action, ...] = (
    Action(
        "root-prepare",
        "Prepare the next root",
        "Put a new root into the root set. It signs nothing until it is activated.",
        "admin",
        (),
        _preparing,
        command(lambda parts, values: approvals.root_preparation(parts.hub.operations.state)),
        "The federation's own CA",
        people=2,
    ),
    Action(
        "root-activate",
        "Activate the prepared root",
        "Let the prepared root sign the intermediates from now on.",
        "admin",
        (),
        _activating,
        command(lambda parts, values: approvals.root_activation(parts.hub.operations.state)),
        "The federation's own CA",
        people=2,
        danger=True,
    ),
    Action(
        "root-retire",
        "Retire a replaced root",
        "Take a root out of the root set: what it signed is believed no more.",
        "admin",
        (ROOT,),
        _root_going,
        command(lambda parts, values: approvals.RootRetirement(values["root"], False)),
        "The federation's own CA",
        people=2,
        danger=True,
    ),
    Action(
        "intermediate-revoke",
        "Revoke an intermediate",
        "Put the certificate of a domain's authority onto the CRL.",
        "admin",
        (DOMAIN, SERIAL, REASON),
        _revoking,
        command(lambda parts, values: approvals.IntermediateRevocation(values["serial"], values["crl_reason"])),
        "The federation's own CA",
        people=2,
        danger=True,
    ),
    Action(
        "domain-remove",
        "Remove a trust domain",
        "Take a trust domain out of the federation: its grants end and its intermediates are revoked.",
        "admin",
        (DOMAIN,),
        _removing,
        command(lambda parts, values: approvals.DomainRemoval(values["domain"], values["reason"])),
        "The federation's own CA",
        people=2,
        danger=True,
    ),
)
