"""How many realizations a claim needs, and how likely a given number is to settle it."""

from __future__ import annotations

from collections.abc import Callable

from robustkit.stats.compare import tost
from robustkit.stats.intervals import Side, clopper_pearson

MOST = 10**9
"""No plan asks for more realizations than this."""


def realizations_for(limit: float, confidence: float = 0.95, *, flips: int = 0, side: Side = "upper") -> int:
    """Fewest realizations with at most `flips` flips that support "the rate is at most `limit`".

    `side` "upper" is the one-sided bound of gates and claims (0 flips of 299 for 1 % at 95 %); "two" asks it
    of the upper end of the two-sided interval (368). Raises ValueError unless 0 < limit < 1.
    """
    if not 0 < limit < 1:
        raise ValueError(f"limit must lie strictly between 0 and 1, got {limit}")
    return first_true(lambda n: supports(flips, n, limit, confidence, side), flips + 1)


def supports(k: int, n: int, limit: float, confidence: float = 0.95, side: Side = "upper") -> bool:
    """Say whether k flips of n support "the rate is at most `limit`": the bound, not the point, is under it."""
    return bool(clopper_pearson(k, n, confidence, side).high <= limit)


def allowed_flips(n: int, limit: float, confidence: float = 0.95) -> int:
    """Most flips of n that still support "the rate is at most `limit`", one-sided; -1 when not even 0 does."""
    low, high = -1, n
    while low < high:
        middle = (low + high + 1) // 2
        if supports(middle, n, limit, confidence):
            low = middle
        else:
            high = middle - 1
    return low


def flips_table(limit: float, confidence: float = 0.95, most: int = 10) -> list[tuple[int, int]]:
    """(flips allowed, realizations needed) for 0 .. `most` flips: the plan for one class and level."""
    return [(flips, realizations_for(limit, confidence, flips=flips)) for flips in range(most + 1)]


def pass_probability(n: int, rate: float, limit: float, confidence: float = 0.95) -> float:
    """Chance that n realizations of a model whose true rate is `rate` support "at most `limit`"."""
    from scipy.special import bdtr

    allowed = allowed_flips(n, limit, confidence)
    return float(bdtr(allowed, n, rate)) if allowed >= 0 else 0.0


def realizations_for_power(rate: float, limit: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """Fewest realizations from which on a model whose true rate is `rate` passes `limit` with chance >= `power`.

    The chance rises in a saw-tooth as one more flip is allowed; n is the first of a run that stays above
    until the next flip is allowed. Raises ValueError unless 0 <= rate < limit < 1.
    """
    if not 0 <= rate < limit < 1:
        raise ValueError(f"the true rate {rate} must lie below the limit {limit}, both in 0 .. 1")
    flips = first_true(
        lambda m: pass_probability(realizations_for(limit, confidence, flips=m - 1), rate, limit, confidence) >= power,
        1,
    )
    return realizations_for(limit, confidence, flips=flips - 1)


def more_needed(k: int, n: int, limit: float, confidence: float = 0.95) -> int | None:
    """Realizations still missing for a verdict on `limit` if flips go on at the present rate k/n; None: never.

    For a rate under the limit until the one-sided upper bound passes, for one above it until the lower bound
    fails. Without a flip so far, it assumes that none comes.
    """
    if n == 0:
        return realizations_for(limit, confidence)
    rate = k / n
    if rate < limit:
        total = first_true(lambda m: supports(round(rate * m), m, limit, confidence), n + 1)
    elif rate > limit:
        total = first_true(lambda m: bool(clopper_pearson(round(rate * m), m, confidence, "lower").low > limit), n + 1)
    else:
        return None
    return total - n if total < MOST else None


def comparison_size(p1: float, p2: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Realizations in each of two runs for the Z test to see rates p1 and p2 apart with `power`; p1 != p2."""
    from robustkit.stats.compare import comparison_power

    if p1 == p2:
        raise ValueError("two equal rates cannot be told apart; ask for their equivalence within a margin")
    return first_true(lambda n: comparison_power(p1, p2, n, n, alpha) >= power, 2)


def equivalence_size(rate: float, margin: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Realizations in each of two runs of equal true rate for TOST within `margin` to succeed with `power`.

    Normal approximation: n = (z(1-alpha) + z((1+power)/2))^2 2 rate (1-rate) / margin^2; never fewer than
    make two runs without a flip equivalent.
    """
    from math import ceil
    from statistics import NormalDist

    quantile = NormalDist().inv_cdf
    z = quantile(1 - alpha) + quantile((1 + power) / 2)
    floor = first_true(lambda n: tost(0, n, 0, n, margin, alpha).equivalent, 2)
    return max(ceil(z * z * 2 * rate * (1 - rate) / margin**2), floor)


def first_true(holds: Callable[[int], bool], start: int) -> int:
    """Smallest integer >= start at which a monotone statement holds (doubling, then bisection); at most `MOST`."""
    step = 1
    high = start
    while high < MOST and not holds(high):
        high, step = min(high + step, MOST), step * 2
    low = max(start, high - step // 2)
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
