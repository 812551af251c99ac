"""Differences with their intervals, one row each, as geometry for the template: a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from robustkit.report import words
from robustkit.report.chart import NARROW, WIDE, Axis, Size, Tick, nice_ticks, shorten, thin

ROW = 1.75
"""Height of a row in units of the font size."""


class Difference(NamedTuple):
    """One difference of rates with its interval; `kind` is "", "apart" (significant) or "within" (equivalent)."""

    name: str
    value: float
    low: float
    high: float
    kind: str
    text: str


class Row(NamedTuple):
    """A drawn difference."""

    y: float
    x: float
    low: float
    high: float
    name: str
    kind: str
    text: str


class Forest(NamedTuple):
    """Everything a template needs to draw a forest plot."""

    size: Size
    height: float
    left: float
    right: float
    top: float
    bottom: float
    zero: float
    margins: tuple[float, float] | None
    ticks: list[Tick]
    rows: list[Row]
    title: str


def draw(differences: Sequence[Difference], margin: float | None, size: Size) -> Forest:
    """Lay out differences (rates, -1 .. 1) with zero in the middle and the equivalence margin, if any, as a band."""
    reach = max([abs(v) for d in differences for v in (d.low, d.high)] + [1.1 * (margin or 0.0), 0.01])
    ticks = tuple(t for t in nice_ticks(-min(reach, 1.0), min(reach, 1.0), 4 if size is NARROW else 6) if abs(t) <= 1)
    axis = Axis("difference A − B, percentage points", ticks[0], ticks[-1], ticks, scale=100)
    longest = min(max(len(d.name) for d in differences), size.label * 2)
    left, right = longest * size.em + 14, size.width - 24
    top, step = 6.0, size.font * ROW
    bottom = top + len(differences) * step + 4
    to_x = axis.place(left, right)
    low, high = axis.low, axis.high
    return Forest(
        size=size,
        height=bottom + size.font * 3.6,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        zero=to_x(0.0),
        margins=(to_x(-margin), to_x(margin)) if margin is not None else None,
        ticks=thin([(to_x(t), _signed(t)) for t in ticks], size.em),
        rows=[
            Row(
                top + (i + 0.5) * step,
                to_x(d.value),
                to_x(max(d.low, low)),
                to_x(min(d.high, high)),
                shorten(d.name, size.label * 2),
                d.kind,
                d.text,
            )
            for i, d in enumerate(differences)
        ],
        title=axis.title,
    )


def both(differences: Sequence[Difference], margin: float | None) -> list[tuple[str, Forest]]:
    """Return the plot for wide and for narrow pages."""
    return [(name, draw(differences, margin, size)) for name, size in (("wide", WIDE), ("narrow", NARROW))]


def _signed(value: float) -> str:
    return words.number(100 * value).replace("-", "−")
