"""How good a classifier is, from counts: precision, recall, F1, and whether it got worse, patients drawn anew."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustkit.stats.clusters import widened_tail


class Accuracy(NamedTuple):
    """Precision, recall and F1 of each class, (C,) shares of 1, NaN where 0/0; `n` images."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    n: int

    @property
    def mean_f1(self) -> float:
        """F1 averaged over the classes that occur; NaN without images."""
        return float(mean_f1_of(self.f1))


class Change(NamedTuple):
    """Change of the mean F1 (after minus before), its one-sided lower bound, and over how many patients."""

    change: float
    lower: float
    groups: int


def accuracy(confusion: ArrayLike) -> Accuracy:
    """Return the accuracy of a confusion matrix (C, C), [true class][class found]."""
    counts = np.asarray(confusion, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        precision = np.diag(counts) / counts.sum(axis=0)
        recall = np.diag(counts) / counts.sum(axis=1)
    return Accuracy(precision, recall, f1_of(counts), int(counts.sum()))


def f1_of(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return F1 (..., C) of confusion matrices (..., C, C); NaN for a class that neither occurs nor is found."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    sizes = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.asarray(np.divide(2 * hits, sizes, out=np.full(hits.shape, np.nan), where=sizes > 0))


def mean_f1_of(f1: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return F1 (..., C) averaged over the classes that have one; NaN where none has."""
    known = ~np.isnan(f1)
    count = known.sum(axis=-1)
    total = np.where(known, f1, 0.0).sum(axis=-1)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def f1_change(
    before: ArrayLike, after: ArrayLike, confidence: float = 0.95, *, resamples: int = 4_999, seed: int = 0
) -> Change:
    """Return the change of the mean F1 and its one-sided lower bound when patients are drawn anew.

    Parameters
    ----------
    before, after : (G, C, C) confusion matrices of the same G patients, [true class][class found].
    resamples, seed : bootstrap samples and the seed of their generator; one seed gives one answer.

    Notes
    -----
    Percentile bootstrap over patients, both models on the same resample, the percentile widened for few patients
    (Hesterberg 2015, Am Stat 69:371). Two models with the same counts have a bound of exactly 0. With a single
    patient there is no bound: it is NaN.
    """
    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"before {a.shape} and after {b.shape} must count the same patients and classes")
    change = float(mean_f1_of(f1_of(b.sum(axis=0))) - mean_f1_of(f1_of(a.sum(axis=0))))
    groups = len(a)
    if np.array_equal(a, b):
        return Change(0.0, 0.0, groups)
    if groups < 2:
        return Change(change, float("nan"), groups)
    draws = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    flat = draws.astype(np.float64)
    changes = mean_f1_of(f1_of(np.tensordot(flat, b, axes=1))) - mean_f1_of(f1_of(np.tensordot(flat, a, axes=1)))
    return Change(change, float(np.nanquantile(changes, widened_tail(1 - confidence, groups))), groups)
