"""The confusion matrix for robustness (CMR) as a table of coloured cells: counts can be read, heard and printed."""

from __future__ import annotations

import math
from typing import NamedTuple

from robustkit import stats
from robustkit.plain import Record
from robustkit.report import words
from robustkit.report.curves import gate_levels
from robustkit.report.source import Source, records

STEPS = 8
"""Shades of a heat map."""


class HeatCell(NamedTuple):
    """One entry: count and rate as text, what a screen reader adds, its colour class, and the ties counted in it."""

    images: str
    rate: str
    shade: str
    tied: int


class Heat(NamedTuple):
    """One matrix: `columns` are answers without noise, `rows` of (answer with noise, cells)."""

    level: str
    title: str
    remark: str
    columns: list[tuple[str, int]]
    rows: list[tuple[str, list[HeatCell]]]
    undefined: list[str]
    tied: int
    dense: bool


def shade(rate: float, *, diagonal: bool) -> str:
    """Return the colour class of a rate: "d" shades keep the answer, "o" shades change it; 0 is "o0".

    The scale is a square root, so that a rate of 1 % can be told from none.
    """
    step = 0 if rate <= 0 else max(1, min(STEPS, math.ceil(STEPS * math.sqrt(rate) - 1e-9)))
    return f"{'d' if diagonal else 'o'}{step}"


def heat(record: Record, summary: Record, remark: str = "") -> Heat:
    """Return the matrix of one level; columns never predicted without noise are undefined, not zero."""
    classes = [str(c) for c in summary.get("classes") or []]
    counts = record.get("counts") or []
    totals = [sum(int(row[j]) for row in counts) for j in range(len(classes))]
    level = float(record["level"])
    ties = {
        str(r.get("class")): int(r.get("tied") or 0) for r in summary.get("sar") or [] if float(r["level"]) == level
    }
    rows = [
        (name, [_cell(int(counts[i][j]), totals[j], i == j, ties.get(classes[j], 0)) for j in range(len(classes))])
        for i, name in enumerate(classes)
    ]
    unit = str(summary.get("unit") or "level")
    return Heat(
        level=words.number(level),
        title=words.at_level(level, unit),
        remark=remark,
        columns=list(zip(classes, totals, strict=True)),
        rows=rows,
        undefined=[name for name, total in zip(classes, totals, strict=True) if total == 0],
        tied=sum(ties.values()),
        dense=len(classes) > 6,
    )


def _cell(count: int, total: int, diagonal: bool, tied: int) -> HeatCell:
    if total == 0:
        return HeatCell("–", "undefined", "undefined", 0)
    rate = count / total
    return HeatCell(f"{count}", words.percent(rate), shade(rate, diagonal=diagonal), tied if diagonal else 0)


def matrices(source: Source) -> tuple[list[Heat], list[Heat]]:
    """Return (the matrices shown at once, those of every level): the noisiest level, and the gate's or a middle one."""
    summary = source.summary
    found = sorted((r for r in records(summary.get("cmr")) if _fits(r, summary)), key=lambda r: float(r["level"]))
    if len(found) <= 2:
        return [heat(r, summary) for r in found], []
    chosen = {float(found[-1 if stats.noise_rises(source.unit) else 0]["level"]): "noisiest level tested"}
    gated = gate_levels(summary)
    if gated and gated[0] not in chosen:
        chosen[gated[0]] = "level of the limit"
    elif gated:
        chosen[gated[0]] += ", level of the limit"
    if len(chosen) == 1:
        chosen[float(found[len(found) // 2]["level"])] = "in the middle of the range"
    shown = [heat(r, summary, chosen[float(r["level"])]) for r in found if float(r["level"]) in chosen]
    return shown, [heat(r, summary) for r in found]


def _fits(record: Record, summary: Record) -> bool:
    counts, size = record.get("counts"), len(summary.get("classes") or [])
    return isinstance(counts, list) and len(counts) == size and all(len(row) == size for row in counts)
