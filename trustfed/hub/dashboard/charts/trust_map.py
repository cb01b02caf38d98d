"""Who trusts whom: a wheel for a few domains, a matrix for more, groups by owner for very many. Deterministic at any size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trustfed.hub.dashboard.charts.svg import chart, label, line, rect, table, tag
from trustfed.hub.dashboard.figures import plural
from trustfed.hub.dashboard.names import visible

WHEEL, MATRIX, LISTED = 16, 48, 200
"""Up to so many domains a wheel, up to so many a matrix of domains; above, owners. The table of a drawing lists the first links:
the page has all of them in a list of its own."""


@dataclass(frozen=True)
class Node:
    """One domain: its owner, and how it is: ok, bad, or stale."""

    name: str
    owner: str
    state: str = "ok"


@dataclass(frozen=True)
class Link:
    """One direction of trust: the importer accepts what the exporter signs; `state` is accepted or offered."""

    importer: str
    exporter: str
    state: str


def trust_map(id_: str, nodes: Sequence[Node], links: Sequence[Link]) -> Markup:
    """The form that stays readable at this size, with every link in the table."""
    nodes = sorted(nodes, key=lambda node: (node.owner, node.name))
    present = {node.name for node in nodes}
    links = [link for link in links if link.importer in present and link.exporter in present]
    mutual = {(link.importer, link.exporter) for link in links if link.state == "accepted"}
    both = sum((b, a) in mutual for a, b in mutual) // 2
    says = (
        f"{len(nodes)} trust domains, {len(mutual)} grants in force ({plural(both, 'pair')} both ways), "
        f"{len(links) - len(mutual)} offered."
    )
    rows = [(link.importer, link.exporter, link.state) for link in links[:LISTED]]
    figures = table(
        "An importer accepts identities of an exporter" + (f", first {LISTED}" if len(links) > LISTED else ""),
        ["importer", "exporter", "state"],
        rows,
    )
    if len(nodes) <= WHEEL:
        drawing, view = _wheel(nodes, links, mutual)
    elif len(nodes) <= MATRIX:
        drawing, view = _matrix(
            [node.name for node in nodes], Counter((one.importer, one.exporter) for one in links), mutual
        )
    else:
        drawing, view = _owners(nodes, links)
        says += " Grouped by owner: rows import from columns, figures are grants."
    return chart(id_, "Trust map", says, drawing, figures, view)


def _wheel(
    nodes: Sequence[Node], links: Sequence[Link], mutual: set[tuple[str, str]]
) -> tuple[Markup, tuple[float, float]]:
    wide, high, radius = 860.0, 520.0, 200.0
    spots = {}
    for index, node in enumerate(nodes):
        angle = 2 * math.pi * index / max(len(nodes), 1) - math.pi / 2
        spots[node.name] = (wide / 2 + radius * math.cos(angle), high / 2 + radius * math.sin(angle), math.cos(angle))
    drawn: list[Markup] = []
    for link in links:
        (x1, y1, _), (x2, y2, _) = spots[link.exporter], spots[link.importer]
        two_way = (link.exporter, link.importer) in mutual and link.state == "accepted"
        if two_way and link.importer > link.exporter:
            continue
        # Bent to the right of its direction, so that two one-way links between a pair stay apart.
        bend = 0.0 if two_way else 0.14
        mx, my = (x1 + x2) / 2 - (y2 - y1) * bend, (y1 + y2) / 2 + (x2 - x1) * bend
        kind = "two-way" if two_way else link.state
        drawn.append(
            tag("path", d=f"M{x1:.1f} {y1:.1f}Q{mx:.1f} {my:.1f} {x2:.1f} {y2:.1f}", class_=f"link link-{kind}")
        )
        if not two_way:
            drawn.append(_arrow(mx, my, x2, y2, kind))
    for node in nodes:
        x, y, side = spots[node.name]
        drawn.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=9, class_=f"node node-{node.state}"))
        if node.state != "ok":
            drawn.append(label(x, y + 4, "!" if node.state == "bad" else "?", "label letter", "middle"))
        anchor = "middle" if abs(side) < 0.2 else "start" if side > 0 else "end"
        shift = 0.0 if anchor == "middle" else 16.0 if side > 0 else -16.0
        drop = (-16.0 if y < high / 2 else 26.0) if anchor == "middle" else 4.0
        drawn.append(label(x + shift, y + drop, visible(node.name, 30), "label", anchor))
    return Markup("").join(drawn), (wide, high)


def _arrow(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A head just before the importer's circle."""
    angle = math.degrees(math.atan2(y2 - y1, x2 - x1))
    x, y = x2 - 11 * math.cos(math.radians(angle)), y2 - 11 * math.sin(math.radians(angle))
    return tag(
        "path",
        d="M0 0l-9-5v10z",
        transform=f"translate({x:.1f} {y:.1f}) rotate({angle:.1f})",
        class_=f"head link-{kind}",
    )


