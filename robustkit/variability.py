"""How much robustness differs between models that differ only by their seed (Peng et al. 2023, section 2.3.1).

n models are trained from one recipe (or opened from a folder), each is scored on the same noisy images, simulated and
measured. Reported: how many flip at all, with interval; how SAR is spread over the models; mean and standard deviation
of every entry of the CMR; whether clean accuracy foretells it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import bank, cases, engine, making, models, recipes, results, run, stats
from robustkit.bank import Ask
from robustkit.engine import Progress
from robustkit.errors import DataError, UsageError
from robustkit.judge import mean_f1, table
from robustkit.making import Job
from robustkit.plain import Record, plain
from robustkit.recipes import RecipeRef
from robustkit.study import Outcome, opened
from robustkit.types import Recipe, Slice

if TYPE_CHECKING:
    import pandas as pd

LEVELS = (25.0, 200.0)
"""The two mAs of the paper's measured scans."""
GOOD_F1 = 0.99
"""Mean F1 from which a model counts as a good one."""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
MODEL_ENDINGS = (".onnx", ".pt2", ".pt", ".ts", ".keras", ".h5")


def study(
    recipe: str | Recipe,
    *,
    n: int = 10,
    backend: str | None = None,
    seed: int = 0,
    fold: int | None = None,
    folds: int = 10,
    noise: str = "nps",
    settings: Mapping[str, Any] | None = None,
    levels: Sequence[float] | None = None,
    realizations: int = 1000,
    scans: int = 150,
    centre: str = "low-noise",
    confidence: float = 0.95,
    spec: Mapping[str, Any] | None = None,
    keep: bool = False,
    trained: Path | None = None,
    shared: Path | None = None,
    made: Sequence[float] | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Train n models that differ by seed (or open those of a folder) and audit each on the same noisy images.

    Parameters
    ----------
    recipe : its name or itself; or a folder of model files, which are audited on the built-in phantom.
    n : models, with seeds seed .. seed + n - 1. fold : which patients validate (None: the recipe's own split).
    levels : mAs of simulated and measured images alike. realizations : simulated, a slice and level.
    scans : measured, a slice and level; 0 leaves them out. centre : "low-noise" or "paper", see `bank.CENTRES`.
    keep : write the trained models too. trained : folder of models that another study trained and kept.
    shared, made : folder of noisy images that several studies share, and the levels at which they make them.
    Others are named as in `robustkit variability`.

    Raises
    ------
    UsageError, DataError, ModelError
        For a mistake in the request, in the recipe's data, or in a model of the folder.
    """
    chosen = tuple(run.check_levels(levels or LEVELS, realizations, seed, 1))
    if n < 1:
        raise UsageError(f"-n must be at least 1, got {n}")
    if centre not in bank.CENTRES:
        raise UsageError(f"unknown --centre {centre!r}; there is: {', '.join(bank.CENTRES)}")
    if scans < 0:
        raise UsageError(f"--scans must not be negative, got {scans}")
    choice = cases.NoiseChoice(noise, dict(settings or {}))
    ask = Ask(choice, chosen, realizations, chosen if scans else (), scans, centre, 0, tuple(made) if made else None)
    found = _folder_jobs(recipe, spec or {})
    ref = None if found is not None else recipes.refer(recipe, backend)
    if found is None:
        assert ref is not None
        found = seed_jobs(ref, n, seed, fold, folds, keep=keep)
    what = making.signature(ref.load()) if ref else "a folder of models"
    plan = {"study": "variability", "recipe": what, "fold": fold, **ask.told()}
    if ref is None:
        plan["models"] = [job.trained_as for job in found]
    stem = f"variability-{ref.name if ref else 'folder'}"
    with opened(stem, plan, out=out, resume=resume, command=command) as held:
        work_map = engine.choose(jobs, dask)
        making.hand_on(trained, held.path / "models")
        prepared = prepare(found, ref, ask, held.path / "models", shared or held.directory.shards, work_map)
        records = making.do(prepared, work_map, progress)
        rows = table(records, held.directory.id)
        summary = summarise(records, rows, ref.name if ref else str(recipe), ask, confidence)
        summary["clean_source"] = sorted({stack.story()["clean"]["from"] for stack in prepared[0].stacks})
        summary["noise_source"] = sorted({str(stack.story()["source"]) for stack in prepared[0].stacks})
        results.write(rows, held.path / "results.parquet")
        from robustkit.report import write_variability

        return Outcome(held.finish(summary, write_variability), held.path)


def seed_jobs(ref: RecipeRef, n: int, seed: int, fold: int | None, folds: int, *, keep: bool = False) -> list[Job]:
    """Return one job a seed; `prepare` says where its record goes."""
    return [Job(f"seed {seed + i}", Path(), ref, seed + i, fold, folds, keep=keep) for i in range(n)]


def prepare(
    jobs: Sequence[Job], ref: RecipeRef | None, ask: Ask, records: Path, shared: Path, work_map: engine.Map
) -> list[Job]:
    """Make the noisy images that all jobs share (in `shared`), and return the jobs with them."""
    recipe = ref.load() if ref else None
    items: Sequence[Slice] = recipe.cases() if recipe is not None else cases.find_images(None)
    wanted = tuple(bank.stacks([(item, recipes.every(recipe, item)) for item in items], ask, shared))
    placed = [replace(job, folder=records, stacks=wanted) for job in jobs]
    needed = any(not job.record_path.exists() for job in placed)
    bank.fill(wanted if needed else [replace(stack, n=1) for stack in wanted], work_map)
    return placed


def _folder_jobs(recipe: str | Recipe, spec: Mapping[str, Any]) -> list[Job] | None:
    """Return one job a model file of a folder; None when a recipe was named."""
    if not isinstance(recipe, str) or not Path(recipe).is_dir():
        return None
    paths = sorted(path for path in Path(recipe).iterdir() if path.suffix in MODEL_ENDINGS)
    if not paths:
        raise DataError(f"no models in {recipe}: none of its files ends in {', '.join(MODEL_ENDINGS)}")
    refs = [models.refer(path, spec) for path in paths]
    found = [Job(ref.name, Path(), None, model=ref, splits=()) for ref in refs]
    classes = {tuple(ref.load().classes) for ref in refs}
    if len(classes) > 1:
        told = "; ".join(", ".join(names) for names in sorted(classes))
        raise DataError(f"the models in {recipe} have different classes ({told}); give one kind at a time")
    return found


def summarise(
    records: Mapping[str, Mapping[str, Any]], rows: pd.DataFrame, recipe: str, ask: Ask, confidence: float
) -> Record:
    """Return the content of summary.json from the models' records and their table."""
    from robustkit.metrics import sar

    names = list(records)
    classes = list(records[names[0]]["classes"])
    each = sar(rows, classes=classes, by=())
    by_model = _by_model(rows, names)
    f1 = {name: mean_f1(record) for name, record in records.items()}
    views = [
        _view(each, rows, by_model, f1, noise, level, classes, confidence)
        for noise, level in sorted({(str(a), float(b)) for a, b in zip(rows["noise"], rows["level"], strict=True)})
    ]
    return {
        "schema": 1,
        "study": "variability",
        "recipe": recipe,
        "models": [
            {
                "name": name,
                "f1": f1[name],
                "f1_all": mean_f1(record, transition=True),
                "seconds": record["train_seconds"],
                "clean_wrong": _wrong(record),
                "flips": {f"{noise}|{level:g}": by_model[name, noise, level] for noise, level in _views_of(by_model)},
            }
            for name, record in records.items()
        ],
        "classes": classes,
        "unit": "mAs",
        "confidence": confidence,
        "asked": ask.told(),
        "good_f1": GOOD_F1,
        "views": views,
    }


def _views_of(by_model: Mapping[tuple[str, str, float], Any]) -> list[tuple[str, float]]:
    return sorted({(noise, level) for _, noise, level in by_model})


def _wrong(record: Mapping[str, Any]) -> list[str]:
    """Return the labels of the audited slices that the model already names wrongly without noise."""
    told = {
        s["slice"]: f"{s['label']} called {s['clean']}" for s in record["stacks"] if s["label"] not in ("", s["clean"])
    }
    return sorted(told.values())


def _by_model(rows: pd.DataFrame, names: Sequence[str]) -> dict[tuple[str, str, float], Record]:
    """Return {(model, noise, level): {"k", "n", "tied"}} over all slices."""
    changed = rows["clean"] != rows["noisy"]
    counted = rows.assign(
        k=rows["count"].where(changed & ~rows["tied"], 0), ties=rows["count"].where(changed & rows["tied"], 0)
    )
    sums = counted.groupby(["model", "noise", "level"], observed=True)[["k", "count", "ties"]].sum()
    found: list[Any] = sums.reset_index().to_dict("records")
    return {
        (str(row["model"]), str(row["noise"]), float(row["level"])): {
            "k": int(row["k"]),
            "n": int(row["count"]),
            "tied": int(row["ties"]),
        }
        for row in found
    }


def _view(
    each: pd.DataFrame,
    rows: pd.DataFrame,
    by_model: Mapping[tuple[str, str, float], Record],
    f1: Mapping[str, float],
    noise: str,
    level: float,
    classes: Sequence[str],
    confidence: float,
) -> Record:
    """Return what one noise at one level shows over the models."""
    mine = each[(each["noise"] == noise) & (each["level"] == level)]
    flips = {name: by_model[name, noise, level] for name in f1}
    part = rows[(rows["noise"] == noise) & (rows["level"] == level)]
    return {
        "noise": noise,
        "level": level,
        "flipping": share([one["k"] > 0 for one in flips.values()], confidence),
        "flipping_good": share([flips[name]["k"] > 0 for name, value in f1.items() if value >= GOOD_F1], confidence),
        "sar": [_spread(mine[mine["class"] == name], name) for name in classes],
        "cmr": _matrices(part, classes),
        "accuracy": _correlation([flips[name]["k"] / flips[name]["n"] for name in f1], list(f1.values())),
    }


def share(flags: Sequence[bool], confidence: float) -> Record:
    """Return k of n models with its exact interval; undefined without models."""
    k, n = int(sum(flags)), len(flags)
    if n == 0:
        return {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
    ends = stats.clopper_pearson(k, n, confidence)
    return {"k": k, "n": n, "rate": k / n, "low": float(ends.low), "high": float(ends.high)}


def _spread(found: pd.DataFrame, name: str) -> Record:
    """Return how the SAR of a class is spread over the models that ever gave it without noise."""
    known = found[found["n"] > 0]
    rates = known["rate"].to_numpy(dtype=float)
    told: Record = {"class": name, "models": len(rates), "flipping": int((known["k"] > 0).sum())}
    told |= {"images": int(known["n"].sum()), "changed": int(known["k"].sum())}
    if not len(rates):
        return told | {"mean": None, "sd": None, "quantiles": [None] * len(QUANTILES), "rates": []}
    sd = float(rates.std(ddof=1)) if len(rates) > 1 else None
    quantiles = [float(v) for v in np.quantile(rates, QUANTILES)]
    return told | {"mean": float(rates.mean()), "sd": sd, "quantiles": quantiles, "rates": sorted(rates.tolist())}


def _matrices(part: pd.DataFrame, classes: Sequence[str]) -> Record:
    """Return mean and standard deviation of every CMR entry over the models whose column it is: [noisy][clean]."""
    from robustkit.metrics import cmr

    cells = cmr(part, classes=classes)
    size = (len(classes), len(classes))
    mean, sd, count = np.full(size, np.nan), np.full(size, np.nan), np.zeros(size, int)
    for i, noisy in enumerate(classes):
        for j, clean in enumerate(classes):
            rates = cells[(cells["noisy"] == noisy) & (cells["clean"] == clean) & (cells["n"] > 0)]["rate"].to_numpy()
            count[i, j] = len(rates)
            mean[i, j] = rates.mean() if len(rates) else np.nan
            sd[i, j] = rates.std(ddof=1) if len(rates) > 1 else np.nan
    return {"mean": plain(mean), "sd": plain(sd), "models": plain(count)}


def _correlation(sar: Sequence[float], f1: Sequence[float]) -> Record:
    """Spearman's rank correlation of SAR (all slices) with clean F1; undefined where one does not vary."""
    pairs = [(a, b) for a, b in zip(sar, f1, strict=True) if not np.isnan(b)]
    if len(pairs) < 3 or len({a for a, _ in pairs}) == 1 or len({b for _, b in pairs}) == 1:
        reason = "fewer than three models" if len(pairs) < 3 else "SAR or F1 is the same in every model"
        return {"spearman": None, "p": None, "n": len(pairs), "reason": reason}
    from scipy.stats import spearmanr

    found: Any = spearmanr([a for a, _ in pairs], [b for _, b in pairs])
    return {"spearman": float(found.statistic), "p": float(found.pvalue), "n": len(pairs), "reason": ""}
