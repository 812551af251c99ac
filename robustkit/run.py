"""An audit from a request to a verdict: inputs found, work mapped, shards gathered, results written.

`audit_model` is what the command line, the pytest plugin and scripts call.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import audit, cases, engine, files, outputs, registry, results, rundir, uncertainty
from robustkit.centre import centre_facts
from robustkit.errors import RobustkitError, UsageError
from robustkit.gallery import keep_noisy as write_noisy_images
from robustkit.gallery import write_gallery
from robustkit.models import ModelRef, refer
from robustkit.types import Classifier

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_MAS = (12.5, 25.0, 37.5, 50.0, 75.0, 100.0, 150.0, 175.0, 200.0, 225.0, 325.0, 400.0, 500.0)
DEFAULT_N = 1000
SD_MAP_PIXELS = 256
COUNTS_ONLY = "more than {:,} rows: results.parquet keeps counts, ledger.parquet every image whose answer changed"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """Ranges of realizations of one case, and all a worker needs to score them."""

    directory: rundir.RunDir
    case: Mapping[str, Any]
    source: cases.Source
    choice: cases.NoiseChoice
    model: ModelRef
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Gathered:
    """The shards of a run as tables: all rows (or counts), every flip as a row of its own, the case records."""

    table: pd.DataFrame
    ledger: pd.DataFrame
    told: list[dict[str, Any]]
    counts_only: bool


@dataclass(frozen=True)
class Outcome:
    """What an audit found: the machine contract, the table, where it lies, and the exit code."""

    summary: dict[str, Any]
    table: pd.DataFrame
    run_dir: Path
    exit_code: int


def audit_model(
    model: str | Path | Classifier,
    *,
    images: str | None = None,
    repeats: str | None = None,
    profile: str | Sequence[str] | None = None,
    clean: str | None = None,
    noise: str = "nps",
    settings: Mapping[str, Any] | None = None,
    levels: Sequence[float] | None = None,
    image_mas: float | None = None,
    n: int = DEFAULT_N,
    seed: int = 0,
    confidence: float = 0.95,
    max_sar: float | str | None = None,
    at: float | None = None,
    only_class: str | None = None,
    until_decided: bool = False,
    total: bool = False,
    interval: str = "clopper-pearson",
    simultaneous: bool = False,
    spec: Mapping[str, Any] | None = None,
    batch: int = 16,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    gallery: bool = False,
    keep_noisy: int = 0,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Audit one model: which answers change with noise alone, at which dose.

    Parameters mirror `robustkit audit` (`settings` is `--set`, `only_class` is `--class`, `spec` the input-spec
    flags); `model` may also be a classifier object. `progress(done, total)` is told of images scored. With
    `until_decided` the run grows until the gate is decided, `n` being the most it may draw; its bounds then allow
    for the looking (a confidence sequence). With `total` noise is refitted without each scan in turn, and every SAR
    has a second interval that holds the fit and the clean image too (`robustkit.uncertainty`). `interval` may be
    "wilson", for reading alone; `simultaneous` adds intervals that hold for all classes and levels together.

    Returns
    -------
    Outcome
        `.summary` is the content of summary.json; `.exit_code` 0 pass, 1 gate failed, 3 inconclusive.

    Raises
    ------
    UsageError, DataError, ModelError
        For a mistake in the request, in the images or repeats, or in the model.
    """
    from robustkit.summary import Gate, check_interval, parse_rate

    chosen = check_levels(levels or DEFAULT_MAS, n, seed, batch)
    if at is not None and at not in chosen:
        chosen = check_levels([*chosen, at], n, seed, batch)
    if until_decided and max_sar is None:
        raise UsageError("--until-decided needs a gate to decide: give --max-sar P%")
    gate = None if max_sar is None else Gate(parse_rate(max_sar), at, only_class, sequential=until_decided)
    shown: Any = {"interval": check_interval(interval), "simultaneous": simultaneous}
    choice = cases.NoiseChoice(noise, dict(settings or {}), seed, image_mas)
    registry.default().noise_model(noise)
    reference = refer(model, spec or {})
    classes = tuple(reference.load().classes)
    profiles = [profile] if isinstance(profile, str) else list(profile or [])
    sources = cases.gather(images, repeats, profiles, clean)
    if total:
        uncertainty.check(sources, choice)
    plan = make_plan(reference, choice, sources, chosen, n, seed, batch)
    path = Path(out) if out else fresh_path(f"{reference.name}-{noise}", plan)
    started = time.monotonic()
    with rundir.locked(path):
        directory = rundir.start(path, plan, resume=resume)
        files.write_json(path / "run.json", outputs.provenance(directory, command))
        work_map = engine.choose(jobs, dask)
        for drawn in looks(n) if until_decided else [n]:
            work_off(directory, sources, choice, reference, drawn, work_map, progress)
            found = gather_results(directory, drawn, classes)
            asked = ({**plan, "n": drawn}, classes, confidence, gate)
            summary = outputs.summarise(found.table, found.told, *asked, **shown)
            if until_decided and summary["gate"]["verdict"] != "inconclusive":
                break
        if total:
            told = found.told
            refits = uncertainty.jackknife(directory, sources, choice, reference, told, drawn, work_map)
            summary = outputs.summarise(found.table, told, *asked, refits, **shown)
            summary |= uncertainty.stated(summary, told, sources, drawn)
        if found.counts_only:
            summary["warnings"].append(COUNTS_ONLY.format(results.ROW_LIMIT))
            results.write(found.ledger, path / "ledger.parquet")
        outputs.write_results(directory, found.table, summary, found.told)
        flips = (plan, sources, choice, reference, found.ledger)
        write_gallery(path, *flips, patients=gallery, command=command)
        if keep_noisy:
            write_noisy_images(path / "noisy", *flips, keep_noisy)
        elapsed = time.monotonic() - started
        files.write_json(path / "run.json", outputs.provenance(directory, command, elapsed))
        outputs.finish(directory)
    from robustkit.summary import exit_code

    return Outcome(summary, found.table, path, exit_code(summary))


