"""The control matrix: which evidence answers which control, whether it holds in the fleet right now, and how to prove it.

A row is one question to the evidence; a cell names the controls of one framework that ask it. What holds here is a picture of
now, from what clusters tell; the judgement of a period is the report's (trustfed.evidence.compliance), with each control's own
query, and its proof is the pack: each cell's page shows the commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from trustfed.errors import NotFound
from trustfed.evidence.compliance.controls import CONTROLS
from trustfed.evidence.model import Class
from trustfed.hub.dashboard.charts.svg import Kind
from trustfed.hub.dashboard.figures import plural
from trustfed.hub.dashboard.views.findings import STRONG
from trustfed.hub.dashboard.views.pages import fleet_of, ground, judged, show
from trustfed.hub.evidence.fleet import Fleet
from trustfed.spiffe.ids import shown

FRAMEWORKS = {
    "pci": "PCI DSS 4.0.1",
    "sox": "SOX ITGC",
    "nist": "NIST 800-53r5",
    "fedramp": "FedRAMP 20x",
    "dora": "DORA",
}
"""Short names of trustfed.evidence.compliance.controls.FRAMEWORKS, for narrow columns."""


@dataclass(frozen=True)
class Answer:
    """Whether something holds now: `exceptions` are what does not, each with where to look."""

    kind: Kind
    says: str
    exceptions: list[tuple[str, str]] = field(default_factory=list)  # trust domain, what


@dataclass(frozen=True)
class Evidence:
    """One row: a question, the controls that ask it by framework, and the view that shows the facts."""

    name: str
    title: str
    asks: str
    controls: dict[str, tuple[str, ...]]
    view: str
    answer: Callable[[Fleet], Answer]


def _judge(bad: list[tuple[str, str]], unknown: list[tuple[str, str]], good: str) -> Answer:
    if bad:
        return Answer(Kind.BAD, plural(len(bad), "exception"), bad + unknown)
    if unknown:
        return Answer(Kind.UNKNOWN, f"not known of {plural(len(unknown), 'trust domain')}", unknown)
    return Answer(Kind.OK, good)


def _missing(fleet: Fleet) -> list[tuple[str, str]]:
    words = {
        "away": "its cluster is away",
        "stale": "its cluster is silent",
        "never": "its cluster has said nothing yet",
    }
    return [(row.trust_domain, words[row.age.state]) for row in fleet.domains() if row.age.state in words]


def _inventory(fleet: Fleet) -> Answer:
    bad = [
        (row.trust_domain, f"coverage {row.coverage:.1%}")
        for row in fleet.domains()
        if row.age.as_of_ms and row.coverage < 0.95
    ]
    bad += [
        (one.trust_domain, f"serial {one.what.serial[:16]} is in no ledger")
        for one in fleet.unknown()
        if one.what.kind != "never_delivered"
    ]
    return _judge(bad, _missing(fleet), "every certificate seen is in a ledger")


def _rotation(fleet: Fleet) -> Answer:
    bad, unknown = [], _missing(fleet)
    for row in fleet.domains():
        for class_ in (Class.LEAF, Class.AGENT):
            figure = fleet.cell(row.trust_domain, class_)
            if judged(figure) in (Kind.BAD, Kind.WARN):
                bad.append((row.trust_domain, f"{class_} {figure.headline or 0:.3%} on time"))
            elif figure.withheld and figure.counts["due"]:
                unknown.append((row.trust_domain, f"{class_}: {figure.why}"))
    return _judge(bad, unknown, "99.9 % on time in every domain and class")


def _periods(fleet: Fleet) -> Answer:
    bad = [(one.trust_domain, f"{one.what.subject}: {one.what.says}") for one in fleet.lint() if not one.what.advice]
    bad += [
        (one.trust_domain, f"authority {one.what.id} waits for {one.what.waiting_count}")
        for one in fleet.board()
        if one.what.state == "tainted"
    ]
    return _judge(bad, _missing(fleet), "every lifetime nests, no tainted key is in use")


def _algorithms(fleet: Fleet) -> Answer:
    weak = [
        ("", f"{one.count:,} of {one.algorithm} for {one.purpose}, {one.strength} bits")
        for one in fleet.algorithms()
        if one.strength < STRONG
    ]
    return _judge(weak, _missing(fleet), f"nothing below {STRONG} bits")


def _anchors(fleet: Fleet) -> Answer:
    late = [
        (one.consumer, f"holds {one.epoch}.{one.sequence} of {one.publisher}") for one in fleet.drift() if one.overdue
    ]
    late += [
        (one.consumer, f"says to hold {one.epoch}.{one.sequence} of {one.publisher}, which was never published")
        for one in fleet.drift()
        if one.ahead
    ]
    return _judge(late, _missing(fleet), "every consumer holds the anchors that were published")


def _integrity(fleet: Fleet) -> Answer:
    bad = [(one.trust_domain, f"{one.what.origin}: {one.what.problem}") for one in fleet.logs() if one.what.problem]
    alone = [
        (one.trust_domain, f"{one.what.origin} is cosigned by nobody")
        for one in fleet.logs()
        if not one.what.cosigned_size
    ]
    return _judge(bad, alone + _missing(fleet), "every log is consistent and cosigned")


def _handshakes(fleet: Fleet) -> Answer:
    bad = [
        (one.trust_domain, f"{one.what.where} showed {one.what.serial[:16]}")
        for one in fleet.unknown()
        if one.what.kind == "handshake"
    ]
    return _judge(bad, _missing(fleet), "no handshake showed a certificate that was not issued here")


def _available(fleet: Fleet) -> Answer:
    bad = [
        (one.trust_domain, f"{one.what.name} {one.what.up_share:.3%} of 30 days")
        for one in fleet.probes()
        if one.what.up_share < 0.9995
    ]
    return _judge(bad, _missing(fleet), "signing, feed and bundles answered for 99.95 %")


def _journalled(fleet: Fleet) -> Answer:
    return _judge(
        [],
        [(one.trust_domain, one.what.says) for one in fleet.alarms() if one.what.code.startswith("glass")],
        "every decision names who, why and when",
    )


def _kept(_: Fleet) -> Answer:
    return Answer(Kind.NONE, "a question of months: the report counts what is retained")


EVIDENCE = (
    Evidence(
        "rotation",
        "Keys are rotated, automatically and on time",
        "rotation success by domain and class, with its interval",
        {"pci": ("3.7.4",), "nist": ("SC-12",), "fedramp": ("KSI-SVC-06",), "dora": ("Art. 7(1)",)},
        "/funnel",
        _rotation,
    ),
    Evidence(
        "inventory",
        "Every key and certificate is known",
        "issuer, end, algorithm, strength, custodian; what was seen against what was issued",
        {"pci": ("4.2.1.1",), "nist": ("IA-5(2)",), "fedramp": ("KSI-PIY-01",), "dora": ("Art. 7(4)",)},
        "/unknown",
        _inventory,
    ),
    Evidence(
        "cryptoperiods",
        "No key outlives its period",
        "lifetimes against those of their issuers, retirements and their reasons",
        {"pci": ("3.7.5",)},
        "/lint",
        _periods,
    ),
    Evidence(
        "algorithms",
        "Algorithms are strong, and their succession is planned",
        "algorithm, size, level and state of migration by purpose and place",
        {"pci": ("12.3.3",)},
        "/algorithms",
        _algorithms,
    ),
    Evidence(
        "anchors",
        "Only approved anchors are trusted",
        "bundle epoch and sequence that each consumer holds against what was published",
        {"nist": ("SC-17",)},
        "/drift",
        _anchors,
    ),
    Evidence(
        "handshakes",
        "What is sent is protected by certificates of ours",
        "serials that handshakes showed against the ledger",
        {"nist": ("SC-8(1)",)},
        "/unknown?kind=handshake",
        _handshakes,
    ),
    Evidence(
        "trail",
        "Each decision names who, what, when, from where and its outcome",
        "journal events, approvals, accesses, broken glass",
        {"pci": ("10.2.2",), "sox": ("CM", "AC"), "nist": ("AU-3",)},
        "/auditor#decisions",
        _journalled,
    ),
    Evidence(
        "integrity",
        "Records cannot be changed unnoticed",
        "Merkle checkpoints, cosignatures, forks; a verifier that can be run again",
        {
            "pci": ("10.3",),
            "sox": ("IPE",),
            "nist": ("AU-9", "AU-10"),
            "fedramp": ("KSI-MLA-01",),
            "dora": ("Art. 12",),
        },
        "/auditor#logs",
        _integrity,
    ),
    Evidence(
        "availability",
        "The service answers",
        "probes of signing, feed and bundles; unknown counts as down",
        {"dora": ("Art. 9",)},
        "/auditor#availability",
        _available,
    ),
    Evidence(
        "retention",
        "Records are kept",
        "how far back journal and ledger go, and what left by retention",
        {"pci": ("10.5.1",), "nist": ("AU-11",)},
        "/auditor#logs",
        _kept,
    ),
)
BADGES = {
    Kind.BAD: ("does not hold", "bad"),
    Kind.UNKNOWN: ("not known", "unknown"),
    Kind.OK: ("holds", "good"),
    Kind.NONE: ("not assessed", "plain"),
}


async def matrix(request: Request) -> Response:
    """10: controls by framework against the evidence that answers them."""
    fleet = fleet_of(request)
    found = ground(fleet.domains())
    rows = sorted(((one, one.answer(fleet)) for one in EVIDENCE), key=lambda pair: pair[1].kind.rank)
    return show(
        request,
        "controls",
        rows=rows,
        frameworks=FRAMEWORKS,
        badges=BADGES,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


async def control(request: Request) -> Response:
    """One row of it: the question, the exceptions, and the commands that prove the answer."""
    fleet, name = fleet_of(request), request.path_params["name"]
    one = next((held for held in EVIDENCE if held.name == name), None)
    if one is None:
        raise NotFound(
            f"there is no evidence {shown(name)}", hint="one of: " + ", ".join(held.name for held in EVIDENCE)
        )
    found, answer = ground(fleet.domains()), one.answer(fleet)
    return show(
        request,
        "control",
        title=one.title,
        question="Does it hold now, what does not, and what proves it?",
        evidence=one,
        answer=answer,
        controls=[held for held in CONTROLS if held.id in one.controls.get(held.framework, ())],
        badges=BADGES,
        frameworks=FRAMEWORKS,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )
