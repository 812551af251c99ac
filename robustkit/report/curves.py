"""SAR against the level: series, axes and the table behind the figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from robustkit import stats
from robustkit.plain import Record
from robustkit.report import grids, words
from robustkit.report.chart import NARROW, WIDE, Axis, Plot, Point, Series, Size, draw, level_axis, nice_ticks
from robustkit.report.source import Source, records

CLOSE_UP = 6.0
"""A limit lower than the axis by this factor gets a panel of its own."""


class Panel(NamedTuple):
    """One chart, drawn for wide and for narrow pages, with the words that a screen reader says."""

    id: str
    title: str
    description: str
    plots: list[tuple[str, Plot]]


class Cell(NamedTuple):
    """One class at one level, ready to print; `state` is "", "limit" (above the gate) or "undefined"."""

    rate: str
    counts: str
    interval: str
    tied: int
    state: str
    total: str = ""
    at_once: str = ""


class Block(NamedTuple):
    """A table narrow enough for a page: its column heads, and rows of (level, cells)."""

    heads: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def class_series(source: Source) -> list[Series]:
    """Return one series a class, in the order of the classes; classes never predicted have none."""
    classes = [str(c) for c in source.summary.get("classes") or []]
    found = []
    for style, name in enumerate(classes):
        points = tuple(point(r, source.unit) for r in rows_of(source.summary, name))
        if points:
            found.append(Series(name, style, points))
    return found


def rows_of(summary: Record, name: str) -> list[Record]:
    """Return the SAR records of one class that rest on images."""
    return [r for r in words.records_with_counts(summary) if str(r.get("class")) == name]


def point(record: Record, unit: str, what: str = "") -> Point:
    """Return one SAR record as a point; `what` names it in its sentence, the class by default."""
    tied = int(record.get("tied") or 0)
    ties = f", of them {words.many(tied, 'tie')}" if tied else ""
    text = (
        f"{what or record['class']} at {words.at_level(float(record['level']), unit)}: {words.percent(record['rate'])} "
        f"changed ({words.count(record['k'], record['n'])}{ties}), interval "
        f"{words.interval(record.get('low'), record.get('high'))}"
    )
    return Point(float(record["level"]), float(record["rate"]), record.get("low"), record.get("high"), text)


def measured_records(source: Source) -> list[Record]:
    """Return SAR records of measured scans beside simulated ones, as the summary holds them."""
    return words.records_with_counts({"sar": records(source.summary.get("measured"))})


def stars(source: Source) -> list[Series]:
    """Return the measured points as series without a line, in the style of their class."""
    classes = [str(c) for c in source.summary.get("classes") or []]
    found: dict[str, list[Point]] = {}
    for record in measured_records(source):
        name = str(record["class"])
        found.setdefault(name, []).append(point(record, source.unit, f"{name}, measured,"))
    return [
        Series(name, classes.index(name) if name in classes else len(classes), tuple(points), star=True)
        for name, points in found.items()
    ]


def limit_of(summary: Record) -> float | None:
    """Return the limit of the gate as a rate, or None."""
    limit = (summary.get("gate") or {}).get("max_sar")
    return float(limit) if isinstance(limit, int | float) else None


def gate_levels(summary: Record) -> list[float]:
    """Return the levels that the gate speaks of; empty when it speaks of all."""
    gate = summary.get("gate") or {}
    at = gate.get("at", gate.get("level"))
    values = at if isinstance(at, list) else [at]
    return [float(v) for v in values if isinstance(v, int | float)]


def panels(source: Source) -> list[Panel]:
    """Return the SAR figure: the whole range, and a close-up of the limit where the whole range hides it."""
    series = [*class_series(source), *stars(source)]
    if not series:
        return []
    limit = limit_of(source.summary)
    first = gate_levels(source.summary)
    title = level_title(source.unit, [p.x for s in series for p in s.points])
    top = rate_top(series, limit)
    found = [sar_panel("sar", "Share of answers changed by noise alone", series, title, top, limit, first)]
    if limit and top > CLOSE_UP * limit and any(p.y <= 3 * limit for s in series for p in s.points):
        closer = sar_panel("sar-close", "The same, close to the limit", series, title, 3 * limit, limit, first, 0.72)
        found.append(closer)
    return found


def level_title(unit: str, levels: Sequence[float]) -> str:
    """Return the title of the level axis."""
    scale = ", log scale" if min(levels) > 0 and len(set(levels)) > 1 else ""
    name = {"mAs": "tube-current–time product, mAs", "sigma": "noise sigma"}.get(unit, unit)
    return f"{name}{scale}"


def rate_top(series: Sequence[Series], limit: float | None) -> float:
    """Return the upper end of the rate axis: a little above every point, its interval as far as it fits, and limit."""
    highest = max(max(p.y, min(p.high or 0.0, 1.5 * p.y + 0.01)) for s in series for p in s.points)
    return min(max(highest, 1.2 * (limit or 0.0), 0.01), 1.0)


def sar_panel(
    id_: str,
    title: str,
    series: Sequence[Series],
    x_title: str,
    top: float,
    limit: float | None,
    first: Sequence[float],
    height: float = 1.0,
) -> Panel:
    """Return one chart of rates against levels, for wide and narrow pages."""
    levels = [p.x for s in series for p in s.points]
    x = level_axis(levels, x_title)
    ticks = tuple(t for t in nice_ticks(0.0, top) if t <= 1.0 + 1e-9)
    y = Axis("answers changed (SAR)", 0.0, ticks[-1], ticks, unit=f"{words.THIN}%", scale=100)
    line = (limit, f"limit {words.bound(limit)}") if limit is not None else None
    plots = [
        (name, draw(series, x, y, _lower(size, height), limit=line, first_ticks=first))
        for name, size in (("wide", WIDE), ("narrow", NARROW))
    ]
    return Panel(id_, title, _describe(series, line), plots)


def _lower(size: Size, factor: float) -> Size:
    return Size(size.width, size.height * factor, size.font, size.label)


def _describe(series: Sequence[Series], line: tuple[float, str] | None) -> str:
    gate = f" A horizontal line marks the {line[1]}." if line else ""
    told = "; ".join(_told(s) for s in series)
    return f"Line chart with interval bands. {told}.{gate} The table below holds every number."


def _told(s: Series) -> str:
    first, last = min(s.points, key=lambda p: p.x), max(s.points, key=lambda p: p.x)
    name = f"{s.name} (measured)" if s.star else s.name
    start = f"{name}: {words.percent(first.y)} at {words.number(first.x)}"
    return start if first.x == last.x else f"{start}, {words.percent(last.y)} at {words.number(last.x)}"


def table(source: Source, columns: int = 4) -> list[Block]:
    """Return SAR per class and level as tables of at most `columns` classes each, so that they fit a page."""
    classes = [str(c) for c in source.summary.get("classes") or []]
    levels = sorted({float(r["level"]) for r in source.summary.get("sar") or []})
    limit, gated = limit_of(source.summary), gate_levels(source.summary)
    cells = {
        (str(r.get("class")), float(r["level"])): cell(r, limit if not gated or float(r["level"]) in gated else None)
        for r in source.summary.get("sar") or []
    }
    return [
        Block(part, [(words.number(v), [cells.get((name, v)) for name in part]) for v in levels])
        for part in (classes[i : i + columns] for i in range(0, len(classes), columns))
    ]


def cell(record: Record, limit: float | None) -> Cell:
    """Return one SAR record ready to print."""
    if not record.get("n"):
        return Cell("undefined", "0/0", "never predicted", 0, "undefined")
    rate = record["k"] / record["n"]
    return Cell(
        words.percent(rate),
        words.count(record["k"], record["n"]),
        words.interval(record.get("low"), record.get("high")),
        int(record.get("tied") or 0),
        "limit" if limit is not None and rate > limit else "",
        _further(record, "total_low", "total_high"),
        _further(record, "low_simultaneous", "high_simultaneous"),
    )


def _further(record: Record, low: str, high: str) -> str:
    return words.interval(record[low], record[high]) if record.get(low) is not None else ""


def measured_table(source: Source) -> list[tuple[str, str, Cell]]:
    """Return the measured points as (class, level, cell)."""
    return [(str(r["class"]), words.number(float(r["level"])), cell(r, None)) for r in measured_records(source)]


def lowest(summary: Record) -> list[tuple[str, float | None, str]]:
    """Return (class, lowest passing level or None, remark) for every class the summary has one for."""
    stated: Any = summary.get("lowest_passing_level")
    if not isinstance(stated, dict):
        return []
    found = []
    for name, value in stated.items():
        inner = value if isinstance(value, dict) else {"level": value}
        level, limit = inner.get("level"), inner.get("limit")
        told = [str(inner.get("reason") or ""), _reaches(summary, str(name), limit)]
        lowest_level = float(level) if isinstance(level, int | float) else None
        found.append((str(name), lowest_level, "; ".join(filter(None, told))))
    return found


def _reaches(summary: Record, name: str, limit: Any) -> str:
    crossed = grids.crossing(summary, name, limit) if isinstance(limit, int | float) else ""
    return f"reaches {words.bound(limit)} {crossed}" if crossed else ""


def lowest_title(summary: Record) -> str:
    """Say what the lowest passing level means, with the limit it was judged against."""
    stated: Any = summary.get("lowest_passing_level")
    limits = {v.get("limit") for v in stated.values() if isinstance(v, dict)} if isinstance(stated, dict) else set()
    limit = limits.pop() if len(limits) == 1 else None
    end = "Highest" if stats.noise_rises(str(summary.get("unit"))) else "Lowest"
    within = f" a limit of {words.bound(limit)}" if isinstance(limit, int | float) else ""
    return f"{end} level that still passes{within}"
