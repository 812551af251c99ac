"""Line charts as geometry: scales, ticks and labels that never collide. The template turns it into SVG.

Labels stand in a gutter at the side of the plot where curves lie apart; a leader ties each to its curve. The y axis is
on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LINE = 1.3
"""Height of a label in units of the font size."""
MARK_ROOM = 18.0
"""Least distance of neighbouring markers on a dense curve."""


@dataclass(frozen=True)
class Point:
    """One measured value with its interval, in data units, and the sentence that says it."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Series:
    """One curve. `style` picks colour, marker and dash; `star` draws measured points alone, without a curve."""

    name: str
    style: int
    points: tuple[Point, ...]
    star: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high` in data units with its tick values; `unit` follows each tick's number."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    unit: str = ""
    scale: float = 1.0

    def place(self, start: float, end: float) -> Callable[[float], float]:
        """Return the map from data units to the span start .. end."""
        warp = math.log if self.log else float
        low, high = warp(self.low), warp(self.high)
        span = (high - low) or 1.0

        def to_px(value: float) -> float:
            return start + (warp(value) - low) / span * (end - start)

        return to_px

    def name(self, tick: float) -> str:
        """Return a tick value as it is written."""
        return f"{tick * self.scale:.6g}{self.unit}"


@dataclass(frozen=True)
class Size:
    """Width and least height of a drawing in its own units, font size, and the longest label in characters."""

    width: float
    height: float
    font: float
    label: int

    @property
    def em(self) -> float:
        """Return the width to allow a character: wide for most fonts, so that a fallback font still fits."""
        return self.font * 0.62


WIDE = Size(920, 400, 13.5, 20)
NARROW = Size(440, 350, 13, 11)
SMALL = Size(440, 280, 13, 14)


class Tick(NamedTuple):
    """A tick at `at`; `text` is empty where a label would touch its neighbour."""

    at: float
    text: str


class Mark(NamedTuple):
    """A drawn point: centre, ends of its interval (or None), the sentence, the column and row of a keyboard walk.

    A quiet one is drawn only while it has the focus: its neighbours stand too close.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    text: str
    column: int
    row: int
    quiet: bool


class Curve(NamedTuple):
    """A drawn series: paths of line and band (empty when there is nothing to draw), and its marks.

    Where the bands of several curves are one, the first draws it, in no curve's colour: it is `shared`.
    """

    name: str
    style: int
    star: bool
    line: str
    band: str
    marks: list[Mark]
    whiskers: bool
    shared: bool = False


class Label(NamedTuple):
    """A direct label at height `y`: its text cut to fit, the place of its marker, and the leader to its curve."""

    x: float
    key_x: float
    y: float
    text: str
    style: int | None
    leader: str


class Box(NamedTuple):
    """The plot's frame in drawing units."""

    left: float
    right: float
    top: float
    bottom: float


class Plot(NamedTuple):
    """Everything a template needs to draw one chart."""

    size: Size
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    y_title: str
    curves: list[Curve]
    labels: list[Label]
    limit: float | None
    small: bool
    labels_right: bool


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return round values that cover low .. high: the last is at or above `high`."""
    span = high - low
    if span <= 0:
        return (low, low + 1.0)
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def level_axis(levels: Sequence[float], title: str) -> Axis:
    """Return the axis of dose levels: logarithmic where all are positive, padded so that no point sits on an edge."""
    low, high = min(levels), max(levels)
    log = low > 0
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
    elif log:
        pad = (high / low) ** 0.02
        low, high = low / pad, high * pad
    else:
        pad = (high - low) * 0.02
        low, high = low - pad, high + pad
    return Axis(title, low, high, tuple(sorted(set(levels))), log=log)


def thin(ticks: Sequence[tuple[float, str]], room: float, first: Sequence[int] = ()) -> list[Tick]:
    """Keep the labels that leave a gap to their neighbours; `first` names the ticks that choose before the others."""
    order = [*first, *(i for i in range(len(ticks)) if i not in set(first))]
    taken: list[tuple[float, float]] = []
    kept = set()
    for i in order:
        at, text = ticks[i]
        half = len(text) * room / 2 + room / 2
        if all(at + half < a or at - half > b for a, b in taken):
            taken.append((at - half, at + half))
            kept.add(i)
    return [Tick(at, text if i in kept else "") for i, (at, text) in enumerate(ticks)]


def spread(targets: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Return positions as near their targets as can be, `gap` apart and within top .. bottom, in the same order.

    Neighbours that touch are merged into a block that sits at the mean of what its members want.
    """
    order = sorted(range(len(targets)), key=lambda i: targets[i])
    blocks: list[list[float]] = []  # [members, wanted start of the block]
    for i in order:
        blocks.append([1, targets[i]])
        while len(blocks) > 1 and blocks[-2][1] + blocks[-2][0] * gap > blocks[-1][1]:
            (n2, s2), (n1, s1) = blocks.pop(), blocks.pop()
            blocks.append([n1 + n2, (n1 * s1 + n2 * (s2 - n1 * gap)) / (n1 + n2)])
        count, start = blocks[-1]
        blocks[-1][1] = min(max(start, top), bottom - (count - 1) * gap)
    placed = [start + j * gap for count, start in blocks for j in range(int(count))]
    result = [0.0] * len(targets)
    for i, at in zip(order, _apart(placed, gap, top, bottom), strict=True):
        result[i] = at
    return result


def _apart(placed: list[float], gap: float, top: float, bottom: float) -> list[float]:
    """Push what the limits have squeezed together apart again: down from the top, then up from the bottom."""
    down, floor = [], top
    for at in placed:
        down.append(max(at, floor))
        floor = down[-1] + gap
    ceiling, up = bottom, []
    for at in reversed(down):
        up.append(min(at, ceiling))
        ceiling = up[-1] - gap
    return up[::-1]


def draw(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    size: Size,
    *,
    limit: tuple[float, str] | None = None,
    first_ticks: Sequence[float] = (),
    labelled: bool = True,
) -> Plot:
    """Lay out a chart of `series`.

    Parameters
    ----------
    x, y : axes in data units. size : drawing size; it grows in height when the labels need it.
    limit : a horizontal line, (value, label). first_ticks : x values whose tick labels come before the others.
    labelled : False leaves the gutter out; the page then shows a legend.
    """
    names = [s.name for s in series if not s.star] + ([limit[1]] if limit else [])
    gutter = min(max((len(n) for n in names), default=0), size.label + 2) * size.em + 52 if labelled else 16.0
    ruler = max(len(y.name(t)) for t in y.ticks) * size.em + 12
    flip = labelled and _apart_at(series, max) > _apart_at(series, min)
    left, right = (ruler, size.width - gutter) if flip else (gutter, size.width - ruler)
    top = size.font * 2.4
    height = max(size.height, top + len(names) * size.font * LINE + 60) if labelled else size.height
    bottom = height - size.font * 3.6
    to_x, to_y = x.place(left, right), y.place(bottom, top)
    chosen = [i for i, t in enumerate(x.ticks) if t in first_ticks]
    chosen += [i for i in (0, len(x.ticks) - 1) if i not in chosen]
    box = Box(left, right, top, bottom)
    return Plot(
        size=size,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=thin([(to_x(t), x.name(t)) for t in x.ticks], size.em, chosen),
        y_ticks=[Tick(to_y(t), y.name(t)) for t in y.ticks],
        x_title=x.title,
        y_title=y.title,
        curves=_one_band(_beside([_curve(s, i, x, y, to_x, to_y) for i, s in enumerate(series)], size.width / 200)),
        labels=_labels(series, limit, y, (to_x, to_y), box, size, flip) if labelled else [],
        limit=to_y(limit[0]) if limit and y.low <= limit[0] <= y.high else None,
        small=len({p.x for s in series for p in s.points}) > 24,
        labels_right=flip,
    )


def _apart_at(series: Sequence[Series], end: Callable[..., Point]) -> float:
    """Return how far the curves lie apart at one end of the x axis."""
    values = [end(s.points, key=lambda p: p.x).y for s in series if s.points and not s.star]
    return max(values) - min(values) if values else 0.0


def _curve(
    s: Series, row: int, x: Axis, y: Axis, to_x: Callable[[float], float], to_y: Callable[[float], float]
) -> Curve:
    points = sorted(s.points, key=lambda p: p.x)
    line = "M" + "L".join(f"{to_x(p.x):.1f},{to_y(p.y):.1f}" for p in points) if len(points) > 1 else ""
    band = _band([p for p in points if p.low is not None and p.high is not None], to_x, to_y)
    marks = _marks(points, row, x, y, to_x, to_y)
    return Curve(s.name, s.style, s.star, "" if s.star else line, "" if s.star else band, marks, s.star or not band)


def _beside(curves: list[Curve], step: float) -> list[Curve]:
    """Set the stars of several curves `step` apart, so that none hides another at the level they share."""
    rows = [c.marks[0].row for c in curves if c.star and c.marks]
    middle = (len(rows) - 1) / 2
    shift = {row: (i - middle) * step for i, row in enumerate(rows)}
    return [
        c._replace(marks=[m._replace(x=m.x + shift[m.row]) for m in c.marks]) if c.star and len(rows) <= 6 else c
        for c in curves
    ]


def _one_band(curves: list[Curve]) -> list[Curve]:
    """Draw a band that several curves have in common once: laid over each other it would look like something else."""
    seen: set[str] = set()
    found = []
    for curve in curves:
        common = bool(curve.band) and sum(other.band == curve.band for other in curves) > 1
        found.append(curve._replace(shared=common, band="" if curve.band in seen else curve.band))
        seen.add(curve.band)
    return found


def _band(points: Sequence[Point], to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    if len(points) < 2:
        return ""
    upper = [f"{to_x(p.x):.1f},{to_y(p.high or 0.0):.1f}" for p in points]
    lower = [f"{to_x(p.x):.1f},{to_y(p.low or 0.0):.1f}" for p in reversed(points)]
    return "M" + "L".join(upper + lower) + "Z"


def _marks(
    points: Sequence[Point],
    row: int,
    x: Axis,
    y: Axis,
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
) -> list[Mark]:
    columns = {value: i for i, value in enumerate(sorted({*x.ticks, *(p.x for p in points)}))}
    spacing = abs(to_x(points[-1].x) - to_x(points[0].x)) / max(len(points) - 1, 1)
    loud = math.ceil(MARK_ROOM / spacing) if len(points) > 24 and spacing else 1
    return [
        Mark(
            to_x(p.x),
            to_y(p.y),
            None if p.low is None else to_y(max(p.low, y.low)),
            None if p.high is None else to_y(min(p.high, y.high)),
            p.text,
            columns[p.x],
            row,
            i % loud != 0,
        )
        for i, p in enumerate(points)
        if y.low <= p.y <= y.high
    ]


def _labels(
    series: Sequence[Series],
    limit: tuple[float, str] | None,
    y: Axis,
    to_px: tuple[Callable[[float], float], Callable[[float], float]],
    box: Box,
    size: Size,
    flip: bool,
) -> list[Label]:
    """Place one label a curve and one for the limit; a curve that starts above the axis gets an arrow, no leader."""
    to_x, to_y = to_px
    ends: list[tuple[str, int | None, float, float]] = []
    for s in series:
        if not s.star and s.points:
            end = (max if flip else min)(s.points, key=lambda p: p.x)
            ends.append((s.name, s.style, to_x(end.x), to_y(end.y)))
    if limit and y.low <= limit[0] <= y.high:
        ends.append((limit[1], None, box.right if flip else box.left, to_y(limit[0])))
    ends.sort(key=lambda e: e[3])
    places = spread([min(max(e[3], box.top), box.bottom) for e in ends], size.font * LINE, box.top, box.bottom)
    return [_label(end, at, box, size, flip) for end, at in zip(ends, places, strict=True)]


def _label(end: tuple[str, int | None, float, float], at: float, box: Box, size: Size, flip: bool) -> Label:
    name, style, end_x, end_y = end
    edge, out = (box.right, 1.0) if flip else (box.left, -1.0)
    visible = box.top - 0.5 <= end_y
    text = shorten(name, size.label + (2 if style is None else 0))
    key = edge + out * (35 if style is not None else 26)
    start, knee = edge + out * (28 if style is not None else 24), edge + out * 20
    close = edge + out if style is None else end_x + out * 7
    leader = f"M{start:.1f},{at:.1f}H{knee:.1f}L{close + out * 6:.1f},{end_y:.1f}H{close:.1f}"
    return Label(
        x=edge + out * (44 if style is not None else 28),
        key_x=key,
        y=at,
        text=text if visible else f"{shorten(name, size.label - 2)} ↑",
        style=style,
        leader=leader if visible else "",
    )


def shorten(text: str, limit: int) -> str:
    """Return text of at most `limit` characters, the middle left out."""
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return text[:head] + "…" + text[len(text) - (limit - 1 - head) :]
