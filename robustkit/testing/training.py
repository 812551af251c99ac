"""What a hardener and a recipe must do, checked: `check_hardener`, `check_recipe`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.testing.core import CheckResult, NotApplicableError, demand, describe, disturbed, made, raise_first, run
from robustkit.testing.fakes import FakeNoise, FakeTrainable, make_slices
from robustkit.types import Hardener, NoiseModel, Recipe, Slice, Trainable, slice_id

HARDENER = "hardener"
RECIPE = "recipe"
SPLITS = ("train", "validation", "test")


@dataclass
class HardenerBench:
    """A hardener on the bench, and the model, slices and noise it is given."""

    hardener: Hardener
    given_model: Trainable | None = None
    given_train: Sequence[Slice] | None = None
    given_cases: Sequence[tuple[Slice, NoiseModel]] | None = None
    levels: Sequence[float] = (25.0, 100.0)
    n: int = 8
    steps: int = 2

    @cached_property
    def model(self) -> Trainable:
        """Return the model to harden."""
        return self.given_model or FakeTrainable.untrained(0).fit(self.train, 0)

    @cached_property
    def train(self) -> list[Slice]:
        """Return the training slices."""
        return list(self.given_train or make_slices(16))

    @cached_property
    def cases(self) -> list[tuple[Slice, NoiseModel]]:
        """Return the slices that are attacked, each with its noise."""
        return list(self.given_cases or [(item, FakeNoise(2000.0)) for item in make_slices(2, seed=1)])

    @cached_property
    def before(self) -> NDArray[np.float32]:
        """Return the given model's answers."""
        return self.answers(self.model)

    @cached_property
    def yielded(self) -> list[Trainable]:
        """Return the first models that the strategy yields."""
        assert self.before is not None  # asked before hardening, or an in-place fit would go unseen
        return self.first_models()

    def start(self) -> Iterator[Trainable]:
        """Start the strategy."""
        return self.hardener(self.model, self.train, self.cases, levels=self.levels, n=self.n, seed=0)

    def first_models(self) -> list[Trainable]:
        """Return the first models of a fresh start, which is then stopped."""
        strategy = self.start()
        models = list(islice(strategy, self.steps))
        close = getattr(strategy, "close", None)
        if close is not None:
            close()
        return models

    def answers(self, model: Trainable) -> NDArray[np.float32]:
        """Return a model's answers (N, C) to the training slices."""
        return np.concatenate([model.predict(item.pixels[None].copy(), item.pixel_mm) for item in self.train])


def _yields_models(bench: HardenerBench) -> None:
    strategy = bench.start()
    demand(
        hasattr(strategy, "__next__"),
        asked="an iterator of models",
        came=describe(strategy),
        why="The caller judges each model as it comes and stops when it is robust enough; write `yield`.",
    )
    demand(
        len(bench.yielded) > 0,
        asked="at least one model",
        came="none",
        why="There would be nothing to judge.",
    )


def _models_are_trainable_and_of_the_same_classes(bench: HardenerBench) -> None:
    for model in bench.yielded:
        demand(
            hasattr(model, "predict") and hasattr(model, "fit"),
            asked="models with predict and fit",
            came=describe(model),
            why="Each is audited, and may be hardened further.",
        )
        demand(
            tuple(model.classes) == tuple(bench.model.classes),
            asked=f"the same classes, {', '.join(bench.model.classes)}",
            came=", ".join(model.classes),
            why="Tables before and after are compared class by class.",
        )
        good = np.isfinite(bench.answers(model)).all()
        demand(bool(good), asked="finite answers", came="NaN or infinity", why="The training went astray.")


def _given_model_is_left_as_it_was(bench: HardenerBench) -> None:
    before = bench.before
    assert bench.yielded
    demand(
        np.array_equal(before, bench.answers(bench.model)),
        asked="a given model that answers as before",
        came="other answers",
        why="It is the model that the hardened ones are compared with.",
    )


def _slices_are_left_alone(bench: HardenerBench) -> None:
    given = [*bench.train, *(item for item, _ in bench.cases)]
    before = [item.pixels.copy() for item in given]
    bench.first_models()
    demand(
        all(np.array_equal(a, b.pixels) for a, b in zip(before, given, strict=True)),
        asked="slices that are only read",
        came="slices changed in place",
        why="The same slices judge the model afterwards.",
    )


