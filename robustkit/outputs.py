"""What a run leaves behind: summary, table, noise, gallery, provenance, report."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from robustkit import files, registry, results, rundir
from robustkit.gathering import Facts
from robustkit.models import hash_file

if TYPE_CHECKING:
    import pandas as pd

UNANCHORED = "the simulated noise of {} slices is tied to no noise measured in them, so no dose can be claimed"
HASHED = (".parquet", ".json", ".npz", ".xml")
MAPS = 100
"""Slices whose map of claimed noise is kept in noise.npz."""


def summarise(
    table: Iterable[pd.DataFrame],
    facts: Facts,
    plan: Mapping[str, Any],
    classes: Sequence[str],
    confidence: float,
    gate: Any,
    refits: pd.DataFrame | None = None,
    *,
    interval: str = "clopper-pearson",
    simultaneous: bool = False,
) -> dict[str, Any]:
    """Return the machine contract of a run, with where its noise came from; the rest is as `summary.build` takes it."""
    from robustkit.summary import build

    built_in = {"sar", "cmr"}
    unit = facts.units[0]
    summary = build(
        table,
        model=plan["model"]["name"],
        noise=plan["noise"],
        unit=unit,
        classes=list(classes),
        levels=plan["levels"],
        n=plan["n"],
        seed=plan["seed"],
        confidence=confidence,
        gate=gate,
        null_audit=facts.null,
        metrics={name: m for name, m in registry.default().metrics().items() if name not in built_in},
        refits=refits,
        interval=interval,
        simultaneous=simultaneous,
        withhold_lowest=UNANCHORED.format(facts.unanchored) if facts.unanchored else "",
    )
    summary["warnings"] += facts.centres.warnings(plan["levels"], unit)
    return summary | {"noise_source": list(facts.sources), "clean_source": list(facts.cleans)}


def write_results(
    directory: rundir.RunDir, table: results.Blocks, summary: Mapping[str, Any], stories: Iterable[Mapping[str, Any]]
) -> None:
    """Write summary.json, noise.json and noise.npz, junit.xml; the table, made whole before, moves to its place."""
    from robustkit import junit

    path = directory.path
    files.write_json(path / "summary.json", summary)
    files.write_json_list(path / "noise.json", stories)
    maps = {}
    for case in directory.plan["cases"][:MAPS]:
        record = directory.case_path(case)
        found = rundir.read_sd(record) if record.exists() else None
        if found is not None:
            maps[f"sd_{case['slice']}"] = found
    files.write_npz(path / "noise.npz", maps, compressed=True)
    junit.write(summary, path / "junit.xml")
    table.path.replace(path / table.path.name)


def provenance(
    directory: rundir.RunDir, command: Sequence[str], asked: Mapping[str, Any], seconds: float | None = None
) -> dict[str, Any]:
    """Return run.json: the plan, what was asked of its results, and what reproduces it.

    `seconds` is None while the run is unfinished.
    """
    names = [p.name for p in directory.path.iterdir() if p.suffix in HASHED] if seconds is not None else []
    kept = sorted(name for name in names if name != "run.json" and not name.startswith("."))
    return {
        "version": rundir.VERSION,
        "run": directory.id,
        "plan": dict(directory.plan),
        "asked": dict(asked),
        "command": list(command),
        "finished": None if seconds is None else datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": seconds,
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "unsafe_load": bool(directory.plan["model"]["spec"].get("unsafe_load", False)),
        "files": {name: hash_file(directory.path / name) for name in kept},
    }


def finished(directory: rundir.RunDir, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the summary of a run that was finished with the same questions and is whole; else None.

    What a kill left undone after the results were written, the report and the tidying, is done.
    """
    import json

    path = directory.path
    if not (path / "run.json").exists():
        return None
    recorded = rundir.read_audit(path)
    same = recorded["finished"] and recorded.get("asked") == json.loads(json.dumps(dict(asked)))
    if not same or not all(
        (path / name).is_file() and hash_file(path / name) == known for name, known in recorded["files"].items()
    ):
        return None
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    finish(directory)
    return summary


def finish(directory: rundir.RunDir) -> None:
    """Draw the report, then drop the shards: the table holds all they held."""
    import shutil

    from robustkit.report import write_report

    write_report(directory.path)
    shutil.rmtree(directory.shards, ignore_errors=True)
