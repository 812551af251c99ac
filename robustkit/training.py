"""Train a recipe: ten-fold cross-validation by patient, precision, recall and F1, and which fold goes on.

Table 1 of Peng et al. 2023: training, validation and testing, each as mean and standard deviation over the folds;
Testing 1 holds every test image, Testing 2 leaves out the transition zones. The fold with the highest mean F1 in
Testing 2 goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import engine, making, recipes
from robustkit.engine import Progress
from robustkit.errors import UsageError
from robustkit.judge import mean_f1, total
from robustkit.making import Job
from robustkit.plain import Record, plain
from robustkit.recipes import RecipeRef
from robustkit.stats import accuracy
from robustkit.study import Outcome, opened
from robustkit.types import Recipe, Trainable

ROWS = (
    ("Training", "train", True),
    ("Validation", "validation", True),
    ("Testing 1", "test", True),
    ("Testing 2", "test", False),
)
"""Rows of Table 1: name, split, transition zones included."""
MEASURES = ("precision", "recall", "f1")


def train_recipe(
    recipe: str | Recipe,
    *,
    backend: str | None = None,
    folds: int = 10,
    seed: int = 0,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Train a recipe by cross-validation and write the model of the best fold.

    Parameters
    ----------
    folds : by patient; 1 trains the recipe's own split once. seed : of weights, order and dropout, in every fold.

    Raises
    ------
    UsageError, DataError : an unknown recipe or backend, fewer than one fold, data that cannot be trained on.
    """
    if folds < 1:
        raise UsageError(f"--folds must be at least 1, got {folds}")
    if seed < 0:
        raise UsageError(f"--seed must be at least 0, got {seed}")
    ref = recipes.refer(recipe, backend)
    plan = {"study": "train", "recipe": making.signature(ref.load()), "name": ref.name, "folds": folds, "seed": seed}
    with opened(f"train-{ref.name}", plan, out=out, resume=resume, command=command) as held:
        asked = fold_jobs(ref, held.path / "models", folds, seed)
        found = making.do(asked, engine.choose(jobs, dask), progress)
        summary = summarise(ref, found, seed)
        best = asked[summary["best"]["place"]]
        written = recipes.export(ref.load(), _model_of(best), held.path, "model")
        summary["files"] = [item.name for item in written]
        from robustkit.report import write_training

        return Outcome(held.finish(summary, write_training), held.path)


def fold_jobs(ref: RecipeRef, folder: Path, folds: int, seed: int) -> list[Job]:
    """Return one job a fold; a single fold is the recipe's own split."""
    splits = recipes.SPLITS
    if folds == 1:
        return [Job("own split", folder, ref, seed, None, 1, splits=splits, keep=True)]
    return [Job(f"fold {i + 1}", folder, ref, seed, i, folds, splits=splits, keep=True) for i in range(folds)]


def _model_of(job: Job) -> Trainable:
    """Return the model of a job: read back where the recipe keeps models, else trained again, which gives the same."""
    assert job.recipe is not None
    return making.trained(job, recipes.data_of(job.recipe.load(), job.fold, job.folds))


def summarise(ref: RecipeRef, found: Mapping[str, Record], seed: int) -> Record:
    """Return the content of summary.json: Table 1, every fold, and the fold that goes on."""
    records = list(found.values())
    f1 = [mean_f1(record) for record in records]
    place = int(np.nanargmax(f1)) if not all(np.isnan(f1)) else 0
    return {
        "schema": 1,
        "study": "train",
        "recipe": ref.name,
        "backend": ref.backend,
        "seed": seed,
        "classes": records[0]["classes"],
        "folds": [
            {
                "name": record["name"],
                "fold": record["fold"],
                "f1": mean_f1(record),
                "f1_all": mean_f1(record, transition=True),
                "seconds": record["train_seconds"],
            }
            for record in records
        ],
        "best": {"place": place, "name": records[place]["name"], "fold": records[place]["fold"], "f1": f1[place]},
        "table": table_one(records),
    }


def table_one(records: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return Table 1: one row a dataset and measure, mean and standard deviation (None of one fold) per class, n."""
    rows = []
    for name, split, transition in ROWS:
        counts = [total(r["confusion"][split], transition=transition) for r in records if split in r["confusion"]]
        if not counts:
            continue
        each = [accuracy(c) for c in counts]
        for measure in MEASURES:
            values = np.array([getattr(one, measure) for one in each])
            spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
            rows.append(
                {
                    "data": name,
                    "measure": measure,
                    "mean": plain(values.mean(axis=0)),
                    "sd": plain(spread),
                    "images": [one.n for one in each],
                    "confusion": plain(np.sum(counts, axis=0)),
                }
            )
    return rows
