"""An audit from a request to a verdict: inputs found, work mapped, shards gathered, results written.

`audit_model` is what the command line, the pytest plugin and scripts call.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import audit, cases, engine, files, gathering, outputs, registry, results, rundir, spill, uncertainty
from robustkit.centre import centre_facts
from robustkit.containment import contained
from robustkit.engine import Progress
from robustkit.errors import RobustkitError, UsageError
from robustkit.gallery import keep_noisy as write_noisy_images
from robustkit.gallery import write_gallery
from robustkit.models import ModelRef, hash_file, refer
from robustkit.types import Classifier

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_MAS = (12.5, 25.0, 37.5, 50.0, 75.0, 100.0, 150.0, 175.0, 200.0, 225.0, 325.0, 400.0, 500.0)
DEFAULT_N = 1000
SD_MAP_PIXELS = 256
COUNTS_ONLY = "more than {:,} rows: results.parquet keeps counts, ledger.parquet every image whose answer changed"


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
    """What an audit found: the machine contract, where it lies, the exit code; the table, read when it is wanted."""

    summary: dict[str, Any]
    run_dir: Path
    exit_code: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """Return the whole of results.parquet; `robustkit.results.pieces` reads one too large for memory."""
        return results.read(self.run_dir / "results.parquet")


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
    from robustkit.gates import Gate, parse_rate
    from robustkit.summary import check_interval

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
    path = Path(out) if out else fresh_path(f"{reference.name}-{noise}", plan, resume=resume)
    started = time.monotonic()
    work_map = engine.choose(jobs, dask)
    questions = {
        **shown,
        "confidence": confidence,
        "gate": None if gate is None else asdict(gate),
        "total": total,
        "gallery": gallery,
        "keep_noisy": keep_noisy,
    }
    with rundir.locked(path):
        directory = rundir.start(path, plan, resume=resume)
        before = outputs.finished(directory, questions)
        if before is not None:
            return _outcome(before, path)
        files.write_json(path / "run.json", outputs.provenance(directory, command, questions))
        for drawn in looks(n) if until_decided else [n]:
            work_off(directory, sources, choice, reference, drawn, work_map, progress)
            found = gathering.gather(directory, drawn, classes, keep=max(1, keep_noisy))
            asked = ({**plan, "n": drawn}, classes, confidence, gate)
            summary = outputs.summarise(found.table, found.facts, *asked, **shown)
            if until_decided and summary["gate"]["verdict"] != "inconclusive":
                break
        if total:
            facts = found.facts
            refits = uncertainty.jackknife(directory, sources, choice, reference, facts.answers, drawn, work_map)
            summary = outputs.summarise(found.table, facts, *asked, refits, **shown)
            summary |= uncertainty.stated(summary, facts, sources, drawn)
        if found.counts_only:
            summary["warnings"].append(COUNTS_ONLY.format(results.ROW_LIMIT))
        stories = (record["story"] for record in gathering.case_records(directory))
        outputs.write_results(directory, found.table, summary, stories)
        flips = (plan, sources, choice, reference, found.flips)
        write_gallery(path, *flips, patients=gallery, command=command)
        if keep_noisy:
            write_noisy_images(path / "noisy", *flips, keep_noisy)
        elapsed = time.monotonic() - started
        files.write_json(path / "run.json", outputs.provenance(directory, command, questions, elapsed))
        outputs.finish(directory)
    return _outcome(summary, path)


def _outcome(summary: dict[str, Any], path: Path) -> Outcome:
    from robustkit.summary import exit_code

    return Outcome(summary, path, exit_code(summary))


def check_levels(levels: Iterable[float], n: int, seed: int, batch: int) -> list[float]:
    """Return the levels sorted, each once; UsageError for a level, n, seed or batch that makes no sense."""
    found = sorted({float(level) for level in levels})
    for level in found:
        if not (math.isfinite(level) and level > 0):
            raise UsageError(
                f"a level must be a positive number, got {level:g}: noise is boundless at 0 mAs and absent at sigma 0"
            )
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
        "model": {"name": model.name, "sha256": model.sha256, "spec": _nameless(model.spec), "input": _input(model)},
        "noise": choice.name,
        "settings": dict(choice.settings),
        "image_mas": choice.image_mas,
        "levels": list(levels),
        "n": n,
        "seed": seed,
        "batch": batch,
        "versions": rundir.versions(_deciding(model, choice)),
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


def _nameless(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return spec flags as they may be recorded: a file by the hash of its content, for its path may name somebody."""
    told = dict(spec)
    if told.get("spec_file"):
        told["spec_file"] = hash_file(Path(told["spec_file"]))[:16]
    return told


def _input(model: ModelRef) -> str:
    """Return the settled input spec of a model from a file, whichever of flags, TOML and metadata it came from."""
    spec: Any = getattr(model.load(), "spec", None)
    return str(spec.to_toml()) if hasattr(spec, "to_toml") else ""


FRAMEWORKS = {"onnx": (), "keras": ("keras", "tensorflow"), "hdf5": ("keras", "tensorflow")}


