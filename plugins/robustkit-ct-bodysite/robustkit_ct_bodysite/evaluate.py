"""How good a body-site model is: precision, recall and F1 with and without the transition zones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from robustkit import Classifier, Slice
from robustkit.stats import Accuracy, accuracy
from robustkit_ct_bodysite.cohort import TRANSITION_MM
from robustkit_ct_bodysite.data import Images
from robustkit_ct_bodysite.patient import SITES


def scores(truth: Sequence[str], found: Sequence[str]) -> Accuracy:
    """Return precision, recall and F1 of each site, in the order BN, C, AP, LF, of found labels against true ones."""
    counts = np.zeros((len(SITES), len(SITES)))
    for true, got in zip(truth, found, strict=True):
        counts[SITES.index(true), SITES.index(got)] += 1
    return accuracy(counts)


def labels(model: Classifier, items: Iterable[Slice]) -> list[str]:
    """Return the class that the model gives each slice."""
    return [model.classes[int(model.predict(item.pixels[None], item.pixel_mm)[0].argmax())] for item in items]


def labels_of(model: Classifier, images: Images) -> list[str]:
    """Return the class that the model gives each scanned slice of a cohort."""
    pixels, spacing = images.pixels.astype(np.float32), (images.pixel_mm, images.pixel_mm)
    return [model.classes[int(i)] for i in model.predict(pixels, spacing).argmax(axis=1)]


def testing(model: Classifier, images: Images) -> tuple[Accuracy, Accuracy]:
    """Return the paper's Testing 1 (every image) and Testing 2 (without 3 cm about each boundary)."""
    found = labels_of(model, images)
    clear = [i for i, shot in enumerate(images.shots) if shot.from_boundary_mm >= TRANSITION_MM]
    truth = images.labels
    return scores(truth, found), scores([truth[i] for i in clear], [found[i] for i in clear])
