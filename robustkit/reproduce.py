"""The study of Peng et al. 2023, end to end on the virtual scanner: `robustkit reproduce`.

Stages, each kept and never done twice: the cohort scanned; ten-fold training (Table 1); retrainings that differ by
seed (Fig. 6); noise compared (Fig. 2); the model that went on and the most sensitive retraining audited and held
against measured scans (Fig. 3-5); the sensitive one hardened, and audited anew with noise and scans that nothing in the
study has seen (Fig. 7).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from robustkit import bank, cases, engine, files, making, paper, recipes, rounds, run, training, variability
from robustkit.bank import MEASURED, Ask
from robustkit.engine import Progress
from robustkit.errors import UsageError
from robustkit.judge import table
from robustkit.making import Job
from robustkit.plain import Record, plain
from robustkit.recipes import RecipeRef
from robustkit.seeding import draws
from robustkit.study import Outcome, opened
from robustkit.types import Image, Recipe, Slice

SCAN_MAS = (25.0, 200.0)
FRESH_SEED = 1
"""Of the last audit: noise and scans that no stage before has drawn."""
NOISE_SCANS = 100
HISTOGRAM = np.linspace(-120.0, 120.0, 61)
BODY_HU = -300.0


@dataclass(frozen=True)
class Scale:
    """How large the study is.

    folds, retrainings : models. recipe : what they learn, unless another is named. n : simulated images a slice and
    level. scans : measured, a slice and level.
    harden_levels : at which each round of hardening is judged (the last audit takes all). attacks : a slice, level and
    round. rounds : at most. against : strategies compared.
    """

    folds: int
    retrainings: int
    recipe: str = "ct-bodysite"
    n: int = 1000
    scans: int = 150
    levels: tuple[float, ...] = run.DEFAULT_MAS
    harden_levels: tuple[float, ...] = run.DEFAULT_MAS
    attacks: int = 500
    rounds: int = 6
    against: tuple[str, ...] = ("augment-white", "augment-nps", "control")


SCALES = {
    # of ten models that know the phantom, one time in two none wavers, and there is nothing to harden
    "small": Scale(
        folds=10, retrainings=10, recipe="ct-bodysite-stress", harden_levels=(12.5, 25.0, 50.0, 100.0, 200.0, 500.0)
    ),
    "paper": Scale(folds=10, retrainings=100, rounds=10),
}


@dataclass(frozen=True)
class Study:
    """What every stage needs."""

    ref: RecipeRef
    scale: Scale
    seed: int
    centre: str
    path: Path
    jobs: int | None
    dask: str | None

    @property
    def map(self) -> engine.Map:
        """Return where the work is done."""
        return engine.choose(self.jobs, self.dask)

    @property
    def recipe(self) -> Recipe:
        """Return the recipe."""
        return self.ref.load()


def reproduce(
    scale: str | Scale = "small",
    *,
    recipe: str | Recipe | None = None,
    backend: str | None = None,
    seed: int = 0,
    centre: str = "low-noise",
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Run the study and write one report with the paper's own values beside it.

    Parameters
    ----------
    scale : "small", "paper", or a `Scale`. recipe : the scale's own unless it is given. jobs : worker processes; every
    core without it.
    Others are those of `robustkit reproduce`. A run that was interrupted is finished with `resume`.

    Raises
    ------
    UsageError : an unknown scale, recipe or centre.
    """
    if isinstance(scale, str) and scale not in SCALES:
        raise UsageError(f"unknown --scale {scale!r}; there is: {', '.join(SCALES)}")
    if centre not in bank.CENTRES:
        raise UsageError(f"unknown --centre {centre!r}; there is: {', '.join(bank.CENTRES)}")
    size = SCALES[scale] if isinstance(scale, str) else scale
    ref = recipes.refer(recipe or size.recipe, backend)
    plan = {"study": "reproduce", "recipe": making.signature(ref.load()), "seed": seed, "centre": centre}
    plan |= {"scale": asdict(size)}
    name = scale if isinstance(scale, str) else "own"
    workers = jobs if jobs or dask else (os.cpu_count() or 1)
    clock: dict[str, float] = {}
    with opened(f"reproduce-{name}", plan, out=out, resume=resume, command=command) as held:
        found = _run(Study(ref, size, seed, centre, held.path, workers, dask), clock, progress)
        summary = {
            "schema": 1,
            "study": "reproduce",
            "scale": name,
            "size": asdict(size),
            "recipe": ref.name,
            "backend": backend,
            "seed": seed,
            "centre": centre,
            "classes": found["training"]["classes"],
            "seconds": clock,
            "wall_seconds": round(sum(clock.values()), 1),
            **found,
        }
        summary["sentences"] = [said._asdict() for said in sentences(summary)]
        from robustkit.report import write_reproduction

        pictures = _pictures(held.path / "noise.npz")
        settled = held.finish(summary, lambda told, page: write_reproduction(told, pictures, page))
        shutil.rmtree(held.path / "bank", ignore_errors=True)
        return Outcome(settled, held.path)


