"""What to train on and how, whatever the framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters.preprocess import prepare
from robustkit.adapters.spec import InputSpec
from robustkit.errors import DataError, UsageError
from robustkit.types import Slice

Progress = Callable[[int, int, float], None]
"""Told (epoch, epochs, mean loss) after each epoch."""
LOSSES = ("cross-entropy", "squared-error")


@dataclass(frozen=True)
class Schedule:
    """How any model is trained further, whatever its framework: with Adam, on one thread.

    The same seed gives the same weights, bit for bit, on one machine and backend.

    Parameters
    ----------
    seed : decides order and dropout, and nothing else does.
    epochs, lr, batch : passes over the data, learning rate, images a step.
    loss : cross-entropy, or squared-error between probabilities and the one-hot label (Peng et al. 2023).

    Beside it, every `fit` takes `data`, slices whose labels are among the classes, and `progress`, which is told
    (epoch, epochs, mean loss).

    Raises
    ------
    UsageError : an unknown loss, or numbers that nothing can be trained with.
    """

    seed: int
    epochs: int = 1
    lr: float = 1e-4
    batch: int = 32
    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UsageError(f"unknown loss {self.loss!r}; there is: {', '.join(LOSSES)}")
        if self.epochs < 0 or self.batch < 1 or not (math.isfinite(self.lr) and self.lr > 0):
            given = f"{self.epochs}, {self.batch} and {self.lr:g}"
            raise UsageError(f"training wants epochs >= 0, batch >= 1 and lr > 0; got {given}")


def training_data(data: Sequence[Slice], spec: InputSpec) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return prepared inputs (N, ...) and class indices (N,); DataError for labels that are no class or mixed sizes."""
    unknown = sum(item.label not in spec.classes for item in data)
    if not data or unknown:
        raise DataError(
            f"training wants slices labelled {', '.join(spec.classes)}; {unknown} of {len(data)} slices have another "
            "label or none: label them, or leave them out"
        )
    labels = np.array([spec.classes.index(str(item.label)) for item in data], dtype=np.int64)
    stack = [prepare(item.pixels[None], item.pixel_mm, spec) for item in data]
    if len({item.shape for item in stack}) > 1:
        raise DataError("training images come in several sizes and the model has none of its own; give --size H,W")
    return np.concatenate(stack), labels
