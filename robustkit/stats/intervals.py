"""Intervals for one proportion and for the difference of two: counts in, (low, high) out, scalars or arrays."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Side: TypeAlias = Literal["two", "upper", "lower"]
FloatLike: TypeAlias = Any
"""numpy.float64 for scalar input, else a float64 array of the broadcast shape."""


class Interval(NamedTuple):
    """Both ends, in the unit of what is estimated (proportions lie in 0 .. 1); NaN where there is none."""

    low: FloatLike
    high: FloatLike


IntervalMethod: TypeAlias = Callable[..., Interval]


def clopper_pearson(k: ArrayLike, n: ArrayLike, confidence: float = 0.95, side: Side = "two") -> Interval:
    """Exact interval of a proportion: whatever the truth, it is covered at least as often as stated.

    Parameters
    ----------
    k, n : successes and trials, 0 <= k <= n, broadcast together. With n = 0 nothing is known: (0, 1).
    confidence : strictly between 0 and 1.
    side : "two"; "upper" puts the whole error above (low is 0); "lower" puts it below (high is 1).

    Raises
    ------
    ValueError : counts or confidence out of range.

    Notes
    -----
    Clopper and Pearson 1934, Biometrika 26:404: beta quantiles B(a/2; k, n-k+1) and B(1-a/2; k+1, n-k).
    """
    from scipy.special import betaincinv

    k_, n_ = _counts(k, n)
    tail = _tail(confidence, side)
    # the unused branch of np.where is evaluated too: its parameters are kept positive
    low = np.where(k_ > 0, betaincinv(np.maximum(k_, 1), n_ - k_ + 1, tail), 0.0)
    high = np.where(k_ < n_, betaincinv(k_ + 1, np.maximum(n_ - k_, 1), 1 - tail), 1.0)
    return _sided(low, high, side)


def wilson(k: ArrayLike, n: ArrayLike, confidence: float = 0.95, side: Side = "two") -> Interval:
    """Score interval of a proportion: near nominal on average and shorter, for reading and never for a gate.

    Parameters, broadcasting and errors are those of `clopper_pearson`. Wilson 1927, J Am Stat Assoc 22:209.
    """
    k_, n_ = _counts(k, n)
    z = NormalDist().inv_cdf(1 - _tail(confidence, side))
    trials = np.maximum(n_, 1)
    rate = k_ / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2))
    low = np.where((k_ == 0) | (n_ == 0), 0.0, np.maximum(centre - half, 0))
    high = np.where((k_ == n_) | (n_ == 0), 1.0, np.minimum(centre + half, 1))
    return _sided(low, high, side)


METHODS: dict[str, IntervalMethod] = {"clopper-pearson": clopper_pearson, "wilson": wilson}


def simultaneous(
    k: ArrayLike, n: ArrayLike, confidence: float = 0.95, side: Side = "two", method: str = "clopper-pearson"
) -> Interval:
    """Intervals that all hold together with `confidence`: each is made at 1 - (1-confidence)/m (Bonferroni).

    m is the number of entries with n > 0. Bonferroni is valid whatever the dependence, and the classes and
    mAs levels of one audit do depend on each other: they see the same realizations.
    """
    k_, n_ = _counts(k, n)
    m = max(int(np.count_nonzero(n_)), 1)
    return METHODS[method](k_, n_, 1 - (1 - confidence) / m, side)


def newcombe(k1: ArrayLike, n1: ArrayLike, k2: ArrayLike, n2: ArrayLike, confidence: float = 0.95) -> Interval:
    """Hybrid score interval of p1 - p2 of two independent proportions; NaN where n1 or n2 is 0.

    Newcombe 1998, Stat Med 17:873, method 10: the distances of the two Wilson intervals, added in quadrature.
    """
    a, b = wilson(k1, n1, confidence), wilson(k2, n2, confidence)
    p1, p2 = _rate(k1, n1), _rate(k2, n2)
    low = p1 - p2 - np.sqrt((p1 - a.low) ** 2 + (b.high - p2) ** 2)
    high = p1 - p2 + np.sqrt((a.high - p1) ** 2 + (p2 - b.low) ** 2)
    return Interval(low, high)


def total_interval(
    k: int, n: int, refits: ArrayLike, confidence: float = 0.95, *, least_spread: float = 0.0
) -> Interval:
    """Interval of a rate that carries the uncertainty of noise fit and clean image beside the binomial one.

    Parameters
    ----------
    k, n : flips and realizations simulated with all K repeat scans.
    refits : (K, 2), K >= 2: k and n of each leave-one-out refit (noise fitted and clean image averaged without one
        scan), all with the same white fields.
    confidence : two-sided.
    least_spread : standard deviation on the probit scale below which the jackknife is not believed. Flips too rare to
        show a spread still have that of a clean image averaged over K scans: sqrt(m / (K m_c)), m the level simulated
        and m_c that of the scans averaged.

    Returns
    -------
    Interval : never inside the Clopper-Pearson interval of k/n.

    Notes
    -----
    Jackknife over the K scans (Efron and Stein 1981, Ann Stat 9:586) on the probit scale, on which a rate is linear in
    margin / sigma; a Student quantile with K-1 degrees of freedom. The distances of the exact binomial interval are
    added in quadrature (as in `newcombe`), so the limits of a small jackknife spread are exact.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    counts = np.asarray(refits, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[1] != 2 or counts.shape[0] < 2:
        raise ValueError(f"refits must be (K >= 2, 2) counts k and n, got shape {counts.shape}")
    scans = counts.shape[0]
    replicates = ndtri((counts[:, 0] + 0.5) / (counts[:, 1] + 1))
    spread = np.sqrt((scans - 1) / scans * np.sum((replicates - replicates.mean()) ** 2))
    reach = stdtrit(scans - 1, 0.5 + confidence / 2) * max(float(spread), least_spread)
    exact = clopper_pearson(k, n, confidence)
    centre = ndtri((k + 0.5) / (n + 1))
    low = ndtr(centre - np.hypot(centre - ndtri(exact.low), reach))
    high = ndtr(centre + np.hypot(ndtri(exact.high) - centre, reach))
    return Interval(min(low, exact.low), max(high, exact.high))


def _counts(k: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    k_, n_ = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not np.all((k_ >= 0) & (k_ <= n_)):
        raise ValueError("counts must satisfy 0 <= k <= n")
    return k_, n_


def _rate(k: ArrayLike, n: ArrayLike) -> FloatLike:
    k_, n_ = _counts(k, n)
    return np.divide(k_, n_, out=np.full(k_.shape, np.nan), where=n_ > 0)[()]


def _tail(confidence: float, side: Side) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    return (1 - confidence) / (2 if side == "two" else 1)


def _sided(low: NDArray[np.float64], high: NDArray[np.float64], side: Side) -> Interval:
    if side == "upper":
        low = np.zeros_like(low)
    elif side == "lower":
        high = np.ones_like(high)
    return Interval(low[()], high[()])
