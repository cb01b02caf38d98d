"""What is made of the evidence: a standing within its bound, and counters that only rise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustfed.cluster.evidence.counted import OUTCOMES, Counted
from trustfed.cluster.evidence.exported import MAX_A_DAY, export
from trustfed.cluster.evidence.runner import bounded, stale_bundles
from trustfed.errors import Conflict, Unavailable
from trustfed.evidence.model import COUNTS, Class
from trustfed.evidence.standing import MAX_BYTES, Held, Standing, Unknown
from trustfed.runtime.metrics import Registry


def test_a_standing_that_is_too_long_is_cut_where_it_is_longest() -> None:
    many = tuple(Unknown(f"{number:032x}", "spiffe://td-a/" + "x" * 2000, "p", "held", 1, 1) for number in range(400))
    held = (Held("td-b", "td-a", 1, 1, 1, 1, 5, 5),)
    data = bounded(Standing("td-a", 1, unknown=many, unknown_count=400, held=held))
    cut = msgspec.json.decode(data, type=Standing)
    assert len(data) <= MAX_BYTES and 0 < len(cut.unknown) < 400
    assert (cut.unknown_count, cut.held) == (400, held)


def test_a_bundle_that_nobody_confirmed_for_three_hints_alarms() -> None:
    fresh, lagging = Held("td-b", "td-a", 1, 3, 1, 3, 2_999, 1_000), Held("td-c", "n1", 1, 2, 1, 3, 9_000, 1_000)
    assert not stale_bundles([fresh, lagging], 7)
    (alarm,) = stale_bundles([fresh, lagging, Held("td-d", "td-a", 1, 1, 1, 1, 3_001, 1_000)], 7)
    assert (alarm.code, alarm.severity, alarm.subject) == ("bundle_old", "page", "td-d")


class Rows:
    """A store with these counters."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Class, int], list[int]] = {}

    async def read(self, _: Any) -> Any:
        return {at: list(counts) for at, counts in self.rows.items()}


def counts(**given: int) -> list[int]:
    row = [0] * len(COUNTS)
    for name, count in given.items():
        row[COUNTS.index(name)] = count
    return row


async def test_obligations_are_counted_as_they_end() -> None:
    registry, rows = Registry(), Rows()
    counted, store = Counted(registry), rows
    rows.rows[Class.LEAF, 0] = counts(due=5, on_time=5)

    async def shown(metric: str) -> str:
        await counted.look(store, 10**12)  # type: ignore[arg-type]
        lines = registry.exposition().decode().splitlines()
        return next((line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"trustfed_{metric}")), "")

    assert await shown('obligations_total{class="leaf",outcome="on_time"}') == ""  # before this process began to count
    rows.rows[Class.LEAF, 0] = counts(due=6, on_time=5, late=1)
    rows.rows[Class.LEAF, 300_000] = counts(due=3, on_time=1, unused=1, open=1)
    assert await shown('obligations_failed_total{class="leaf"}') == "1"
    assert await shown('obligations_due_total{class="leaf"}') == "2"
    assert await shown('obligations_open{class="leaf"}') == "1"
    rows.rows[Class.LEAF, 0] = counts(due=6, on_time=6)
    assert await shown('obligations_total{class="leaf",outcome="late"}') == "1"
    assert set(OUTCOMES) <= set(COUNTS)


def test_a_checkpoint_is_never_written_over(tmp_path: Path) -> None:
    first = Path(export(tmp_path, "td-a", "2026-11-21", b"one"))
    assert Path(export(tmp_path, "td-a", "2026-11-21", b"two")) == first and first.read_bytes() == b"one"
    again = Path(export(tmp_path, "td-a", "2026-11-21", b"two", again=True))
    assert again.name == "td-a-2026-11-21.2.checkpoint" and again.read_bytes() == b"two"
    for number in range(3, MAX_A_DAY + 1):
        (tmp_path / f"td-a-2026-11-21.{number}.checkpoint").touch()
    with pytest.raises(Conflict):
        export(tmp_path, "td-a", "2026-11-21", b"three", again=True)
    with pytest.raises(Unavailable, match="No such file"):
        export(tmp_path / "away", "td-a", "2026-11-21", b"one")
    assert not list(tmp_path.glob(".*"))
