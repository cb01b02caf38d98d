"""From counts to figures: the interval is exact, what is not covered is withheld, and few are listed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustfed.errors import Invalid
from trustfed.evidence.availability import Probes, availability
from trustfed.evidence.changes import ProbeState
from trustfed.evidence.definition import DEFINITION, Definition, read_definition
from trustfed.evidence.figures import Window, class_figures, figures
from trustfed.evidence.intervals import clopper_pearson, needed_without_failure
from trustfed.evidence.model import BUCKET_MS, COUNTS, Class


def row(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in COUNTS]


def at_least(successes: int, trials: int, share: float) -> float:
    """The chance of so many successes or more, term by term."""
    return sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(successes, trials + 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data())
def test_the_interval_is_where_the_binomial_tails_are(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    if successes:
        assert at_least(successes, trials, low) == pytest.approx(0.025, abs=1e-9)
    if successes < trials:
        assert 1 - at_least(successes + 1, trials, high) == pytest.approx(0.025, abs=1e-9)


def test_what_zero_failures_prove() -> None:
    assert needed_without_failure(0.999) == 2_995
    few, many = class_figures(row(due=2_994, on_time=2_994)), class_figures(row(due=5_000, on_time=5_000))
    assert (few.headline, few.shown, few.needed) == (1.0, False, 2_995)
    assert many.shown
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(9_999_000, 10_000_000)[0] == pytest.approx(0.999894, abs=1e-6)


def test_the_headline_and_what_stands_beside_it() -> None:
    counts = row(due=1_000, on_time=950, late=3, expired=2, unknown=5, excused=10, superseded=20, unused=10)
    tried = [one + other for one, other in zip(counts, row(tries=1_000, refused=20, issued=955), strict=True)]
    figure = class_figures(tried)
    assert figure.base == 960
    assert figure.headline == round(950 / 960, 6)
    assert figure.with_unused_failed == round(950 / 970, 6)
    assert figure.coverage == round(955 / 970, 6)
    assert (figure.attempts, figure.retries) == (0.98, round(45 / 960, 6))
    assert figure.rates["issued"] == round(955 / 960, 6)
    assert (figure.withheld, figure.why, figure.needed) == (False, "", 0)


def test_what_is_not_covered_is_withheld() -> None:
    silent = class_figures(row(due=100, on_time=90, unknown=10))
    assert (silent.headline, silent.withheld, silent.interval) == (None, True, None)
    assert silent.why == "coverage 90.000% is below 95 %"
    away = class_figures(row(due=100, on_time=90, unused=10))
    assert away.withheld  # an agent that calls its failures unused gets no figure
    nothing = class_figures(row(due=3, excused=3))
    assert (nothing.headline, nothing.withheld, nothing.why) == (None, False, "nothing was due")
    assert not class_figures(row(due=100, on_time=95, unknown=5)).withheld


def test_a_window_counts_whole_buckets_up_to_now() -> None:
    counters = {(Class.LEAF, at * BUCKET_MS): row(due=1, on_time=1) for at in range(10)}
    found = figures(counters, [], [], Window(2 * BUCKET_MS, 9 * BUCKET_MS), 7 * BUCKET_MS + 5)
    assert found.classes["leaf"].base == 5
    assert found.to_ms == 7 * BUCKET_MS
    for begin, end in ((1, BUCKET_MS), (BUCKET_MS, BUCKET_MS), (-BUCKET_MS, 0)):
        with pytest.raises(Invalid, match="has no figures"):
            Window(begin, end).within(BUCKET_MS)


def test_probes_said_after_a_gap_and_before_it_was_known() -> None:
    probes = Probes()
    states = [*probes.said("sign", "up", 100), *probes.said("sign", "up", 300)]
    assert len(states) == 1
    states += probes.gap(200, 250)  # only now is it known that nobody asked then
    assert availability(states, 100, 400)["sign"].up_ms == 200 and not probes.gap(10, 20)[2:]
    assert availability([ProbeState("feed", 0, "down")], 0, 0)["feed"].up_share == 0.0


def test_another_number_is_another_metric() -> None:
    assert read_definition(DEFINITION.canonical()) == DEFINITION
    assert read_definition(DEFINITION.body()).hash == DEFINITION.hash
    assert Definition(on_time_permille=700).hash != DEFINITION.hash
    for bad in (b"{", {"version": 9}, {"due_permille": 0}, {"on_time_permille": 400}, {"close_ms": -1}, {"what": 1}):
        with pytest.raises(Invalid):
            read_definition(bad)
    with pytest.raises(Invalid, match="levels or buckets"):
        read_definition({"bucket_ms": 1})
