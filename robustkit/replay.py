"""The experimental arm: measured scans scored as realizations, and the comparison of two runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import audit, cases, files, gathering, outputs, results, run, rundir
from robustkit.acquisition import dose_of
from robustkit.errors import UsageError
from robustkit.models import ModelRef, refer
from robustkit.types import Classifier, Image, RepeatScans, Slice

if TYPE_CHECKING:
    import pandas as pd

MEASURED = "measured"


def replay_scans(
    model: str | Path | Classifier,
    repeats: str,
    *,
    clean: str | None = None,
    spec: Mapping[str, Any] | None = None,
    batch: int = 16,
    confidence: float = 0.95,
    max_sar: float | str | None = None,
    out: str | Path | None = None,
    command: Sequence[str] = (),
) -> run.Outcome:
    """Score every scan of `repeats` against its clean image; write a run directory like an audit's.

    `clean` is `mean` (of all repeats of the slice, default: the least noisy set), or a path to low-noise references.
    Raises UsageError for `slice`, which repeats do not have, and for scans without mAs.
    """
    from robustkit.gates import Gate, parse_rate
    from robustkit.summary import exit_code

    run.check_levels([1.0], 1, 0, batch)
    if clean == "slice":
        raise UsageError("repeat scans have no slice apart from themselves; --clean takes mean or a path")
    gate = None if max_sar is None else Gate(parse_rate(max_sar))
    reference = refer(model, spec or {})
    classifier = reference.load()
    sources = cases.gather(None, repeats, [], clean)
    levels = _levels(sources)
    plan = _plan(reference, sources, levels, batch)
    path = Path(out) if out else run.fresh_path(f"{reference.name}-{MEASURED}", plan)
    started = time.monotonic()
    asked = {"confidence": confidence, "gate": None if gate is None else asdict(gate)}
    with rundir.locked(path):
        directory = rundir.start(path, plan, resume=False)
        told = [_score_source(classifier, source, batch) for source in sources]
        facts = gathering.Facts.of(told)
        table = results.Blocks(directory.shards / gathering.TABLE)
        with results.writer(table.path) as write:
            write(_table(directory, sources, told, classifier.classes, audit.tie_limit(facts.null)))
        summary = outputs.summarise(table, facts, plan, classifier.classes, confidence, gate)
        outputs.write_results(directory, table, summary, (record["story"] for record in told))
        elapsed = time.monotonic() - started
        files.write_json(path / "run.json", outputs.provenance(directory, command, asked, elapsed))
        outputs.finish(directory)
    return run.Outcome(summary, path, exit_code(summary))


def compare_runs(run_a: Path, run_b: Path, *, margin: str | None = None) -> dict[str, Any]:
    """Return the agreement of two run directories, A minus B (see `robustkit.agreement.compare`)."""
    from robustkit.agreement import compare
    from robustkit.gates import parse_rate

    plans = [rundir.read_audit(path)["plan"] for path in (run_a, run_b)]
    tables = [results.read(path / "results.parquet") for path in (run_a, run_b)]
    paired = plans[0]["noise"] == plans[1]["noise"] != MEASURED and all(
        plans[0][name] == plans[1][name] for name in ("seed", "settings", "cases")
    )
    chosen = None if margin is None else parse_rate(margin)
    found: dict[str, Any] = compare(*tables, margin=chosen, paired=paired, classes=_classes(run_a))
    return found


def _classes(run: Path) -> list[str] | None:
    """Return the classes of a run in its model's order, as far as its summary tells."""
    try:
        told = json.loads((run / "summary.json").read_text(encoding="utf-8"))["classes"]
        return [str(name) for name in told]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _levels(sources: Sequence[cases.Source]) -> list[float]:
    return sorted({float(dose_of(repeats)) for source in sources for repeats in source.repeats})


def _plan(reference: ModelRef, sources: Sequence[cases.Source], levels: Sequence[float], batch: int) -> dict[str, Any]:
    choice = cases.NoiseChoice(MEASURED)
    most = max(len(repeats.pixels) for source in sources for repeats in source.repeats)
    return run.make_plan(reference, choice, sources, levels, most, 0, batch)


def _score_source(model: Classifier, source: cases.Source, batch: int) -> dict[str, Any]:
    clean, centre = cases.clean_image(source)
    scored = []
    for repeats in source.repeats:
        images = _as_stored(source.slice, repeats)
        scored.append((repeats.mas, *audit.decide(audit.score(model, images, source.slice.pixel_mm, batch))))
    return {
        "probabilities": audit.predict_clean(model, source.slice, clean, batch),
        "null": audit.null_audit(model, source.slice, clean, batch),
        "sd": None,
        "scored": scored,
        "story": {
            "slice": source.slice.id,
            "label": source.slice.label,
            "group": source.slice.group,
            "noise": MEASURED,
            "unit": "mAs",
            "source": "; ".join(sorted({repeats.source for repeats in source.repeats})),
            "clean": centre,
            "report": {},
            "warnings": [],
        },
    }


def _as_stored(case_slice: Slice, repeats: RepeatScans) -> Image:
    return audit.stored(case_slice, np.array(repeats.pixels, dtype=np.float32))


def _table(
    directory: rundir.RunDir,
    sources: Sequence[cases.Source],
    told: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    floor: float,
) -> pd.DataFrame:
    import pandas as pd

    names = np.asarray(classes, dtype=object)
    frames = []
    for source, record in zip(sources, told, strict=True):
        clean = int(np.argmax(record["probabilities"]))
        for mas, noisy, margin in record["scored"]:
            frames.append(
                pd.DataFrame(
                    {
                        "run": directory.id,
                        "model": directory.plan["model"]["name"],
                        "noise": MEASURED,
                        "slice": source.slice.id,
                        "group": source.slice.group or "",
                        "label": source.slice.label or "",
                        "unit": "mAs",
                        "level": mas,
                        "realization": np.arange(len(noisy)),
                        "clean": classes[clean],
                        "noisy": names[noisy],
                        "margin": margin,
                        "tied": (noisy != clean) & (margin <= floor),
                        "count": 1,
                    }
                )
            )
    return results.conform(pd.concat(frames, ignore_index=True))
