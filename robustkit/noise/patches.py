"""Where patches lie and how they are blended: overlapping windows whose weights sum to one at every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from robustkit.types import PixelSize

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Axis:
    """Patches along one axis: `starts` (P,) int64 first pixels, `weights` (P, size) float64, summing to 1 a pixel."""

    length: int
    size: int
    overlap: int
    starts: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.int64]:
        """The pixel (P,) in the middle of each patch."""
        return np.minimum(self.starts + self.size // 2, self.length - 1)


def axis_patches(length: int, size: int, overlap: int) -> Axis:
    """Cover `length` pixels with patches of `size` that overlap by `overlap`; the last is shifted inward to the end.

    Weights are trapezoids: (i + 0.5)/o over the o pixels shared with a neighbour, 1 between, no ramp at the border,
    so that one shared white field, filtered patch by patch and blended, keeps its variance (Peng et al. 2023).
    """
    size = min(size, length)
    overlap = min(overlap, size - 1)
    step = size - overlap
    regular = np.arange(0, max(length - size, 0), step, dtype=np.int64)
    starts = np.append(regular, length - size)
    weights = np.ones((len(starts), size))
    for p in range(len(starts) - 1):
        shared = int(starts[p] + size - starts[p + 1])
        ramp = (np.arange(shared) + 0.5) / shared if shared else np.empty(0)
        weights[p + 1, :shared] *= ramp
        weights[p, size - shared :] *= ramp[::-1]
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + size] += weight
    for p, start in enumerate(starts):  # 1 already, but where the shifted last patch meets two others
        weights[p] /= total[start : start + size]
    return Axis(length, size, overlap, starts, weights)


_SMALLEST = 5  # px: side of a patch


def grid(shape: tuple[int, int], size: tuple[int, int], overlap: tuple[int, int]) -> tuple[Axis, Axis]:
    """Cover an image (H, W): the row axis and the column axis."""
    return axis_patches(shape[0], size[0], overlap[0]), axis_patches(shape[1], size[1], overlap[1])


def cut(image: NDArray[T], rows: Axis, columns: Axis) -> NDArray[T]:
    """Return the patches (Py, Px, Ny, Nx) of an image (H, W)."""
    y = rows.starts[:, None] + np.arange(rows.size)
    x = columns.starts[:, None] + np.arange(columns.size)
    patches: NDArray[T] = image[y[:, None, :, None], x[None, :, None, :]]
    return patches


def paper_geometry(
    shape: tuple[int, int], pixel_mm: PixelSize, patch_mm: float, overlap: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Patch size and overlap in px per axis for a side in mm and an overlap fraction, each axis by its own spacing."""
    size = [min(max(_SMALLEST, round(patch_mm / d)), n) for d, n in zip(pixel_mm, shape, strict=True)]
    shared = [min(max(1, round(overlap * n)), n - 1) for n in size]
    return (size[0], size[1]), (shared[0], shared[1])


def blend(rows: Axis, columns: Axis, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread one value a patch (Py, Px) over the image (H, W): sum_p w_p(y, x) value_p."""
    down = np.zeros((rows.length, len(rows.starts)))
    across = np.zeros((columns.length, len(columns.starts)))
    for axis, matrix in ((rows, down), (columns, across)):
        for p, start in enumerate(axis.starts):
            matrix[start : start + axis.size, p] = axis.weights[p]
    image: NDArray[np.float64] = down @ values @ across.T
    return image