def _run(study: Study, clock: dict[str, float], progress: Progress | None) -> Record:
    found: Record = {}
    stages: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("cohort", lambda: _cohort(study)),
        ("training", lambda: _training(study)),
        ("retrainings", lambda: _retrainings(study, found["training"])),
        ("noise", lambda: _noise(study)),
        ("audit", lambda: _audit(study, found["training"], found["retrainings"])),
        ("hardening", lambda: _hardening(study, found["training"], found["audit"])),
        ("last_audit", lambda: _last_audit(study, found["hardening"])),
    )
    for number, (name, stage) in enumerate(stages):
        if progress is not None:
            progress(number, len(stages))
        kept = study.path / f"stage-{name}.json"
        if not kept.exists():
            began = time.monotonic()
            result = stage()
            files.write_json(kept, plain({"seconds": round(time.monotonic() - began, 1), "found": result}))
        told = making.read(kept)
        found[name], clock[name] = told["found"], told["seconds"]
    return found


def _cohort(study: Study) -> Record:
    """Make the recipe's data in shares, each by a worker, where the recipe can; then count it."""
    shares = getattr(study.recipe, "make_share", None)
    if shares is not None:
        parts = 4 * (study.jobs or 1)
        for _, error in study.map(_make_share, [(study.ref, i, parts) for i in range(parts)]):
            if error is not None:
                raise error
    data = recipes.data_of(study.recipe)
    return {
        name: {"slices": len(part), "groups": len({recipes.group_of(item) for item in part})}
        for name, part in data.items()
    }


def _make_share(task: tuple[RecipeRef, int, int]) -> None:
    ref, number, of = task
    ref.load().make_share(number, of)  # type: ignore[attr-defined]


def _part(study: Study, name: str, function: Callable[..., Outcome], **options: Any) -> Record:
    """Run one study of its own in a folder of this one, or finish it where it was left."""
    ref, folder = study.ref, study.path / name
    began = (folder / "run.json").exists()
    common = {"recipe": ref.instance if ref.instance is not None else ref.name, "backend": ref.backend}
    where = {"out": folder, "resume": began, "jobs": study.jobs, "dask": study.dask}
    return function(folds=study.scale.folds, **common, **where, **options).summary


def _training(study: Study) -> Record:
    return _part(study, "training", training.train_recipe, seed=study.seed)


def _retrainings(study: Study, trained: Record) -> Record:
    return _part(
        study,
        "retrainings",
        variability.study,
        n=study.scale.retrainings,
        seed=study.seed,
        fold=_fold(trained),
        levels=SCAN_MAS,
        realizations=study.scale.n,
        scans=study.scale.scans,
        centre=study.centre,
        keep=True,
        trained=study.path / "training" / "models",
        shared=study.path / "bank",
        made=study.scale.levels,
    )


def _fold(trained: Record) -> int | None:
    fold = trained["best"]["fold"]
    return None if fold is None else int(fold)


