"""Paints shapes onto a grid of HU: one table of bent, tapered superellipses, one compiled loop.

Coordinates are millimetres: x to the image's right (the patient's left), y down (posterior, the patient lies supine), z
from the crown of the head to the feet. Only +, -, *, / and square roots touch a pixel, so that the same table gives
the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

AIR = -1000.0
TEXTURES = {"": 0, "cloud": 1, "vessels": 2, "strands": 3, "gas": 4}
Texture = Literal["", "cloud", "vessels", "strands", "gas"]
_COLUMNS = 19


@dataclass
class Scene:
    """The shapes of one slice, in the order of painting; later ones cover earlier ones.

    `z_mm` is where the slice lies (it drives the textures, so that they go on from slice to slice), `seed` which
    textures; none where `textured` is False. Shapes added while `shift` and `turn` (degrees) are set move with them.
    `centre` is the point, mm, that the middle of the field looks at: moving it moves shapes and textures alike.
    """

    z_mm: float
    seed: int = 0
    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    textured: bool = True
    centre: tuple[float, float] = (0.0, 0.0)
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        hu: float,
        *,
        angle: float = 0.0,
        square: float = 0.0,
        bend: float = 0.0,
        taper: float = 0.0,
        rough: float = 0.0,
        texture: Texture = "",
        grain: float = 0.0,
        scale: float = 10.0,
        opacity: float = 1.0,
        edge: float = 0.0,
        within: int = -1,
        also: int = -1,
        outside: int = -1,
    ) -> int:
        """Paint an ellipse of centre (x, y) and half-axes (a, b) in mm with `hu`; return its index for clipping.

        `angle` turns it (degrees), `square` 0..0.95 squares it, `bend` curves its a-axis towards +y (in units of b),
        `taper` widens it towards +y. `rough` mm of irregular outline, `edge` mm of blur. `grain` HU of a `texture` with
        features of `scale` mm. `within` and `also` keep it inside, `outside` out of earlier shapes.
        A shape with no area is kept as an empty one, so that the indices of those after it do not move.
        """
        cos, sin = _rotation(self.turn)
        cx, cy = cos * x - sin * y + self.shift[0], sin * x + cos * y + self.shift[1]
        ca, sa = _rotation(self.turn + angle)
        a, b = max(a, 0.0), max(b, 0.0)
        kind = TEXTURES[texture] if self.textured else 0
        looks = (hu, rough, edge, opacity, kind, grain, scale)
        self.rows.append((cx, cy, ca, sa, a, b, square, bend, taper, *looks, within, also, outside))
        return len(self.rows) - 1

    def moved(self, x: float, y: float) -> tuple[float, float]:
        """Return the shift that puts (x, y) of the present frame at the origin of the next."""
        cos, sin = _rotation(self.turn)
        return self.shift[0] + cos * x - sin * y, self.shift[1] + sin * x + cos * y

    def paint(self, size: int, fov_mm: float) -> NDArray[np.float32]:
        """Return (size, size) float32 HU of a square field of `fov_mm` about `centre`; air where nothing lies."""
        image = np.full((size, size), AIR, dtype=np.float32)
        table = np.array(self.rows, dtype=np.float64).reshape(-1, _COLUMNS)
        _kernel()(image, table, fov_mm / size, float(self.z_mm), int(self.seed), self.centre)
        return image


@cache
def _rotation(degrees: float) -> tuple[float, float]:
    radians = math.radians(degrees)
    return math.cos(radians), math.sin(radians)


def between(t: float, *frames: tuple[float, float]) -> float:
    """Interpolate key frames (t, value), sorted by t, linearly; constant beyond both ends."""
    before = frames[0]
    if t <= before[0]:
        return before[1]
    for after in frames:
        if t < after[0]:
            share = (t - before[0]) / (after[0] - before[0])
            return before[1] + share * (after[1] - before[1])
        before = after
    return before[1]


def swell(t: float, start: float, end: float) -> float:
    """Return the relative radius 0..1 of an ellipsoid that reaches from `start` to `end`, cut at t."""
    if not start < t < end:
        return 0.0
    share = (2.0 * t - start - end) / (end - start)
    return math.sqrt(1.0 - share * share)


def ring(parts: int, phase: float = 0.0) -> Sequence[tuple[float, float]]:
    """Return `parts` unit vectors around a circle, turned by `phase` radians."""
    angles = [phase + 2.0 * math.pi * i / parts for i in range(parts)]
    return [(math.cos(a), math.sin(a)) for a in angles]


@cache
def _kernel() -> Callable[..., Any]:
    from robustkit_ct_bodysite.brush import paint

    return paint
