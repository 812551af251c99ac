"""Models made and judged: each is trained from a recipe by fold and seed, or opened, then recorded as counts.

A job is one model. Its record is a small JSON file named by what decides it, so any map may do the jobs, and what is
on record is never made again. Trained models are dropped once judged, unless they are to be kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from robustkit import engine, files, recipes, rundir
from robustkit.bank import Stack
from robustkit.engine import Progress
from robustkit.errors import DataError, ModelError, RobustkitError
from robustkit.judge import judge
from robustkit.models import ModelRef
from robustkit.plain import Record
from robustkit.recipes import RecipeRef
from robustkit.types import Classifier, Recipe, Slice, Trainable

LIBRARIES = (*rundir.NUMERICAL, "torch", "tensorflow", "keras")


@dataclass(frozen=True)
class Job:
    """One model to make and judge.

    Attributes
    ----------
    name : for tables. folder : where its record and, if kept, its weights go.
    recipe : what trains it and whose data judge it, None for a model judged on stacks alone.
    seed : of its weights, order and dropout. fold : which patients validate, of `folds`; None is the recipe's own.
    model : a model that exists already, in place of training. splits : labelled data it is judged on.
    stacks : noisy images it is judged on. keep : write the trained model too.
    """

    name: str
    folder: Path
    recipe: RecipeRef | None
    seed: int = 0
    fold: int | None = None
    folds: int = 10
    model: ModelRef | None = None
    splits: tuple[str, ...] = ("test",)
    stacks: tuple[Stack, ...] = ()
    keep: bool = False

    @property
    def trained_as(self) -> list[Any]:
        """Return what decides the weights."""
        if self.model is not None:
            return ["model", self.model.name, self.model.sha256]
        assert self.recipe is not None
        split = [self.fold, self.folds] if self.fold is not None else []
        return [signature(self.recipe.load()), self.seed, split, rundir.versions(LIBRARIES)]

    @property
    def record_path(self) -> Path:
        """Return where its record belongs."""
        decides = [self.trained_as, self.splits, [[stack.name, stack.n, stack.levels] for stack in self.stacks]]
        return self.folder / f"{rundir.digest(decides)}.json"

    @property
    def model_path(self) -> Path:
        """Return where its weights belong when they are kept."""
        return self.folder / f"{rundir.digest(self.trained_as)}.model"


def hand_on(source: Path | None, target: Path) -> None:
    """Give models that another study trained on to this one, so that none is trained twice."""
    import shutil

    for path in source.glob("*.model") if source is not None else ():
        target.mkdir(parents=True, exist_ok=True)
        if not (target / path.name).exists():
            shutil.copy2(path, target / path.name)


def signature(recipe: Recipe) -> str:
    """Return what decides a recipe's models but the seed: what it says itself, else a dataclass' text or its name."""
    said = getattr(recipe, "signature", None)
    if said is not None:
        return str(said())
    return repr(recipe) if is_dataclass(recipe) else str(recipe.name)


def make(job: Job) -> None:
    """Train or open one model, judge it, write its record."""
    recipe = job.recipe.load() if job.recipe is not None else None
    if job.record_path.exists() and not (job.keep and not job.model_path.exists()):
        return
    data = recipes.data_of(recipe, job.fold, job.folds) if recipe is not None else {}
    began = time.process_time()
    model: Classifier = job.model.load() if job.model is not None else trained(job, data)
    seconds = time.process_time() - began
    known = {name: data[name] for name in job.splits if name in data}
    for name, part in known.items():
        recipes.check_labels(part, model.classes, f"the {name} split")
    found = judge(recipes.scorer(recipe, model), known, job.stacks, _zone(recipe))
    told = {"name": job.name, "seed": job.seed, "fold": job.fold, "train_seconds": round(seconds, 1)}
    files.write_json(job.record_path, {**told, **found})


def trained(job: Job, data: Mapping[str, Sequence[Slice]]) -> Trainable:
    """Return the trained model of a job, read back where it was kept."""
    assert job.recipe is not None
    recipe = job.recipe.load()
    if job.model_path.exists() and recipes.keeps_models(recipe):
        return recipes.load(recipe, job.model_path)
    model = fit(recipe.build(job.seed), data["train"], job.seed, job.name)
    if job.keep and recipes.keeps_models(recipe):
        recipes.save(recipe, model, job.model_path)
    return model


def fit(model: Any, data: Sequence[Slice], seed: int, name: str, **options: Any) -> Trainable:
    """Return a model trained on; ModelError for one that cannot be trained."""
    check_trainable(model, name)
    found: Trainable = model.fit(data, seed, **options)
    return found


def check_trainable(model: Any, name: str) -> None:
    """Raise ModelError for a model that can only be scored."""
    if not hasattr(model, "fit"):
        raise ModelError(
            f"{name} cannot be trained: {_form(model)} can only be scored. Give the Torch or Keras model that it was "
            "exported from, or a recipe"
        )


def _form(model: Any) -> str:
    source = getattr(model, "source", None) or {}
    return f"a model in the form {source['format']!r}" if source.get("format") else f"a {type(model).__name__}"


def _zone(recipe: Recipe | None) -> Callable[[Slice], bool] | None:
    return None if recipe is None else lambda item: recipes.in_transition(recipe, item)


def do(jobs: Sequence[Job], work_map: engine.Map, progress: Progress | None = None) -> dict[str, Record]:
    """Do what is not on record and return {name: record} in the order of the jobs.

    RobustkitError names the jobs that no worker could finish; what was finished is kept.
    """
    left = [job for job in jobs if not job.record_path.exists() or (job.keep and not job.model_path.exists())]
    done, failures = len(jobs) - len(left), []
    for job, error in work_map(make, left):
        done += error is None
        if error is not None:
            failures.append(f"{job.name}: {type(error).__name__}: {error}")
        if progress is not None:
            progress(done, len(jobs))
    if failures:
        raise RobustkitError(
            f"{len(failures)} models failed, the rest is kept ({'; '.join(failures)}); run again with --resume"
        )
    return {job.name: read(job.record_path) for job in jobs}


def read(path: Path) -> Record:
    """Return a record; DataError when it is damaged."""
    try:
        found: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"record {path.name} cannot be read ({error}); delete it and run again with --resume"
        ) from error
    return found