def _noise(study: Study) -> Record:
    """Compare measured with simulated noise on the second case (the chest of a body), as Fig. 2 does."""
    items = list(study.recipe.cases())
    item = items[min(1, len(items) - 1)]
    choice = cases.NoiseChoice("nps")
    source = bank.with_repeats(bank.source_of(item, Ask(choice, centre=study.centre)), choice)
    case = cases.prepare(source, choice)
    mas = SCAN_MAS[0]
    measured = _scans(item, mas, NOISE_SCANS) if item.synthetic else cases.fit_set(source.repeats).pixels
    k = len(measured)
    residual = (measured - measured.mean(axis=0)) * np.float32(np.sqrt(k / (k - 1)))
    of = draws(study.seed, "audit", item.id, range(k))
    made = np.concatenate([case.noise.sample(case.clean, [mas], of[i : i + 10])[:, 0] for i in range(0, k, 10)])
    body = case.clean > BODY_HU
    both = {"measured": residual[:, body], "simulated": made[:, body]}
    told = {name: paper.moments(values) for name, values in both.items()}
    difference = {m: told["simulated"][m] / told["measured"][m] - 1.0 for m in ("2", "4")}
    histogram = {name: np.histogram(values, HISTOGRAM)[0] / values.size for name, values in both.items()}
    shown = {
        "noise_measured": residual[0],
        "noise_simulated": made[0],
        "sd_measured": residual[:20].std(axis=0),
        "sd_simulated": made[:20].std(axis=0),
        "image_measured": measured[0],
        "image_simulated": case.clean + made[0],
    }
    files.write_npz(study.path / "noise.npz", shown, compressed=True)
    return {
        "label": item.label,
        "mas": mas,
        "scans": k,
        "moments": told,
        "difference": difference,
        "bins": HISTOGRAM.tolist(),
        "histogram": {name: values.tolist() for name, values in histogram.items()},
        "sd": {name: float(np.median(values.std(axis=0))) for name, values in both.items()},
        "noise": case.story["source"],
    }


def _scans(item: Slice, mas: float, k: int) -> Image:
    from robustkit.scanner import VirtualScanner

    return VirtualScanner().repeats(item, mas, k, stream="scan").pixels


def _audit(study: Study, trained: Record, retrained: Record) -> Record:
    """Audit the model that went on and the most sensitive retraining; hold simulation against measured scans."""
    sensitive = most_sensitive(retrained)
    chosen = list(dict.fromkeys([f"seed {study.seed}", *([sensitive] if sensitive else [])]))
    fold, folder = _fold(trained), study.path / "retrainings" / "models"
    asked = [Job(name, folder, study.ref, int(name.removeprefix("seed ")), fold, study.scale.folds) for name in chosen]
    found: Record = {"models": chosen, "went_on": chosen[0], "sensitive": sensitive}
    for centre in (study.centre, *(name for name in bank.CENTRES if name != study.centre)):
        full = centre == study.centre
        levels = study.scale.levels if full else SCAN_MAS
        ask = Ask(levels=levels, n=study.scale.n, measured=SCAN_MAS, scans=study.scale.scans, centre=centre)
        prepared = variability.prepare(asked, study.ref, ask, folder, study.path / "bank", study.map)
        records = making.do(prepared, study.map)
        rows = table(records, "reproduce")
        if full:
            found["sar"] = {name: sar_records(rows[rows["model"] == name]) for name in chosen}
            found["cmr"] = {name: _matrices(rows[rows["model"] == name], study) for name in chosen}
            from robustkit import results

            results.write(rows, study.path / "results.parquet")
        classes = list(study.recipe.build(0).classes)
        found.setdefault("agreement", {})[centre] = {name: _agreement(rows, name, classes) for name in chosen}
    return found


def most_sensitive(retrained: Mapping[str, Any]) -> str | None:
    """Return the retraining with the most changed answers at the lowest measured level, then in simulation; or None."""

    def flips(model: Mapping[str, Any]) -> tuple[int, int]:
        found = model["flips"]
        keys = sorted(found, key=lambda key: float(key.rsplit("|", 1)[1]))
        lowest = keys[0].rsplit("|", 1)[1]
        at = {key.rsplit("|", 1)[0]: found[key]["k"] for key in keys if key.rsplit("|", 1)[1] == lowest}
        return at.get(MEASURED, 0), sum(at.values())

    best = max(retrained["models"], key=flips)
    return str(best["name"]) if flips(best)[1] > 0 else None


def sar_records(rows: Any) -> list[Record]:
    """Return SAR per noise, class and level of one model, with intervals."""
    from robustkit.metrics import sar

    columns = ["noise", "class", "level", "k", "n", "rate", "low", "high", "tied"]
    return [plain(record) for record in sar(rows)[columns].to_dict("records")]


def _matrices(rows: Any, study: Study) -> list[Record]:
    from robustkit.metrics import cmr

    classes = list(study.recipe.build(0).classes)
    part = cmr(rows[rows["level"].isin(SCAN_MAS)], classes=classes)
    found = []
    for key, cells in part.groupby(["noise", "level"], observed=True):
        noise, level = cast("tuple[str, float]", key)
        square = {
            value: cells.pivot(index="noisy", columns="clean", values=value).reindex(index=classes, columns=classes)
            for value in ("count", "rate")
        }
        found.append(
            {
                "noise": str(noise),
                "level": float(level),
                "counts": plain(square["count"].to_numpy()),
                "rates": plain(square["rate"].to_numpy()),
            }
        )
    return found


