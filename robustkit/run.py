"""An audit from a request to a verdict: inputs found, work mapped, shards gathered, results written.

`audit_model` is what the command line, the pytest plugin and scripts call.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import audit, cases, engine, files, registry, rundir
from robustkit.errors import ModelError, RobustkitError, UsageError
from robustkit.types import Classifier, Image

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_MAS = (12.5, 25.0, 37.5, 50.0, 75.0, 100.0, 150.0, 175.0, 200.0, 225.0, 325.0, 400.0, 500.0)
DEFAULT_N = 1000
SD_MAP_PIXELS = 256
GALLERY = 6
"""Flips at most that a report shows."""
HASHED = (".parquet", ".json", ".npz", ".xml")
Progress = Callable[[int, int], None]
log = logging.getLogger("robustkit")


@dataclass(frozen=True)
class ModelRef:
    """A model as it travels to a worker: a path or a plugin's name with its input spec, or the object itself."""

    name: str
    sha256: str
    path: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    instance: Classifier | None = None

    def load(self) -> Classifier:
        """Return the classifier, loaded once a process."""
        if self.instance is not None:
            return self.instance
        return _load_once(self.path or self.name, json.dumps(dict(self.spec), sort_keys=True, default=list))


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
    spec: Mapping[str, Any] | None = None,
    batch: int = 16,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    gallery: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Audit one model: which answers change with noise alone, at which dose.

    Parameters mirror `robustkit audit` (`settings` is `--set`, `only_class` is `--class`, `spec` the input-spec
    flags); `model` may also be a classifier object. `progress(done, total)` is told of finished shards.

    Returns
    -------
    Outcome
        `.summary` is the content of summary.json; `.exit_code` 0 pass, 1 gate failed, 3 inconclusive.

    Raises
    ------
    UsageError, DataError, ModelError
        For a mistake in the request, in the images or repeats, or in the model.
    """
    from robustkit.summary import Gate, parse_rate

    chosen = check_levels(levels or DEFAULT_MAS, n, seed, batch)
    if at is not None and at not in chosen:
        chosen = check_levels([*chosen, at], n, seed, batch)
    gate = None if max_sar is None else Gate(parse_rate(max_sar), at=at, only_class=only_class)
    choice = cases.NoiseChoice(noise, dict(settings or {}), seed, image_mas)
    registry.default().noise_model(noise)
    reference = refer(model, spec or {})
    classes = tuple(reference.load().classes)
    profiles = [profile] if isinstance(profile, str) else list(profile or [])
    sources = cases.gather(images, repeats, profiles, clean)
    plan = make_plan(reference, choice, sources, chosen, n, seed, batch)
    path = Path(out) if out else fresh_path(f"{reference.name}-{noise}", plan)
    started = time.monotonic()
    with rundir.locked(path):
        directory = rundir.start(path, plan, resume=resume)
        files.write_json(path / "run.json", provenance(directory, command))
        work_off(directory, sources, choice, reference, n, engine.choose(jobs, dask), progress)
        table, told = gather_results(directory, n, classes)
        summary = summarise(table, told, plan, classes, confidence, gate)
        write_results(directory, table, summary, told)
        write_gallery(directory, sources, choice, reference, table, gallery)
        elapsed = time.monotonic() - started
        files.write_json(path / "run.json", provenance(directory, command, elapsed))
        finish(directory)
    from robustkit.summary import exit_code

    return Outcome(summary, table, path, exit_code(summary))


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


def refer(model: str | Path | Classifier, spec: Mapping[str, Any]) -> ModelRef:
    """Return a reference to a model by path, by the name a plugin gives it, or to the object itself."""
    if not isinstance(model, str | Path):
        source = getattr(model, "source", None) or {}
        return ModelRef(type(model).__name__, str(source.get("sha256", "")), instance=model)
    name = str(model)
    offered = registry.default().models()
    if name in offered:
        if spec:
            raise UsageError(f"{name!r} is a plugin's model and brings its own input spec; drop the spec flags")
        source = getattr(offered[name](), "source", None) or {}
        return ModelRef(name, str(source.get("sha256", "")))
    path = Path(name)
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise ModelError(f"no such model file: {name}")
        raise UsageError(f"unknown model {name!r}: no such file, and plugins offer: {', '.join(offered) or 'none'}")
    return ModelRef(path.name, hash_file(path), str(path.resolve()), dict(spec))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their relative names."""
    total = hashlib.sha256()
    for item in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            total.update(str(item.relative_to(path)).encode())
        with item.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


