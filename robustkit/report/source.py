"""What a report is made from: the files of one run directory. Only `summary.json` must be there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from robustkit import files
from robustkit.errors import DataError
from robustkit.plain import Record

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Source:
    """One run as its files tell it. `missing` names the files that were not there or not readable.

    `noise` holds the stories of the first `WHOLE` slices, and of the others what none before them said; `noise_count`
    and `scan_count` are how many stories there are, and scans in them. `slices` are those of the table.
    """

    name: str
    summary: Record
    run: Record = field(default_factory=dict)
    noise: list[Record] = field(default_factory=list)
    noise_count: int = 0
    scan_count: int = 0
    noise_maps: Arrays = field(default_factory=dict)
    flips: list[Record] = field(default_factory=list)
    flip_images: Arrays = field(default_factory=dict)
    slices: int | None = None
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
    stories = _stories(run_dir / "noise.json")
    found = {
        "run.json": _json(run_dir / "run.json"),
        "results.parquet": _slices(run_dir / "results.parquet"),
        "noise.json": stories,
        "gallery.json": _json(run_dir / "gallery.json"),
    }
    run = found["run.json"]
    return Source(
        name=run_dir.resolve().name,
        summary=summary,
        run=run if isinstance(run, dict) else {},
        noise=stories.kept if stories else [],
        noise_count=stories.count if stories else 0,
        scan_count=stories.scans if stories else 0,
        noise_maps=_arrays(run_dir / "noise.npz"),
        flips=_records(found["gallery.json"]),
        flip_images=_arrays(run_dir / "gallery.npz"),
        slices=found["results.parquet"],
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
    except files.DAMAGES:
        return {}


def _slices(path: Path) -> int | None:
    if not path.exists():
        return None
    from robustkit import results

    try:
        return len(results.distinct(path, "slice"))
    except DataError:
        return None


WHOLE = 400
"""Stories that are kept whole, and rows of a table and warnings that a page shows."""


@dataclass
class _Stories:
    """Stories of slices as they are read, and what was said before: sources, warnings, doses, the least k and k mAs."""

    kept: list[Record] = field(default_factory=list)
    count: int = 0
    scans: int = 0
    said: set[Any] = field(default_factory=set)
    fewest: float = math.inf
    quietest: float = math.inf

    def add(self, story: Record) -> None:
        """Keep a story, or of a later one its news."""
        beam, news = story.get("beam"), self._news(story)
        self.scans += len(records(beam.get("scans"))) if isinstance(beam, dict) else 0
        if self.count < WHOLE or news:
            self.kept.append(story if self.count < WHOLE else news)
        self.count += 1

    def _news(self, story: Record) -> Record:
        """Return what a story says that none before it said."""
        report = story["report"] if isinstance(story.get("report"), dict) else {}
        clean = story["clean"] if isinstance(story.get("clean"), dict) else {}
        news: Record = {"source": story["source"]} if self._first("source", story.get("source")) else {}
        inside = {"reference_mas": report.get("reference_mas")}
        inside = inside if self._first("reference", inside["reference_mas"]) else {}
        if new := [text for text in warnings_of(story) if self._first("warning", text)]:
            news["warnings"] = new
        if _is_number(report.get("K")) and report["K"] < self.fewest:
            self.fewest = inside["K"] = report["K"]
        k, mas = clean.get("k"), clean.get("mas")
        if _is_number(k) and _is_number(mas) and not report.get("add_to_source") and 0 < k * mas < self.quietest:
            self.quietest, news["clean"] = k * mas, {"k": k, "mas": mas}
        return news | ({"report": inside} if inside else {})

    def _first(self, what: str, value: Any) -> bool:
        """Say whether something is said for the first time."""
        if value in (None, "") or (said := (what, str(value))) in self.said:
            return False
        self.said.add(said)
        return True


def warnings_of(story: Record) -> list[Any]:
    """Return what a story warns of, then what its noise model does."""
    report = story.get("report")
    inside = report.get("warnings") if isinstance(report, dict) else None
    return [text for texts in (story.get("warnings"), inside) if isinstance(texts, list) for text in texts]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float)


def _stories(path: Path) -> _Stories | None:
    """Return the stories of noise.json, one in memory at a time but for what is kept; None where it cannot be read."""
    found = _Stories()
    try:
        for story in files.read_json_list(path):
            if isinstance(story, dict):
                found.add(story)
    except (OSError, ValueError, RecursionError):
        return None
    return found
