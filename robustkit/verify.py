"""Is a finished run what it says? Hashes of its files, its summary from its table, its flips from their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import cases, registry, results, run, rundir
from robustkit.errors import DataError, UsageError
from robustkit.gallery import recreate, rows_of
from robustkit.models import ModelRef, hash_file, refer

if TYPE_CHECKING:
    import pandas as pd

PROMISED = ("results.parquet", "summary.json", "junit.xml", "noise.json", "noise.npz")
"""Files without which a run is not whole."""


def verify_run(
    path: Path,
    model: str | None = None,
    *,
    images: str | None = None,
    repeats: str | None = None,
    profile: Sequence[str] = (),
    clean: str | None = None,
    spec: Mapping[str, Any] | None = None,
    sample: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Return {"verdict": "verified" | "differs", "sentence", "evidence": [...]} of a run directory.

    Without `model`, every file's hash is checked, the plan against the run's id, and the summary against the table.
    With the inputs of the audit, `sample` rows (flips first) are also rebuilt from the row alone and scored again;
    `spec` is needed only where the audit was given an input-spec file.
    Raises DataError for a directory that holds no finished run, or for inputs that are not those of the run.
    """
    recorded = rundir.read_audit(path)
    if not recorded["finished"]:
        raise DataError(f"the run in {path} is unfinished; finish it with --resume, then verify it")
    evidence = _check_files(path, recorded["files"])
    if all(item["ok"] for item in evidence):
        evidence += [*_check_plan(path, recorded), _check_summary(path, recorded["plan"])]
    if model is not None and recorded["plan"]["noise"] == "measured":
        raise UsageError("a replay scored measured scans, there are no draws to rebuild; verify it without MODEL")
    if model is not None and all(item["ok"] for item in evidence):
        plan = recorded["plan"]
        given = spec or {key: value for key, value in plan["model"]["spec"].items() if key != "spec_file"}
        reference = refer(model, {} if model in registry.default().models() else given)
        sources = cases.gather(images, repeats, list(profile), clean)
        evidence.append(_check_rows(path, plan, reference, sources, sample, seed))
    wrong = [item["check"] for item in evidence if not item["ok"]]
    sentence = f"{len(evidence)} checks, all hold" if not wrong else f"does not hold: {', '.join(wrong)}"
    return {"verdict": "differs" if wrong else "verified", "sentence": sentence, "evidence": evidence}


def _check_files(path: Path, hashes: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name in sorted({*hashes, *PROMISED}):
        item = path / name
        ok = Path(name).name == name and item.is_file() and hash_file(item) == hashes.get(name)
        found.append({"check": f"hash of {name}", "ok": ok})
    return found


def _check_plan(path: Path, recorded: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Check that run.json was not changed: its plan hashes to its id, and to the id that is in the table."""
    named = rundir.RunDir(path, recorded["plan"]).id
    owners = results.distinct(path / "results.parquet", "run")
    return [
        {"check": "plan by its hash", "ok": named == recorded.get("run")},
        {"check": "table of this plan", "ok": owners == {named}},
    ]


def _check_summary(path: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    import pandas as pd

    from robustkit.metrics import sar, totals

    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        counted = {(row["class"], float(row["level"])): (row["k"], row["n"]) for row in summary["sar"]}
        same = all(summary[name] == plan[name] for name in ("noise", "seed", "levels"))
    except (OSError, ValueError, KeyError, TypeError):
        return {"check": "summary from table", "ok": False}
    parts = [totals(part) for part in results.pieces(path / "results.parquet")]
    table = sar(pd.concat(parts, ignore_index=True))
    again = {(row["class"], float(row["level"])): (int(row["k"]), int(row["n"])) for row in table.to_dict("records")}
    ok = same and all(counted.get(key) == value for key, value in again.items())
    return {"check": "summary from table", "ok": ok}


def _check_rows(
    path: Path,
    plan: Mapping[str, Any],
    model: ModelRef,
    sources: Sequence[cases.Source],
    sample: int,
    seed: int,
) -> dict[str, Any]:
    choice = cases.NoiseChoice(plan["noise"], plan["settings"], plan["seed"], plan["image_mas"])
    asked = run.make_plan(model, choice, sources, plan["levels"], plan["n"], plan["seed"], plan["batch"])
    differences = rundir.differences(plan, json.loads(json.dumps(asked, default=str)))
    if differences:
        raise DataError(f"these are not the inputs of the run in {path}: {'; '.join(differences)}")
    by_id = {source.slice.id: source for source in sources}
    ledger = path / "ledger.parquet"
    rows = _some_rows(ledger if ledger.exists() else path / "results.parquet", sample, seed)
    wrong = 0
    for name in sorted(set(rows["slice"])):
        case = cases.prepare(by_id[name], choice)
        for row in rows_of(rows[rows["slice"] == name]):
            record, _ = recreate(plan, case, model, row)
            wrong += record["answer"] != row["noisy"]
    return {"check": f"{len(rows)} rows rebuilt and scored again", "ok": wrong == 0, "wrong": wrong}


def _some_rows(path: Path, sample: int, seed: int) -> pd.DataFrame:
    """Pick rows to rebuild: flips first, then others, at random; the table is read piece by piece."""
    import pandas as pd

    chance = np.random.Generator(np.random.Philox(key=seed))
    kept: pd.DataFrame | None = None
    for part in results.pieces(path):
        rows = part.assign(rank=chance.random(len(part)) - results.flipped(part))
        rows = rows.nsmallest(sample, "rank") if kept is None else pd.concat([kept, rows]).nsmallest(sample, "rank")
        kept = rows
    assert kept is not None
    return kept.drop(columns="rank")
