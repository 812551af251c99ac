"""Several runs on one page: models, noise kinds, before and after hardening, class by class on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.errors import UsageError
from robustkit.report import curves, grids, page, words
from robustkit.report.chart import Series
from robustkit.report.source import Source, load


class Named(NamedTuple):
    """A run under the name it has in the figures."""

    name: str
    source: Source


class ClassPart(NamedTuple):
    """One class over all runs: its chart and the table behind it."""

    name: str
    panel: curves.Panel
    blocks: list[curves.Block]


def write_overlay(run_dirs: Sequence[Path], path: Path) -> Path:
    """Write one page that overlays the SAR curves of several runs, and return its path.

    Parameters
    ----------
    run_dirs : run directories, each with `summary.json`, all with levels in one unit. path : the HTML file.

    Raises
    ------
    UsageError : no run, or runs whose levels have different units. DataError : a directory without a summary.
    """
    runs = _named([load(Path(folder)) for folder in run_dirs])
    units = sorted({run.source.unit for run in runs})
    if len(units) != 1:
        raise UsageError(f"runs on one page share one level axis; these have {' and '.join(units) or 'none at all'}")
    return page.write(Path(path), page.render("overlay.html", **_parts(runs, units[0])))


def _named(sources: Sequence[Source]) -> list[Named]:
    """Name each run by its directory; a name that occurs twice gets its place in the list."""
    names = [source.name for source in sources]
    unique = [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return [Named(name, source) for name, source in zip(unique, sources, strict=True)]


def _parts(runs: Sequence[Named], unit: str) -> dict[str, Any]:
    classes = list(dict.fromkeys(str(c) for run in runs for c in run.source.summary.get("classes") or []))
    return {
        "title": f"{words.many(len(runs), 'run')} side by side",
        "kicker": "Overlay",
        "stamp": [],
        "unit": unit,
        "runs": grids.Grid("The runs", ["run", "model", "noise", "n", "seed", "verdict"], [_row(run) for run in runs]),
        "stars": [run.name for run in runs if is_measured(run, runs)],
        "classes": class_parts(runs, classes, unit),
        "same_seed": len({run.source.summary.get("seed") for run in runs}) == 1,
        "warnings": [f"{run.name}: {text}" for run in runs for text in words.warnings(run.source)],
    }


def _row(run: Named) -> list[str]:
    s = run.source.summary
    gate = s.get("gate") or {}
    verdict = str(gate.get("verdict") or "no limit set")
    return [run.name, *(words.plain(s.get(key)) for key in ("model", "noise", "n", "seed")), verdict]


def class_parts(runs: Sequence[Named], classes: Sequence[str], unit: str) -> list[ClassPart]:
    """Return the chart and table of every class that some run scored; all charts share one scale."""
    by_class = {name: class_series(runs, name) for name in classes}
    by_class = {name: series for name, series in by_class.items() if series}
    if not by_class:
        return []
    every = [s for series in by_class.values() for s in series]
    top = curves.rate_top(every, None)
    limit = _common_limit(runs)
    title = curves.level_title(unit, [p.x for s in every for p in s.points])
    return [
        ClassPart(
            name,
            curves.sar_panel(
                f"class-{i}", f"Class {name}", series, title, max(top, 1.2 * (limit or 0)), limit, [], 0.8
            ),
            _blocks(runs, name),
        )
        for i, (name, series) in enumerate(by_class.items())
    ]


def class_series(runs: Sequence[Named], name: str) -> list[Series]:
    """Return the curve of one class in every run that scored it; runs of measured scans are stars."""
    found = []
    for style, run in enumerate(runs):
        rows = curves.rows_of(run.source.summary, name)
        if rows:
            points = tuple(curves.point(r, run.source.unit, f"{run.name}, class {name}") for r in rows)
            found.append(Series(run.name, style, points, star=is_measured(run, runs)))
    return found


def is_measured(run: Named, runs: Sequence[Named]) -> bool:
    """Say whether a run holds measured scans that others are compared with: its points are then stars."""
    noises = {other.source.summary.get("noise") for other in runs}
    return run.source.summary.get("noise") == "measured" and len(noises) > 1


def _common_limit(runs: Sequence[Named]) -> float | None:
    limits = {curves.limit_of(run.source.summary) for run in runs}
    return limits.pop() if len(limits) == 1 else None


def _blocks(runs: Sequence[Named], name: str, columns: int = 4) -> list[curves.Block]:
    cells = {
        (run.name, float(r["level"])): curves.cell(r, None)
        for run in runs
        for r in run.source.summary.get("sar") or []
        if str(r.get("class")) == name
    }
    levels = sorted({level for _, level in cells})
    parts = [runs[i : i + columns] for i in range(0, len(runs), columns)]
    return [
        curves.Block(
            [run.name for run in part],
            [(words.number(v), [cells.get((run.name, v)) for run in part]) for v in levels],
        )
        for part in parts
    ]
