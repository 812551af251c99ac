"""Where on the level axis a rate is reached: a monotone curve through the counts, and what the tests support."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustkit.stats.intervals import clopper_pearson
from robustkit.stats.sequential import fixed_sequence

RISING_UNITS = frozenset({"sigma", "sd", "hu", "severity"})
"""Units in which a higher level is more noise. In every other one, mAs first, a higher level is less."""


def noise_rises(unit: str) -> bool:
    """Say whether a higher level of this unit means more noise."""
    return unit.lower() in RISING_UNITS


class Threshold(NamedTuple):
    """The level at which a rate is reached, and the tested levels between which it surely lies.

    `level` is NaN when the curve does not cross the rate within the levels tested. `low` and `high` are
    tested levels, -inf or inf where no test bounds it on that side.
    """

    level: float
    low: float
    high: float


def threshold(
    levels: ArrayLike, k: ArrayLike, n: ArrayLike, rate: float, confidence: float = 0.95, *, unit: str = "mAs"
) -> Threshold:
    """Level at which the flip rate reaches `rate`, for a rate that grows with noise.

    Parameters
    ----------
    levels : (L,) distinct levels in `unit`; k, n : (L,) flips and realizations at each.
    rate : strictly between 0 and 1. confidence : two-sided.

    Notes
    -----
    The estimate is the isotonic (pool-adjacent-violators) fit of the rates, interpolated linearly in the
    logarithm of the level. Its interval needs no interpolation and no independence between levels: a fixed
    sequence of exact one-sided bounds from the quiet end finds levels surely quieter than the threshold,
    another from the noisy end levels surely noisier; each errs with probability at most (1-confidence)/2.
    """
    order = np.argsort(np.asarray(levels, dtype=np.float64))
    if not noise_rises(unit):
        order = order[::-1]
    x = np.asarray(levels, dtype=np.float64)[order]  # from quiet to noisy
    k_, n_ = np.asarray(k, dtype=np.float64)[order], np.asarray(n, dtype=np.float64)[order]
    if np.any(n_ <= 0):
        raise ValueError("every level of a threshold needs at least one realization")
    level = _crossing(x, isotonic(k_ / n_, n_), rate)
    one_sided = (1 + confidence) / 2
    under = clopper_pearson(k_, n_, one_sided, "upper").high < rate
    over = clopper_pearson(k_, n_, one_sided, "lower").low > rate
    quiet = fixed_sequence(list(under))
    noisy = fixed_sequence(list(over[::-1]))
    ends = (_at(x, quiet), _at(x[::-1], noisy))
    low, high = ends if noise_rises(unit) else ends[::-1]
    return Threshold(level, -np.inf if np.isnan(low) else low, np.inf if np.isnan(high) else high)


def isotonic(values: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Non-decreasing weighted least-squares fit (L,) of `values`: pool adjacent violators (Barlow et al. 1972)."""
    blocks: list[list[float]] = []  # [mean, weight, length]
    for value, weight in zip(np.asarray(values, float), np.asarray(weights, float), strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, total, length = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + mean * total) / (before[1] + total)
            before[1] += total
            before[2] += length
    return np.repeat([b[0] for b in blocks], [int(b[2]) for b in blocks])


def _crossing(levels: NDArray[np.float64], rates: NDArray[np.float64], rate: float) -> float:
    """Level at which non-decreasing `rates` first reach `rate`; NaN when they start above it or never do."""
    reached = np.flatnonzero(rates >= rate)
    if reached.size == 0 or (reached[0] == 0 and rates[0] > rate):
        return float("nan")
    i = int(reached[0])
    if i == 0 or rates[i] == rate:
        return float(levels[i])
    share = (rate - rates[i - 1]) / (rates[i] - rates[i - 1])
    if levels.min() <= 0:  # a level 0 (no noise) has no logarithm
        return float(levels[i - 1] + share * (levels[i] - levels[i - 1]))
    return float(np.exp((1 - share) * np.log(levels[i - 1]) + share * np.log(levels[i])))


def _at(levels: NDArray[np.float64], index: int | None) -> float:
    return float("nan") if index is None else float(levels[index])
