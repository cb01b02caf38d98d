"""What the hub itself can say in a report of one trust domain: counters, failures, how it stood last, and whom it has witnessed.

So a domain that is away is in every report, as old as it is. What only its cluster knows is named in `Report.absent`, and no
control is called satisfied by it. Pure, but for the checkpoint that it is given.
"""

from __future__ import annotations

import base64

from trustfed.evidence.compliance.data import (
    Anchor,
    Asset,
    Change,
    Deviation,
    Failure,
    Figure,
    Proof,
    Report,
    Rotation,
    moment,
)
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.figures import Window
from trustfed.evidence.model import BUCKET_MS, FEW
from trustfed.evidence.standing import Standing
from trustfed.hub.evidence import views
from trustfed.hub.evidence.figures import CLASSES
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.series import KEEP
from trustfed.hub.state import HubState
from trustfed.journal.merkle.checkpoint import origin_of
from trustfed.journal.merkle.witness import Held
from trustfed.runtime.version import SOFTWARE

ABSENT = ("assets", "endpoints", "changes", "anchors", "accesses", "uptimes", "rotations", "retention")
"""What the hub holds none or only a part of."""
KEEP_MS = KEEP * BUCKET_MS


def held_report(
    state: HubState, fleet: Fleet, domain: str, window: Window, ran_by: str, witnessed: Held | None, most: int
) -> Report:
    """The report of one domain that is in the fleet; at most `most` failures, the newest."""
    age, standing, now = fleet.age(domain), fleet.standing(domain), fleet.now_ms
    figures = tuple(_figure(fleet, domain, class_, window, age) for class_ in CLASSES)
    failures = [
        one for one in fleet.held(domain).failures.newest() if window.from_ms <= one.on_time_ms < min(window.to_ms, now)
    ]
    older = sum(fleet.held(domain).failures.summarised.values())
    unsure = not age.as_of_ms or window.from_ms < now - KEEP_MS
    return Report(
        scope=(domain,),
        from_ms=window.from_ms,
        to_ms=window.to_ms,
        as_of_ms=now,
        ran_by=ran_by,
        source=f"hub of {state.trust_domain}: what the cluster of {domain} told it",
        software=SOFTWARE,
        definition=DEFINITION.hash,
        definition_version=DEFINITION.version,
        parameters={"heard": age.state, "told": moment(age.as_of_ms) or "never", "older failures": f"{older:,}"},
        rows={"rotations due": sum(one.counts.get("due", 0) for one in figures), "failures held": len(failures)},
        figures=figures,
        failures=tuple(
            Failure(domain, it.class_, it.spiffe_id, it.instance, it.predecessor, it.outcome, it.why, it.on_time_ms)
            for it in failures[:most]
        ),
        rotations=tuple(
            Rotation(domain, it.class_, it.predecessor, "", it.outcome, it.ended_ms, it.why)
            for it in failures
            if it.class_ in FEW
        ),
        assets=tuple(_assets(domain, standing)),
        changes=tuple(_orders(state, domain, window)),
        anchors=tuple(_anchors(state, domain, standing)),
        exceptions=tuple(
            Deviation(domain, one.subject, f"the hub's journal says why, at {one.position}", "", one.until_ms)
            for one in state.dashboard.exceptions.values()
            if one.domain == domain
        ),
        proofs=tuple(_proofs(state, fleet, domain, standing, witnessed)),
        unknown=sum(one.kind == "handshake" for one in standing.unknown) if standing else 0,
        simulated=fleet.held(domain).simulated,
        absent=(*ABSENT, *(("figures",) if unsure else ())),
    )


def problem_of(fleet: Fleet, domain: str) -> str:
    """What the hub, as its witness, found wrong with this domain's logs: no word of its cluster makes it right."""
    problems = {
        one.what.subject: one.what.says
        for one in fleet.alarms(domain)
        if one.source == "hub" and one.what.code in ("log_inconsistent", "log_key")
    }
    return problems.get(origin_of(domain, "journal")) or problems.get(domain, "")


def _figure(fleet: Fleet, domain: str, class_: str, window: Window, age: views.Age) -> Figure:
    if window.from_ms < fleet.now_ms - KEEP_MS:
        why = "the hub holds 35 days: its cluster reports more"
        return Figure(domain, class_, {}, None, None, None, None, 0.0, why)
    it = fleet.figure(domain, class_, window.from_ms, window.to_ms)
    if age.state in ("away", "never") and age.as_of_ms < min(window.to_ms, fleet.now_ms) and it.headline is not None:
        # What was due since then is unknown, and unknown is a failure once its limit has passed.
        why = f"not heard since {moment(age.as_of_ms)}" if age.as_of_ms else "never heard"
        return Figure(domain, class_, it.counts, None, None, None, None, it.coverage, why)
    return Figure(domain, class_, it.counts, it.headline, it.low, it.high, it.with_unused, it.coverage, it.why)


def _assets(domain: str, standing: Standing | None) -> list[Asset]:
    return [
        Asset(
            domain, "jwt" if one.kind == "jwt" else "authority", one.id, "", "", "", one.algorithm, 128, False,
            one.not_before_ms, one.not_after_ms, one.custodian, standing.owner, one.state,
        )
        for one in standing.authorities
    ] if standing else []  # fmt: skip


def _orders(state: HubState, domain: str, window: Window) -> list[Change]:
    made = [(one.made, one.position) for one in state.evidence.orders_of(domain)]
    return [
        Change(
            domain,
            position,
            it.at_ms,
            f"order.{it.kind}",
            it.proposed_by,
            it.approved_by,
            it.reason,
            it.break_glass,
        )
        for it, position in made
        if window.from_ms <= it.at_ms < window.to_ms
    ]


def _anchors(state: HubState, domain: str, standing: Standing | None) -> list[Anchor]:
    grants = {
        one.exporter: one.id for one in state.grants_with(domain) if one.importer == domain and one.status == "accepted"
    }
    held = [one for one in standing.held if one.consumer == domain] if standing else []
    return [
        Anchor(domain, one.trust_domain, one.epoch, one.sequence, "", f"grant {grants[one.trust_domain]}")
        for one in held
        if one.trust_domain in grants  # a foreign peer's grant is its cluster's own
    ]


def _proofs(
    state: HubState, fleet: Fleet, domain: str, standing: Standing | None, witnessed: Held | None
) -> list[Proof]:
    found = []
    journal, ledger = origin_of(domain, "journal"), origin_of(domain, "ledger")
    bad = problem_of(fleet, domain)
    cosigner = (f"trustfed/{state.trust_domain}",)
    if witnessed is not None:
        root = base64.b64encode(witnessed.root).decode()
        found.append(Proof(journal, witnessed.size, root, 0, cosigner, 0, bad))
    for one in standing.logs if standing else ():
        if one.origin == ledger or (one.origin == journal and witnessed is None):
            cosigned = cosigner if one.cosigned_size else ()
            says = bad or one.problem
            found.append(Proof(one.origin, one.checkpoint_size, one.root, one.checkpoint_ms, cosigned, 0, says))
    return found
