"""Names for parts of an image: a 3 x 3 grid over whatever is not padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = ("upper", "middle", "lower")
_COLUMNS = ("left", "centre", "right")


def region_map(valid: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[str]]:
    """Label (H, W) pixels 0 .. R-1 by region, -1 outside `valid`; and the R <= 9 region names in that order.

    The grid divides the bounding box of the valid pixels in thirds; left and right as on the screen.
    """
    labels = np.full(valid.shape, -1, dtype=np.int64)
    names: list[str] = []
    if not valid.any():
        return labels, names
    bounds = [_thirds(np.flatnonzero(valid.any(axis=axis))) for axis in (1, 0)]
    for r, row in enumerate(_ROWS):
        for c, column in enumerate(_COLUMNS):
            area = np.zeros_like(valid)
            area[bounds[0][r] : bounds[0][r + 1], bounds[1][c] : bounds[1][c + 1]] = True
            if (area & valid).any():
                labels[area & valid] = len(names)
                names.append("centre" if (r, c) == (1, 1) else f"{row} {column}")
    return labels, names


def _thirds(used: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.linspace(used[0], used[-1] + 1, 4).round().astype(np.int64)