def _deciding(model: ModelRef, choice: cases.NoiseChoice) -> list[str]:
    """Return the distributions whose version decides the bits: ours, the model's framework, the plugins taken from."""
    source = getattr(model.load(), "source", None) or {}
    frameworks = FRAMEWORKS.get(str(source.get("format", "onnx")), ("torch",))
    known = registry.default()
    plugins = []
    for plugin in known.plugins:
        offers = known.offers(plugin.name) if plugin.package and plugin.name != registry.BUILT_IN else {}
        if choice.name in offers.get("noise model", {}) or (
            model.path is None and model.name in offers.get("model", {})
        ):
            plugins.append(plugin.package)
    return [*rundir.NUMERICAL, *frameworks, *plugins]


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
    planned = directory.plan["cases"]
    cut = engine.parts(work_map, len(planned))
    travels, done = directory.light(), directory.done()

    def tasks() -> Iterator[Task]:
        for case, source in zip(planned, sources, strict=True):
            recorded = directory.case_path(case).name in done
            for part in _cut(directory.missing(case, n, done), cut):
                if part or not recorded:
                    yield Task(travels, case, source, choice, model, tuple(part))
            spill.forget()

    failures, told = 0, []
    with _watch(directory, len(planned) * n * len(directory.plan["levels"]), progress):
        for task, error in work_map(do_task, tasks()):
            if error is not None:
                failures += 1
                told += [f"slice {task.case['slice']}: {_told(error)}"] if failures <= FAILURES_TOLD else []
    if failures:
        more = "; ..." if failures > FAILURES_TOLD else ""
        raise RobustkitError(
            f"{failures} tasks failed, the rest is kept ({'; '.join(told)}{more}); run again with --resume"
        )
    there = directory.done()
    if any(directory.missing(case, n, there) for case in planned):
        raise RobustkitError(
            "workers wrote shards that are not seen here: with workers on other machines, --out must lie on a file "
            "system that all of them share, under the same path"
        )


FAILURES_TOLD = 5


def _told(error: BaseException) -> str:
    """Tell an error in a line; of one about a file its reason alone, for a path may name a patient."""
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror}"
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line:.200}"


def do_task(task: Task) -> None:
    """Score one task's ranges and write each shard as it is done; the case record is written with the first.

    Noise and model may be a stranger's: what they print or change is contained, and told.
    """
    with contained() as notes:
        model = task.model.load()
        case = _prepare_once(task)
        record = task.directory.case_path(task.case)
        first = None if record.exists() else _first_look(task, model, case)
    if first is not None:
        clean, null, story = first
        story["warnings"] += [f"code of the noise or the model {note}" for note in notes]
        rundir.write_case(record, clean, null, story, _small_sd(case, task.directory.plan["levels"]))
    plan = task.directory.plan
    for begin, end in task.ranges:
        with contained():
            scores = audit.score_realizations(
                model, case, plan["levels"], range(begin, end), seed=plan["seed"], batch=plan["batch"]
            )
        rundir.write_scores(task.directory.shard_path(task.case, begin, end), scores)


def _first_look(task: Task, model: Classifier, case: audit.Case) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the clean prediction, the null audit and the story of a case."""
    plan = task.directory.plan
    clean = audit.predict_clean(model, case.slice, case.clean, plan["batch"])
    null = audit.null_audit(model, case.slice, case.clean, plan["batch"])
    story = case.story | {"unit": case.noise.unit} | centre_facts(case.story["clean"], plan["levels"])
    told = getattr(case.noise, "warnings", None)
    story["warnings"] = list(told(plan["levels"])) if callable(told) else []
    return clean, null, story


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


def _cut(ranges: Sequence[tuple[int, int]], parts: int) -> list[list[tuple[int, int]]]:
    """Cut the ranges of one case into at most `parts` tasks; none missing is one empty task, for the case record."""
    size = max(1, math.ceil(len(ranges) / parts))
    return [list(ranges[i : i + size]) for i in range(0, len(ranges), size)] or [[]]


def fresh_path(stem: str, plan: Mapping[str, Any], *, resume: bool = False) -> Path:
    """Return a run directory under ./runs that does not exist yet; with `resume` the newest made for the plan."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    base = Path("runs") / f"{safe}-{rundir.digest(plan)[:8]}"
    path, count = base, 1
    newest = path
    while path.exists():
        newest = path
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return newest if resume else path


def _watch(directory: rundir.RunDir, total: int, progress: Progress | None) -> AbstractContextManager[None]:
    if progress is None:
        return nullcontext()
    import threading

    per_shard = rundir.SHARD * len(directory.plan["levels"])

    def count() -> int:
        shards = sum("-case-" not in name for name in directory.names())
        return min(shards * per_shard, total)

    @contextmanager
    def watching() -> Iterator[None]:
        stop = threading.Event()

        def tell() -> None:
            pause = 0.3
            while not stop.wait(pause):
                began = time.monotonic()
                progress(count(), total)
                pause = max(0.3, 20 * (time.monotonic() - began))  # a listing of a million shards takes seconds

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            progress(count(), total)

    return watching()
