"""The sigma map: where noise is loud, from K scans and from the shape that re-projection gives.

K = 20 scans know one pixel's sigma to 16 %; only neighbours can help, and variance changes from place to place. The
measured variance is divided by a shape without noise (`robustkit.noise.reprojection`, or none), the smooth ratio is
averaged over neighbours, and the shape multiplied back. How far to average, and which shape helps, if any, is
decided by the likelihood of scans that were left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robustkit.noise.reprojection import STRENGTHS
from robustkit.types import Image, PixelSize, RepeatScans

_WIDTHS_MM = (3.0, 5.0, 7.5, 10.0, 14.0, 20.0)
_CELLS = 256  # most cells along a side where choices are judged


def sigma_map(repeats: RepeatScans, valid: NDArray[np.bool_], shapes: Sequence[Image]) -> tuple[Image, str]:
    """Return sigma (H, W) float32 in HU, 0 outside `valid`, and how it was smoothed, in words.

    `shapes` (H, W) are the relative variances that re-projection expects, one for each of its `STRENGTHS`.
    K/(K-1) is applied here, once.
    """
    power = np.square(repeats.residuals)
    flat = np.ones(valid.shape, np.float32)
    named = {"flat": flat} | {f"re-projected (x {g:g})": s for g, s in zip(STRENGTHS, shapes, strict=True)}
    factor = max(1, -(-max(valid.shape) // _CELLS))
    cell = (repeats.pixel_mm[0] * factor, repeats.pixel_mm[1] * factor)
    weight = _binned(valid.astype(np.float32), factor)
    known = np.maximum(weight, np.float32(1e-6))
    halves = [(_binned(power[i::2].mean(axis=0) * valid, factor) / known).astype(np.float32) for i in (0, 1)]
    small = {name: _binned(shape, factor) for name, shape in named.items()}
    choices = [(name, width) for name in named for width in _WIDTHS_MM]
    scores = [_left_out(halves, weight, small[name], width, cell) for name, width in choices]
    name, width = choices[int(np.argmax(scores))]
    every = power.sum(axis=0) / (len(power) - 1)
    variance = _smooth(every, valid.astype(np.float32), named[name], width, repeats.pixel_mm)
    return np.sqrt(variance, dtype=np.float32) * valid, f"{name} shape, smoothed over {width:g} mm"


def _left_out(halves: Sequence[Image], weight: Image, shape: Image, width_mm: float, cell: PixelSize) -> float:
    """Log-likelihood of one half of the scans under the variance map of the other, both ways.

    The halves share the mean of all scans, which couples them by 1/K alike for every choice.
    """
    used = weight > 0.5
    used = used if used.any() else weight > 0
    total = 0.0
    for known, tested in (halves, halves[::-1]):
        variance = np.maximum(_smooth(known, weight, shape, width_mm, cell), 1e-12)[used]
        total -= float(np.mean(np.log(variance) + tested[used] / variance, dtype=np.float64))
    return total


def _smooth(variance: Image, weight: Image, shape: Image, width_mm: float, pixel_mm: PixelSize) -> Image:
    """Gaussian mean of variance/shape over neighbours by weight, times shape, (H, W)."""
    from scipy.ndimage import gaussian_filter

    width = [width_mm / d for d in pixel_mm]
    above = gaussian_filter((variance / shape) * weight, width, mode="constant", truncate=3.0)
    below = gaussian_filter(weight, width, mode="constant", truncate=3.0)
    smooth: Image = (shape * above / np.maximum(below, 1e-6)).astype(np.float32)
    return smooth


def _binned(image: Image, factor: int) -> Image:
    """Mean over cells of factor x factor px; what is missing of the last ones repeats the border."""
    if factor == 1:
        return image
    padded = np.pad(image, [(0, -n % factor) for n in image.shape], mode="edge")
    rows, columns = (n // factor for n in padded.shape)
    mean: Image = padded.reshape(rows, factor, columns, factor).mean(axis=(1, 3), dtype=np.float32)
    return mean
