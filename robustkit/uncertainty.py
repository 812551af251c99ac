"""Total uncertainty: what fit and clean image, both made from K scans, add to the binomial error of SAR.

A binomial interval speaks of this fitted noise around this clean image, however many realizations are drawn; another
K scans would give others. The scans are left out in turn (a jackknife): noise refitted, clean image averaged anew,
the same white fields. How far the answer's log-odds move, in units of their spread, is what total uncertainty adds.

A share of flips is too coarse for that: the jackknife multiplies its grain by sqrt(K). Each refit is therefore read as
the share Phi(-mean / sd) of its log-odds, which common white fields determine to a few thousandths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import audit, cases, engine, files, registry, rundir
from robustkit.errors import DataError, RobustkitError, UsageError
from robustkit.gates import judged
from robustkit.gathering import Facts
from robustkit.models import ModelRef
from robustkit.seeding import draws
from robustkit.types import Classifier, RepeatScans

if TYPE_CHECKING:
    import pandas as pd

GROUPS = 20
"""Refits at most: of more than this many scans, equal groups are left out in turn (Efron and Stein 1981)."""
REALIZATIONS = 200
"""Realizations a refit draws at most; it reads a mean and a spread from them, no rare event."""
FEWEST = 50
PER = 1_000_000
"""A refit's rate is handed on as expected flips of this many images."""


@dataclass(frozen=True)
class Refit:
    """Refits of one case: which groups of scans to leave out, and where to write what came of each."""

    source: cases.Source
    choice: cases.NoiseChoice
    model: ModelRef
    answer: int
    levels: tuple[float, ...]
    seed: int
    batch: int
    n: int
    groups: int
    wanted: tuple[tuple[int, Path], ...]


def check(sources: Sequence[cases.Source], choice: cases.NoiseChoice) -> None:
    """Refuse sources whose scans cannot be left out in turn.

    Raises
    ------
    UsageError : noise from a profile or from stated settings, or fewer than 3 repeats.
    """
    fit = registry.default().noise_model(choice.name)
    if cases.refers_to_sigma(choice) or getattr(fit, "needs_repeats", True) is False:
        raise UsageError(f"--total refits noise to scans, and noise {choice.name!r} was fitted to none; drop --total")
    for source in sources:
        if source.profile is not None:
            raise UsageError("--total leaves scans out in turn, and a profile holds none: give --repeats instead")
        fewest = min((len(repeats.pixels) for repeats in source.repeats), default=cases.SIMULATED_K)
        if fewest < 3:
            raise UsageError(f"--total leaves scans out in turn and needs at least 3 repeats of a slice, got {fewest}")


def left_out(source: cases.Source, group: int, groups: int) -> cases.Source:
    """Return the source without the scans whose number is `group` modulo `groups`, in every set it has."""
    return replace(source, repeats=tuple(_without(repeats, group, groups) for repeats in source.repeats))


def _without(repeats: RepeatScans, group: int, groups: int) -> RepeatScans:
    kept = np.arange(len(repeats.pixels)) % groups != group
    return replace(repeats, pixels=repeats.pixels[kept])


def log_odds(probabilities: NDArray[np.float32], answer: int) -> NDArray[np.float64]:
    """Return ln p(answer) - ln p(best other class), (N,), of probabilities (N, C >= 2); below 0 the answer changed."""
    tiny = np.finfo(np.float32).smallest_subnormal
    logs = np.log(np.maximum(probabilities.astype(np.float64), float(tiny)))
    others = np.delete(logs, answer, axis=1).max(axis=1)
    return np.asarray(logs[:, answer] - others, dtype=np.float64)


