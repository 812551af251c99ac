"""The sigma map: where noise is loud, from K scans and from the shape that re-projection gives.

K = 20 scans know one pixel's sigma to 16 %; only neighbours can help, and variance changes from place to place. The
measured variance is divided by a shape without noise (`robustkit.noise.reprojection`, or none), the smooth ratio is
averaged over neighbours, and the shape multiplied back. How far to average, and whether the shape helps at all, is
decided by the likelihood of scans that were left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustkit.types import Image, PixelSize, RepeatScans

_WIDTHS_MM = (3.0, 5.0, 7.5, 10.0, 14.0, 20.0)


def sigma_map(repeats: RepeatScans, valid: NDArray[np.bool_], shape: Image) -> tuple[Image, str]:
    """Return sigma (H, W) float32 in HU, 0 outside `valid`, and how it was smoothed, in words.

    `shape` (H, W) is the relative variance expected from re-projection. K/(K-1) is applied here, once.
    """
    power = np.square(repeats.residuals)
    choices = [(name, s, w) for name, s in (("flat", np.ones_like(shape)), ("re-projected", shape)) for w in _WIDTHS_MM]
    scores = [_left_out(power, valid, s, w, repeats.pixel_mm) for _, s, w in choices]
    name, best, width = choices[int(np.argmax(scores))]
    variance = _smooth(power.sum(axis=0) / (len(power) - 1), valid, best, width, repeats.pixel_mm)
    return np.sqrt(variance, dtype=np.float32) * valid, f"{name} shape, smoothed over {width:g} mm"


def _left_out(power: Image, valid: NDArray[np.bool_], shape: Image, width_mm: float, pixel_mm: PixelSize) -> float:
    """Log-likelihood of one half of the scans under the variance map of the other, both ways.

    The halves share the mean of all scans, which couples them by 1/K alike for every choice.
    """
    halves = power[0::2].mean(axis=0), power[1::2].mean(axis=0)
    total = 0.0
    for known, tested in (halves, halves[::-1]):
        variance = np.maximum(_smooth(known, valid, shape, width_mm, pixel_mm), 1e-12)[valid]
        total -= float(np.mean(np.log(variance) + tested[valid] / variance, dtype=np.float64))
    return total


def _smooth(variance: Image, valid: NDArray[np.bool_], shape: Image, width_mm: float, pixel_mm: PixelSize) -> Image:
    """Gaussian mean of variance/shape over valid neighbours, times shape, (H, W)."""
    from scipy.ndimage import gaussian_filter

    width = [width_mm / d for d in pixel_mm]
    weight = valid.astype(np.float32)
    above = gaussian_filter((variance / shape) * weight, width, mode="constant", truncate=3.0)
    below = gaussian_filter(weight, width, mode="constant", truncate=3.0)
    smooth: Image = (shape * above / np.maximum(below, 1e-6)).astype(np.float32)
    return smooth
