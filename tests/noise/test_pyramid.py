from __future__ import annotations

import numpy as np
import pytest

from robustkit.noise import pyramid
from robustkit.noise.profile import half_plane_weights

N = 48


def _ring(peak: float, stretch: float = 1.0) -> np.ndarray:
    f = np.hypot(np.fft.fftfreq(N)[:, None], np.fft.rfftfreq(N)[None, :] * stretch)
    return (f * np.exp(-((f / peak) ** 2)))[None].astype(np.float32)


def _error(wanted: np.ndarray, levels: int) -> float:
    weights = half_plane_weights(N)
    wanted = wanted / ((wanted * weights).sum(axis=(1, 2), keepdims=True) / N**2)
    found = pyramid.expected(pyramid.fit_kernels(wanted.astype(np.float32), levels), N)
    return float(np.sqrt((weights * (found - wanted) ** 2).sum() / (weights * wanted**2).sum()))


@pytest.mark.parametrize(
    ("wanted", "bound"),
    [(np.ones((1, N, N // 2 + 1), np.float32), 0.02), (_ring(0.2), 0.06), (_ring(0.12, 2.5), 0.08)],
)
def test_two_grids_make_a_long_spectrum(wanted, bound) -> None:
    assert _error(wanted, 2) < bound


def test_one_grid_alone_cannot() -> None:
    assert _error(_ring(0.12, 2.5), 1) > 1.5 * _error(_ring(0.12, 2.5), 2)


def test_expected_spectrum_of_an_interpolated_grid() -> None:
    """One white sample on every second pixel, seen through the interpolating kernel: |G|^2 / 4 a pixel."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((5, 4))
    stuffed = np.zeros((10, 8))
    stuffed[::2, ::2] = coarse
    cubic = np.array([-1, 0, 9, 16, 9, 0, -1]) / 16
    spectrum = np.fft.fft2(stuffed, (N, N)) * np.outer(np.fft.fft(cubic, N), np.fft.fft(cubic, N))
    nothing = np.zeros((1, 3, 3), np.float32)
    found = pyramid.expected([nothing, coarse[None].astype(np.float32)], N)[0]
    assert np.allclose(found, np.abs(spectrum[:, : N // 2 + 1]) ** 2 / 4, atol=1e-4)


def test_lowered_is_the_transpose_of_raised() -> None:
    """<raise a, b> = <a, lower b> over whole planes, for real even functions."""
    rng = np.random.default_rng(1)
    a = np.fft.rfft2(rng.standard_normal((1, N // 2, N // 2)), axes=(1, 2))
    b = np.fft.rfft2(rng.standard_normal((1, N, N)), axes=(1, 2))
    a, b = np.abs(a) ** 2, np.abs(b) ** 2
    left = (half_plane_weights(N) * pyramid._raised(a) * b).sum()
    right = (half_plane_weights(N // 2) * a * pyramid._lowered(b)).sum()
    assert left == pytest.approx(right, rel=1e-5)


def test_gradient_is_that_of_the_cost() -> None:
    rng = np.random.default_rng(2)
    kernels = [rng.standard_normal((1, v, u)) for v, u in pyramid.SIZES[:2]]
    wanted, stress = 40 * _ring(0.2).astype(float), np.full((1, N, N // 2 + 1), 1e-3)
    _, slope = pyramid._cost(wanted, kernels, stress)
    for place in (3, 77, 81, 190):
        costs = []
        for step in (-1e-4, 1e-4):
            taps = pyramid._joined(kernels).astype(float)
            taps[0, place] += step
            ends = kernels[0].size
            moved = [taps[:, :ends].reshape(kernels[0].shape), taps[:, ends:].reshape(kernels[1].shape)]
            costs.append(float(pyramid._cost(wanted, moved, stress)[0][0]))
        assert (costs[1] - costs[0]) / 2e-4 == pytest.approx(float(slope[0, place]), rel=2e-3)


def test_a_patch_without_noise_gets_no_kernel() -> None:
    spectra = np.concatenate([_ring(0.2), np.zeros_like(_ring(0.2))])
    for kernel in pyramid.fit_kernels(spectra, 3):
        assert kernel[0].any()
        assert not kernel[1].any()