def expected_share(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of changed answers (...) that the mean and spread of log-odds (N, ...) stand for."""
    from scipy.special import ndtr

    mean, spread = odds.mean(axis=0), odds.std(axis=0, ddof=1)
    certain = np.where(mean > 0, np.inf, -np.inf)
    distance = np.divide(mean, spread, out=np.asarray(certain, dtype=np.float64), where=spread > 0)
    return np.asarray(ndtr(-distance), dtype=np.float64)


def share_of_case(
    model: Classifier, case: audit.Case, answer: int, levels: Sequence[float], *, seed: int, batch: int, n: int
) -> NDArray[np.float64]:
    """Return the expected share (L,) of answers other than `answer` over realizations 0 .. n - 1 of one case."""
    step = audit.draws_per_call(len(levels), case.clean.shape)
    found = []
    for start in range(0, n, step):
        part = draws(seed, "audit", case.slice.id, range(start, min(start + step, n)))
        images = audit.perturb(case, levels, part).reshape(-1, *case.clean.shape)
        odds = log_odds(audit.score(model, images, case.slice.pixel_mm, batch), answer)
        found.append(odds.reshape(len(part), len(levels)))
    return expected_share(np.concatenate(found))


def refit(task: Refit) -> None:
    """Refit, recentre and score each wanted group of one case; what came of it is written as it is done."""
    model = task.model.load()
    source = cases.anchored(task.source, task.choice)
    for group, path in task.wanted:
        case = cases.prepare(left_out(source, group, task.groups), task.choice)
        share = share_of_case(model, case, task.answer, task.levels, seed=task.seed, batch=task.batch, n=task.n)
        files.write_json(path, {"share": share.tolist()})


def jackknife(
    directory: rundir.RunDir,
    sources: Sequence[cases.Source],
    choice: cases.NoiseChoice,
    model: ModelRef,
    answers: Sequence[int],
    n: int,
    work_map: engine.Map,
) -> pd.DataFrame:
    """Leave the scans of every case out in turn; return what `robustkit.summary.build` takes as `refits`.

    Parameters
    ----------
    directory, sources, choice, model : of the run. answers : its classes without noise, which refits are held to.
    n : realizations of the run; a refit draws `realizations(n)` of them.
    work_map : where the refits are done. What is on disk already is not done again.

    Returns
    -------
    DataFrame : class, level, k, n, one row a class, level and group of scans; k of n = `PER`. Group g of every case is
        left out together: with G groups the spread of a class is that of independent slices, and of slices of one scan.

    Raises
    ------
    RobustkitError : refits that no worker could finish.
    """
    groups = group_count(sources)
    tasks = [
        _task(directory, case, source, choice, model, answer, n, groups)
        for case, source, answer in zip(directory.plan["cases"], sources, answers, strict=True)
    ]
    missing = [part for task in tasks for part in _cut(task, engine.parts(work_map, len(tasks)))]
    failed = [str(error) for _, error in work_map(refit, missing) if error is not None]
    if failed:
        raise RobustkitError(f"{len(failed)} refits failed ({failed[0]}); the rest is kept, run again with --resume")
    classes = tuple(model.load().classes)
    return _table(tasks, classes)


def group_count(sources: Sequence[cases.Source]) -> int:
    """Return how many groups are left out in turn: each scan of the smallest set, `GROUPS` at most."""
    sizes = [len(repeats.pixels) for source in sources for repeats in source.repeats]
    return min([GROUPS, *(sizes or [cases.SIMULATED_K])])


def realizations(n: int) -> int:
    """Return how many realizations a refit draws in a run of n."""
    return max(FEWEST, min(n, REALIZATIONS))


def stated(summary: Mapping[str, Any], facts: Facts, sources: Sequence[cases.Source], n: int) -> dict[str, Any]:
    """Return what a summary with total intervals says of them: `total` (refits and realizations), and warnings."""
    total = {"refits": group_count(sources), "n": realizations(n)}
    return {"total": total, "warnings": [*summary["warnings"], *_remarks(summary, facts)]}


def _remarks(summary: Mapping[str, Any], facts: Facts) -> list[str]:
    found = []
    if facts.single:
        found.append("the total interval holds the noise fit alone: this clean image is not a mean of the repeats")
    gate = summary.get("gate")
    if gate and gate["verdict"] == "pass":
        passed = {(part["class"], part["level"]) for part in judged(gate)["parts"]}
        highs = [r.get("total_high", 0.0) for r in summary["sar"] if (r["class"], r["level"]) in passed and r["n"]]
        if max(highs, default=0.0) > gate["max_sar"]:
            found.append(
                "the pass holds for this noise and clean image; with their own uncertainty SAR may be up to "
                f"{max(highs):.2%}: more repeat scans narrow that, more realizations do not"
            )
    return found


def _task(
    directory: rundir.RunDir,
    case: Mapping[str, Any],
    source: cases.Source,
    choice: cases.NoiseChoice,
    model: ModelRef,
    answer: int,
    n: int,
    groups: int,
) -> Refit:
    plan, drawn = directory.plan, realizations(n)
    stem = directory.case_path(case).stem
    paths = [directory.shards / f"{stem}-without-{g}-of-{groups}-{drawn}.json" for g in range(groups)]
    return Refit(
        source=source,
        choice=choice,
        model=model,
        answer=answer,
        levels=tuple(plan["levels"]),
        seed=plan["seed"],
        batch=plan["batch"],
        n=drawn,
        groups=groups,
        wanted=tuple(enumerate(paths)),
    )


def _cut(task: Refit, parts: int) -> list[Refit]:
    """Cut a task into parts of what is not on disk yet."""
    open_ = [(group, path) for group, path in task.wanted if not path.exists()]
    size = max(1, math.ceil(len(open_) / parts))
    return [replace(task, wanted=tuple(open_[i : i + size])) for i in range(0, len(open_), size)]


def _table(tasks: Sequence[Refit], classes: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {"class": classes[task.answer], "level": level, "group": group, "share": share}
        for task in tasks
        for group, path in task.wanted
        for level, share in zip(task.levels, _read(path), strict=True)
    ]
    mean = pd.DataFrame(rows).groupby(["class", "level", "group"], as_index=False)["share"].mean()
    refits: pd.DataFrame = mean.assign(k=mean["share"] * PER, n=PER)[["class", "level", "k", "n"]]
    return refits


def _read(path: Path) -> list[float]:
    try:
        found: list[float] = json.loads(path.read_text(encoding="utf-8"))["share"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"refit {path.name} is damaged ({error}); delete it and run again with --resume") from error
    return found