def _same_seed_gives_the_same_models(bench: HardenerBench) -> None:
    with disturbed():
        again = bench.first_models()
    same = len(again) == len(bench.yielded) and all(
        np.allclose(bench.answers(a), bench.answers(b), rtol=0, atol=1e-6)
        for a, b in zip(again, bench.yielded, strict=True)
    )
    demand(
        same,
        asked="the same models from the same seed",
        came="others",
        why="A hardening is recorded by its seed; take all randomness from it.",
    )


HARDENER_CHECKS = (
    _yields_models,
    _models_are_trainable_and_of_the_same_classes,
    _given_model_is_left_as_it_was,
    _slices_are_left_alone,
    _same_seed_gives_the_same_models,
)


def run_hardener(
    hardener: Hardener,
    *,
    model: Trainable | None = None,
    train: Sequence[Slice] | None = None,
    cases: Sequence[tuple[Slice, NoiseModel]] | None = None,
    levels: Sequence[float] = (25.0, 100.0),
    n: int = 8,
    steps: int = 2,
) -> list[CheckResult]:
    """Run every check of `check_hardener` and return what each found."""
    return run(HARDENER, HARDENER_CHECKS, HardenerBench(hardener, model, train, cases, levels, n, steps))


def check_hardener(
    hardener: Hardener,
    *,
    model: Trainable | None = None,
    train: Sequence[Slice] | None = None,
    cases: Sequence[tuple[Slice, NoiseModel]] | None = None,
    levels: Sequence[float] = (25.0, 100.0),
    n: int = 8,
    steps: int = 2,
) -> None:
    """Check a hardening strategy on a model that trains in milliseconds, or on one given.

    Parameters
    ----------
    model, train, cases : by default a `FakeTrainable`, 16 discs, and 2 more with white noise of
        2000 HU at 100 mAs: enough to change answers, for strategies that wait for one.
    levels, n : what the strategy is asked for. steps : how many models are taken from it; it may have no end.

    Raises
    ------
    ConformanceError
        Naming the first check that failed: what was asked, what came, and why it matters.
    """
    raise_first(run_hardener(hardener, model=model, train=train, cases=cases, levels=levels, n=n, steps=steps))


@dataclass
class RecipeBench:
    """A recipe on the bench; its data are made once or twice, which may take a while."""

    given: Recipe | Callable[[], Recipe]

    @cached_property
    def recipe(self) -> Recipe:
        """Return the recipe given, or make it."""
        return made(self.given, "build")

    @cached_property
    def data(self) -> Mapping[str, Sequence[Slice]]:
        """Return the splits."""
        return self.recipe.data()

    def answers(self, seed: int) -> NDArray[np.float32]:
        """Return the answers (N, C) of the untrained model of a seed to a few slices."""
        model = self.recipe.build(seed)
        some = list(self.data["train"])[:4]
        return np.concatenate([model.predict(item.pixels[None].copy(), item.pixel_mm) for item in some])


def _offers_name_build_data_cases(bench: RecipeBench) -> None:
    for part in ("name", "build", "data", "cases"):
        demand(
            hasattr(bench.recipe, part),
            asked="a recipe with name, build(seed), data() and cases()",
            came=f"{type(bench.recipe).__name__} without {part}",
            why="train, variability and harden use all four.",
        )
    name: Any = bench.recipe.name
    demand(isinstance(name, str) and bool(name), asked="a name", came=describe(name), why="Runs are filed under it.")


def _data_have_three_labelled_splits(bench: RecipeBench) -> None:
    demand(
        isinstance(bench.data, Mapping) and all(name in bench.data and len(bench.data[name]) for name in SPLITS),
        asked="the splits train, validation and test, none empty",
        came=describe({name: len(part) for name, part in bench.data.items()})
        if isinstance(bench.data, Mapping)
        else describe(bench.data),
        why="A model is trained on one, chosen on the next, and told about on the last.",
    )
    classes = bench.recipe.build(0).classes
    strange = sorted({str(s.label) for part in bench.data.values() for s in part if s.label not in classes})
    demand(
        not strange,
        asked=f"labels among the model's classes, {', '.join(classes)}",
        came=", ".join(strange),
        why="A slice without a class cannot be learnt.",
    )