def check_levels(levels: Iterable[float], n: int, seed: int, batch: int) -> list[float]:
    """Return the levels sorted, each once; UsageError for a level, n, seed or batch that makes no sense."""
    found = sorted({float(level) for level in levels})
    for level in found:
        if not (math.isfinite(level) and level > 0):
            raise UsageError(f"a level must be a positive number, got {level:g}; noise at 0 mAs is unbounded")
    for name, value, least in (("-n", n, 1), ("--seed", seed, 0), ("--batch", batch, 1)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")
    return found


def looks(n: int) -> list[int]:
    """Return after how many realizations a sequential run looks: whole shards, each look a quarter more, n last."""
    found = [2 * rundir.SHARD]
    while found[-1] < n:
        grown = max(found[-1] // 4, rundir.SHARD) // rundir.SHARD * rundir.SHARD
        found.append(found[-1] + grown)
    return [*(look for look in found if look < n), n]


def make_plan(
    model: ModelRef,
    choice: cases.NoiseChoice,
    sources: Sequence[cases.Source],
    levels: Sequence[float],
    n: int,
    seed: int,
    batch: int,
) -> dict[str, Any]:
    """Return everything that decides the bits of a run, ready for JSON."""
    return {
        "version": rundir.VERSION,
        "model": {"name": model.name, "sha256": model.sha256, "spec": dict(model.spec)},
        "noise": choice.name,
        "settings": dict(choice.settings),
        "image_mas": choice.image_mas,
        "levels": list(levels),
        "n": n,
        "seed": seed,
        "batch": batch,
        "versions": rundir.versions(),
        "cases": [
            {
                "slice": source.slice.id,
                "label": source.slice.label or "",
                "group": source.slice.group or "",
                "from": choice.fingerprint(source),
                "clean": source.clean_from,
            }
            for source in sources
        ],
    }


def work_off(
    directory: rundir.RunDir,
    sources: Sequence[cases.Source],
    choice: cases.NoiseChoice,
    model: ModelRef,
    n: int,
    work_map: engine.Map,
    progress: Progress | None,
) -> None:
    """Do what is missing on disk; RobustkitError names the cases that no worker could finish."""
    pairs = list(zip(directory.plan["cases"], sources, strict=True))
    parts = 1 if work_map is engine.serial else max(1, 4 // len(pairs))
    tasks = [
        Task(directory, case, source, choice, model, tuple(part))
        for case, source in pairs
        for part in _cut(directory.missing(case, n), parts)
        if part or not directory.case_path(case).exists()
    ]
    failures = []
    with _watch(directory, len(pairs) * n * len(directory.plan["levels"]), progress):
        try:
            for task, error in work_map(do_task, tasks):
                if error is not None:
                    failures.append((task.case["slice"], error))
        except OSError as error:
            raise RobustkitError(
                f"cannot write to {directory.path}: {error.strerror}; free room, then run again with --resume"
            ) from error
    if failures:
        told = "; ".join(f"slice {name}: {type(error).__name__}: {error}" for name, error in failures)
        raise RobustkitError(f"{len(failures)} tasks failed, the rest is kept ({told}); run again with --resume")


def do_task(task: Task) -> None:
    """Score one task's ranges and write each shard as it is done; the case record is written with the first."""
    model = task.model.load()
    case = _prepare_once(task)
    plan = task.directory.plan
    record = task.directory.case_path(task.case)
    if not record.exists():
        clean = audit.predict_clean(model, case.slice, case.clean, plan["batch"])
        null = audit.null_audit(model, case.slice, case.clean, plan["batch"])
        story = case.story | {"unit": case.noise.unit} | centre_facts(case.story["clean"], plan["levels"])
        told = getattr(case.noise, "warnings", None)
        story["warnings"] = list(told(plan["levels"])) if callable(told) else []
        rundir.write_case(record, clean, null, story, _small_sd(case, plan["levels"]))
    for begin, end in task.ranges:
        scores = audit.score_realizations(
            model, case, plan["levels"], range(begin, end), seed=plan["seed"], batch=plan["batch"]
        )
        rundir.write_scores(task.directory.shard_path(task.case, begin, end), scores)


_prepared: dict[str, audit.Case] = {}


def _prepare_once(task: Task) -> audit.Case:
    key = rundir.digest(task.case)
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = cases.prepare(task.source, task.choice)
    return _prepared[key]


def _small_sd(case: audit.Case, levels: Sequence[float]) -> Any:
    reference = getattr(case.noise, "reference_mas", None) or levels[0]
    claimed = case.noise.sd(case.clean, [reference])
    if claimed is None:
        return None
    step = max(1, math.ceil(max(case.clean.shape) / SD_MAP_PIXELS))
    return claimed[0, ::step, ::step].astype(np.float16)


def gather_results(
    directory: rundir.RunDir, n: int, classes: Sequence[str], row_limit: int = results.ROW_LIMIT
) -> Gathered:
    """Return what the shards of a finished run hold; memory is bounded by `row_limit` rows and the flips."""
    import pandas as pd

    plan = directory.plan
    told = [rundir.read_case(directory.case_path(case)) for case in plan["cases"]]
    floor = audit.tie_limit(audit.merge_null_audits(record["null"] for record in told))
    counts_only = len(told) * len(plan["levels"]) * n > row_limit
    frames, flips = [], []
    for case, record in zip(plan["cases"], told, strict=True):
        parts = [rundir.read_scores(directory.shard_path(case, *part)) for part in rundir.ranges(n)]
        rows = _rows(directory, case, record, parts, classes, floor)
        flips.append(rows[results.flipped(rows)])
        frames.append(results.condense(rows) if counts_only else rows)
    table, ledger = (results.conform(pd.concat(part, ignore_index=True)) for part in (frames, flips))
    return Gathered(table, ledger, told, counts_only)


def _rows(
    directory: rundir.RunDir,
    case: Mapping[str, Any],
    record: Mapping[str, Any],
    parts: Sequence[audit.Scores],
    classes: Sequence[str],
    floor: float,
) -> pd.DataFrame:
    import pandas as pd

    levels = np.asarray(directory.plan["levels"])
    realization = np.concatenate([p.realization for p in parts])
    noisy = np.concatenate([p.noisy for p in parts])
    margin = np.concatenate([p.margin for p in parts])
    names = np.asarray(classes, dtype=object)
    clean = int(np.argmax(record["probabilities"]))
    return pd.DataFrame(
        {
            "run": directory.id,
            "model": directory.plan["model"]["name"],
            "noise": directory.plan["noise"],
            "slice": case["slice"],
            "group": case["group"],
            "label": case["label"],
            "unit": record["story"]["unit"],
            "level": np.tile(levels, len(realization)),
            "realization": np.repeat(realization, len(levels)),
            "clean": classes[clean],
            "noisy": names[noisy.ravel()],
            "margin": margin.ravel(),
            "tied": (noisy.ravel() != clean) & (margin.ravel() <= floor),
            "count": 1,
        }
    )


def _cut(ranges: Sequence[tuple[int, int]], parts: int) -> list[list[tuple[int, int]]]:
    size = max(1, math.ceil(len(ranges) / parts))
    return [list(ranges[i : i + size]) for i in range(0, len(ranges), size)] or [[]]


def fresh_path(stem: str, plan: Mapping[str, Any]) -> Path:
    """Return a run directory under ./runs that does not exist yet."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    base = Path("runs") / f"{safe}-{rundir.digest(plan)[:8]}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return path


def _watch(directory: rundir.RunDir, total: int, progress: Progress | None) -> AbstractContextManager[None]:
    if progress is None:
        return nullcontext()
    import threading

    per_shard = rundir.SHARD * len(directory.plan["levels"])

    def count() -> int:
        shards = sum(1 for p in directory.shards.glob("*.npz") if "-case-" not in p.name)
        return min(shards * per_shard, total)

    @contextmanager
    def watching() -> Iterator[None]:
        stop = threading.Event()

        def tell() -> None:
            while not stop.wait(0.3):
                progress(count(), total)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            progress(count(), total)

    return watching()
