"""Perturb, predict, tabulate: the pure core of an audit, without files, workers or a command line.

One image through it: clean prediction once, then per realization one synthesis of noise seen at every level, added
in HU, stored as the scanner stores it, scored in batches of one fixed size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import ModelError, RobustkitError
from robustkit.seeding import Draw, draws
from robustkit.types import Classifier, Image, NoiseModel, PixelSize, Slice

MEMORY_BUDGET = 96 * 2**20
"""Bytes of perturbed images held at once; fresh memory costs more time than what is written into it."""
TIE_FLOOR = 1e-6
"""Smallest top-2 margin in probability that counts as a decision."""


@dataclass(frozen=True, eq=False)
class Case:
    """What is audited: a slice, the clean image its noise is added to (H, W) in HU, the fitted noise, its story."""

    slice: Slice
    clean: Image
    noise: NoiseModel
    story: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scores:
    """Realizations (R,) of one case, scored at L levels: predicted class index and top-2 margin, both (R, L)."""

    realization: NDArray[np.int64]
    noisy: NDArray[np.int16]
    margin: NDArray[np.float32]


def stored(case_slice: Slice, pixels: Image) -> Image:
    """Return pixels (..., H, W) as the scanner stores them: rounded, clipped; padding is put back by the caller."""
    return pixels if case_slice.storage is None else case_slice.storage.apply(pixels, out=pixels)


def perturb(case: Case, levels: Sequence[float], of: Sequence[Draw]) -> Image:
    """Return the noisy images (B, L, H, W) in HU of `of` at `levels`; padding stays as it is in the clean image."""
    noise = case.noise.sample(case.clean, levels, of)
    expected = (len(of), len(levels), *case.clean.shape)
    if np.shape(noise) != expected:
        raise RobustkitError(
            f"noise model {type(case.noise).__name__} returned shape {np.shape(noise)} where {expected} was asked; "
            "`robustkit plugins check` names what its sample() must return"
        )
    noisy = np.add(noise, case.clean, out=noise if _nobody_elses(noise) else None, dtype=np.float32)
    stored(case.slice, noisy)
    if case.slice.mask is not None:
        outside = ~case.slice.mask
        noisy[..., outside] = case.clean[outside]
    return noisy


def _nobody_elses(array: Any) -> bool:
    """Say whether an array may be overwritten: nobody but the caller holds it, nor the memory it looks into."""
    own = isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.writeable
    holders = 3  # the caller's name, this function's, and the count's own
    if not own or sys.getrefcount(array) > holders:
        return False
    return array.base is None or (isinstance(array.base, np.ndarray) and sys.getrefcount(array.base) <= holders - 1)


def score(model: Classifier, images: Image, pixel_mm: PixelSize, batch: int) -> NDArray[np.float32]:
    """Return probabilities (N, C) of images (N, H, W), always scored `batch` at a time, the last batch padded."""
    found = np.empty((len(images), len(model.classes)), dtype=np.float32)
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        full = chunk
        if len(chunk) < batch:
            full = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])
        probabilities = model.predict(full, pixel_mm)
        if np.shape(probabilities) != (batch, len(model.classes)):
            raise ModelError(
                f"the model returned shape {np.shape(probabilities)} for {batch} images and "
                f"{len(model.classes)} classes; name its classes with --classes A,B,..."
            )
        found[start : start + len(chunk)] = probabilities[: len(chunk)]
    if not np.isfinite(found).all():
        raise ModelError("the model returned NaN or infinity; check its weights and the --window it is given")
    return found


def decide(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Return class index and top-2 margin, both (N,), of probabilities (N, C >= 2)."""
    top = np.partition(probabilities, -2, axis=-1)[..., -2:]
    return probabilities.argmax(axis=-1).astype(np.int16), (top[..., 1] - top[..., 0]).astype(np.float32)


def draws_per_call(levels: int, shape: tuple[int, ...], budget: int = MEMORY_BUDGET, batch: int = 1) -> int:
    """Return how many realizations to perturb at once: 1 to 16, as memory allows.

    Their images should fill whole batches, for the last one is padded; of counts that do so alike, the smallest that
    makes 16 images keeps them near the processor.
    """
    most = int(max(1, min(16, budget // (4 * levels * int(np.prod(shape))))))
    filled = [n * levels / (-(-n * levels // batch) * batch) for n in range(1, most + 1)]
    good = [n for n, share in enumerate(filled, 1) if share > max(filled) - 0.01]
    return next((n for n in good if n * levels >= 16), good[-1])


def levels_per_call(levels: int, shape: tuple[int, ...], budget: int = MEMORY_BUDGET) -> int:
    """Return how many levels of one realization to perturb at once, as memory allows."""
    return int(max(1, min(levels, budget // (4 * int(np.prod(shape))))))


def score_realizations(
    model: Classifier,
    case: Case,
    levels: Sequence[float],
    realizations: Iterable[int],
    *,
    seed: int,
    batch: int = 16,
    stream: str = "audit",
) -> Scores:
    """Score realizations of one case at every level; the bits depend on no batch, order or grouping."""
    wanted = list(realizations)
    most = levels_per_call(len(levels), case.clean.shape)
    step = draws_per_call(most, case.clean.shape, batch=batch)
    noisy = np.empty((len(wanted), len(levels)), np.int16)
    margin = np.empty((len(wanted), len(levels)), np.float32)
    for start in range(0, len(wanted), step):
        part = draws(seed, stream, case.slice.id, wanted[start : start + step])
        for low in range(0, len(levels), most):
            images = perturb(case, levels[low : low + most], part)
            found = decide(score(model, images.reshape(-1, *case.clean.shape), case.slice.pixel_mm, batch))
            here = np.s_[start : start + len(part), low : low + most]
            noisy[here], margin[here] = (answer.reshape(images.shape[:2]) for answer in found)
    return Scores(np.asarray(wanted, dtype=np.int64), noisy, margin)


def predict_clean(model: Classifier, case_slice: Slice, clean: Image, batch: int) -> NDArray[np.float32]:
    """Return probabilities (C,) of one clean image, scored through the same path as its noisy copies."""
    probabilities: NDArray[np.float32] = score(model, clean[None], case_slice.pixel_mm, batch)[0]
    return probabilities


def null_audit(model: Classifier, case_slice: Slice, clean: Image, batch: int) -> dict[str, Any]:
    """Score one clean image at several batch positions among strangers: the numerical floor of its predictions.

    Returns {"floor": largest change of any probability, "changed": positions where the label changed, "n": positions}.
    """
    alone = predict_clean(model, case_slice, clean, batch)
    positions = sorted({0, batch // 2, batch - 1})
    strangers = np.stack([np.roll(clean, 7 * i + 1, axis=1) for i in range(batch)])
    floor, changed = 0.0, 0
    for position in positions:
        images = strangers.copy()
        images[position] = clean
        again = score(model, images, case_slice.pixel_mm, batch)[position]
        floor = max(floor, float(np.abs(again - alone).max()))
        changed += int(again.argmax() != alone.argmax())
    return {"floor": floor, "changed": changed, "n": len(positions)}


def merge_null_audits(audits: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the null audit of a whole run: the worst floor, all changes, all positions."""
    found = list(audits)
    return {
        "floor": max((a["floor"] for a in found), default=0.0),
        "changed": sum(a["changed"] for a in found),
        "n": sum(a["n"] for a in found),
    }


def tie_limit(null: dict[str, Any]) -> float:
    """Return the margin in probability at or under which a changed label is a numerical tie."""
    return max(float(null["floor"]), TIE_FLOOR)