def _matrix(
    names: Sequence[str], counts: Counter[tuple[str, str]], mutual: set[tuple[str, str]]
) -> tuple[Markup, tuple[float, float]]:
    cell, left, top = 15.0, 200.0, 130.0
    size = len(names) * cell
    place = {name: index for index, name in enumerate(names)}
    drawn: list[Markup] = [rect(left, top, size, size, "track")]
    for index, name in enumerate(names):
        drawn.append(label(left - 8, top + index * cell + 11.5, visible(name, 28), "label small", "end"))
        x = left + index * cell + 11
        turned = f"rotate(-60 {x:.1f} {top - 6:.1f})"
        drawn.append(
            tag("text", visible(name, 20), x=f"{x:.1f}", y=f"{top - 6:.1f}", transform=turned, class_="label small")
        )
        drawn.append(line(left, top + index * cell, left + size, top + index * cell, "grid"))
        drawn.append(line(left + index * cell, top, left + index * cell, top + size, "grid"))
    for importer, exporter in counts:
        x, y = left + place[exporter] * cell, top + place[importer] * cell
        accepted = (importer, exporter) in mutual
        drawn.append(rect(x + 3, y + 3, cell - 6, cell - 6, "grant" if accepted else "grant-offered"))
    drawn += [rect(left + i * cell, top + i * cell, cell, cell, "self") for i in range(len(names))]
    return Markup("").join(drawn), (left + size + 70, top + size + 8)


def _owners(nodes: Sequence[Node], links: Sequence[Link]) -> tuple[Markup, tuple[float, float]]:
    owner_of = {node.name: node.owner or "no owner" for node in nodes}
    sizes = Counter(owner_of.values())
    owners = [name for name, _ in sizes.most_common(20)]
    rest = len(sizes) - len(owners)
    if rest > 0:
        owners.append(f"{rest} more")
        owner_of = {name: owner if owner in owners else owners[-1] for name, owner in owner_of.items()}
        sizes = Counter(owner_of.values())
    counts = Counter((owner_of[link.importer], owner_of[link.exporter]) for link in links if link.state == "accepted")
    most = max(counts.values(), default=1)
    cell, tall, left, top = 44.0, 26.0, 220.0, 120.0
    drawn: list[Markup] = []
    for index, owner in enumerate(owners):
        drawn.append(label(left - 8, top + index * tall + 17, f"{visible(owner, 22)} ({sizes[owner]})", "label", "end"))
        x = left + index * cell + 26
        drawn.append(
            tag(
                "text",
                visible(owner, 18),
                x=f"{x:.1f}",
                y=f"{top - 8:.1f}",
                transform=f"rotate(-50 {x:.1f} {top - 8:.1f})",
                class_="label",
            )
        )
    for row, importer in enumerate(owners):
        for column, exporter in enumerate(owners):
            found = counts[importer, exporter]
            step = 0 if not found else 1 + min(3, int(4 * (found - 1) / most))
            x, y = left + column * cell, top + row * tall
            drawn.append(rect(x + 1, y + 1, cell - 2, tall - 2, f"heat heat-{step}"))
            if found:
                drawn.append(label(x + cell / 2, y + 17, found, f"label heat-text-{step}", "middle"))
    return Markup("").join(drawn), (left + len(owners) * cell + 90, top + len(owners) * tall + 8)
