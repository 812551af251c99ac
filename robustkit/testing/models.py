"""What a classifier and a trainable model must do, checked: `check_classifier`, `check_trainable`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.testing.core import CheckResult, NotApplicableError, demand, describe, disturbed, made, raise_first, run
from robustkit.testing.fakes import make_slice, make_slices
from robustkit.types import Classifier, Image, PixelSize, Slice, Trainable

KIND = "model"
TRAINABLE = "trainable model"
TIE = 1e-6
"""Top-2 margin in probability at or under which a label may depend on the last bits."""
CLOSE = 1e-4
CLEAR = 0.2
"""Top-2 margin in probability above which resampling must not change a label."""


@dataclass
class ClassifierBench:
    """A classifier on the bench and the images it is shown."""

    given: Classifier | Callable[[], Classifier]
    slices: Sequence[Slice]
    resamples: bool | None = None

    @cached_property
    def model(self) -> Classifier:
        """Return the model given, or make it."""
        return made(self.given, "predict")

    @cached_property
    def batch(self) -> Image:
        """Return the images (B, H, W): the slices of the first one's shape."""
        shape = self.slices[0].pixels.shape
        return np.stack([item.pixels for item in self.slices if item.pixels.shape == shape])

    @property
    def pixel_mm(self) -> PixelSize:
        """Return the spacing of the batch."""
        return self.slices[0].pixel_mm

    @cached_property
    def answer(self) -> NDArray[np.float32]:
        """Return the probabilities (B, C) of the batch."""
        return self.ask(self.batch)

    def ask(self, images: Image, pixel_mm: PixelSize | None = None) -> NDArray[np.float32]:
        """Ask the model once, on a fresh copy of the images."""
        return self.model.predict(images.copy(), pixel_mm or self.pixel_mm)


def _offers_classes_and_predict(bench: ClassifierBench) -> None:
    for part in ("classes", "predict"):
        demand(
            hasattr(bench.model, part),
            asked="a model with classes and predict(batch, pixel_mm)",
            came=f"{type(bench.model).__name__} without {part}",
            why="An audit calls both.",
        )


def _classes_are_names(bench: ClassifierBench) -> None:
    classes = bench.model.classes
    good = isinstance(classes, tuple) and len(set(classes)) == len(classes) >= 2
    demand(
        good and all(isinstance(name, str) and name and name == name.strip() for name in classes),
        asked="classes as a tuple of two or more different names",
        came=describe(classes),
        why="They head the columns of every table, in the order of the probabilities.",
    )


def _answers_have_shape_and_type(bench: ClassifierBench) -> None:
    for count in (1, len(bench.batch)):
        answer = bench.ask(bench.batch[:count])
        expected = (count, len(bench.model.classes))
        demand(
            isinstance(answer, np.ndarray) and answer.shape == expected and np.issubdtype(answer.dtype, np.floating),
            asked=f"probabilities as ndarray of shape (images, classes) = {expected} and a floating type",
            came=describe(answer),
            why="Row i is the answer to image i, column j is class j.",
        )


def _answers_are_probabilities(bench: ClassifierBench) -> None:
    demand(
        bool(np.isfinite(bench.answer).all()),
        asked="finite probabilities",
        came="NaN or infinity",
        why="No class can be read from them.",
    )
    sums = bench.answer.sum(axis=1, dtype=np.float64)
    low, high = float(bench.answer.min()), float(bench.answer.max())
    demand(
        low >= -CLOSE and high <= 1 + CLOSE and bool(np.abs(sums - 1).max() <= 1e-3),
        asked="probabilities in 0 .. 1 that sum to 1",
        came=f"values {low:.3g} .. {high:.3g} with sums {sums.min():.3g} .. {sums.max():.3g}",
        why="Margins are told in probability; pass logits through a softmax.",
    )


def _images_are_left_alone(bench: ClassifierBench) -> None:
    images = bench.batch.copy()
    bench.model.predict(images, bench.pixel_mm)
    demand(
        np.array_equal(images, bench.batch),
        asked="images that are only read",
        came="images changed in place",
        why="The same array is scored again, by this model or the next.",
    )


def _same_image_gives_same_answer(bench: ClassifierBench) -> None:
    with disturbed():
        again = bench.ask(bench.batch)
    demand(
        np.array_equal(bench.answer, again),
        asked="the same answer to the same images",
        came=f"probabilities that differ by up to {_gap(bench.answer, again):.3g}",
        why="Every flip would be laid to the noise; switch dropout and other randomness off in predict.",
    )


def _order_and_batch_play_no_part(bench: ClassifierBench) -> None:
    alone = np.concatenate([bench.ask(image[None]) for image in bench.batch])
    backwards = bench.ask(bench.batch[::-1])[::-1]
    for other, how in ((alone, "one at a time"), (backwards, "in reverse order")):
        labels = (other.argmax(axis=1) != bench.answer.argmax(axis=1)) & (_margin(bench.answer) > TIE)
        demand(
            not labels.any() and _gap(bench.answer, other) <= CLOSE,
            asked=f"the same answers to {len(alone)} images together and {how}",
            came=f"{int(labels.sum())} other labels, probabilities that differ by up to "
            f"{_gap(bench.answer, other):.3g}",
            why="An image's neighbours in a batch are chance; such a model cannot be audited.",
        )


def _strided_images_are_read_right(bench: ClassifierBench) -> None:
    wide = np.repeat(bench.batch, 2, axis=2)[:, :, ::2]
    demand(
        _gap(bench.answer, bench.model.predict(wide, bench.pixel_mm)) <= CLOSE,
        asked="the same answer to images that are not contiguous in memory",
        came="another one",
        why="Images come as views of larger arrays; np.ascontiguousarray before native code cures it.",
    )


def _any_pixel_size_is_taken(bench: ClassifierBench) -> None:
    answer = bench.ask(bench.batch, (bench.pixel_mm[0], 0.8 * bench.pixel_mm[1]))
    demand(
        answer.shape == bench.answer.shape and bool(np.isfinite(answer).all()),
        asked="an answer for pixels that are not square, too: pixel_mm is (row, column) in mm",
        came=describe(answer),
        why="Scanners have many fields of view.",
    )


def _pixel_size_is_respected(bench: ClassifierBench) -> None:
    if not (getattr(bench.model, "fov_mm", None) if bench.resamples is None else bench.resamples):
        raise NotApplicableError("the model does not say that it resamples by pixel size")
    finer = np.kron(bench.batch, np.ones((2, 2), np.float32))
    answer = bench.ask(finer, (bench.pixel_mm[0] / 2, bench.pixel_mm[1] / 2))
    labels = (answer.argmax(axis=1) != bench.answer.argmax(axis=1)) & (_margin(bench.answer) > CLEAR)
    demand(
        not labels.any(),
        asked="the same labels for the same object on a grid twice as fine",
        came=f"{int(labels.sum())} of {len(labels)} labels changed",
        why="Sizes in mm decide what a model sees; resample with pixel_mm before predicting.",
    )


CLASSIFIER_CHECKS = (
    _offers_classes_and_predict,
    _classes_are_names,
    _answers_have_shape_and_type,
    _answers_are_probabilities,
    _images_are_left_alone,
    _same_image_gives_same_answer,
    _order_and_batch_play_no_part,
    _strided_images_are_read_right,
    _any_pixel_size_is_taken,
    _pixel_size_is_respected,
)


def run_classifier(
    model: Classifier | Callable[[], Classifier],
    *,
    images: Sequence[Slice] | None = None,
    resamples: bool | None = None,
) -> list[CheckResult]:
    """Run every check of `check_classifier` and return what each found."""
    bench = ClassifierBench(model, list(images or _default_images()), resamples)
    return run(KIND, CLASSIFIER_CHECKS, bench, basic=4)


def check_classifier(
    model: Classifier | Callable[[], Classifier],
    *,
    images: Sequence[Slice] | None = None,
    resamples: bool | None = None,
) -> None:
    """Check a classifier, or what a plugin names in `robustkit_models` (a function that returns one).

    Parameters
    ----------
    images : slices of one shape that the model takes; by default seven discs of 96 x 96 pixels of 4 mm.
    resamples : True when the model resamples by pixel size, so that a finer grid must give the same labels; None asks
        the model's attribute `fov_mm`.

    Raises
    ------
    ConformanceError
        Naming the first check that failed: what was asked, what came, and why it matters.
    """
    raise_first(run_classifier(model, images=images, resamples=resamples))


@dataclass
class TrainableBench:
    """A trainable model on the bench, its training slices and the options of its fit."""

    given: Trainable | Callable[[], Trainable]
    given_data: Sequence[Slice] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def model(self) -> Trainable:
        """Return the model given, or make it."""
        return made(self.given, "predict")

    @cached_property
    def data(self) -> Sequence[Slice]:
        """Return labelled slices of the model's classes."""
        return self.given_data or make_slices(24, classes=self.model.classes)

    @cached_property
    def before(self) -> NDArray[np.float32]:
        """Return the untrained model's answers."""
        return self.answers(self.model)

    @cached_property
    def trained(self) -> Trainable:
        """Return the model trained once with seed 0."""
        assert self.before is not None  # asked before training, or an in-place fit would go unseen
        return self.fit()

    def fit(self) -> Trainable:
        """Train once with seed 0."""
        return self.model.fit(list(self.data), 0, **self.options)

    def answers(self, model: Classifier) -> NDArray[np.float32]:
        """Return a model's answers (N, C) to the training slices."""
        return np.concatenate([model.predict(item.pixels[None].copy(), item.pixel_mm) for item in self.data])


def _fit_returns_a_new_model(bench: TrainableBench) -> None:
    pixels = [item.pixels.copy() for item in bench.data]
    trained = bench.trained
    demand(
        hasattr(trained, "predict") and hasattr(trained, "fit") and trained is not bench.model,
        asked="a new model from fit(data, seed)",
        came="the same object" if trained is bench.model else describe(trained),
        why="The caller judges each model against the one before.",
    )
    demand(
        tuple(trained.classes) == tuple(bench.model.classes),
        asked=f"the same classes, {', '.join(bench.model.classes)}",
        came=", ".join(trained.classes),
        why="Tables of the two are compared class by class.",
    )
    demand(
        all(np.array_equal(a, b.pixels) for a, b in zip(pixels, bench.data, strict=True)),
        asked="training slices that are only read",
        came="slices changed in place",
        why="They are used again for the next model.",
    )


def _fit_leaves_the_old_model_as_it_was(bench: TrainableBench) -> None:
    before = bench.before
    assert bench.trained is not None
    gap = _gap(before, bench.answers(bench.model))
    demand(
        gap == 0,
        asked="an old model that answers as before",
        came=f"probabilities that differ by up to {gap:.3g}",
        why="The caller goes back to it when the new one is worse; copy the weights before training.",
    )


def _fit_has_an_effect(bench: TrainableBench) -> None:
    demand(
        _gap(bench.before, bench.answers(bench.trained)) > 0,
        asked="a model that has learnt something",
        came="the same answers as before",
        why="A fit that returns an untrained copy looks like a robust one.",
    )


def _same_seed_gives_the_same_model(bench: TrainableBench) -> None:
    with disturbed():
        again = bench.fit()
    gap = _gap(bench.answers(bench.trained), bench.answers(again))
    demand(
        gap <= TIE,
        asked="the same model from the same data and seed",
        came=f"probabilities that differ by up to {gap:.3g}",
        why="A training is recorded by its seed; take all randomness from it.",
    )


TRAINABLE_CHECKS = (
    _fit_returns_a_new_model,
    _fit_leaves_the_old_model_as_it_was,
    _fit_has_an_effect,
    _same_seed_gives_the_same_model,
)


def run_trainable(
    model: Trainable | Callable[[], Trainable], *, data: Sequence[Slice] | None = None, **options: Any
) -> list[CheckResult]:
    """Run every check of `check_trainable` and return what each found."""
    return run(TRAINABLE, TRAINABLE_CHECKS, TrainableBench(model, data, options), basic=1)


def check_trainable(
    model: Trainable | Callable[[], Trainable], *, data: Sequence[Slice] | None = None, **options: Any
) -> None:
    """Check that a model can be trained: `fit` returns a new model, leaves the old one, and obeys its seed.

    Parameters
    ----------
    data : labelled slices; by default 24 discs whose insert tells the class.
    options : passed to `fit`, to keep it short.

    Raises
    ------
    ConformanceError
        Naming the first check that failed: what was asked, what came, and why it matters.
    """
    raise_first(run_trainable(model, data=data, **options))


def _default_images() -> list[Slice]:
    return [make_slice(insert, shape=(96, 96), pixel_mm=(4.0, 4.0)) for insert in range(-900, 1200, 300)]


def _margin(answer: NDArray[np.float32]) -> NDArray[np.float32]:
    top = np.sort(answer, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def _gap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the largest difference of two answers; infinite when they cannot be compared."""
    if np.shape(one) != np.shape(other):
        return float("inf")
    return float(np.abs(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)).max())
