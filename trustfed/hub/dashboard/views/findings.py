"""Findings: certificates that nobody's ledger knows, algorithms that will not do, and lifetimes that do not nest."""

from __future__ import annotations

from collections import Counter

from starlette.requests import Request
from starlette.responses import Response

from trustfed.evidence.standing import Algorithm
from trustfed.hub.dashboard.charts.svg import Kind
from trustfed.hub.dashboard.views.pages import choice, cut, domain_named, fleet_of, ground, show, text

ROWS = 50
STRONG = 128
"""Bits of classical security below which an algorithm is weak: what RSA 2048 (112) has."""
KINDS = {
    "handshake": "shown in a handshake, never issued here",
    "held": "held by a node, not in the ledger",
    "never_delivered": "issued, and never delivered to anybody",
}
NEST = (
    ("SVID", "ends before its authority"),
    ("authority", "ends before its intermediate"),
    ("intermediate", "ends before the root"),
    ("refresh hint", "is shorter than the overlap of two keys"),
    ("overlap", "is longer than the longest time that a consumer may be away"),
)


async def unknown(request: Request) -> Response:
    """7: certificates that no ledger knows, and orphans of the other directions."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    kind = choice(request, "kind", tuple(KINDS))
    every = fleet.unknown(name)
    order = list(KINDS)
    rows = sorted(
        (one for one in every if not kind or one.what.kind == kind),
        key=lambda one: (order.index(one.what.kind) if one.what.kind in order else 9, -one.what.last_ms),
    )
    domains = [fleet.domain(name)] if name else fleet.domains()
    standings = [fleet.standing(row.trust_domain) for row in domains]
    found = ground(domains)
    return show(
        request,
        "unknown",
        rows=cut(request, rows, ROWS),
        counts=Counter(one.what.kind for one in every),
        whole=sum(one.unknown_count for one in standings if one),
        listed=len(every),
        lowest=sorted((row for row in domains if row.age.as_of_ms), key=lambda row: row.coverage)[:5],
        kinds=KINDS,
        kind=kind,
        domain=name,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


async def algorithms(request: Request) -> Response:
    """8: which algorithms are in use, how strong they are, and how far the move beyond quantum computers is."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    every = fleet.algorithms(name)
    found = ground([fleet.domain(name)] if name else fleet.domains())
    return show(
        request,
        "algorithms",
        rows=[(one, posture(one)) for one in every],
        total=sum(one.count for one in every),
        weak=sum(one.count for one in every if one.strength < STRONG),
        safe=sum(one.count for one in every if one.quantum_safe),
        purposes=_purposes(every),
        domain=name,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


def posture(one: Algorithm) -> tuple[Kind, str]:
    """How one algorithm is: weak now, or safe until there are quantum computers, or after."""
    if one.strength < STRONG:
        return Kind.BAD, "weak: replace it now"
    return (Kind.OK, "safe from quantum computers") if one.quantum_safe else (Kind.WARN, "classical: to be migrated")


def _purposes(every: list[Algorithm]) -> list[tuple[str, int, int, int]]:
    """For each purpose: how many keys, how many of them quantum-safe, how many weak; the least migrated first."""
    sums: dict[str, list[int]] = {}
    for one in every:
        held = sums.setdefault(one.purpose, [0, 0, 0])
        held[0] += one.count
        held[1] += one.count if one.quantum_safe else 0
        held[2] += one.count if one.strength < STRONG else 0
    rows = [(purpose, held[0], held[1], held[2]) for purpose, held in sums.items()]
    return sorted(rows, key=lambda row: (-row[3], row[2] / max(row[1], 1), row[0]))


async def lint(request: Request) -> Response:
    """9: lifetimes that do not nest, and other settings that will fail by themselves."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    code = text(request, "code", 64)
    every = fleet.lint(name)
    rows = [one for one in every if not code or one.what.code == code]
    found = ground([fleet.domain(name)] if name else fleet.domains())
    return show(
        request,
        "lint",
        rows=cut(request, rows, ROWS),
        codes=sorted(Counter(one.what.code for one in every).items(), key=lambda item: (-item[1], item[0]))[:50],
        clean=len([row for row in fleet.domains() if row.age.as_of_ms]) - len({one.trust_domain for one in every}),
        nest=NEST,
        code=code,
        domain=name,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )
