"""Regional texture: local spectra from few scans, by what re-projection predicts and what the scans correct.

Three things are multiplied, each known as well as it can be:

R(|f|)       the radial curve of the reconstruction kernel: the whole image measures it.
A(x, f)      how noise is spread over directions at x: from the mean image (`reprojection`), fine in space, noiseless.
C(x, f)      measured over predicted: lag-corrected spectra of residual/sigma divided by R A, both pooled over
             neighbouring windows. Windows are 40 px wide, so that lags up to 20 px are measured: streaks.

Whether A is used, and over how far C is pooled, is decided by the Whittle likelihood of scans that were left out, so
that a scanner which is no filtered back-projection is described by its measured C alone.
The spectrum's square root is cut to a kernel of `SUPPORT` px: beyond that little is left, and its cost is its area.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustkit.noise.patches import Axis, axis_patches
from robustkit.noise.reprojection import DIRECTIONS
from robustkit.types import Image, PixelSize

WINDOW, SHARED = 40, 8  # px: where spectra are measured
PATCH, OVERLAP = 20, 4  # px: where kernels are made
SUPPORT = 30  # px: how far a kernel reaches, side to side
_POOL = (0.6, 1.2, 2.5, np.inf)  # window steps

Plane = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Windows:
    """Where spectra are measured, and the frequency plane (of twice the window) they are measured on."""

    rows: Axis
    columns: Axis
    pixel_mm: PixelSize

    @property
    def plane(self) -> tuple[int, int]:
        return 2 * self.rows.size, 2 * self.columns.size


def regional_spectra(
    residuals: Image,
    valid: NDArray[np.bool_],
    matter: NDArray[np.bool_],
    sigma: Image,
    directional: NDArray[np.float32],
    factor: int,
    pixel_mm: PixelSize,
) -> tuple[NDArray[np.float32], tuple[int, int], tuple[tuple[int, int], tuple[int, int]], str]:
    """Half-plane spectra (Py, Px, Gy, Gx // 2 + 1) of unit variance, their plane, (patch, overlap), and how, in words.

    residuals (K, H, W) and sigma (H, W) in HU; matter (H, W): where choices are judged (everywhere, if there is none);
    `directional`, `factor` from `reprojection.directional_variance`.
    """
    scaled = np.where(valid & (sigma > 0), residuals / np.maximum(sigma, 1e-6), 0).astype(np.float32)
    coarse = [axis_patches(n, WINDOW, SHARED) for n in valid.shape]
    windows = _Windows(coarse[0], coarse[1], pixel_mm)
    present = _cut(valid.astype(np.float32), windows)
    powers = [_power(scaled[first::2], windows) for first in (0, 1)]
    fits = [(name, use, reach) for name, use in (("measured", False), ("re-projected", True)) for reach in _POOL]
    angular = _angular(directional, factor, windows.rows, windows.columns, windows.plane, pixel_mm)
    judges = _cut((valid & matter).astype(np.float32), windows).mean(axis=(-2, -1))
    scores = [_left_out(powers, present, windows, judges, angular if use else None, reach) for _, use, reach in fits]
    name, use, reach = fits[int(np.argmax(scores))]
    fine = [axis_patches(n, PATCH, OVERLAP) for n in valid.shape]
    spectra = _combine(powers[0] + powers[1], present, windows, angular if use else None, reach)
    correction = _between(spectra[0], windows, fine[0], fine[1])
    shape = _angular(directional, factor, fine[0], fine[1], windows.plane, pixel_mm) if use else np.float32(1)
    kernels, plane = _cut_kernels(correction * spectra[1] * shape, windows.plane)
    how = f"{name} directions, pooled over {'the whole image' if np.isinf(reach) else f'{reach:g} windows'}"
    geometry = ((fine[0].size, fine[1].size), (fine[0].overlap, fine[1].overlap))
    return kernels, plane, geometry, how


def _cut(image: Image, windows: _Windows) -> Image:
    y = windows.rows.starts[:, None] + np.arange(windows.rows.size)
    x = windows.columns.starts[:, None] + np.arange(windows.columns.size)
    patches: Image = image[y[:, None, :, None], x[None, :, None, :]]
    return patches


def _power(scans: Image, windows: _Windows) -> Plane:
    """Sum over scans of |FFT|^2 of each window, zero-padded to twice its size."""
    from scipy import fft

    total = np.zeros(
        (len(windows.rows.starts), len(windows.columns.starts), windows.plane[0], windows.plane[1] // 2 + 1)
    )
    for scan in scans:
        spectrum = fft.rfft2(_cut(scan, windows), s=windows.plane)
        total += np.square(spectrum.real) + np.square(spectrum.imag)
    return total.astype(np.float32)


def _combine(
    power: Plane, present: Image, windows: _Windows, angular: Plane | None, reach: float
) -> tuple[Plane, Plane]:
    """(C (Py, Px, ...), R (...)): the correction of each window and the radial curve of all, from summed power."""
    from scipy import fft

    from robustkit.noise.estimation import covariance

    size = (windows.rows.size, windows.columns.size)
    lags, variance = covariance(power, present, size)
    seen = np.square(present.mean(axis=(-2, -1)))[..., None, None]
    lags = seen * lags / np.maximum(variance, 1e-12)[..., None, None]
    taper = _taper(windows.plane)
    measured = fft.rfft2(lags * taper).real
    radial = _radial_mean(measured.sum(axis=(0, 1)) / max(float(seen.sum()), 1e-12), windows)
    predicted = radial * (np.ones_like(measured[:1, :1]) if angular is None else angular)
    smeared = fft.rfft2(fft.irfft2(predicted, s=windows.plane) * taper).real
    above, below = _pool(measured, reach), _pool(smeared * seen, reach)
    least = max(1e-3 * float(radial.max()), 1e-12)
    return np.maximum(above / np.maximum(below, least), 0).astype(np.float32), radial.astype(np.float32)


def _pool(values: Plane, reach: float) -> Plane:
    """Sum over neighbouring windows with Gaussian weights; over all of them for an infinite reach."""
    from scipy.ndimage import gaussian_filter

    if np.isinf(reach):
        return np.broadcast_to(values.mean(axis=(0, 1)), values.shape)
    pooled: Plane = gaussian_filter(values, (reach, reach, 0, 0), mode="nearest")
    return pooled


def _left_out(
    powers: list[Plane], present: Image, windows: _Windows, judges: Image, angular: Plane | None, reach: float
) -> float:
    """Whittle log-likelihood of the windows of one half of the scans under the spectra of the other, both ways.

    `judges` (Py, Px) weighs the windows: texture matters where there is matter.
    """
    from scipy import fft

    size = (windows.rows.size, windows.columns.size)
    triangle = np.outer(*(np.maximum(1 - np.abs(np.fft.fftfreq(2 * n, 0.5 / n)) / n, 0) for n in size))
    judges = judges * (present.mean(axis=(-2, -1)) > 0.99)
    whole = judges > 0 if judges.any() else np.ones(judges.shape, bool)
    share = judges[whole] / judges.max() if judges.any() else np.ones(whole.sum())
    total = 0.0
    for known, tested in (powers, powers[::-1]):
        correction, radial = _combine(known, present, windows, angular, reach)
        spectra = correction * radial * (1 if angular is None else angular)
        lags = fft.irfft2(spectra, s=windows.plane)
        lags /= np.maximum(lags[..., :1, :1], 1e-12)
        expected = np.maximum(fft.rfft2(lags * triangle).real[whole], 1e-4)
        seen = tested[whole] / np.maximum((tested[whole] * _weights(windows)).mean(axis=(-2, -1), keepdims=True), 1e-12)
        cost = (_weights(windows) * (np.log(expected) + seen / expected)).mean(axis=(-2, -1), dtype=np.float64)
        total -= float((share * cost).sum() / share.sum())
    return total


def _weights(windows: _Windows) -> Plane:
    from robustkit.noise.profile import half_plane_weights

    return (half_plane_weights(windows.plane[1]) / (windows.plane[1] / (windows.plane[1] // 2 + 1))).astype(np.float32)


def _angular(
    directional: NDArray[np.float32],
    factor: int,
    rows: Axis,
    columns: Axis,
    plane: tuple[int, int],
    pixel_mm: PixelSize,
) -> Plane:
    """A(x, f) on a half plane, mean 1 over directions, of each patch: mean of its cells."""
    share = directional / np.maximum(directional.mean(axis=0), 1e-30)
    sums = []
    for axis, cells, along in ((rows, share.shape[1], 1), (columns, share.shape[2], 2)):
        first = np.minimum(axis.starts // factor, cells - 1)
        last = np.maximum(np.minimum(-(-(axis.starts + axis.size) // factor), cells), first + 1)
        running = np.concatenate([np.zeros_like(share.take([0], along)), np.cumsum(share, axis=along)], axis=along)
        length = (last - first).reshape([-1 if i == along else 1 for i in range(3)])
        share = (running.take(last, along) - running.take(first, along)) / length
        sums.append(length)
    local = np.moveaxis(share, 0, -1)
    y = np.fft.fftfreq(plane[0], pixel_mm[0])[:, None]
    x = np.fft.rfftfreq(plane[1], pixel_mm[1])[None, :]
    place = np.arctan2(y, x) % np.pi / np.pi * DIRECTIONS - 0.5
    left = np.floor(place).astype(np.int64)
    part = (place - left).astype(np.float32)
    out: Plane = local[..., left % DIRECTIONS] * (1 - part) + local[..., (left + 1) % DIRECTIONS] * part
    out[..., 0, 0] = 1
    return out.astype(np.float32)


def _radial_mean(spectrum: Plane, windows: _Windows) -> Plane:
    """Average a half plane over rings, interpolated back to its points; never negative."""
    from robustkit.noise.profile import frequencies, half_plane_weights

    f = frequencies(windows.plane, windows.pixel_mm)
    step = max(1 / (n * d) for n, d in zip(windows.plane, windows.pixel_mm, strict=True))
    ring = np.rint(f / step).astype(np.int64).ravel()
    weight = np.broadcast_to(half_plane_weights(windows.plane[1]), f.shape).ravel()
    count = np.maximum(np.bincount(ring, weight), 1e-12)
    centre = np.bincount(ring, weight * f.ravel()) / count
    mean = np.maximum(np.bincount(ring, weight * spectrum.ravel()) / count, 0)
    curve: Plane = np.interp(f, centre, mean).astype(np.float32)
    return curve


def _between(correction: Plane, windows: _Windows, rows: Axis, columns: Axis) -> Plane:
    """Interpolate the corrections of windows to the centres of patches, linearly along both axes."""
    for along, (axis, fine) in enumerate(((windows.rows, rows), (windows.columns, columns))):
        if len(axis.starts) == 1:
            correction = correction.take(np.zeros(len(fine.starts), np.int64), along)
            continue
        place = np.interp(fine.starts + fine.size / 2, axis.starts + axis.size / 2, np.arange(len(axis.starts)))
        left = np.minimum(place.astype(np.int64), len(axis.starts) - 2)
        part = (place - left).astype(np.float32).reshape([-1 if i == along else 1 for i in range(4)])
        correction = correction.take(left, along) * (1 - part) + correction.take(left + 1, along) * part
    return correction


def _taper(plane: tuple[int, int]) -> Plane:
    """1 up to a quarter of the window, a cosine to 0 at half of it: lags of 10 and 20 px."""
    axes = []
    for n in plane:
        lag = np.abs(np.fft.fftfreq(n, 1 / n)) / (n / 4)
        axes.append(np.where(lag >= 1, 0, np.cos(np.pi * np.clip(lag - 0.5, 0, 0.5))))
    return np.outer(*axes).astype(np.float32)


def _cut_kernels(spectra: Plane, plane: tuple[int, int]) -> tuple[Plane, tuple[int, int]]:
    """Spectra of unit variance on a plane of `SUPPORT` px, whose square roots are the cut kernels."""
    from scipy import fft

    side = (min(SUPPORT, plane[0]), min(SUPPORT, plane[1]))
    taps = fft.irfft2(np.sqrt(spectra), s=plane)
    for axis, (n, m) in enumerate(zip(plane, side, strict=True)):
        taps = taps.take(np.fft.fftfreq(m, 1 / m).astype(np.int64) % n, axis=2 + axis)
    cut = np.square(fft.rfft2(taps).real)
    total = np.square(taps).sum(axis=(-2, -1), dtype=np.float64)[..., None, None]
    return np.divide(cut, total, out=np.zeros_like(cut), where=total > 0).astype(np.float32), side