def _agreement(rows: Any, name: str, classes: Sequence[str]) -> Record:
    """Return measured minus simulated of one model, as in Fig. 5."""
    from robustkit.agreement import compare

    mine = rows[rows["model"] == name]
    measured, simulated = mine[mine["noise"] == MEASURED], mine[mine["noise"] != MEASURED]
    if measured.empty or simulated.empty:
        return {}
    found: Record = compare(measured, simulated, margin=0.05, classes=classes)
    return found


def _hardening(study: Study, trained: Record, audited: Record) -> Record | None:
    """Harden the model that went on if it flips, else the most sensitive retraining, else none."""
    went_on = audited["sar"][audited["went_on"]]
    flips = any(row["k"] for row in went_on)
    name = audited["went_on"] if flips else audited["sensitive"]
    if name is None:
        return None
    return _part(
        study,
        "hardening",
        rounds.harden,
        against=study.scale.against,
        seed=int(name.removeprefix("seed ")),
        fold=_fold(trained),
        levels=study.scale.harden_levels,
        realizations=study.scale.n,
        measured=SCAN_MAS,
        scans=study.scale.scans,
        centre=study.centre,
        attacks=study.scale.attacks,
        rounds=study.scale.rounds,
        trained=study.path / "retrainings" / "models",
        shared=study.path / "bank",
        made=study.scale.levels,
    ) | {"model": name}


def _last_audit(study: Study, hardened: Record | None) -> Record | None:
    """Audit the hardened model at every level, with noise and scans that nothing before has drawn."""
    if hardened is None or not hardened["best"]:
        return None
    kept = study.path / "hardening" / "rounds" / f"{hardened['strategy']}-{hardened['best']:02d}.model"
    if not kept.exists():
        return None
    ask = Ask(
        levels=study.scale.levels,
        n=study.scale.n,
        measured=SCAN_MAS,
        scans=study.scale.scans,
        centre=study.centre,
        seed=FRESH_SEED,
    )
    stacks, sets = rounds.arena(study.recipe, ask, study.path / "bank")
    bank.fill(stacks, study.map)
    records = study.path / "last-audit"
    asked = [KeptJob(study.ref, kept, stack, records) for stack in stacks]
    for _, error in study.map(score_kept, asked):
        if error is not None:
            raise error
    found = {"stacks": [making.read(job.path) for job in asked]}
    return {"rows": rounds.sar_rows(found, sets, 0.95), "seed": FRESH_SEED, "n": ask.n, "scans": ask.scans}


@dataclass(frozen=True)
class KeptJob:
    """A kept model to score on one stack."""

    ref: RecipeRef
    model: Path
    stack: bank.Stack
    folder: Path

    @property
    def path(self) -> Path:
        """Return where its record belongs."""
        return self.folder / f"{self.stack.name}-{self.stack.n}.json"


def score_kept(job: KeptJob) -> None:
    """Score a kept model on one stack and write the record."""
    from robustkit.judge import score_stack

    recipe = job.ref.load()
    model = recipes.scorer(recipe, recipes.load(recipe, job.model))
    files.write_json(job.path, plain(score_stack(model, job.stack)))


def sentences(summary: Mapping[str, Any]) -> list[paper.Said]:
    """Return where the reproduction agrees with the paper and where it does not."""
    found = [paper.about_table(summary["training"]), paper.about_noise(summary["noise"])]
    audited = summary["audit"]
    for name in audited["models"]:
        what = "the model that went on" if name == audited["went_on"] else "the most sensitive retraining"
        found.append(paper.about_curve(f"{what} ({name})", audited["sar"][name]))
    shown = audited["sensitive"] or audited["went_on"]
    for centre, each in audited["agreement"].items():
        if each[shown]:
            found.append(paper.about_agreement(each[shown], centre))
    view = next(
        v for v in summary["retrainings"]["views"] if v["level"] == SCAN_MAS[0] and v["noise"] in (MEASURED, "nps")
    )
    return [*found, paper.about_models(view), paper.about_hardening(summary["hardening"])]


def _pictures(path: Path) -> Mapping[str, Image]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