def _splits_share_no_group(bench: RecipeBench) -> None:
    groups = {name: {item.group or item.id for item in part} for name, part in bench.data.items()}
    for name in SPLITS[1:]:
        shared = groups["train"] & groups[name]
        demand(
            not shared,
            asked=f"no patient or object in both train and {name}",
            came=f"{len(shared)} in both",
            why="The test would tell what the model remembers.",
        )


def _slices_are_sound(bench: RecipeBench) -> None:
    for item in [part[0] for part in bench.data.values()] + list(bench.recipe.cases()):
        demand(
            item.pixels.ndim == 2 and item.pixels.dtype == np.float32 and bool(np.isfinite(item.pixels).all()),
            asked="slices of finite float32 pixels (H, W)",
            came=describe(item.pixels),
            why="They are HU at native resolution.",
        )
        demand(
            item.id == slice_id(item.pixels, item.pixel_mm),
            asked="robustkit.slice_id(pixels, pixel_mm) as the id of a slice",
            came=describe(item.id),
            why="A row of the table is the image that its id hashes.",
        )


def _data_and_cases_are_the_same_every_time(bench: RecipeBench) -> None:
    with disturbed():
        again = bench.recipe.data()
    same = {name: [s.id for s in part] for name, part in again.items()} == {
        name: [s.id for s in part] for name, part in bench.data.items()
    }
    cases = [[item.id for item in bench.recipe.cases()] for _ in range(2)]
    demand(
        same and cases[0] == cases[1] and len(cases[0]) > 0,
        asked="the same data and the same cases, at least one, whenever they are asked",
        came="others" if cases[0] else "no case",
        why="Slices on which robustness is judged are fixed before any model is trained.",
    )


def _cases_were_never_trained_on(bench: RecipeBench) -> None:
    trained = {item.group or item.id for item in bench.data["train"]} | {item.id for item in bench.data["train"]}
    seen = [item for item in bench.recipe.cases() if item.id in trained or (item.group and item.group in trained)]
    demand(
        not seen,
        asked="cases of patients or objects that are not in train",
        came=f"{len(seen)} cases from train",
        why="Robustness on what was learnt by heart says little.",
    )


def _build_depends_on_the_seed_alone(bench: RecipeBench) -> None:
    one = bench.answers(0)
    with disturbed():
        again = bench.answers(0)
    demand(
        np.array_equal(one, again),
        asked="the same initial weights from the same seed",
        came="others",
        why="A training is recorded by its seed; take all randomness from it.",
    )
    demand(
        not np.array_equal(one, bench.answers(1)),
        asked="other initial weights from another seed",
        came="the same",
        why="The spread over retrainings is what `variability` measures.",
    )


def _fit_keeps_the_trainable_contract(bench: RecipeBench) -> None:
    from robustkit.testing.models import run_trainable

    model = bench.recipe.build(0)
    if not hasattr(model, "fit"):
        raise NotApplicableError("")
    results = run_trainable(model, data=list(bench.data["train"])[:8])
    raise_first(results)


RECIPE_CHECKS = (
    _offers_name_build_data_cases,
    _data_have_three_labelled_splits,
    _splits_share_no_group,
    _slices_are_sound,
    _data_and_cases_are_the_same_every_time,
    _cases_were_never_trained_on,
    _build_depends_on_the_seed_alone,
)


def run_recipe(recipe: Recipe | Callable[[], Recipe], *, fit: bool = False) -> list[CheckResult]:
    """Run every check of `check_recipe` and return what each found."""
    checks = (*RECIPE_CHECKS, _fit_keeps_the_trainable_contract) if fit else RECIPE_CHECKS
    return run(RECIPE, checks, RecipeBench(recipe), basic=2)


def check_recipe(recipe: Recipe | Callable[[], Recipe], *, fit: bool = False) -> None:
    """Check a recipe, or what a plugin names in `robustkit_recipes` (a function that returns one).

    Parameters
    ----------
    fit : also train the model on eight slices, twice, with `check_trainable`; with real models this takes time.

    Raises
    ------
    ConformanceError
        Naming the first check that failed: what was asked, what came, and why it matters.
    """
    raise_first(run_recipe(recipe, fit=fit))
