"""What a report is made from: the files of one run directory. Only `summary.json` must be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.files import DAMAGES
from robustkit.plain import Record

if TYPE_CHECKING:
    import pandas as pd

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Source:
    """One run as its files tell it. `missing` names the files that were not there or not readable."""

    name: str
    summary: Record
    run: Record = field(default_factory=dict)
    noise: list[Record] = field(default_factory=list)
    noise_maps: Arrays = field(default_factory=dict)
    flips: list[Record] = field(default_factory=list)
    flip_images: Arrays = field(default_factory=dict)
    results: pd.DataFrame | None = None
    missing: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Return the unit of the level axis."""
        return str(self.summary.get("unit") or "level")


def load(run_dir: Path) -> Source:
    """Read a run directory; DataError when it holds no readable `summary.json`."""
    summary = _json(run_dir / "summary.json")
    if not isinstance(summary, dict):
        raise DataError(
            f"{run_dir} holds no readable summary.json; a report needs a finished run: "
            "name a run directory, or finish this one with `robustkit audit ... --resume`"
        )
    table = _table(run_dir / "results.parquet")
    found = {
        "run.json": _json(run_dir / "run.json"),
        "results.parquet": table,
        "noise.json": _json(run_dir / "noise.json"),
        "gallery.json": _json(run_dir / "gallery.json"),
    }
    run = found["run.json"]
    return Source(
        name=run_dir.resolve().name,
        summary=summary,
        run=run if isinstance(run, dict) else {},
        noise=_records(found["noise.json"]),
        noise_maps=_arrays(run_dir / "noise.npz"),
        flips=_records(found["gallery.json"]),
        flip_images=_arrays(run_dir / "gallery.npz"),
        results=table,
        missing=tuple(name for name, value in found.items() if value is None),
    )


def records(value: Any) -> list[Record]:
    """Return the dictionaries of a list; anything else counts as an empty list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


_records = records


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except DAMAGES:
        return {}


def _table(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    from robustkit import results

    try:
        return results.read(path)
    except DataError:
        return None
