"""Hardening strategies: each yields ever more robust models, and the caller judges and stops it.

`adaptive` (Shen et al. 2020c, Phys Med Biol 65:245033; Peng et al. 2023, section 2.3.2) attacks the model with noise,
adds what succeeded to the training set, trains on, and repeats. `augment-white` and `augment-nps` train on noisy
copies of the training slices instead, chosen by no attack. `control` trains on without anything new: what the further
epochs do by themselves. Every strategy draws its noise from the stream "train", which no audit reads.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustkit import audit
from robustkit.errors import DataError, UsageError
from robustkit.seeding import Draw, draws
from robustkit.types import Image, NoiseModel, Slice, Trainable, slice_id

EPOCHS = 4
MOST = 0.5
"""Perturbed slices added in a round, as a share of the training set: more would drown it."""
BATCH = 16
STREAM = "train"
COPIES = 0.5
"""Noisy copies a round of augmentation adds, as a share of the training set: as many as attacks may add."""
BODY_HU = -500.0

Case = tuple[Slice, NoiseModel]
Added = Callable[[Trainable, int], Sequence[Slice] | None]
"""(model, number of the round) -> slices to train on beside the training set; None ends the rounds."""


def adaptive(
    model: Trainable,
    train: Sequence[Slice],
    cases: Sequence[Case],
    *,
    levels: Sequence[float],
    n: int,
    seed: int,
    epochs: int = EPOCHS,
    rate: float | None = None,
    most: float = MOST,
) -> Iterator[Trainable]:
    """Attack, add the perturbations that succeeded to the training set, train on, repeat.

    Ends at once where no attack ever succeeds. Once some did, a round without new ones trains on with those there are,
    so that a model whose accuracy suffered can recover; the caller stops it.

    Parameters
    ----------
    model : trained already; it stays as it was. train : its labelled training slices.
    cases : slices that are attacked, each with its noise. levels : of the noise. n : realizations a slice and round;
    each round draws new ones. seed : decides noise and training.
    epochs, rate : of the training in a round; the model's own rate unless given.
    most : perturbations kept in all, as a share of the training set; they are taken evenly from slices and levels.

    Notes
    -----
    An attack aims at the true class where it is known, else at the answer without noise; it succeeds when the answer
    with noise is another. Attacks of earlier rounds stay in the training set.
    """
    _check(train, levels, n, epochs)
    cases = [(replace(item, label=target(model, item)), noise) for item, noise in cases]
    found: list[Hit] = []

    def successes(model: Trainable, number: int) -> list[Slice] | None:
        fresh = range(number * n, (number + 1) * n)
        for i, case in enumerate(cases):
            found.extend(Hit(i, r, level) for r, level in attacks(model, case, levels, fresh, seed))
        return perturbed(cases, evenly(found, max(1, int(most * len(train)))), seed) if found else None

    yield from _rounds(model, train, successes, seed, epochs, rate)


def augment_white(
    model: Trainable,
    train: Sequence[Slice],
    cases: Sequence[Case],
    *,
    levels: Sequence[float],
    n: int,
    seed: int,
    epochs: int = EPOCHS,
    rate: float | None = None,
    copies: float = COPIES,
) -> Iterator[Trainable]:
    """Train on with white noise on a share of the training slices, new ones each round; without end.

    The standard deviation of a copy is that of a case's noise in the body (its median), at a level drawn evenly.
    Parameters are those of `adaptive`; `copies` is the share of the training set that gets a noisy copy.
    """
    _check(train, levels, n, epochs)
    sizes = _sizes(cases, levels)

    def noise(item: Slice, draw: Draw, rng: np.random.Generator) -> Image:
        sd = float(rng.choice(sizes))
        return np.float32(sd) * draw.generator().standard_normal(item.pixels.shape, dtype=np.float32)

    yield from _augmented(model, train, noise, seed, epochs, rate, copies)


def augment_nps(
    model: Trainable,
    train: Sequence[Slice],
    cases: Sequence[Case],
    *,
    levels: Sequence[float],
    n: int,
    seed: int,
    epochs: int = EPOCHS,
    rate: float | None = None,
    copies: float = COPIES,
) -> Iterator[Trainable]:
    """Train on with the cases' own correlated noise on a share of the training slices, new ones each round; endless.

    A training slice gets the noise of a case of its class (of any case where none has its class), at a level drawn
    evenly. Parameters are those of `augment_white`.

    Raises
    ------
    DataError
        No case has the matrix of the training slices: correlated noise belongs to one pixel grid.
    """
    _check(train, levels, n, epochs)
    chosen = list(levels)

    def noise(item: Slice, draw: Draw, rng: np.random.Generator) -> Image:
        fitting = [case for case in cases if case[0].pixels.shape == item.pixels.shape]
        if not fitting:
            shapes = sorted({f"{c[0].pixels.shape[0]} x {c[0].pixels.shape[1]}" for c in cases})
            raise DataError(
                f"noise measured on {', '.join(shapes)} pixels does not fit training slices of "
                f"{item.pixels.shape[0]} x {item.pixels.shape[1]}; use augment-white, or slices of one matrix"
            )
        same = [case for case in fitting if case[0].label == item.label] or fitting
        case = same[int(rng.integers(len(same)))]
        level = float(rng.choice(chosen))
        return np.asarray(case[1].sample(case[0].pixels, [level], [draw])[0, 0], dtype=np.float32)

    yield from _augmented(model, train, noise, seed, epochs, rate, copies)


def control(
    model: Trainable,
    train: Sequence[Slice],
    cases: Sequence[Case],
    *,
    levels: Sequence[float],
    n: int,
    seed: int,
    epochs: int = EPOCHS,
    rate: float | None = None,
) -> Iterator[Trainable]:
    """Train on with the training set alone: what further epochs do without any noise; without end."""
    _check(train, levels, n, epochs)
    yield from _rounds(model, train, lambda *_: [], seed, epochs, rate)


def _rounds(
    model: Trainable, train: Sequence[Slice], added: Added, seed: int, epochs: int, rate: float | None
) -> Iterator[Trainable]:
    """Train on round by round, on the training set and what is added to it; end where None is."""
    for number in itertools.count():
        more = added(model, number)
        if more is None:
            return
        model = further(model, [*train, *more], seed + number, epochs, rate)
        yield model


def further(
    model: Trainable, data: Sequence[Slice], seed: int, epochs: int | None = None, rate: float | None = None
) -> Trainable:
    """Return a model trained on; `epochs` and `rate` are passed to `fit` by the names that it has for them."""
    known = inspect.signature(model.fit).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    options: dict[str, Any] = {}
    if epochs is not None and ("epochs" in known or takes_any):
        options["epochs"] = epochs
    if rate is not None:
        name = next((name for name in ("rate", "lr") if name in known), None)
        if name is not None or takes_any:
            options[name or "lr"] = rate
    return model.fit(data, seed, **options)


class Hit(NamedTuple):
    """A successful attack: which case, which realization of its noise, at which level. It rebuilds the image."""

    case: int
    realization: int
    level: float


def attacks(
    model: Trainable, case: Case, levels: Sequence[float], realizations: Sequence[int], seed: int
) -> list[tuple[int, float]]:
    """Return (realization, level) of the noisy images of a case that the model does not give the case's label."""
    item, noise = case
    wanted = list(model.classes).index(str(item.label))
    subject = audit.Case(item, item.pixels, noise)
    found: list[tuple[int, float]] = []
    step = audit.draws_per_call(len(levels), item.pixels.shape)
    for start in range(0, len(realizations), step):
        part = realizations[start : start + step]
        images = audit.perturb(subject, levels, draws(seed, STREAM, item.id, part))
        flat = images.reshape(-1, *item.pixels.shape)
        wrong = audit.score(model, flat, item.pixel_mm, BATCH).argmax(axis=1) != wanted
        found += [(part[i // len(levels)], levels[i % len(levels)]) for i in np.flatnonzero(wrong).tolist()]
    return found


def perturbed(cases: Sequence[Case], hits: Sequence[Hit], seed: int) -> list[Slice]:
    """Return the images of successful attacks as training slices, each labelled with the class it should have."""
    wanted: dict[tuple[int, float], list[int]] = {}
    for hit in hits:
        wanted.setdefault((hit.case, hit.level), []).append(hit.realization)
    found: list[Slice] = []
    for (place, level), realizations in wanted.items():
        item, noise = cases[place]
        subject = audit.Case(item, item.pixels, noise)
        for start in range(0, len(realizations), 16):
            of = draws(seed, STREAM, item.id, realizations[start : start + 16])
            found += [_labelled(item, image, str(item.label)) for image in audit.perturb(subject, [level], of)[:, 0]]
    return found


def evenly(hits: Sequence[Hit], most: int) -> list[Hit]:
    """Return at most `most` hits, as many of each case as there are to be had: no slice drowns the others."""
    by_case: dict[int, list[Hit]] = {}
    for hit in hits:
        by_case.setdefault(hit.case, []).append(hit)
    kept: list[Hit] = []
    parts = sorted(by_case.values(), key=len)
    for place, part in enumerate(parts):
        take = min(len(part), (most - len(kept)) // (len(parts) - place))
        kept += [part[i] for i in _spaced(len(part), take)]
    return kept


def target(model: Trainable, item: Slice) -> str:
    """Return the class that the answer should have: the truth where it is known, else the answer without noise."""
    if item.label in model.classes:
        return str(item.label)
    return model.classes[int(audit.score(model, item.pixels[None], item.pixel_mm, BATCH)[0].argmax())]


def _labelled(item: Slice, pixels: Image, label: str) -> Slice:
    copy = np.array(pixels, dtype=np.float32)
    return replace(item, id=slice_id(copy, item.pixel_mm), pixels=copy, label=label)


def _spaced(count: int, take: int) -> NDArray[np.int64]:
    """Return `take` indices spread evenly over range(count)."""
    return np.linspace(0, count - 1, take).round().astype(np.int64) if take else np.empty(0, np.int64)


def _augmented(
    model: Trainable,
    train: Sequence[Slice],
    noise: Any,
    seed: int,
    epochs: int,
    rate: float | None,
    copies: float,
) -> Iterator[Trainable]:
    if not 0 < copies <= 1:
        raise UsageError(f"copies must lie in 0 .. 1, it is the share of training slices that get one; got {copies:g}")
    count = max(1, int(copies * len(train)))

    def noisy(_: Trainable, number: int) -> list[Slice]:
        rng = Draw(seed, STREAM, "augment", number).generator()
        chosen = sorted(rng.choice(len(train), size=count, replace=False).tolist())
        return [_with_noise(train[i], noise(train[i], Draw(seed, STREAM, train[i].id, number), rng)) for i in chosen]

    yield from _rounds(model, train, noisy, seed, epochs, rate)


def _with_noise(item: Slice, noise: Image) -> Slice:
    pixels = audit.stored(item, item.pixels + noise)
    if item.mask is not None:
        pixels[~item.mask] = item.pixels[~item.mask]
    return _labelled(item, pixels, str(item.label))


def _sizes(cases: Sequence[Case], levels: Sequence[float]) -> list[float]:
    """Return the median standard deviation in the body of every case at every level, HU."""
    found: list[float] = []
    for item, noise in cases:
        claimed = noise.sd(item.pixels, levels)
        if claimed is None:
            draw = [Draw(0, STREAM, item.id, r) for r in range(8)]
            claimed = noise.sample(item.pixels, levels, draw).std(axis=0)
        body = item.pixels > BODY_HU if (item.pixels > BODY_HU).any() else np.ones(item.pixels.shape, bool)
        found += [float(np.median(sd[body])) for sd in claimed]
    if not found:
        raise DataError("there is no case whose noise could be added; give at least one slice with its noise")
    return found


def _check(train: Sequence[Slice], levels: Sequence[float], n: int, epochs: int) -> None:
    if not train:
        raise DataError("hardening needs the model's training slices; the recipe has none")
    if not levels or n < 1 or epochs < 1:
        raise UsageError(f"hardening wants levels, n >= 1 and epochs >= 1; got {list(levels)}, {n} and {epochs}")


def options_of(strategy: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a strategy among those given; UsageError for one that it does not have."""
    fixed = {"model", "train", "cases", "levels", "n", "seed"}
    parameters = inspect.signature(strategy).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(given)
    known = set(parameters) - fixed
    unknown = sorted(set(given) - known)
    if unknown:
        raise UsageError(f"this strategy has no option {unknown[0]!r}; it has: {', '.join(sorted(known)) or 'none'}")
    return dict(given)
