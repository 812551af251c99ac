"""From images in HU to a model's input: resampling in mm about the image centre, window, range, layout, dtype.

Everything up to the window is linear in HU, so what it does to noise is known: sigma_out^2 = w^T C w.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters.spec import InputSpec
from robustkit.errors import DataError, UsageError
from robustkit.types import Image, PixelSize

if TYPE_CHECKING:
    from scipy.sparse import csr_array

AIR = -1000.0
"""HU outside the image."""
SNAP = 1e-6
"""Positions this close to a pixel's edge, in pixels, lie on it: mm divided by mm is never exact."""


def prepare(batch: Image, pixel_mm: PixelSize, spec: InputSpec) -> NDArray[Any]:
    """Return the model's input for images (B, H, W) in HU of spacing `pixel_mm`.

    Returns
    -------
    array of `spec.dtype`, (B, channels, h, w) for layout nchw or (B, h, w, channels) for nhwc, contiguous.

    Raises
    ------
    DataError
        Pixels that are NaN or infinite, or an array that is no stack of images.
    """
    images = np.asarray(batch, dtype=np.float32)
    if images.ndim != 3 or 0 in images.shape[1:]:
        raise DataError(f"a model is given images (B, H, W), got an array of shape {images.shape}")
    small = resample(images, pixel_mm, spec)
    if not np.isfinite(small).all():
        raise DataError("the image holds NaN or infinite pixels; repair or mask them first")
    mapped = apply_window(small, spec)
    typed = np.rint(mapped) if spec.dtype == "uint8" else mapped
    axis = 1 if spec.layout == "nchw" else 3
    typed = np.expand_dims(typed.astype(spec.dtype, copy=False), axis)
    return np.ascontiguousarray(np.repeat(typed, spec.channels, axis=axis) if spec.channels > 1 else typed)


def resample(images: Image, pixel_mm: PixelSize, spec: InputSpec) -> Image:
    """Return images (B, h, w) in HU on the model's grid, still linear in the pixels; the input itself if unchanged."""
    height, width = images.shape[1:]
    rows = axis_grid(height, pixel_mm[0], spec.fov_mm, spec.size[0] if spec.size else None)
    columns = axis_grid(width, pixel_mm[1], spec.fov_mm, spec.size[1] if spec.size else None)
    if _is_identity(height, *rows) and _is_identity(width, *columns):
        return images
    if spec.interpolation in ("nearest", "decimate"):
        return _picked(
            images, _indices(height, *rows, spec.interpolation), _indices(width, *columns, spec.interpolation)
        )
    down, across = (_weights(n, *grid, spec.interpolation) for n, grid in ((height, rows), (width, columns)))
    result = np.empty((len(images), down.shape[0], across.shape[0]), dtype=np.float32)
    for image, out in zip(images, result, strict=True):  # sparse products touch each pixel once and need no BLAS
        out[:] = (across @ np.ascontiguousarray((down @ image).T)).T
    outside = 1.0 - np.outer(down.sum(axis=1), across.sum(axis=1))
    if np.abs(outside).max() > SNAP:
        result += (AIR * outside).astype(np.float32)
    return result


def apply_window(images: Image, spec: InputSpec) -> Image:
    """Return images (...) with the HU window mapped to the range and clipped there; window None changes nothing."""
    if spec.window is None:
        return images
    (low, high), (first, second) = spec.window, spec.range
    slope = (second - first) / (high - low)
    mapped = images * np.float32(slope)
    mapped += np.float32(first - slope * low)
    return np.clip(mapped, min(first, second), max(first, second), out=mapped)


def axis_grid(n: int, pixel_mm: float, fov_mm: float | None, size: int | None) -> tuple[float, float, int]:
    """Return (start, step, count) of the output cells along one axis, in input pixels from the image's first edge."""
    field = n if fov_mm is None else fov_mm / pixel_mm
    count = size or max(1, round(field))
    return (n - field) / 2.0, field / count, count


def _is_identity(n: int, start: float, step: float, count: int) -> bool:
    return count == n and abs(start) < SNAP and abs(step - 1.0) * n < SNAP


def _indices(n: int, start: float, step: float, count: int, interpolation: str) -> NDArray[np.intp]:
    """Return the input pixel of each output cell, -1 outside: the one at its centre, or (decimate) at its beginning."""
    if interpolation == "decimate" and step < 1.0 - SNAP:
        raise UsageError(
            f"--interpolation decimate keeps every k-th pixel and cannot make {count} of {step * count:.6g}; "
            "use linear or nearest"
        )
    within = 0.5 if interpolation == "nearest" else 0.0
    index = np.floor(start + (np.arange(count) + within) * step + SNAP).astype(np.intp)
    return np.where((index >= 0) & (index < n), index, -1)


def _picked(images: Image, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Image:
    picked = images[:, rows[:, None], columns[None, :]]
    picked[:, rows < 0, :] = AIR
    picked[:, :, columns < 0] = AIR
    return picked


@lru_cache(maxsize=64)
def _weights(n: int, start: float, step: float, count: int, interpolation: str) -> csr_array:
    """Return the (count, n) sparse float32 matrix of one axis; a row sums to the share of its cell inside the image."""
    from scipy.sparse import csr_array

    make = _area_weights if interpolation == "area" else _linear_weights
    entries = [(j, i, w) for j in range(count) for i, w in make(n, start + j * step, step) if w > 0.0]
    at = np.array([(j, i) for j, i, _ in entries], dtype=np.intp).reshape(-1, 2).T
    values = np.array([w for *_, w in entries], dtype=np.float32)
    return csr_array((values, (at[0], at[1])), shape=(count, n), dtype=np.float32)


def _area_weights(n: int, begin: float, step: float) -> list[tuple[int, float]]:
    """Return (pixel, weight) of the mean over [begin, begin + step]: overlap of cell and pixel over the cell."""
    end = begin + step
    pixels = range(max(0, math.floor(begin)), min(n, math.ceil(end)))
    overlaps = [(i, min(end, i + 1.0) - max(begin, float(i))) for i in pixels]
    return [(i, overlap / step) for i, overlap in overlaps if overlap > SNAP * step]


def _linear_weights(n: int, begin: float, step: float) -> list[tuple[int, float]]:
    """Return (pixel, weight) of linear interpolation at the cell's centre; the outermost half pixel is constant."""
    centre = begin + step / 2.0
    if not -SNAP <= centre <= n + SNAP:
        return []
    position = min(max(centre - 0.5, 0.0), n - 1.0)
    left = min(math.floor(position), max(0, n - 2))
    share = position - left
    return [(left, 1.0 - share), *([(left + 1, share)] if n > 1 else [])]
