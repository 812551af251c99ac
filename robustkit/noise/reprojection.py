"""What the mean image says of its own noise: how loud it is at each place, and in which direction.

In filtered back-projection the variance of a projection sample is 1/photons, so with p the line integral of
attenuation along the ray through x whose detector axis points in direction theta,

    variance(x)  is proportional to   mean_theta exp(p_theta(x)),
    NPS(x, f)    is proportional to   R(|f|) exp(p_theta(x)),   theta the direction of f,

R being the radial curve of the reconstruction kernel: the ray's noise is laid down along the ray, so it varies across
it. Electronic noise and the logarithm of few counts make dark rays noisier still; `STRENGTHS` stand for them. The mean
of K scans has little noise of its own, and line integrals have hardly any: these shapes cost no scans. They are only
shapes. `magnitude` and `texture` measure the ratio of the scans to them, and drop them where the scans say that they
do not help (iterative reconstruction, tube-current modulation, a truncated body).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustkit.types import Image, PixelSize

DIRECTIONS = 60
STRENGTHS = (1.0, 1.2)
"""Multiples of p that are tried: 1 counts photons alone; more where the darkest rays are noisier than that."""
_VIEWS = 180
_WATER = 0.0193  # 1/mm at 70 keV
_CELLS = 256  # most cells along a side of the coarse grid
_DEEPEST = 9.0  # line integral beyond which a ray starves: keeps metal from ruling the map


def directional_variance(
    clean: Image, valid: NDArray[np.bool_], pixel_mm: PixelSize
) -> tuple[NDArray[np.float32], int]:
    """Relative noise variance by direction, (strengths, DIRECTIONS, h, w), on cells of `factor` px; and `factor`.

    Direction b covers the angles pi b / DIRECTIONS to pi (b + 1) / DIRECTIONS of (row frequency, column frequency),
    measured from the column axis. `clean` (H, W) in HU.
    """
    factor = max(1, -(-max(clean.shape) // _CELLS))
    mu = _attenuation(clean, valid, factor)
    cell = (pixel_mm[0] * factor, pixel_mm[1] * factor)
    y, x = ((np.arange(n) - (n - 1) / 2) * d for n, d in zip(mu.shape, cell, strict=True))
    ray = min(cell)
    half = int(np.hypot(np.ptp(y) + ray, np.ptp(x) + ray) / 2 / ray) + 2
    weight = mu.ravel() * (cell[0] * cell[1] / ray)
    out = np.zeros((len(STRENGTHS), DIRECTIONS, mu.size), np.float32)
    for view in range(_VIEWS):
        angle = (view + 0.5) * np.pi / _VIEWS
        position = np.add.outer(y * np.sin(angle), x * np.cos(angle)).ravel() / ray + half
        left = position.astype(np.int32)
        part = (position - left).astype(np.float32)
        rays = np.bincount(left, weight * (1 - part), 2 * half + 2) + np.bincount(left + 1, weight * part, 2 * half + 2)
        for strength, total in zip(STRENGTHS, out, strict=True):
            noise = np.exp(strength * np.minimum(rays, _DEEPEST)).astype(np.float32)
            total[view * DIRECTIONS // _VIEWS] += noise[left] + part * np.diff(noise)[left]
    return out.reshape(len(STRENGTHS), DIRECTIONS, *mu.shape) * np.float32(DIRECTIONS / _VIEWS), factor


def variance_shape(directional: NDArray[np.float32], factor: int, valid: NDArray[np.bool_]) -> Image:
    """Relative noise variance (H, W) over all DIRECTIONS of one strength (DIRECTIONS, h, w), mean 1 over `valid`."""
    from scipy.ndimage import zoom

    fine = zoom(directional.mean(axis=0), factor, order=1, mode="nearest", grid_mode=True)
    fine = fine[: valid.shape[0], : valid.shape[1]]
    shape: Image = (fine / fine[valid].mean()).astype(np.float32)
    return shape


def _attenuation(clean: Image, valid: NDArray[np.bool_], factor: int) -> NDArray[np.float64]:
    """Attenuation in 1/mm on the coarse grid; air and padding attenuate nothing."""
    density = np.where(valid & (clean > -900), np.maximum(clean + 1000, 0), 0) * (_WATER / 1000)
    rows, columns = (-(-n // factor) for n in clean.shape)
    padded = np.zeros((rows * factor, columns * factor))
    padded[: clean.shape[0], : clean.shape[1]] = density
    mu: NDArray[np.float64] = padded.reshape(rows, factor, columns, factor).mean(axis=(1, 3))
    return mu
