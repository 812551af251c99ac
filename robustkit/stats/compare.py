"""Do two proportions, or two rows of counts, differ? Or are they shown to be the same within a margin?

Group 1 minus group 2 throughout. Counts are tested, never percentages that were rounded before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustkit.stats.intervals import Interval, newcombe

_NORMAL = NormalDist()
_TIE = 1 + 1e-9  # tables as likely as the observed one count as extreme, rounding notwithstanding
BOSCHLOO_CELLS = 5_000_000
"""Above this (n1+n2+1) x (min(n1, n2)+1) the exact unconditional test gives way to Fisher's."""
ENUMERATED_TABLES = 200_000
"""Above this many tables `homogeneity` samples them instead of listing them all."""


class Outcome(NamedTuple):
    """A statistic, its two-sided p-value, the method, and why there is no value (empty when there is one)."""

    statistic: float
    p: float
    method: str
    reason: str = ""
    df: int = 0


def two_proportion_z(k1: int, n1: int, k2: int, n2: int) -> Outcome:
    """Pooled two-proportion Z of k1/n1 against k2/n2 (Peng et al. 2023, section 2.3).

    Both rates 0 or both 1 is 0/0: statistic and p are NaN with reason "degenerate"; an empty group gives "no
    data".
    """
    if n1 == 0 or n2 == 0:
        return Outcome(np.nan, np.nan, "z", "no data")
    pooled = (k1 + k2) / (n1 + n2)
    if pooled in (0.0, 1.0):
        return Outcome(np.nan, np.nan, "z", "degenerate")
    z = (k1 / n1 - k2 / n2) / sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    return Outcome(z, 2 * _NORMAL.cdf(-abs(z)), "z")


def fisher(k1: int, n1: int, k2: int, n2: int) -> Outcome:
    """Fisher's exact test, two-sided; the statistic is the difference of the rates."""
    from scipy.stats import fisher_exact

    # scipy takes the groups as rows or as columns here: this test, unlike Boschloo's, does not mind
    p = float(fisher_exact(np.array([[k1, k2], [n1 - k1, n2 - k2]])).pvalue)
    return Outcome(_difference(k1, n1, k2, n2), p, "fisher")


def boschloo(k1: int, n1: int, k2: int, n2: int) -> Outcome:
    """Boschloo's exact unconditional test, two-sided (twice the smaller one-sided p-value, at most 1).

    Uniformly more powerful than Fisher's: the two group sizes are fixed and the total of successes is not.
    The statistic is the difference of the rates. Boschloo 1970, Stat Neerl 24:1. For sizes above
    `BOSCHLOO_CELLS` the result is Fisher's and its method says so.
    """
    if (n1 + n2 + 1) * (min(n1, n2) + 1) > BOSCHLOO_CELLS:
        return fisher(k1, n1, k2, n2)
    less = _boschloo_less(k1, n1, k2, n2)
    greater = _boschloo_less(n1 - k1, n1, n2 - k2, n2)
    return Outcome(_difference(k1, n1, k2, n2), min(1.0, 2 * min(less, greater)), "boschloo")


def exact_or_z(k1: int, n1: int, k2: int, n2: int) -> Outcome:
    """Boschloo's test where an expected count is below 5, else the pooled Z; NaN for the reasons the Z has."""
    z = two_proportion_z(k1, n1, k2, n2)
    if z.reason:
        return z
    pooled = (k1 + k2) / (n1 + n2)
    return z if min(pooled, 1 - pooled) * min(n1, n2) >= 5 else boschloo(k1, n1, k2, n2)


def homogeneity(a: Sequence[int], b: Sequence[int], *, draws: int = 19_999, seed: int = 0) -> Outcome:
    """Are two columns of counts (R,) draws from one distribution? The statistic is Pearson's chi-square.

    Categories empty in both are left out. p is the chi-square's when every expected count is at least 5;
    otherwise Freeman-Halton's, the probability of all tables at most as likely as this one given its margins
    (Freeman and Halton 1951, Biometrika 38:141): over all tables where they are few ("freeman-halton"), else
    over `draws` random ones ("monte-carlo", p = (1 + as extreme) / (1 + draws), generator seeded with
    `seed`). One common category has reason "degenerate", an empty column "no data".
    """
    table = np.array([a, b], dtype=np.int64)
    table = table[:, table.sum(axis=0) > 0]
    if 0 in table.sum(axis=1):
        return Outcome(np.nan, np.nan, "chi-square", "no data")
    if table.shape[1] == 1:
        return Outcome(np.nan, np.nan, "chi-square", "degenerate")
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    df = table.shape[1] - 1
    if expected.min() >= 5:
        return Outcome(statistic, chi_square_tail(statistic, df), "chi-square", df=df)
    if _count_tables(table) <= ENUMERATED_TABLES:
        return Outcome(statistic, _freeman_halton(table), "freeman-halton", df=df)
    return Outcome(statistic, _sampled_tables(table, draws, seed), "monte-carlo", df=df)


