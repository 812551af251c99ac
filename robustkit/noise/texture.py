"""Regional texture: local spectra from few scans, by what re-projection predicts and what the scans correct.

Three things are multiplied, each known as well as it can be:

R(|f|)       the radial curve of the reconstruction kernel: the whole image measures it.
A(x, f)      how noise is spread over directions at x: from the mean image (`reprojection`), fine in space, noiseless.
C(x, f)      measured over predicted: lag-corrected spectra of residual/sigma divided by R A, both pooled over
             neighbouring windows. Windows are 40 px wide, so that lags up to 20 px are measured: streaks.

Whether A is used, how strongly, and over how far C is pooled, is decided by scans that were left out: the choice whose
spectra have the least squared difference from theirs. So a scanner which is no filtered back-projection is described
by its measured C alone. (A likelihood would judge by relative error, and so by the corners of the plane, where there
is next to no noise.) All spectra are smeared alike, by a taper that ends at the longest lag measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustkit.noise.patches import Axis, axis_patches, cut
from robustkit.noise.profile import frequencies, half_plane_weights
from robustkit.noise.reprojection import DIRECTIONS, STRENGTHS
from robustkit.noise.spectra import covariance
from robustkit.types import Image, PixelSize

_WINDOW, _SHARED = 40, 8  # px: where spectra are measured
_ROWS, _COLUMNS, _RAMP = 20, 28, 8  # px: where texture is taken to be one; columns are blended over the ramp
_LAGS = 24  # px: how far correlation is kept
_FINE_MM = 0.66  # of pixels smaller than this, all of the above hold twice as many
_POOL = (0.6, 1.2, 2.5, np.inf)  # window steps
_LEAST = 0.01  # of the peak: power below it is not worth correcting, where directions are re-projected

Plane = NDArray[np.float32]


class Texture(NamedTuple):
    """Spectra of unit variance (Py, Px, Gy, Gx // 2 + 1), their plane (Gy, Gx), the patches they hold for, and how."""

    spectra: Plane
    plane: tuple[int, int]
    patch: tuple[int, int]
    overlap: tuple[int, int]
    how: str


@dataclass(frozen=True, eq=False)
class _Windows:
    """Where spectra are measured; windows are zero-padded to twice their size, lags kept up to half of it."""

    rows: Axis
    columns: Axis
    pixel_mm: PixelSize
    scale: int

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.size, self.columns.size

    @property
    def padded(self) -> tuple[int, int]:
        return 2 * self.rows.size, 2 * self.columns.size

    def measured(self, lags: NDArray[np.floating]) -> Plane:
        """Smeared spectra: a taper over lags of a quarter to half a window, beyond which few scans say nothing."""
        return _spectra(lags, self.scale * _WINDOW // 2, [n / 4 for n in self.size], [n / 2 for n in self.size])

    def kept(self, lags: NDArray[np.floating]) -> Plane:
        """Spectra as they are handed on: lags up to `_LAGS` px, tapered over the last third."""
        last = self.scale * _LAGS
        return _spectra(lags, last, [2 * last / 3] * 2, [last] * 2)


def _spectra(lags: NDArray[np.floating], longest: int, flat: list[float], end: list[float]) -> Plane:
    """Half-plane spectra of 2 x `longest` points a side, from covariances tapered from lag `flat` to `end`."""
    from scipy import fft

    lag = np.fft.fftfreq(2 * longest, 0.5 / longest).astype(np.int64)
    kept: NDArray[np.floating] = lags
    for axis in (-2, -1):
        share = np.clip((np.abs(lag) - flat[axis]) / (end[axis] - flat[axis]), 0, 1)
        taper = (0.5 + 0.5 * np.cos(np.pi * share)).astype(np.float32)
        kept = kept.take(lag % kept.shape[axis], axis) * (taper[:, None] if axis == -2 else taper)
    return np.asarray(fft.rfft2(kept.astype(np.float32)).real, dtype=np.float32)


class _Seen(NamedTuple):
    """What some scans show: smeared spectra of unit variance times each window's `share` of pixels, and their mean."""

    spectra: Plane
    mean: Plane
    share: Plane


class _Guess(NamedTuple):
    """R on the padded plane, R A as each window would see it, and the power below which that is believed unchecked."""

    radial: Plane
    seen: Plane
    least: float


def scale_of(pixel_mm: PixelSize) -> int:
    """How many pixels stand for one of a body-sized field of view: 2 where pixels are small, else 1."""
    return 2 if math.sqrt(pixel_mm[0] * pixel_mm[1]) < _FINE_MM else 1


def regional_spectra(
    residuals: Image,
    valid: NDArray[np.bool_],
    matter: NDArray[np.bool_],
    sigma: Image,
    directional: NDArray[np.float32],
    factor: int,
    pixel_mm: PixelSize,
) -> Texture:
    """Measure the texture of residuals (K, H, W) whose sd is sigma (H, W), both in HU.

    matter (H, W): where choices are judged (everywhere, if there is none); `directional`, `factor` from
    `reprojection.directional_variance`.
    """
    scale = scale_of(pixel_mm)
    scaled = np.where(valid & (sigma > 0), residuals / np.maximum(sigma, 1e-6), 0).astype(np.float32)
    coarse = [axis_patches(n, scale * _WINDOW, scale * _SHARED) for n in valid.shape]
    windows = _Windows(coarse[0], coarse[1], pixel_mm, scale)
    present = cut(valid.astype(np.float32), windows.rows, windows.columns)
    judges = _judges(present, cut((valid & matter).astype(np.float32), windows.rows, windows.columns))
    powers = [_power(scaled[first::2], windows) for first in (0, 1)]
    every = _seen(powers[0] + powers[1], present, windows)
    halves = [_seen(power, present, windows) for power in powers]
    options = [None, *(_angular(d, factor, windows.rows, windows.columns, windows) for d in directional)]
    scores = [_left_out(halves, [_guess(h, windows, angular) for h in halves], judges) for angular in options]
    option, pool = np.unravel_index(int(np.argmin(scores)), (len(options), len(_POOL)))
    use, reach = (int(option) - 1 if option else None), _POOL[int(pool)]
    rows = axis_patches(valid.shape[0], scale * _ROWS, 0)
    columns = axis_patches(valid.shape[1], scale * _COLUMNS, scale * _RAMP)
    guess = _guess(every, windows, options[int(option)])
    correction = _correction(every, guess, reach)
    shape = np.float32(1) if use is None else _angular(directional[use], factor, rows, columns, windows)
    whole = _finer(_between(correction, windows, rows, columns), windows) * guess.radial * shape
    spectra = _unit(np.maximum(windows.kept(_lags(whole, windows)), 0))
    name = "measured directions" if use is None else f"re-projected directions (x {STRENGTHS[use]:g})"
    how = f"{name}, pooled over {'the whole image' if np.isinf(reach) else f'{reach:g} windows'}"
    return Texture(spectra, (2 * scale * _LAGS,) * 2, (rows.size, columns.size), (rows.overlap, columns.overlap), how)


def _judges(present: Image, matter: Image) -> Image:
    """How much each window (Py, Px) counts: by the matter in it, and only whole windows if there are any."""
    whole = (present.mean(axis=(-2, -1)) > 0.99).astype(np.float32)
    share = matter.mean(axis=(-2, -1))
    found = [judges for judges in (share * whole, share, whole) if judges.any()]
    chosen: Image = found[0] if found else np.ones_like(whole)
    return chosen


def _power(scans: Image, windows: _Windows) -> Plane:
    """Sum over scans of |FFT|^2 of each window, zero-padded to twice its size."""
    from scipy import fft

    shape = (len(windows.rows.starts), len(windows.columns.starts), windows.padded[0], windows.padded[1] // 2 + 1)
    total = np.zeros(shape, np.float32)
    for scan in scans:
        spectrum = fft.rfft2(cut(scan, windows.rows, windows.columns), s=windows.padded)
        total += np.square(spectrum.real)
        total += np.square(spectrum.imag)
    return total


def _seen(power: Plane, present: Image, windows: _Windows) -> _Seen:
    lags, variance = covariance(power, present, windows.size)
    share = np.square(present.mean(axis=(-2, -1)))[..., None, None]
    measured = windows.measured(share * lags / np.maximum(variance, 1e-12)[..., None, None])
    return _Seen(measured, measured.sum(axis=(0, 1)) / max(float(share.sum()), 1e-12), share)


def _guess(seen: _Seen, windows: _Windows, angular: Plane | None) -> _Guess:
    """Take R from the mean over windows; `angular` on the padded plane. What R misses, C makes good."""
    radial = np.maximum(_finer(_radial_mean(seen.mean, windows), windows), 0)
    shape = np.ones((1, 1, 1, 1), np.float32) if angular is None else angular
    least = max((_LEAST if angular is not None else 0.05 * _LEAST) * float(seen.mean.max()), 1e-12)
    return _Guess(radial, windows.measured(_lags(radial * shape, windows)), least)


def _lags(spectra: Plane, windows: _Windows) -> Plane:
    from scipy import fft

    lags: Plane = fft.irfft2(spectra, s=windows.padded)
    return lags


def _finer(spectra: Plane, windows: _Windows) -> Plane:
    """Spectra (..., n, n // 2 + 1) on the padded plane of the windows: covariances continued by zeros."""
    from scipy import fft

    n = spectra.shape[-2]
    lags = fft.irfft2(spectra, s=(n, n))
    for axis, m in ((-2, windows.padded[0]), (-1, windows.padded[1])):
        lag = np.fft.fftfreq(m, 1 / m).astype(np.int64)
        inside = (np.abs(lag) < n // 2).astype(np.float32)
        lags = lags.take(lag % n, axis) * (inside[:, None] if axis == -2 else inside)
    finer: Plane = fft.rfft2(lags).real
    return finer


def _correction(seen: _Seen, guess: _Guess, reach: float) -> Plane:
    """C (Py, Px, ...): seen over predicted, both pooled over `reach` window steps; 1 where there is no power."""
    above, below = _pool(seen.spectra, reach), _pool(guess.seen * seen.share, reach)
    correction: Plane = np.maximum(above + guess.least, 0) / (np.maximum(below, 0) + guess.least)
    return correction.astype(np.float32)


def _pool(values: Plane, reach: float) -> Plane:
    """Sum over neighbouring windows with Gaussian weights; over all of them for an infinite reach."""
    from scipy.ndimage import gaussian_filter

    if np.isinf(reach):
        return np.broadcast_to(values.mean(axis=(0, 1)), values.shape)
    pooled: Plane = gaussian_filter(values, (reach, reach, 0, 0), mode="nearest")
    return pooled


def _left_out(halves: list[_Seen], guesses: list[_Guess], judges: Image) -> list[float]:
    """Squared difference of one half's spectra from what the other half expects, both ways, for each pooling.

    Less what halving costs: an expectation from all scans has half the variance of one from half of them, and that
    variance is half the squared difference of the two.
    """
    tests = [_unit(half.spectra) for half in halves]
    totals = []
    for reach in _POOL:
        pairs = list(zip(halves, guesses, strict=True))
        made = [_unit(_correction(half, guess, reach) * guess.seen) for half, guess in pairs]
        errors = [_distance(made[0], tests[1], judges), _distance(made[1], tests[0], judges)]
        totals.append(sum(errors) - 0.5 * _distance(made[0], made[1], judges))
    return totals


def _distance(one: Plane, other: Plane, judges: Image) -> float:
    squares = (np.square(one - other) * _weights(one)).mean(axis=(-2, -1))
    return float((judges * squares).sum(dtype=np.float64) / judges.sum(dtype=np.float64))


def _unit(spectra: Plane) -> Plane:
    """Scale spectra to a mean of 1 over the whole plane: noise of unit variance."""
    weights = _weights(spectra)
    mean = (spectra * weights).sum(axis=(-2, -1), keepdims=True) / (spectra.shape[-2] * weights.sum())
    unit: Plane = np.divide(spectra, mean, out=np.zeros_like(spectra), where=mean > 0)
    return unit


def _weights(spectra: Plane) -> Plane:
    return half_plane_weights(2 * (spectra.shape[-1] - 1)).astype(np.float32)


def _angular(directional: NDArray[np.float32], factor: int, rows: Axis, columns: Axis, windows: _Windows) -> Plane:
    """A(x, f) on a padded half plane, mean 1 over directions, of each patch: mean of its cells."""
    share = directional / np.maximum(directional.mean(axis=0), 1e-30)
    for axis, cells, along in ((rows, share.shape[1], 1), (columns, share.shape[2], 2)):
        first = np.minimum(axis.starts // factor, cells - 1)
        last = np.maximum(np.minimum(-(-(axis.starts + axis.size) // factor), cells), first + 1)
        running = np.concatenate([np.zeros_like(share.take([0], along)), np.cumsum(share, axis=along)], axis=along)
        length = (last - first).reshape([-1 if i == along else 1 for i in range(3)])
        share = (running.take(last, along) - running.take(first, along)) / length
    local = np.moveaxis(share, 0, -1)
    y = np.fft.fftfreq(windows.padded[0], windows.pixel_mm[0])[:, None]
    x = np.fft.rfftfreq(windows.padded[1], windows.pixel_mm[1])[None, :]
    place = np.arctan2(y, x) % np.pi / np.pi * DIRECTIONS - 0.5
    left = np.floor(place).astype(np.int64)
    part = (place - left).astype(np.float32)
    out: Plane = local[..., left % DIRECTIONS] * (1 - part) + local[..., (left + 1) % DIRECTIONS] * part
    out[..., 0, 0] = 1
    return out.astype(np.float32)


def _radial_mean(spectrum: Plane, windows: _Windows) -> Plane:
    """Average a half plane over rings, interpolated back to its points; never negative."""
    side = spectrum.shape[0]
    f = frequencies((side, side), windows.pixel_mm)
    step = 1 / (side * min(windows.pixel_mm))
    ring = np.rint(f / step).astype(np.int64).ravel()
    weight = np.broadcast_to(half_plane_weights(side), f.shape).ravel()
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
