"""The exact binomial interval (Clopper and Pearson, 1934), without a library. Pure."""

from __future__ import annotations

import math

_STEPS = 300
_TINY = 1e-300


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided interval for a share of which `successes` of `trials` were seen; (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _quantile(tail, successes, trials - successes + 1)
    high = 1.0 if successes == trials else _quantile(1 - tail, successes + 1, trials - successes)
    return low, high


def needed_without_failure(share: float, confidence: float = 0.95) -> int:
    """How many trials without one failure show, one-sided, that the share is above `share`: 2,995 for 0.999."""
    return math.ceil(math.log(1 - confidence) / math.log(share))


def _quantile(probability: float, a: float, b: float) -> float:
    """Where the distribution Beta(a, b) reaches `probability`, by bisection to the last bit."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if _beta(middle, a, b) < probability:
            low = middle
        else:
            high = middle


def _beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b) (DLMF 8.17), by its continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """DLMF 8.17.22 by Lentz's method."""
    c, d = 1.0, 1 / _apart(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS + int(4 * math.sqrt(max(a, b)))):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _apart(1 + factor * d), _apart(1 + factor / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _apart(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
