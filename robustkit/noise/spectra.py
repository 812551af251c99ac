"""Local noise power spectra from K repeated scans: two estimators.

Residuals are scan minus mean of the K scans; every second moment is multiplied by K/(K-1), once, here. No patch mean
and no plane is subtracted: the mean image has taken the structure away, and what is left at low frequency is noise.

periodogram (Peng et al. 2023, Eq. 3)      S(f) = dx dy / (Nx Ny) K/(K-1) mean_k |DFT r_k|^2
    On the patch's own grid. Its expectation is the spectrum smeared by the patch's window.
lag-corrected (Blackman and Tukey 1958)    S = dx dy DFT[ taper(t) c(t) ],  c(t) = sum_x r(x) r(x+t) / pairs(t)
    On a grid of twice the patch: the mean product of residuals a lag t apart, over the pairs there are (not over
    Nx Ny, which is what smears), tapered towards the longest lags and kept non-negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.noise.patches import Axis, cut
from robustkit.noise.profile import half_plane_weights
from robustkit.types import RepeatScans


def local_spectra(
    repeats: RepeatScans,
    valid: NDArray[np.bool_],
    rows: Axis,
    columns: Axis,
    *,
    corrected: bool,
    precision: type[np.floating[Any]] = np.float32,
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Half-plane NPS of each patch, (Py, Px, Gy, Gx // 2 + 1) HU^2 mm^2, and the grid (Gy, Gx).

    Pixels outside `valid` count as absent: their residual is no sample of noise. A patch without any has NPS 0.
    """
    from scipy import fft

    factor = 2 if corrected else 1
    plane = (factor * rows.size, factor * columns.size)
    power = np.zeros((len(rows.starts), len(columns.starts), plane[0], plane[1] // 2 + 1), dtype=precision)
    mean = repeats.clean
    for scan in repeats.pixels:
        residual = np.where(valid, scan - mean, 0).astype(precision)
        spectrum = fft.rfft2(cut(residual, rows, columns), s=plane)
        power += np.square(spectrum.real)
        power += np.square(spectrum.imag)
    count = len(repeats.pixels)
    power /= count - 1  # mean over K scans, times K/(K-1)
    area = precision(repeats.pixel_mm[0] * repeats.pixel_mm[1])
    present = cut(valid.astype(precision), rows, columns)
    if corrected:
        return _lag_corrected(power, present, (rows.size, columns.size)) * area, plane
    pixels = np.maximum(present.sum(axis=(-2, -1)), 1)
    return power * (area / pixels)[..., None, None], plane


def _lag_corrected(
    power: NDArray[np.float32], present: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Blackman-Tukey spectra (HU^2 a pixel) from zero-padded power (sums over a patch of `size`)."""
    from scipy import fft

    plane = (2 * size[0], 2 * size[1])
    lags, variance = covariance(power, present, size)
    lags *= _taper(size[0])[:, None] * _taper(size[1])[None, :]
    lags[..., 0, 0] = variance
    spectra = np.maximum(fft.rfft2(lags).real, 0)
    mean = (spectra * half_plane_weights(plane[1])).sum(axis=(-2, -1)) / (plane[0] * plane[1])
    scale = np.divide(variance, mean, out=np.zeros_like(mean), where=mean > 0)
    result: NDArray[np.float32] = (spectra * scale[..., None, None]).astype(np.float32)
    return result


def covariance(
    power: NDArray[np.floating[Any]], present: NDArray[np.floating[Any]], size: tuple[int, int]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Mean product of residuals at each lag (Py, Px, 2 Ny, 2 Nx), over the pairs there are; and the variance."""
    from scipy import fft

    lags = fft.irfft2(power, s=(2 * size[0], 2 * size[1]))
    variance = lags[..., 0, 0] / np.maximum(present.sum(axis=(-2, -1)), 1)
    lags /= _pairs(present, size)
    lags[..., 0, 0] = variance
    return lags, variance


def _pairs(present: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Pairs of pixels at each lag (…, 2 Ny, 2 Nx), at least one row or column of them (N)."""
    from scipy import fft

    whole = np.outer(_triangle(size[0]), _triangle(size[1])).astype(np.float32)
    if present.min() == 1:
        return whole
    pairs: NDArray[np.float32] = np.broadcast_to(whole, (*present.shape[:2], *whole.shape)).copy()
    cut = present.min(axis=(-2, -1)) < 1
    overlap = fft.irfft2(np.abs(fft.rfft2(present[cut], s=whole.shape)) ** 2, s=whole.shape)
    pairs[cut] = np.maximum(overlap, max(size))
    return pairs


def _triangle(n: int) -> NDArray[np.float64]:
    lag = np.abs(np.fft.fftfreq(2 * n, 1 / (2 * n)))
    pairs: NDArray[np.float64] = np.maximum(n - lag, 1)
    return pairs


def _taper(n: int) -> NDArray[np.float32]:
    """1 up to a lag of n/2, then a cosine to 0 at n."""
    lag = np.abs(np.fft.fftfreq(2 * n, 1 / (2 * n))) / n
    taper = np.where(lag <= 0.5, 1.0, np.cos(np.pi * (np.minimum(lag, 1.0) - 0.5)))
    return np.where(lag >= 1, 0.0, taper).astype(np.float32)


def roi_spectrum(
    repeats: RepeatScans, valid: NDArray[np.bool_], top: int, left: int, size: tuple[int, int], *, corrected: bool
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Half-plane NPS (Gy, Gx // 2 + 1) of one rectangle of `size` px whose first pixel is (top, left)."""
    rows, columns = (
        Axis(length, n, 0, np.array([start]), np.ones((1, n)))
        for length, n, start in zip(valid.shape, size, (top, left), strict=True)
    )
    spectra, plane = local_spectra(repeats, valid, rows, columns, corrected=corrected)
    return spectra[0, 0], plane
