"""How good a body-site model is: precision, recall and F1 with and without the transition zones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustkit import Classifier, Slice
from robustkit_ct_bodysite.cohort import TRANSITION_MM
from robustkit_ct_bodysite.data import Images
from robustkit_ct_bodysite.patient import SITES


@dataclass(frozen=True)
class Scores:
    """Precision, recall and F1 of each site, (4,) shares of 1 in the order BN, C, AP, LF, from `n` images."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    n: int

    @property
    def mean_f1(self) -> float:
        """F1 averaged over the four sites."""
        return float(self.f1.mean())


def scores(truth: Sequence[str], found: Sequence[str]) -> Scores:
    """Return the scores of found labels against true ones; 0/0 counts as 0."""
    counts = np.zeros((len(SITES), len(SITES)))
    for true, got in zip(truth, found, strict=True):
        counts[SITES.index(true), SITES.index(got)] += 1
    hits = np.diag(counts)
    precision = hits / np.maximum(counts.sum(axis=0), 1)
    recall = hits / np.maximum(counts.sum(axis=1), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return Scores(precision, recall, f1, len(truth))


def labels(model: Classifier, items: Iterable[Slice]) -> list[str]:
    """Return the class that the model gives each slice."""
    return [model.classes[int(model.predict(item.pixels[None], item.pixel_mm)[0].argmax())] for item in items]


def labels_of(model: Classifier, images: Images) -> list[str]:
    """Return the class that the model gives each scanned slice of a cohort."""
    pixels, spacing = images.pixels.astype(np.float32), (images.pixel_mm, images.pixel_mm)
    return [model.classes[int(i)] for i in model.predict(pixels, spacing).argmax(axis=1)]


def testing(model: Classifier, images: Images) -> tuple[Scores, Scores]:
    """Return the paper's Testing 1 (every image) and Testing 2 (without 3 cm about each boundary)."""
    found = labels_of(model, images)
    clear = [i for i, shot in enumerate(images.shots) if shot.from_boundary_mm >= TRANSITION_MM]
    truth = images.labels
    return scores(truth, found), scores([truth[i] for i in clear], [found[i] for i in clear])
