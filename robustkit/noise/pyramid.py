"""Short filters on two or three grids that together make a long-ranged spectrum.

Noise is the sum of independent fields: one filtered on the pixels themselves, one on a grid of every second pixel,
which is then interpolated, and so on:

    n = K_0 * W_0 + up(K_1 * W_1 + up(K_2 * W_2)),      S(f) = |K_0|^2 + H(f)^2 / 4 |K_1(2f)|^2 + ...

up() doubles both axes with the cubic weights (-1, 9, 9, -1) / 16 between the points, H being their response. Streaks
and blotches vary slowly along their length, so that a tap of a coarse grid reaches twice as far at a quarter of the
price: 10 x 8 taps and 10 x 12 of every second pixel reach as far as 20 x 24 and cost 110 taps a pixel instead of 480.

The kernels are found patch by patch: they start as the square root of the spectrum, cut, with the phase that suits the
cut (Gerchberg and Saxton 1972), and go down the gradient of the squared error of S with the steps of Barzilai and
Borwein 1988. The lowest frequencies weigh more than their power: blotches survive whatever a classifier averages.
Neighbouring patches start alike and stay alike, so that they blend.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robustkit.noise.profile import half_plane_weights

Plane = NDArray[np.float32]

SIZES = ((10, 8), (10, 12), (10, 12))
"""Taps (rows, columns) on the pixels, on every second, on every fourth."""
_FIRST, _STEPS = 3, 30
_BLOTCHES, _STRESS = 0.08, 10.0  # cycles a point of the second grid; how much more they weigh
_LOW, _HIGH = 0.05, 0.25  # cycles a pixel: what is lower starts on the coarser grid, what is higher on the finer


def fit_kernels(spectra: Plane, levels: int) -> list[Plane]:
    """Find kernels, finest first, (..., V, U) each, for half-plane spectra (..., n, n // 2 + 1), n a multiple of 8.

    Each patch is fitted to its spectrum over its mean, so that the kernels have unit variance but for the error of
    the fit; a patch without noise gets zeros. Level l's taps lie 2^l pixels apart.
    """
    lead, n = spectra.shape[:-2], spectra.shape[-2]
    flat = spectra.reshape(-1, *spectra.shape[-2:])
    mean = (flat * _weights(n)).mean(axis=(-2, -1), keepdims=True) * np.float32((n // 2 + 1) / n)
    wanted = np.divide(flat, mean, out=np.zeros_like(flat), where=mean > 0)
    kernels = _descend(wanted, _start(wanted, SIZES[:levels]))
    return [np.where(mean > 0, k, 0).reshape(*lead, *k.shape[1:]).astype(np.float32) for k in kernels]


def expected(kernels: Sequence[Plane], n: int) -> Plane:
    """Half-plane spectra (B, n, n // 2 + 1) of the sum of all levels, averaged over the places between grid points."""
    own = _power(kernels[0], n)
    return own if len(kernels) == 1 else own + _raised(expected(kernels[1:], n // 2))


def _power(kernel: Plane, n: int) -> Plane:
    from scipy import fft

    spectrum = fft.rfft2(kernel, s=(n, n))
    power: Plane = np.square(spectrum.real) + np.square(spectrum.imag)
    return power


def _response(n: int) -> Plane:
    """H^2 / 4 on a half plane: what interpolation does to a spectrum."""
    f = 2 * np.pi * np.fft.fftfreq(n)
    h = np.square(1 + (9 * np.cos(f) - np.cos(3 * f)) / 8)
    return (np.outer(h, h[: n // 2 + 1]) / 4).astype(np.float32)


def _raised(coarse: Plane) -> Plane:
    """Return the spectrum (B, 2m, m + 1) that a coarse grid's (B, m, m // 2 + 1) has once interpolated."""
    m = coarse.shape[-2]
    mirrored = coarse[:, -np.arange(m) % m, ::-1][..., 1:]
    across = np.concatenate([coarse, mirrored], axis=-1)
    raised: Plane = np.concatenate([across, across], axis=-2) * _response(2 * m)
    return raised


def _lowered(fine: Plane) -> Plane:
    """Transpose `_raised`: sum over the frequencies (B, 2m, m + 1) that a coarse grid cannot tell apart."""
    m = fine.shape[-2] // 2
    weighted = fine * _response(2 * m)
    folded = weighted[:, :m] + weighted[:, m:]
    mirrored = folded[:, -np.arange(m) % m]
    return folded[..., : m // 2 + 1] + mirrored[..., m : m // 2 - 1 : -1]


def _start(wanted: Plane, sizes: Sequence[tuple[int, int]]) -> list[Plane]:
    """Share a spectrum among levels by frequency, and cut the square root of each share."""
    n = wanted.shape[-2]
    if len(sizes) == 1:
        return [_cut(wanted, sizes[0])]
    m = n // 2
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :])
    share = 0.5 + 0.5 * np.cos(np.pi * np.clip((f - _LOW) / (_HIGH - _LOW), 0, 1))
    rows = np.fft.fftfreq(m, 1 / m).astype(np.int64) % n
    low = (wanted * (share / np.maximum(_response(n), 1e-3)).astype(np.float32))[:, rows, : m // 2 + 1]
    coarser = _start(low, sizes[1:])
    return [_cut(np.maximum(wanted - _raised(expected(coarser, m)), 0), sizes[0]), *coarser]


def _cut(wanted: Plane, size: tuple[int, int]) -> Plane:
    """Kernels (B, V, U) whose amplitude is near sqrt(wanted): project to the amplitude and to the support in turn."""
    from scipy import fft

    n = wanted.shape[-2]
    amplitude = np.sqrt(wanted)
    place = np.exp(-2j * np.pi * (np.fft.fftfreq(n)[:, None] * (size[0] // 2) + np.fft.rfftfreq(n) * (size[1] // 2)))
    spectrum = amplitude * place.astype(np.complex64)
    for _ in range(_FIRST):
        kernel = fft.irfft2(spectrum, s=(n, n))[:, : size[0], : size[1]]
        spectrum = fft.rfft2(kernel, s=(n, n))
        spectrum *= amplitude / np.maximum(np.abs(spectrum), 1e-6)
    return kernel


def _descend(wanted: Plane, kernels: list[Plane]) -> list[Plane]:
    """Gradient steps on all levels together, each patch with its own step length; the best of each patch is kept."""
    sizes = [k.shape[1:] for k in kernels]
    n = wanted.shape[-2]
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :]) * 2 ** (len(kernels) - 1)
    stress = (1 + _STRESS * np.exp(-np.square(f / _BLOTCHES))).astype(np.float32)
    stress = stress / np.maximum((np.square(wanted) * _weights(n)).sum(axis=(-2, -1)), 1e-20)[:, None, None]
    here = _joined(kernels)
    cost, slope = _cost(wanted, kernels, stress)
    best, least = here.copy(), cost.copy()
    length = 0.02 * np.abs(here).max(axis=1) / np.maximum(np.abs(slope).max(axis=1), 1e-20)
    for step in range(_STEPS):
        there = here - length[:, None] * slope
        cost, ahead = _cost(wanted, _parted(there, sizes), stress)
        better = cost < least
        best[better], least[better] = there[better], cost[better]
        moved, turned = there - here, ahead - slope
        along = (moved * turned).sum(axis=1)
        ratio = (moved**2).sum(axis=1) / np.maximum(along, 1e-20)
        if step % 2 == 0:
            ratio = along / np.maximum((turned**2).sum(axis=1), 1e-20)
        wild = cost > 2 * least
        here, slope = np.where(wild[:, None], here, there), np.where(wild[:, None], slope, ahead)
        length = np.where(wild, length / 4, np.where(along > 0, ratio, 2 * length)).astype(np.float32)
    return _parted(best, sizes)


def _cost(wanted: Plane, kernels: list[Plane], stress: Plane) -> tuple[Plane, Plane]:
    """Squared error of the spectrum under `stress` (B,), and its gradient (B, all taps)."""
    n = wanted.shape[-2]
    error = expected(kernels, n) - wanted
    pull = error * stress
    cost = (error * pull * _weights(n)).sum(axis=(-2, -1))
    slopes = []
    for kernel in kernels:
        slopes.append(_slope(pull, kernel))
        pull = pull if kernel is kernels[-1] else _lowered(pull)
    return cost, _joined(slopes)


def _slope(error: Plane, kernel: Plane) -> Plane:
    from scipy import fft

    n = error.shape[-2]
    back: Plane = fft.irfft2(error * fft.rfft2(kernel, s=(n, n)), s=(n, n))
    slope: Plane = 4 * n * n * back[:, : kernel.shape[1], : kernel.shape[2]]
    return slope


def _joined(kernels: Sequence[Plane]) -> Plane:
    return np.concatenate([k.reshape(len(k), -1) for k in kernels], axis=1).astype(np.float32)


def _parted(taps: Plane, sizes: Sequence[tuple[int, ...]]) -> list[Plane]:
    ends = np.cumsum([v * u for v, u in sizes])[:-1]
    return [part.reshape(len(taps), v, u) for part, (v, u) in zip(np.split(taps, ends, axis=1), sizes, strict=True)]


def _weights(n: int) -> Plane:
    return half_plane_weights(n).astype(np.float32)
