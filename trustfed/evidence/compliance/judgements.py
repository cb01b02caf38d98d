"""What the evidence says of each question that a control asks: pure functions of a report.

Satisfied is only what the report holds. What a system cannot know of an organisation (who reviews, who is called) is "not
assessed".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from trustfed.evidence.compliance.data import Report
from trustfed.evidence.compliance.decisions import by_policy
from trustfed.evidence.model import FEW

TARGET = 0.999
AVAILABILITY = 0.9995
_KEPT_MS = int(timedelta(days=365) / timedelta(milliseconds=1))


class Status(StrEnum):
    """How a control stands, as far as the evidence goes."""

    SATISFIED = "satisfied"
    NOT_SATISFIED = "not-satisfied"
    NOT_ASSESSED = "not-assessed"


@dataclass(frozen=True)
class Judgement:
    """Status, and the sentence behind it."""

    status: Status
    says: str


def yes(says: str) -> Judgement:
    """It holds."""
    return Judgement(Status.SATISFIED, says)


def no(says: str) -> Judgement:
    """It does not."""
    return Judgement(Status.NOT_SATISFIED, says)


def unsettled(says: str) -> Judgement:
    """This evidence cannot say."""
    return Judgement(Status.NOT_ASSESSED, says)


def inventory(report: Report) -> Judgement:
    if not report.assets:
        return unsettled("no key or certificate is in use in this scope")
    lacking = [one for one in report.assets if not (one.algorithm and one.custodian and one.not_after_ms)]
    if lacking:
        return no(f"{len(lacking)} of {len(report.assets)} keys and certificates lack algorithm, custodian or end")
    if report.unknown:
        return no(f"{report.unknown} certificates were seen that no ledger knows")
    return yes(f"{len(report.assets)} keys and certificates, each with issuer, end, algorithm, strength and custodian")


def protocols(report: Report) -> Judgement:
    if not report.endpoints:
        return unsettled("no doors were listed")
    weak = [one for one in report.endpoints if not one.versions.startswith("TLS 1.") and "Unix" not in one.protocol]
    if weak:
        return no(f"{weak[0].place} speaks {weak[0].versions}")
    return yes(f"{len(report.endpoints)} doors, each with protocol, versions, ciphers, purpose and place")


def rotated(report: Report) -> Judgement:
    """Certificates are replaced before they end."""
    failed = [one for one in report.rotations if one.outcome in ("late", "expired", "unknown")]
    if failed:
        return no(f"{len(failed)} rotations of authorities or their bundles failed, the first {failed[0].predecessor}")
    below, withheld = [], []
    for one in report.figures:
        if one.class_ in FEW or not one.counts.get("due"):
            continue
        if one.headline is None:
            withheld.append(one)
        elif one.headline < TARGET:
            below.append(one)
    if below:
        worst = min(below, key=lambda one: one.headline or 0)
        return no(f"{worst.class_} in {worst.trust_domain}: {worst.headline:.4%}, below {TARGET:.1%}")
    if withheld:
        return no(f"{withheld[0].class_} in {withheld[0].trust_domain}: no figure, {withheld[0].why or 'withheld'}")
    if not any(one.counts.get("due") for one in report.figures):
        return unsettled("nothing was due in this window")
    return yes(f"every class of every trust domain rotated at {TARGET:.1%} or better")


def retired(report: Report) -> Judgement:
    ended = [one for one in report.changes if one.kind in _ENDINGS]
    if not ended:
        return unsettled("no key was retired or replaced in this window")
    silent = [one for one in ended if not one.reason]
    if silent:
        return no(f"{len(silent)} of {len(ended)} retirements carry no reason")
    return yes(f"{len(ended)} keys were retired or replaced, each with its reason in the journal")


def fields(report: Report) -> Judgement:
    if not report.changes:
        return unsettled("nothing was decided in this window")
    lacking = [one for one in report.changes if not (one.actor and one.kind and one.at_ms)]
    if lacking:
        return no(f"{len(lacking)} decisions lack actor, kind or time")
    return yes(f"{len(report.changes)} decisions in this window, each with actor, kind, time, origin and outcome")


def unaltered(report: Report) -> Judgement:
    broken = [one for one in report.proofs if one.problem]
    if broken:
        return no(f"{broken[0].origin}: {broken[0].problem}")
    if not report.proofs:
        return no("no checkpoint covers these logs")
    alone = [one for one in report.proofs if not one.cosigned_by]
    if alone:
        return no(f"{alone[0].origin} is signed by itself alone: nobody has cosigned it")
    return yes("journal and ledger are Merkle logs, signed, and cosigned by another process")


def kept(report: Report) -> Judgement:
    short = [
        one
        for one in report.proofs
        if one.first_kept_ms
        and 0 < report.as_of_ms - one.first_kept_ms < _KEPT_MS
        and report.parameters.get("trimmed") == "yes"
    ]
    if short:
        days = (report.as_of_ms - short[0].first_kept_ms) // 86_400_000
        return no(f"{short[0].origin} keeps {days} days")
    return yes(f"records are kept {report.parameters.get('keep', '13 months')}, all of it at hand")


def approved(report: Report) -> Judgement:
    ca = [one for one in report.changes if one.kind in _CA_CHANGES]
    if not ca:
        return unsettled("no CA was changed in this window")
    alone = [one for one in ca if one.broken_glass]
    without = [one for one in ca if not (one.approved_by or one.broken_glass or by_policy(one.actor))]
    if without:
        return no(
            f"{len(without)} of {len(ca)} changes of CAs were decided by one person, the first at {without[0].position}"
        )
    if alone:
        return no(f"the glass was broken {len(alone)} times: each wants a review of its own")
    return yes(f"{len(ca)} changes of CAs, each by policy or by two people")


def accesses(report: Report) -> Judgement:
    if not report.accesses:
        return unsettled("no access is granted beside the machine's own administrators")
    return unsettled(
        f"{len(report.accesses)} people and programs have access: that somebody reviewed the list is yours to say"
    )


def produced(report: Report) -> Judgement:
    lacking = [name for name in ("ran_by", "source", "definition") if not getattr(report, name)]
    if lacking or not report.rows:
        return no(f"this report does not say its {', '.join(lacking) or 'row counts'}")
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(report.rows.items()))
    return yes(f"source, logic version {report.definition[:12]}, parameters and rows ({counts}) are stated")


def anchors(report: Report) -> Judgement:
    loose = [one for one in report.anchors if not one.approved_by]
    if loose:
        return no(f"{loose[0].importer} trusts {loose[0].trust_domain} and nobody accepted it")
    return yes(f"{len(report.anchors)} anchors, each signed by its domain and accepted by the owner who trusts it")


def available(report: Report) -> Judgement:
    down = [one for one in report.uptimes if one.up_share < AVAILABILITY]
    if not report.uptimes:
        return unsettled("no probes ran in this window")
    if down:
        worst = min(down, key=lambda one: one.up_share)
        return no(f"{worst.probe} of {worst.trust_domain} was up {worst.up_share:.4%}, below {AVAILABILITY:.2%}")
    return yes(f"{len(report.uptimes)} probes at {AVAILABILITY:.2%} or better; unknown counts as down")


_ENDINGS = frozenset(
    {"authority.retired", "authority.removed", "authority.tainted", "root.retired", "intermediate.revoked"}
)
_CA_CHANGES = frozenset(
    {
        "authority.prepared",
        "authority.replaced",
        "authority.activated",
        "authority.tainted",
        "authority.removed",
        "root.prepared",
        "root.activated",
        "root.retired",
        "intermediate.revoked",
        "domain.removed",
        "glass.broken",
    }
)
