"""The one table from which everything else is derived: its columns, their types, and how it is read and written.

One row is one image scored with noise. `count` is 1 while every realization has its own row; runs above the row
limit keep counts per (model, noise, slice, level, clean, noisy) plus the realizations that flipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

TEXT = ("run", "model", "noise", "slice", "group", "label", "unit", "clean", "noisy")
COLUMNS: dict[str, str] = {
    "run": "string",  # id of the run directory that made the row
    "model": "string",  # model name or file name without its folder
    "noise": "string",  # noise model name; "measured" for replayed scans
    "slice": "string",  # Slice.id
    "group": "string",  # patient or object, empty when unknown
    "label": "string",  # truth, empty when unknown
    "unit": "string",  # of level: "mAs", "sigma", ...
    "level": "float64",
    "realization": "int64",  # -1 in rows that count several
    "clean": "string",  # predicted without noise
    "noisy": "string",  # predicted with noise
    "margin": "float32",  # top-2 margin in probability of the noisy prediction; NaN in rows that count several
    "tied": "bool",  # label changed, but by less than the numerical floor
    "count": "int64",
}


def flipped(results: pd.DataFrame) -> pd.Series:
    """Return True per row where the answer changed and the change is not a numerical tie."""
    changed: pd.Series = (results["clean"] != results["noisy"]) & ~results["tied"]
    return changed


def conform(results: pd.DataFrame) -> pd.DataFrame:
    """Return the table with exactly the schema's columns, order and types; KeyError names a missing column."""
    missing = [name for name in COLUMNS if name not in results]
    if missing:
        raise KeyError(f"results table lacks {', '.join(missing)}")
    table = results[list(COLUMNS)].copy()
    for name, kind in COLUMNS.items():
        table[name] = table[name].astype("str" if kind == "string" else kind)
    return table


def write(results: pd.DataFrame, path: Path) -> None:
    """Write the table as parquet, whole or not at all."""
    from robustkit.files import atomic_path

    with atomic_path(path) as temporary:
        conform(results).to_parquet(temporary, index=False, compression="zstd")


def read(path: Path) -> pd.DataFrame:
    """Read a table written by `write`."""
    import pandas as pd

    return conform(pd.read_parquet(path))