@lru_cache(maxsize=2)
def _load_once(name: str, spec: str) -> Classifier:
    offered = registry.default().models()
    if name in offered:
        return offered[name]()
    model = registry.default().load_model(Path(name), json.loads(spec))
    if model is None:
        raise ModelError(
            f"{Path(name).name} is no model that robustkit or a plugin can open; it opens .onnx, .pt2, TorchScript, "
            "state dict with --arch, .keras, .h5 and SavedModel"
        )
    return model


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
    with _watch(directory, len(pairs) * len(rundir.ranges(n)), progress):
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
        story = dict(case.story, unit=case.noise.unit)
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
    directory: rundir.RunDir, n: int, classes: Sequence[str]
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the table and the case records of a finished run."""
    import pandas as pd

    plan = directory.plan
    told = [rundir.read_case(directory.case_path(case)) for case in plan["cases"]]
    floor = audit.tie_limit(audit.merge_null_audits(record["null"] for record in told))
    frames = []
    for case, record in zip(plan["cases"], told, strict=True):
        parts = [rundir.read_scores(directory.shard_path(case, *part)) for part in rundir.ranges(n)]
        frames.append(_rows(directory, case, record, parts, classes, floor))
    from robustkit.results import conform

    return conform(pd.concat(frames, ignore_index=True)), told


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


def summarise(
    table: pd.DataFrame,
    told: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any],
    classes: Sequence[str],
    confidence: float,
    gate: Any,
) -> dict[str, Any]:
    """Return the machine contract of a run, with where its noise came from."""
    from robustkit.summary import build

    built_in = {"sar", "cmr"}
    summary = build(
        table,
        model=plan["model"]["name"],
        noise=plan["noise"],
        unit=told[0]["story"]["unit"],
        classes=list(classes),
        levels=plan["levels"],
        n=plan["n"],
        seed=plan["seed"],
        confidence=confidence,
        gate=gate,
        null_audit=audit.merge_null_audits(record["null"] for record in told),
        metrics={name: m for name, m in registry.default().metrics().items() if name not in built_in},
    )
    summary["noise_source"] = sorted({record["story"]["source"] for record in told})
    summary["clean_source"] = sorted({record["story"]["clean"]["from"] for record in told})
    return summary


def write_results(
    directory: rundir.RunDir,
    table: pd.DataFrame,
    summary: Mapping[str, Any],
    told: Sequence[Mapping[str, Any]],
) -> None:
    """Write results.parquet, summary.json, noise.json and noise.npz, junit.xml."""
    from robustkit import junit, results

    path = directory.path
    results.write(table, path / "results.parquet")
    files.write_json(path / "summary.json", summary)
    files.write_json(path / "noise.json", [record["story"] for record in told])
    maps = {f"sd_{r['story']['slice']}": r["sd"] for r in told if r["sd"] is not None}
    with files.atomic_path(path / "noise.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **maps)
    junit.write(summary, path / "junit.xml")


def write_gallery(
    directory: rundir.RunDir,
    sources: Sequence[cases.Source],
    choice: cases.NoiseChoice,
    model: ModelRef,
    table: pd.DataFrame,
    shown: bool,
) -> None:
    """Re-create flips to look at: the first at the highest level of each class; real images only when `shown`."""
    from robustkit.results import flipped

    flips = table[flipped(table)].sort_values(["level", "realization"], ascending=[False, True])
    by_id = {source.slice.id: source for source in sources}
    records, arrays = [], {}
    for row in flips.drop_duplicates("slice").head(GALLERY).to_dict("records"):
        source = by_id[row["slice"]]
        if not (shown or source.slice.synthetic):
            continue
        i = len(records)
        record, clean, noisy = recreate(directory.plan, cases.prepare(source, choice), model, row)
        arrays[f"clean_{i}"], arrays[f"noisy_{i}"] = clean.astype(np.float16), noisy.astype(np.float16)
        records.append(record)
    files.write_json(directory.path / "gallery.json", records)
    with files.atomic_path(directory.path / "gallery.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def recreate(
    plan: Mapping[str, Any], case: audit.Case, model: ModelRef, row: Mapping[str, Any]
) -> tuple[dict[str, Any], Image, Image]:
    """Rebuild the image of one row: (record with probabilities and `answer`, clean (H, W), noisy (H, W))."""
    classifier = model.load()
    draw = audit.draws(plan["seed"], "audit", row["slice"], [row["realization"]])
    noisy = audit.perturb(case, [row["level"]], draw)[0, 0]
    before, after = (
        audit.predict_clean(classifier, case.slice, image, plan["batch"]) for image in (case.clean, noisy)
    )
    record = {
        **{name: row[name] for name in ("slice", "label", "clean", "noisy", "level", "unit", "realization")},
        "answer": classifier.classes[int(after.argmax())],
        "probabilities_clean": {c: float(p) for c, p in zip(classifier.classes, before, strict=True)},
        "probabilities_noisy": {c: float(p) for c, p in zip(classifier.classes, after, strict=True)},
    }
    return record, case.clean, noisy


def provenance(plan: Mapping[str, Any], run: str, command: Sequence[str], seconds: float | None) -> dict[str, Any]:
    """Return run.json: the plan, and what reproduces it. `seconds` is None while the run is unfinished."""
    return {
        "version": rundir.VERSION,
        "run": directory.id,
        "plan": dict(directory.plan),
        "command": list(command),
        "finished": seconds is not None,
        "wall_seconds": seconds,
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "unsafe_load": bool(directory.plan["model"]["spec"].get("unsafe_load", False)),
        "files": {name: hash_file(directory.path / name) for name in sorted(names) if name != "run.json"},
    }


def finish(directory: rundir.RunDir) -> None:
    """Draw the report, then drop the shards: the table holds all they held."""
    import shutil

    from robustkit.report import write_report

    write_report(directory.path)
    shutil.rmtree(directory.shards, ignore_errors=True)


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


def _watch(directory: rundir.RunDir, total: int, progress: Progress | None) -> Any:
    if progress is None:
        return nullcontext()
    import threading
    from contextlib import contextmanager

    def count() -> int:
        return sum(1 for p in directory.shards.glob("*.npz") if "-case-" not in p.name)

    @contextmanager
    def watching() -> Any:
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