def chi_square_tail(statistic: float, df: int) -> float:
    """Probability that a chi-square with `df` degrees of freedom exceeds `statistic`; NaN for NaN."""
    from scipy.special import chdtrc

    return float(chdtrc(df, statistic))


def holm(p: ArrayLike, times: ArrayLike | None = None) -> NDArray[np.float64]:
    """Adjust p-values (M,) so that each may be compared with alpha; NaN entries are left out and stay NaN.

    `times` (M,) says how many tests each p-value stands for, one by default: equal ones need not be repeated.
    Holm 1979, Scand J Stat 6:65: valid under any dependence.
    """
    raw = np.asarray(p, dtype=np.float64)
    adjusted = np.full(raw.shape, np.nan)
    known = np.flatnonzero(~np.isnan(raw))
    order = known[np.argsort(raw[known], kind="stable")]
    stands = np.ones(raw.shape, np.int64) if times is None else np.asarray(times)
    factors = np.cumsum(stands[order][::-1])[::-1]  # of each its first test: the largest of equal ones decides
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * factors), 1.0)
    return adjusted


class Equivalence(NamedTuple):
    """TOST: p of the harder of the two one-sided tests, and the (1 - 2 alpha) interval of the difference."""

    p: float
    interval: Interval
    equivalent: bool


