"""Three-dimensional bars of a matrix, as in Fig. 6 of the paper: geometry alone, the template turns it into SVG.

The bars stand on a floor seen from above a corner, so turned that the diagonal runs from left to right. Each bar says
its value to a screen reader; a heat map beside them is there to be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from robustkit.report import words

COS, SIN = math.cos(math.radians(30.0)), math.sin(math.radians(30.0))
CELL, GAP, RISE = 46.0, 0.18, 150.0
WIDTH, MARGIN = 460.0, 40.0


class Bar(NamedTuple):
    """One bar: SVG paths of its three faces, whether it lies on the diagonal, and the sentence that says it."""

    left: str
    right: str
    top: str
    kept: bool
    text: str


class Name(NamedTuple):
    """A label at a place, with its text anchor."""

    x: float
    y: float
    text: str
    anchor: str


class Bars(NamedTuple):
    """A drawing: size and upper edge, bars from the back to the front, floor lines, labels, ticks of the scale."""

    id: str
    title: str
    width: float
    top: float
    height: float
    bars: list[Bar]
    floor: str
    names: list[Name]
    ticks: list[Name]


def draw(
    id_: str, title: str, classes: Sequence[str], values: Sequence[Sequence[float | None]], top: float | None = None
) -> Bars:
    """Return the bars of values [answer with noise][answer without], rates of 1; `top` is the end of the scale."""
    size = len(classes)
    highest = max((v for row in values for v in row if v is not None), default=0.0)
    end = top or _nice(highest)
    ox, oy = WIDTH / 2, MARGIN + RISE + 6

    def at(x: float, y: float, z: float = 0.0) -> tuple[float, float]:
        return ox + (x - y) * CELL * COS, oy + (x + y) * CELL * SIN - z * RISE

    def path(*points: tuple[float, float]) -> str:
        return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) + "Z"

    found: list[Bar] = []
    tops: list[tuple[float, float]] = [at(0, 0)]
    order = sorted(((i, j) for i in range(size) for j in range(size)), key=lambda p: (p[1] - p[0], p[1]))
    for i, j in order:
        value = values[i][j]
        if value is None:
            continue
        x0, x1, y0, y1 = j + GAP, j + 1 - GAP, size - i - 1 + GAP, size - i - GAP
        z = min(value / end, 1.0)
        tops.append(at(x0, y0, z))
        text = f"{classes[j]} without noise, {classes[i]} with noise: {words.percent(value)}"
        found.append(
            Bar(
                path(at(x0, y1), at(x1, y1), at(x1, y1, z), at(x0, y1, z)),
                path(at(x1, y0), at(x1, y1), at(x1, y1, z), at(x1, y0, z)),
                path(at(x0, y0, z), at(x1, y0, z), at(x1, y1, z), at(x0, y1, z)),
                i == j,
                text,
            )
        )
    lines = [(at(k, 0), at(k, size)) for k in range(size + 1)] + [(at(0, k), at(size, k)) for k in range(size + 1)]
    floor = "".join(f"M{a[0]:.1f},{a[1]:.1f}L{b[0]:.1f},{b[1]:.1f}" for a, b in lines)
    names = [Name(*_off(at(k + 0.5, size + 0.25), -4, 8), name, "end") for k, name in enumerate(classes)]
    names += [Name(*_off(at(size + 0.25, size - k - 0.5), 4, 8), name, "start") for k, name in enumerate(classes)]
    names += [
        Name(*_off(at(size, size), 78, 22), "with noise", "start"),
        Name(*_off(at(size, size), -78, 22), "without noise", "end"),
    ]
    ticks = [Name(*at(0, size, z), words.percent(z * end), "end") for z in (0.0, 0.5, 1.0)]
    highest_y = min([at(0, size, 1.0)[1], *(point[1] for point in tops)]) - 14
    return Bars(id_, title, WIDTH, highest_y, at(size, size)[1] + 34 - highest_y, found, floor, names, ticks)


def _off(place: tuple[float, float], dx: float, dy: float) -> tuple[float, float]:
    return place[0] + dx, place[1] + dy


def _nice(value: float) -> float:
    """Return a round end of the scale at or above a value; 1 % at least, 100 % at most."""
    for end in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        if value <= end:
            return end
    return 1.0
