"""The controls that this evidence speaks to. Requirements are in our own words: the standards' texts are their owners'."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trustfed.evidence.compliance import judgements as judge
from trustfed.evidence.compliance.data import Report
from trustfed.evidence.compliance.judgements import Judgement, Status

FRAMEWORKS = {
    "pci": "PCI DSS 4.0.1",
    "sox": "SOX IT general controls",
    "nist": "NIST SP 800-53 Rev. 5",
    "fedramp": "FedRAMP 20x",
    "dora": "DORA, Delegated Regulation (EU) 2024/1774",
}


@dataclass(frozen=True)
class Control:
    """One control: what it asks for, which command shows the rows behind it, and the judgement."""

    framework: str
    id: str
    title: str
    asks: str
    query: str
    judge: Callable[[Report], Judgement]


@dataclass(frozen=True)
class Cell:
    """A control, judged."""

    control: Control
    status: Status
    says: str
    proof: str


def judged(report: Report, frameworks: Iterable[str] = FRAMEWORKS) -> list[Cell]:
    """The matrix: every control of these frameworks, in their order."""
    wanted = set(frameworks)
    proof = "; ".join(f"{one.origin} at {one.size}, root {one.root}" for one in report.proofs)
    cells = []
    for control in CONTROLS:
        if control.framework in wanted:
            found = _held(report, control.judge, control.judge(report))
            cells.append(Cell(control, found.status, found.says, proof))
    return cells


def _held(report: Report, asked: Callable[[Report], Judgement], found: Judgement) -> Judgement:
    """What a source holds in part can show that something fails, and never that it holds."""
    lacking = [name for name in _READS.get(asked, ()) if name in report.absent]
    if not lacking or found.status is Status.NOT_SATISFIED:
        return found
    return judge.unsettled(f"{' and '.join(lacking)}: only the cluster itself has them all, and its own report says")


_READS: dict[Callable[[Report], Judgement], tuple[str, ...]] = {
    judge.inventory: ("assets",),
    judge.protocols: ("endpoints",),
    judge.rotated: ("figures", "rotations"),
    judge.retired: ("changes",),
    judge.fields: ("changes",),
    judge.approved: ("changes",),
    judge.unaltered: ("proofs",),
    judge.kept: ("retention",),
    judge.accesses: ("accesses",),
    judge.anchors: ("anchors",),
    judge.available: ("uptimes",),
}
"""Which tables each question is answered from, by their names in a report."""

_REPORT, _AUDIT = "trustfed evidence report", "trustfed audit list"

CONTROLS: tuple[Control, ...] = (
    Control(
        "pci",
        "4.2.1.1",
        "Inventory of trusted keys and certificates",
        "An inventory of the keys and certificates that protect data in transit: issuer, end, algorithm, strength, custodian.",
        f"{_REPORT} --table inventory",
        judge.inventory,
    ),
    Control(
        "pci",
        "12.3.3",
        "Cryptographic suites and protocols in use",
        "Which suites and protocols are in use, for what and where, reviewed against what is known to be weak.",
        f"{_REPORT} --table endpoints",
        judge.protocols,
    ),
    Control(
        "pci",
        "3.7.4",
        "Cryptoperiods",
        "Keys are changed when their cryptoperiod ends.",
        f"{_REPORT} --table figures",
        judge.rotated,
    ),
    Control(
        "pci",
        "3.7.5",
        "Retirement and replacement of keys",
        "Keys that are weak, ended or suspected are retired or replaced, and it says why.",
        f"{_AUDIT} --kind 'authority.*'",
        judge.retired,
    ),
    Control(
        "pci",
        "10.2.2",
        "What each record says",
        "Who, what, when, from where, on what, with what outcome.",
        _AUDIT,
        judge.fields,
    ),
    Control(
        "pci",
        "10.3",
        "Records are not altered",
        "Records cannot be changed without that being noticed.",
        "trustfed audit verify",
        judge.unaltered,
    ),
    Control(
        "pci",
        "10.5.1",
        "Records are kept",
        "Twelve months are kept, three of them at hand.",
        "trustfed audit verify",
        judge.kept,
    ),
    Control(
        "sox",
        "IPE",
        "Information produced by the entity",
        "A report states source, logic version, parameters and row counts, and who ran it.",
        f"{_REPORT} --format json",
        judge.produced,
    ),
    Control(
        "sox",
        "CM",
        "Changes are approved",
        "Changes of what signs are approved by somebody other than who asked.",
        "trustfed approval list --all",
        judge.approved,
    ),
    Control(
        "sox",
        "AC",
        "Access is reviewed",
        "Who has access is listed, and somebody reviews it.",
        f"{_REPORT} --table accesses",
        judge.accesses,
    ),
    Control(
        "nist",
        "SC-12",
        "Key establishment and management",
        "Keys are made, distributed, kept, used and destroyed by rules.",
        f"{_REPORT} --table figures",
        judge.rotated,
    ),
    Control(
        "nist",
        "SC-17",
        "Approved trust anchors only",
        "Certificates come from an approved authority; only approved anchors are in trust stores.",
        f"{_REPORT} --table anchors",
        judge.anchors,
    ),
    Control(
        "nist",
        "IA-5(2)",
        "Public key authentication",
        "Certificates are validated to an accepted anchor, and identities map to them.",
        f"{_REPORT} --table inventory",
        judge.inventory,
    ),
    Control(
        "nist",
        "AU-3",
        "Content of audit records",
        "What happened, when, where, from what source, with what outcome, by whom.",
        _AUDIT,
        judge.fields,
    ),
    Control(
        "nist",
        "AU-9",
        "Protection of audit information",
        "Audit information is protected from change and deletion.",
        "trustfed audit verify",
        judge.unaltered,
    ),
    Control(
        "nist",
        "AU-10",
        "Non-repudiation",
        "It cannot be denied that somebody decided something.",
        "trustfed evidence export",
        judge.unaltered,
    ),
    Control(
        "nist",
        "AU-11",
        "Retention of audit records",
        "Records are kept as long as the policy says.",
        "trustfed audit verify",
        judge.kept,
    ),
    Control(
        "nist",
        "SC-8(1)",
        "Cryptographic protection in transit",
        "What is transmitted is protected cryptographically.",
        f"{_REPORT} --table endpoints",
        judge.protocols,
    ),
    Control(
        "fedramp",
        "KSI-SVC-06",
        "Automated key management",
        "Keys and certificates are managed and rotated regularly by automation.",
        f"{_REPORT} --table figures",
        judge.rotated,
    ),
    Control(
        "fedramp",
        "KSI-PIY-01",
        "Real-time inventory",
        "An inventory that is generated, not kept by hand.",
        f"{_REPORT} --table inventory",
        judge.inventory,
    ),
    Control(
        "fedramp",
        "KSI-MLA-01",
        "Tamper-resistant logging",
        "Logs that cannot be altered unnoticed, with a verifier that an assessor can run again.",
        "trustfed evidence verify PACK",
        judge.unaltered,
    ),
    Control(
        "dora",
        "Art. 7(4)",
        "Register of certificates",
        "A register of all certificates and of the devices that store them, kept up to date.",
        f"{_REPORT} --table inventory",
        judge.inventory,
    ),
    Control(
        "dora",
        "Art. 7(1)",
        "Life cycle of keys",
        "Keys are managed through their whole life: made, renewed, stored, retired, revoked, destroyed.",
        f"{_REPORT} --table rotations",
        judge.rotated,
    ),
    Control(
        "dora",
        "Art. 12",
        "Logging",
        "Events are logged, kept, and secured against tampering; the clocks are synchronised.",
        "trustfed audit verify",
        judge.unaltered,
    ),
    Control(
        "dora",
        "Art. 9",
        "Availability",
        "Capacity and availability are monitored.",
        f"{_REPORT} --table uptimes",
        judge.available,
    ),
)
"""In the order in which a matrix shows them."""