def tost(k1: int, n1: int, k2: int, n2: int, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided score tests of |p1 - p2| >= margin; "equivalent" when both are rejected at `alpha`.

    margin is an absolute difference of rates in (0, 1). Miettinen and Nurminen 1985, Stat Med 4:213. The interval is
    Newcombe's at 1 - 2 alpha. Raises ValueError when a group is empty or the margin is out of range.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin must lie strictly between 0 and 1, got {margin}")
    if n1 == 0 or n2 == 0:
        raise ValueError("equivalence needs data in both groups")
    above = _NORMAL.cdf(-_score_z(k1, n1, k2, n2, -margin))
    below = _NORMAL.cdf(_score_z(k1, n1, k2, n2, margin))
    p = max(above, below)
    return Equivalence(p, newcombe(k1, n1, k2, n2, 1 - 2 * alpha), p <= alpha)


def mcnemar(only_first: int, only_second: int) -> Outcome:
    """Exact McNemar test of paired answers: two-sided binomial of the pairs that disagree, p = 1 when none does.

    The statistic is the number of discordant pairs that only the first flipped, minus those only the second did.
    McNemar 1947, Psychometrika 12:153.
    """
    from scipy.special import bdtr

    discordant = only_first + only_second
    if discordant == 0:
        return Outcome(0.0, 1.0, "mcnemar", "degenerate")
    tail = float(bdtr(min(only_first, only_second), discordant, 0.5))
    return Outcome(float(only_first - only_second), min(1.0, 2 * tail), "mcnemar")


class Detectable(NamedTuple):
    """Smallest difference of rates seen with the stated power, upwards and downwards; NaN where none is."""

    up: float
    down: float


def smallest_detectable_difference(p: float, n1: int, n2: int, alpha: float = 0.05, power: float = 0.8) -> Detectable:
    """How far group 2 (n2) must lie from a rate p of group 1 (n1) for the two-sided Z test to see it.

    Solves |d| = z(1-alpha/2) sqrt(q(1-q)(1/n1+1/n2)) + z(power) sqrt(p(1-p)/n1 + (p+d)(1-p-d)/n2), q the
    pooled rate (Fleiss, Statistical Methods for Rates and Proportions). Both directions as positive numbers.
    """
    quantiles = _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(power)
    return Detectable(*(_detectable(p, n1, n2, quantiles, limit) for limit in (1 - p, -p)))


def comparison_power(p1: float, p2: float, n1: int, n2: int, alpha: float = 0.05) -> float:
    """Power of the two-sided Z test of rates p1 (n1 draws) and p2 (n2 draws), by normal approximation."""
    pooled = (n1 * p1 + n2 * p2) / (n1 + n2)
    null = sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    spread = sqrt(p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2)
    if spread == 0:
        return float(p1 != p2)
    return _NORMAL.cdf((abs(p1 - p2) - _NORMAL.inv_cdf(1 - alpha / 2) * null) / spread)


def _difference(k1: int, n1: int, k2: int, n2: int) -> float:
    return k1 / n1 - k2 / n2 if n1 and n2 else np.nan


def _boschloo_less(k1: int, n1: int, k2: int, n2: int) -> float:
    """Sup over the common rate of P(Fisher's one-sided p <= the observed one).

    Given the total t the rejection region is a lower tail of the hypergeometric; its size s(t) does not
    depend on the rate, so the whole probability is sum_t Binomial(t; n1+n2, rate) s(t): one table of tails,
    then a search in one dimension.
    """
    if n1 > n2:  # "group 1 small" is "group 2 large": the smaller group makes the smaller table
        k1, n1, k2, n2 = n2 - k2, n2, n1 - k1, n1
    tails = _hypergeometric_tails(n1, n2)
    return _sup_over_rate(_largest_at_most(tails, tails[k1 + k2, k1] * _TIE))


@lru_cache(maxsize=1)  # all entries of a comparison share one pair of sizes
def _hypergeometric_tails(n1: int, n2: int) -> NDArray[np.float64]:
    """P(X <= x | total t) of x of group 1 among t successes: (n1+n2+1, n1+1), rows non-decreasing."""
    from scipy.special import gammaln

    total = np.arange(n1 + n2 + 1)[:, None]
    x = np.arange(n1 + 1)[None, :]
    factorial = gammaln(np.arange(n1 + n2 + 2) + 1.0)
    rest = np.clip(total - x, 0, n2)
    log_pmf = (
        factorial[n1] - factorial[x] - factorial[n1 - x]
        + factorial[n2] - factorial[rest] - factorial[n2 - rest]
        - factorial[n1 + n2] + factorial[total] + factorial[n1 + n2 - total]
    )  # fmt: skip
    log_pmf[total - x != rest] = -np.inf
    return np.asarray(np.minimum(np.cumsum(np.exp(log_pmf), axis=1), 1.0))


def _largest_at_most(rows: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """Largest value <= bound of each non-decreasing row, (T,), 0 where there is none: bisection in all rows at once."""
    every = np.arange(len(rows))
    low, high = np.full(len(rows), -1), np.full(len(rows), rows.shape[1])  # row[low] <= bound < row[high]
    while np.any(high - low > 1):
        middle = (low + high) // 2
        fits = rows[every, middle] <= bound
        inside = high - low > 1
        low = np.where(inside & fits, middle, low)
        high = np.where(inside & ~fits, middle, high)
    return np.where(low >= 0, rows[every, low], 0.0)


def _sup_over_rate(size: NDArray[np.float64]) -> float:
    """Max over p of sum_t Binomial(t; N, p) size[t]: a grid finer than the binomial is wide, then refined."""
    from scipy.optimize import minimize_scalar

    n = size.size - 1
    angles, grid, log_choose = _binomial_grid(n)
    values = grid @ size
    step = angles[1] - angles[0]
    best = values.max()

    def minus_probability(angle: float) -> float:
        return -float(_binomial(np.array([angle]), log_choose)[0] @ size)

    for angle in angles[np.argsort(values)[-3:]]:
        bounds = (max(angle - step, step * 1e-3), min(angle + step, np.pi / 2 - step * 1e-3))
        found = minimize_scalar(minus_probability, bounds=bounds, method="bounded", options={"xatol": 1e-3 * step})
        best = max(best, -float(found.fun))
    return float(min(1.0, best))


@lru_cache(maxsize=1)
def _binomial_grid(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Angles asin(sqrt p), (G,), Binomial(t; n, p), (G, n+1), and log choose(n, t), (n+1,).

    In the angle a binomial is 1/(2 sqrt n) wide everywhere; there are four nodes in this width.
    """
    from scipy.special import gammaln

    t = np.arange(n + 1)
    log_choose = gammaln(n + 1) - gammaln(t + 1) - gammaln(n - t + 1)
    angles = np.linspace(0, np.pi / 2, int(4 * np.pi * sqrt(n)) + 8)[1:-1]
    return angles, _binomial(angles, log_choose), log_choose


def _binomial(angles: NDArray[np.float64], log_choose: NDArray[np.float64]) -> NDArray[np.float64]:
    n = log_choose.size - 1
    t = np.arange(n + 1)
    p = np.sin(angles)[:, None] ** 2
    return np.asarray(np.exp(log_choose + t * np.log(p) + (n - t) * np.log1p(-p)))


def _count_tables(table: NDArray[np.int64]) -> float:
    """Bound the number of 2 x R tables with these margins: the last category follows from the others."""
    smaller = table.sum(axis=1).min()
    free = np.sort(table.sum(axis=0))[:-1]
    return float(np.prod(np.minimum(free, smaller) + 1.0))


def _freeman_halton(table: NDArray[np.int64]) -> float:
    """Sum over all tables: in the smaller row all categories but the largest are free, within the margins."""
    table = table[np.argsort(table.sum(axis=1))][:, np.argsort(table.sum(axis=0))]
    columns, drawn = table.sum(axis=0), int(table[0].sum())
    axes = [np.arange(min(int(c), drawn) + 1) for c in columns[:-1]]
    free = np.stack([grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")], axis=1)
    last = drawn - free.sum(axis=1)
    inside = (last >= 0) & (last <= columns[-1])
    tables = np.column_stack([free, last])[inside]
    weights = _log_hypergeometric(tables, columns)
    observed = _log_hypergeometric(table[:1], columns)[0]
    probabilities = np.exp(weights - _log_choose(int(columns.sum()), drawn))
    return float(min(1.0, probabilities[weights <= observed + np.log(_TIE)].sum()))


def _sampled_tables(table: NDArray[np.int64], draws: int, seed: int) -> float:
    table = table[np.argsort(table.sum(axis=1))]
    columns = table.sum(axis=0)
    sampled = np.random.default_rng(seed).multivariate_hypergeometric(
        columns, int(table[0].sum()), size=draws, method="marginals"
    )
    weights = _log_hypergeometric(sampled, columns)
    extreme = np.count_nonzero(weights <= _log_hypergeometric(table[:1], columns)[0] + np.log(_TIE))
    return float((1 + extreme) / (1 + draws))


def _log_hypergeometric(tables: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log of prod_r choose(columns_r, tables_r), (T,): probabilities up to their common constant."""
    from scipy.special import gammaln

    terms = gammaln(columns + 1.0) - gammaln(tables + 1.0) - gammaln(columns - tables + 1.0)
    return np.asarray(terms.sum(axis=1), dtype=np.float64)


def _log_choose(n: int, k: int) -> float:
    from math import lgamma

    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _score_z(k1: int, n1: int, k2: int, n2: int, difference: float) -> float:
    """Miettinen-Nurminen score statistic of H0: p1 - p2 = difference."""
    p2 = _restricted_rate(k1, n1, k2, n2, difference)
    p1 = min(max(p2 + difference, 0.0), 1.0)
    variance = (p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2) * (n1 + n2) / max(n1 + n2 - 1, 1)
    gap = k1 / n1 - k2 / n2 - difference
    if variance <= 0:
        return 0.0 if gap == 0 else float(np.copysign(np.inf, gap))
    return float(gap / sqrt(variance))


def _restricted_rate(k1: int, n1: int, k2: int, n2: int, d: float) -> float:
    """Maximum-likelihood p2 given p1 = p2 + d: Miettinen and Nurminen's trigonometric root of a cubic."""
    n, k = n1 + n2, k1 + k2
    l3, l2, l1, l0 = n, (n1 + 2 * n2) * d - n - k, (n2 * d - n - 2 * k2) * d + k, k2 * d * (1 - d)
    third = l2 / (3 * l3)
    q = third**3 - l1 * l2 / (6 * l3**2) + l0 / (2 * l3)
    radius = np.copysign(sqrt(max(third**2 - l1 / (3 * l3), 0.0)), q)
    cosine = min(max(q / radius**3, -1.0), 1.0) if radius else 0.0
    root = 2 * radius * np.cos((np.pi + np.arccos(cosine)) / 3) - third
    return float(np.clip(root, max(0.0, -d), min(1.0, 1 - d)))


def _detectable(p: float, n1: int, n2: int, quantiles: tuple[float, float], limit: float) -> float:
    from scipy.optimize import brentq

    def shortfall(d: float) -> float:
        pooled = (n1 * p + n2 * (p + d)) / (n1 + n2)
        null = sqrt(max(pooled * (1 - pooled), 0.0) * (1 / n1 + 1 / n2))
        spread = sqrt(max(p * (1 - p) / n1 + (p + d) * (1 - p - d) / n2, 0.0))
        return abs(d) - quantiles[0] * null - quantiles[1] * spread

    if not n1 or not n2 or limit == 0 or shortfall(limit) < 0:
        return np.nan
    start = float(np.copysign(1e-12, limit))  # at p = 0 or 1 a difference of 0 solves it too, and means nothing
    return abs(float(brentq(shortfall, start, limit)))
