"""What slices of several patients say about slices not scanned: the cluster is the unit, not the realization."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustkit.stats.intervals import Interval

AT_ONCE = 1 << 20
"""Clusters drawn at once."""


class ClusterResult(NamedTuple):
    """Interval of the mean rate over clusters like these, or why there is none and what is excluded instead.

    `excluded_share` is an upper bound, at the interval's confidence and one-sided, of the share of clusters
    that would flip at all where none of these did (or that would not, where all did); NaN otherwise.
    """

    rate: float
    interval: Interval
    clusters: int
    excluded_share: float
    reason: str = ""


def share_excluded(clusters: int, confidence: float = 0.95) -> float:
    """Upper bound of the share of clusters that behave otherwise when none of `clusters` did.

    1 - (1-confidence)^(1/clusters): 25.9 % after 10, 5 % after 59 at 95 %.
    """
    return 1 - (1 - confidence) ** (1 / clusters) if clusters else 1.0


def cluster_bootstrap(
    k: ArrayLike, n: ArrayLike, confidence: float = 0.95, *, resamples: int = 9_999, seed: int = 0
) -> ClusterResult:
    """Interval of sum(k)/sum(n) when whole clusters (slices of one patient, or single slices) are drawn anew.

    Parameters
    ----------
    k, n : (G,) flips and realizations of each cluster, n > 0.
    resamples, seed : bootstrap samples and the seed of their generator; one seed gives one answer.

    Notes
    -----
    Percentile bootstrap over clusters with the percentiles widened for few clusters (Hesterberg 2015, Am Stat
    69:371: Phi(sqrt(G/(G-1)) t(a/2; G-1)) in place of a/2). Without any flip, or with flips only, every
    resample is the same and there is no interval; nor is there one of a single cluster.
    """
    k_, n_ = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    clusters = k_.size
    rate = float(k_.sum() / n_.sum()) if clusters else np.nan
    none = Interval(np.nan, np.nan)
    if rate in (0.0, 1.0):
        reason = "no flip in any cluster" if rate == 0 else "only flips in every cluster"
        return ClusterResult(rate, none, clusters, share_excluded(clusters, confidence), reason)
    if clusters < 2:
        return ClusterResult(rate, none, clusters, np.nan, "one cluster tells nothing of others")
    rates = _resampled(k_, n_, resamples, np.random.default_rng(seed))
    tail = widened_tail((1 - confidence) / 2, clusters)
    low, high = np.quantile(rates, [tail, 1 - tail])
    return ClusterResult(rate, Interval(low, high), clusters, np.nan)


def _resampled(
    k: NDArray[np.float64], n: NDArray[np.float64], resamples: int, chance: np.random.Generator
) -> NDArray[np.float64]:
    """Return sum(k)/sum(n) of clusters drawn with replacement, some resamples at once as memory allows."""
    rates, step = np.empty(resamples), max(1, AT_ONCE // k.size)
    for start in range(0, resamples, step):
        picks = chance.integers(0, k.size, size=(min(step, resamples - start), k.size))
        rates[start : start + step] = k[picks].sum(axis=1) / n[picks].sum(axis=1)
    return rates


def widened_tail(tail: float, clusters: int) -> float:
    """Return the percentile to use in place of `tail` so that a bootstrap over few clusters keeps its coverage."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, tail)))
