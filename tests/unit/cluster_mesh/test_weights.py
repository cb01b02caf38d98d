"""Round trips become weights that do not flap."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from trustfed.cluster.mesh.weights import FULL, Held, WeightRules, settle, typical, wanted

RULES = WeightRules()
ROUND_TRIPS = st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 10), min_size=1, max_size=20)


def test_the_median_of_the_last_samples_counts() -> None:
    assert typical([0.01, 0.01], RULES) is None
    assert typical([0.01, 9.0, 0.012], RULES) == 0.012
    assert typical([9.0] * 50 + [0.01] * RULES.window, RULES) == 0.01


def test_the_fastest_weighs_full_and_nobody_less_than_the_floor() -> None:
    assert wanted({"near": 0.010, "far": 0.025, "other side": 3.0}, RULES) == {"near": 100, "far": 50, "other side": 10}
    assert wanted({}, RULES) == {}


def test_differences_that_are_noise_weigh_nothing() -> None:
    """0.2 ms and 0.5 ms are one rack, not a factor of two."""
    assert wanted({"a": 0.0002, "b": 0.0005}, RULES) == {"a": 100, "b": 95}


@given(ROUND_TRIPS)
def test_every_weight_is_one_that_a_gateway_may_have(medians: dict[str, float]) -> None:
    weights = wanted(medians, RULES)
    assert weights.keys() == medians.keys()
    assert all(RULES.floor <= weight <= FULL for weight in weights.values())
    assert weights[min(medians, key=lambda name: medians[name])] == FULL
    in_order = [weights[name] for name in sorted(medians, key=lambda name: medians[name])]
    assert in_order == sorted(in_order, reverse=True)


def test_a_weight_is_decided_only_after_several_rounds_in_one_direction() -> None:
    held = Held(100)
    for _ in range(RULES.rounds - 1):
        held = settle(held, 50, RULES)
        assert held.weight == 100
    assert settle(held, 50, RULES) == Held(50)
    assert settle(held, 100, RULES) == Held(100)  # one good round, and counting begins anew


def test_a_small_difference_never_decides() -> None:
    held = Held(80)
    for want in (100, 61, 99, 62) * 20:
        held = settle(held, want, RULES)
        assert held.weight == 80
    assert settle(Held(10), 15, RULES).rounds == 0  # a share of little is nothing: at least 5


def test_what_swings_to_and_fro_never_decides() -> None:
    held = Held(50)
    for number in range(1_000):
        held = settle(held, 100 if number % 2 else 10, RULES)
    assert held.weight == 50


def test_noise_around_one_round_trip_makes_no_change() -> None:
    """Ten thousand rounds of a gateway that is 40 ms away, with jitter and outliers, beside one at 30 ms."""
    dice, held, decided = random.Random(7), Held(85), 0
    near, far = list[float](), list[float]()
    for _ in range(10_000):
        near = [*near, 0.030 * dice.uniform(0.9, 1.3)][-RULES.window :]
        far = [*far, 0.040 * (20 if dice.random() < 0.05 else dice.uniform(0.9, 1.3))][-RULES.window :]
        medians = {name: typical(samples, RULES) for name, samples in (("near", near), ("far", far))}
        want = wanted({name: median for name, median in medians.items() if median is not None}, RULES)
        if "far" in want:
            settled = settle(held, want["far"], RULES)
            decided += settled.weight != held.weight
            held = settled
    assert decided == 0
