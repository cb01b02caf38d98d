"""The report as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Figure, Report

TITLES = {
    "issuance": "Issuance",
    "workload": "Workload API",
    "memory": "Resident memory",
    "start": "Start",
    "propagation": "Propagation",
    "apart": "Apart",
    "store": "Through a store",
    "mesh": "The mesh, through the hub",
    "sds": "Envoy's certificates",
    "envoy": "Through four Envoys",
    "evidence": "Evidence",
}
ONE_BY_ONE = (
    "start",
    "propagation",
    "apart",
    "store",
    "evidence",
)  # groups whose samples are single events: the worst one is shown too


def render(report: Report) -> str:
    """The table. With two products a last column says how many times better the first is (above 1: better)."""
    products = list(report.versions)
    compared = len(products) == 2
    head = ["", *(f"{name} {version}" for name, version in report.versions.items()), *(["ratio"] if compared else [])]
    rows: list[list[str]] = []
    for group, title in TITLES.items():
        figures = [figure for figure in report.figures if figure.group == group]
        if figures:
            rows.append([title])
        for several in _by_name(figures):
            cells = [_cell(several, product) for product in products]
            rows.append([f"  {several[0].name}", *cells, *([_ratio(several, products)] if compared else [])])
    lines = _align([head, *rows])
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in report.machine.items())
    lines.append(f"\nMedians; the load client runs on the same cores. {machine}.")
    if compared:
        lines.append("Ratio: how many times better the first product is (more per second, less time or memory).")
    lines += [f"FAILED  {failure}" for failure in report.failures]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, object]:
    """Every sample in the order it was taken, its median, and the ratio where two products have one."""
    products = list(report.versions)
    return {
        "format": 1,
        "machine": report.machine,
        "versions": report.versions,
        "figures": [
            {
                "group": figure.group,
                "name": figure.name,
                "unit": figure.unit,
                "more_is_better": figure.more_is_better,
                "median": {product: figure.value(product) for product in figure.samples},
                "samples": figure.samples,
                "ratio": figure.ratio(products[0], products[1]) if len(products) == 2 else None,
            }
            for figure in report.figures
        ],
        "failures": report.failures,
    }


def _by_name(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Figures that share a name (calls/s, p50, p99) make one row."""
    names = dict.fromkeys(figure.name for figure in figures)
    return [[figure for figure in figures if figure.name == name] for name in names]


def _cell(figures: Sequence[Figure], product: str) -> str:
    parts = [_amount(value, figure.unit) for figure in figures if (value := figure.value(product)) is not None]
    taken = figures[0].samples.get(product, [])
    if figures[0].group in ONE_BY_ONE and len(taken) > 1:
        worst = min(taken) if figures[0].more_is_better else max(taken)
        parts.append(f"(worst of {len(taken)}: {_number(worst)})")
    return "  ".join(parts) or "-"


def _ratio(figures: Sequence[Figure], products: Sequence[str]) -> str:
    ratios = [figure.ratio(products[0], products[1]) for figure in figures]
    return "  ".join(f"{ratio:.2f}" for ratio in ratios if ratio is not None) or "-"


def _amount(value: float, unit: str) -> str:
    """ "4,328 calls/s", but "p50 2.1 ms": a unit of two words is a label and a unit."""
    label, _, last = unit.rpartition(" ")
    return f"{label} {_number(value)} {last}".strip()


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    width = max(len(row) for row in rows)
    widths = [max((len(row[i]) for row in rows if i < len(row) and len(row) > 1), default=0) for i in range(width)]
    return ["  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]
