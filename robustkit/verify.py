"""Is a finished run what it says? Hashes of its files, its summary from its table, its flips from their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import cases, results, run, rundir
from robustkit.errors import DataError
from robustkit.gallery import recreate, rows_of
from robustkit.models import ModelRef, hash_file, refer

if TYPE_CHECKING:
    import pandas as pd


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

    Without `model`, every file's hash is checked, and the summary's SAR against the table. With the inputs of the
    audit, `sample` rows (flips first) are also rebuilt from the row alone and scored again.
    Raises DataError for a directory that holds no finished run.
    """
    recorded = rundir.read_audit(path)
    if not recorded["finished"]:
        raise DataError(f"the run in {path} is unfinished; finish it with --resume, then verify it")
    evidence = [*_check_files(path, recorded["files"]), _check_summary(path)]
    if model is not None:
        sources = cases.gather(images, repeats, list(profile), clean)
        evidence.append(_check_rows(path, recorded["plan"], refer(model, spec or {}), sources, sample, seed))
    wrong = [item["check"] for item in evidence if not item["ok"]]
    sentence = f"{len(evidence)} checks, all hold" if not wrong else f"does not hold: {', '.join(wrong)}"
    return {"verdict": "differs" if wrong else "verified", "sentence": sentence, "evidence": evidence}


def _check_files(path: Path, hashes: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for name, expected in sorted(hashes.items()):
        item = path / name
        ok = item.is_file() and hash_file(item) == expected
        found.append({"check": f"hash of {name}", "ok": ok})
    return found


def _check_summary(path: Path) -> dict[str, Any]:
    from robustkit.metrics import sar

    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    counted = {(row["class"], float(row["level"])): (row["k"], row["n"]) for row in summary["sar"]}
    table = results.read(path / "results.parquet")
    again = {
        (row["class"], float(row["level"])): (int(row["k"]), int(row["n"])) for row in sar(table).to_dict("records")
    }
    ok = all(counted.get(key) == value for key, value in again.items())
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
    rows = _some_rows(results.read(ledger if ledger.exists() else path / "results.parquet"), sample, seed)
    wrong = 0
    for name in sorted(set(rows["slice"])):
        case = cases.prepare(by_id[name], choice)
        for row in rows_of(rows[rows["slice"] == name]):
            record, _ = recreate(plan, case, model, row)
            wrong += record["answer"] != row["noisy"]
    return {"check": f"{len(rows)} rows rebuilt and scored again", "ok": wrong == 0, "wrong": wrong}


def _some_rows(table: pd.DataFrame, sample: int, seed: int) -> pd.DataFrame:
    """Pick rows to rebuild: flips first, then others, by a seeded shuffle."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(table))
    shuffled = table.iloc[order]
    flips = shuffled[results.flipped(shuffled)]
    others = shuffled[~results.flipped(shuffled)]
    import pandas as pd

    return pd.concat([flips.head(sample), others.head(max(0, sample - len(flips)))])
