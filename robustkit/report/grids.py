"""Plain tables: what the verdict rests on, thresholds on the dose curve, clusters, slices and plug-in metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from robustkit.plain import Record
from robustkit.report import words
from robustkit.report.source import WHOLE, Source, records

LONG = WHOLE
"""Rows of a table that are shown; the rest is counted."""


class Grid(NamedTuple):
    """A table: title, column heads, rows whose first cell heads the row, rows left out, and a remark."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    left_out: int = 0
    note: str = ""


def evidence(summary: Record) -> Grid | None:
    """Return what a gate judged, one row a class and level; None without a gate."""
    gate = summary.get("gate") or {}
    items = records(gate.get("evidence"))
    if not items:
        return None
    unit = str(summary.get("unit") or "level")
    rows = [
        [
            str(item.get("class", "–")),
            *([str(item["slice"])] if "slice" in item else []),
            words.number(float(item["level"])),
            words.count(item["k"], item["n"]),
            f"{item.get('tied') or 0}",
            words.percent(item.get("lower")),
            words.percent(item.get("upper")),
            str(item.get("verdict", "–")),
        ]
        for item in items
    ]
    per_slice = ["slice"] if "slice" in items[0] else []
    heads = ["class", *per_slice, unit, "changed / scored", "ties", "lower bound", "upper bound", "verdict"]
    method = f"Bounds: {gate['method']}, one-sided. " if gate.get("method") else ""
    note = f"{method}The upper bound counts ties as changes, the lower bound does not."
    return grid("What the verdict rests on", heads, rows, note, (gate.get("judged") or {}).get("items", 0))


def thresholds(summary: Record) -> Grid | None:
    """Return the level at which each class reaches some rates; None when there is none on record."""
    found = records(summary.get("thresholds"))
    if not found:
        return None
    unit = str(summary.get("unit") or "level")
    rates = sorted({float(r["rate"]) for r in found})
    classes = list(dict.fromkeys(str(r["class"]) for r in found))
    cells = {(str(r["class"]), float(r["rate"])): _threshold(r) for r in found}
    rows = [[name, *(cells.get((name, rate), "–") for rate in rates)] for name in classes]
    heads = ["class", *(words.bound(rate) for rate in rates)]
    note = (
        "Interpolated on the monotone curve; in brackets the tested levels between which it surely lies. Without a "
        "number the curve does not reach the share within the levels tested; open: nor do they say on which side."
    )
    return grid(f"{unit} at which the share of changed answers reaches", heads, rows, note)


def _threshold(record: Record) -> str:
    span = _span(record.get("low"), record.get("high"))
    level = record.get("level")
    if not isinstance(level, int | float):
        return span or "open"
    return f"{level:.3g} ({span})" if span else f"{level:.3g}"


def _span(low: Any, high: Any) -> str:
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f"above {words.number(float(low))}" if high is None else f"below {words.number(float(high))}"
    return f"{words.number(float(low))}{words.THIN}–{words.JOINER}{words.THIN}{words.number(float(high))}"


def crossing(summary: Record, name: str, limit: float) -> str:
    """Say at which level a class reaches `limit`, and between which it surely lies; empty where that is open."""
    for record in records(summary.get("thresholds")):
        if str(record.get("class")) == name and record.get("rate") == limit:
            text = _threshold(record)
            return "" if text == "open" else f"at {text}" if record.get("level") is not None else text
    return ""


def doses(source: Source) -> Grid | None:
    """Return mAs beside what compares doses between scanners: CTDIvol, and the object's size; None off the mAs axis."""
    if source.unit != "mAs":
        return None
    rows = []
    for record in source.noise:
        beam = record.get("beam")
        if isinstance(beam, Mapping):
            label = str(record.get("label") or record.get("slice") or "")
            size = words.plain(beam.get("wed_mm"))
            rows += [
                [label, words.plain(s.get("k")), words.plain(s.get("mas")), words.plain(s.get("ctdivol")), size]
                for s in records(beam.get("scans"))
            ]
    heads = ["slice", "scans", "mAs", "CTDIvol, mGy", "water-equivalent diameter, mm"]
    note = (
        "CTDIvol as the files state it, a dash where they do not. Water-equivalent diameter after AAPM Report 220, "
        "of everything in the field of view; at equal mAs a larger object is noisier."
    )
    return grid("Dose and size", heads, rows, note, source.scan_count) if rows else None


def clusters(summary: Record) -> Grid | None:
    """Return the rates over patients or slices with their own interval; None where every class has one slice."""
    found = records(summary.get("clusters"))
    if not found:
        return None
    rows = [
        [
            str(r.get("class", "–")),
            words.number(float(r["level"])),
            f"{r.get('clusters', '–')}",
            words.percent(r.get("rate")),
            words.interval(r.get("low"), r.get("high")),
            words.percent(r.get("excluded_share")),
            str(r.get("reason") or ""),
        ]
        for r in found
    ]
    over = "patients or objects" if found[0].get("unit") == "group" else "slices"
    heads = ["class", str(summary.get("unit") or "level"), over, "rate", "interval", "share not excluded", "remark"]
    return grid(f"Between {over}: intervals that speak of others like them", heads, rows)


def entries(summary: Record, levels: Collection[str]) -> Grid | None:
    """Return the off-diagonal entries of the matrices at `levels` with their intervals, most frequent first."""
    classes = [str(c) for c in summary.get("classes") or []]
    found: list[tuple[float, list[str]]] = []
    for matrix in records(summary.get("cmr")):
        level = words.number(float(matrix["level"]))
        counts = matrix.get("counts")
        if level not in levels or not isinstance(counts, list):
            continue
        for i, noisy in enumerate(classes):
            for j, clean in enumerate(classes):
                n = sum(int(row[j]) for row in counts)
                k = int(counts[i][j])
                if i != j and k:
                    ends = words.interval(_at(matrix.get("low"), i, j), _at(matrix.get("high"), i, j))
                    found.append((k / n, [f"{clean} → {noisy}", level, words.count(k, n), words.percent(k / n), ends]))
    found.sort(key=lambda item: -item[0])
    heads = ["without → with noise", str(summary.get("unit") or "level"), "changed / scored", "rate", "interval"]
    return grid("The changes one by one", heads, [row for _, row in found]) if found else None


def _at(matrix: Any, i: int, j: int) -> float | None:
    value = matrix[i][j] if isinstance(matrix, list) else None
    return float(value) if isinstance(value, int | float) else None


def any_records(name: str, value: Any) -> Grid | None:
    """Return records of any shape as a table; what a metric says instead of records is its remark."""
    if isinstance(value, Mapping) and value:
        return Grid(name, ["", "value"], [[k, v] for k, v in words.flatten(value)])
    rows = records(value)
    if not rows:
        return None
    heads = list(dict.fromkeys(str(key) for row in rows for key in row))
    cells = [[words.plain(row.get(h)) for h in heads] for row in rows[:LONG]]
    return grid(name, [h.replace("_", " ") for h in heads], cells, of=len(rows))


def grid(title: str, heads: list[str], rows: list[list[str]], note: str = "", of: int = 0) -> Grid:
    """Return a table cut to the rows that a page can bear, with the number left out, `of` being all there are."""
    return Grid(title, heads, rows[:LONG], max(len(rows), of) - len(rows[:LONG]), note)
