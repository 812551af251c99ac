from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.signal import fftconvolve

from robustkit.noise.kernel import build, build_stationary, cropped, halved, synthesise
from robustkit.noise.patches import axis_patches
from robustkit.philox import fill_row, white_fields
from robustkit.seeding import draws


def _words(n: int, first: int = 0) -> np.ndarray:
    return np.array([d.words for d in draws(5, "audit", "cd" * 8, range(first, first + n))], dtype=np.uint32)


def _naive(rows, columns, kernels, white) -> np.ndarray:
    """Filter the white field once a patch, blend with trapezoids: the recipe of the paper, patch by patch."""
    out = np.zeros((rows.length, columns.length))
    v, u = kernels.shape[2:]
    for i, y in enumerate(rows.starts):
        for j, x in enumerate(columns.starts):
            cut = white[y : y + rows.size + v - 1, x : x + columns.size + u - 1].astype(float)
            patch = fftconvolve(cut, kernels[i, j].astype(float), mode="valid")
            weight = np.outer(rows.weights[i], columns.weights[j])
            out[y : y + rows.size, x : x + columns.size] += weight * patch
    return out


def _filters(rows, columns, v, u) -> np.ndarray:
    """K(y, x; t) of every pixel, (H, W, v, u), straight from its definition."""
    return lambda kernels: np.einsum(
        "py,qx,pqvu->yxvu", _spread(rows), _spread(columns), kernels.astype(float), optimize=True
    ).reshape(rows.length, columns.length, v, u)


def _spread(axis) -> np.ndarray:
    matrix = np.zeros((len(axis.starts), axis.length))
    for p, start in enumerate(axis.starts):
        matrix[p, start : start + axis.size] = axis.weights[p]
    return matrix


@pytest.mark.parametrize(
    ("shape", "size", "shared", "taps"),
    [
        ((90, 150), 10, 3, (10, 10)),
        ((90, 150), 7, 2, (7, 7)),
        ((61, 70), 14, 4, (28, 27)),
        ((64, 64), 40, 8, (41, 41)),
        ((5, 200), 7, 2, (3, 90)),
        ((33, 1), 6, 2, (4, 5)),
        ((33, 40), 9, 8, (4, 4)),
    ],
)
def test_kernel_equals_naive_loop(shape, size, shared, taps) -> None:
    rows, columns = axis_patches(shape[0], size, shared), axis_patches(shape[1], size, shared)
    rng = np.random.default_rng(1)
    kernels = rng.standard_normal((len(rows.starts), len(columns.starts), *taps)).astype(np.float32)
    sigma = rng.uniform(5, 40, shape).astype(np.float32)
    bank = build(rows, columns, kernels, sigma)
    noise = synthesise(bank, _words(3))
    white = white_fields(_words(3), (shape[0] + taps[0] - 1, shape[1] + taps[1] - 1))
    norm = np.sqrt(np.square(_filters(rows, columns, *taps)(kernels)).sum(axis=(2, 3)))
    for b in range(3):
        expected = sigma / norm * _naive(rows, columns, kernels, white[b])
        assert np.abs(noise[b] - expected).max() < 1e-5 * sigma.max()


def _white(words, row: int, shape) -> np.ndarray:
    """White (H, W) of one realization from white row `row` on."""
    out = np.zeros((shape[0], -(-shape[1] // 64) * 64), np.float32)
    for y in range(shape[0]):
        fill_row(out[y], row + y, *words)
    return out[:, : shape[1]]


def _upsampled(coarse: np.ndarray, shape) -> np.ndarray:
    """Every second pixel is a point; between two points the cubic through four, the border repeated."""
    for axis, length in ((0, shape[0]), (1, shape[1])):
        padded = np.pad(coarse, [(1, 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        a, b, c, d = (padded.take(range(k, k + coarse.shape[axis]), axis) for k in range(4))
        pair = np.stack([coarse, (-a + 9 * b + 9 * c - d) / 16], axis=axis + 1)
        coarse = pair.reshape([2 * n if i == axis else n for i, n in enumerate(coarse.shape)]).take(range(length), axis)
    return coarse


@pytest.mark.parametrize(
    ("shape", "levels"), [((90, 150), 2), ((61, 70), 2), ((103, 64), 3), ((20, 28), 2), ((7, 5), 2)]
)
def test_coarser_grids_equal_naive_loops_and_have_the_sd_claimed(shape, levels) -> None:
    rows, columns = axis_patches(shape[0], 20, 0), axis_patches(shape[1], 28, 8)
    rng = np.random.default_rng(4)
    smooth = rng.standard_normal((1, 1, 10, 8)), rng.standard_normal((1, 1, 10, 12)), rng.standard_normal((1, 1, 7, 9))
    wander = [rng.standard_normal((len(rows.starts), len(columns.starts), *k.shape[2:])) for k in smooth]
    kernels = [(k + 0.1 * w).astype(np.float32) for k, w in zip(smooth, wander, strict=True)][:levels]
    sigma = rng.uniform(5, 40, shape).astype(np.float32)
    bank = build(rows, columns, kernels[0], sigma, kernels[1:])
    for b in range(2):
        total, inner, level = 0.0, bank, 0
        grids = []
        down, across = rows, columns
        near = kernels
        while inner is not None:
            v, u = near[level].shape[2:]
            white = _white(_words(2)[b], level << 24, (down.length + v - 1, across.length + u - 1))
            grids.append(_naive(down, across, near[level], white))
            (down, i), (across, j) = halved(down), halved(across)
            near = [k[np.ix_(i, j)] for k in near]
            inner, level = inner.coarser, level + 1
        for grid in grids[::-1]:
            total = grid + (_upsampled(total, grid.shape) if np.ndim(total) else 0)
        expected = bank.gain * total
        assert np.abs(synthesise(bank, _words(2))[b] - expected).max() < 1e-5 * sigma.max()
    noise = synthesise(bank, _words(600)).astype(np.float64)
    ratio = noise.std(axis=0) / sigma  # each known to 2.9 %
    assert ratio.mean() == pytest.approx(1, abs=0.006)
    assert np.abs(ratio - 1).max() < 6 * 0.029


def _bank(shape=(70, 90), sigma: float = 10.0):
    rows, columns = axis_patches(shape[0], 10, 3), axis_patches(shape[1], 10, 3)
    rng = np.random.default_rng(2)
    kernels = rng.standard_normal((len(rows.starts), len(columns.starts), 10, 10)).astype(np.float32)
    return build(rows, columns, kernels, np.full(shape, sigma, np.float32))


def test_same_bits_in_any_batch_and_order() -> None:
    bank = _bank()
    together = synthesise(bank, _words(23))
    assert np.array_equal(together, np.concatenate([synthesise(bank, _words(1, r)) for r in range(23)]))
    assert np.array_equal(together, np.concatenate([synthesise(bank, _words(7)), synthesise(bank, _words(16, 7))]))
    assert np.array_equal(together[::-1], synthesise(bank, _words(23)[::-1]))


def test_same_bits_from_threads() -> None:
    bank = _bank()
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda first: synthesise(bank, _words(5, first)), range(0, 20, 5)))
    assert np.array_equal(np.concatenate(parts), synthesise(bank, _words(20)))


def test_zero_sigma_gives_exactly_zero() -> None:
    assert not synthesise(_bank(sigma=0.0), _words(2)).any()


def test_stationary_bank_equals_convolution() -> None:
    rng = np.random.default_rng(3)
    kernel = rng.standard_normal((7, 9)).astype(np.float32)
    bank = build_stationary(kernel, np.full((95, 70), 12.0, np.float32))
    noise = synthesise(bank, _words(2))
    white = white_fields(_words(2), (95 + 6, 70 + 8)).astype(float)
    for b in range(2):
        expected = 12 / np.linalg.norm(kernel) * fftconvolve(white[b], kernel.astype(float), mode="valid")
        assert np.abs(noise[b] - expected).max() < 1e-4


def test_nothing_wraps_round_the_image() -> None:
    kernel = np.ones((9, 9), np.float32)
    noise = synthesise(build_stationary(kernel, np.ones((64, 64), np.float32)), _words(400))
    # 400 draws of 64 pixels a side, each correlated over 9: some 2800 independent products, bound 5 standard errors.
    assert abs((noise[:, 0] * noise[:, -1]).mean()) < 5 / np.sqrt(2800)
    assert abs((noise[:, :, 0] * noise[:, :, -1]).mean()) < 5 / np.sqrt(2800)


@pytest.mark.parametrize("taps", [(6, 6), (7, 7), (8, 5)])
def test_zero_phase_kernel_is_centred(taps) -> None:
    """An impulse at the kernel's centre copies the white field from where the centre lies, for even and odd sizes."""
    kernel = np.zeros(taps, np.float32)
    kernel[taps[0] // 2, taps[1] // 2] = 1
    shape = (30, 41)
    noise = synthesise(build_stationary(kernel, np.ones(shape, np.float32)), _words(1))[0]
    white = white_fields(_words(1), (60, 60))[0]
    down, right = taps[0] - 1 - taps[0] // 2, taps[1] - 1 - taps[1] // 2
    assert np.allclose(noise, white[down : down + shape[0], right : right + shape[1]], atol=1e-6)


def test_cropping_keeps_centre_and_power() -> None:
    y, x = np.mgrid[-15:16, -16:16]
    kernel = np.exp(-0.5 * (y**2 + x**2) / 4).astype(np.float32)  # power: a Gaussian of variance 2 an axis
    small = cropped(kernel, 5e-4)
    assert small.shape == (11, 11)  # erf(5.5 / 2)^2 = 0.9998, erf(4.5 / 2)^2 = 0.997
    assert np.unravel_index(small.argmax(), small.shape) == (5, 5)
    assert np.square(small).sum() >= (1 - 5e-4) * np.square(kernel).sum()
    assert cropped(np.ones((6, 6), np.float32)).shape == (6, 6)
    assert cropped(np.zeros((6, 6), np.float32)).shape == (1, 1)


def test_variance_in_ramps_equals_variance_in_flats() -> None:
    """With one kernel everywhere the blended filters have one variance: weights sum to one, the field is shared."""
    shape = (76, 76)
    axis = axis_patches(76, 10, 3)
    kernel = np.random.default_rng(4).standard_normal((1, 1, 10, 10)).astype(np.float32)
    kernels = np.broadcast_to(kernel, (len(axis.starts), len(axis.starts), 10, 10))
    bank = build(axis, axis, np.ascontiguousarray(kernels), np.ones(shape, np.float32))
    assert np.ptp(bank.gain) < 0.005 * bank.gain.mean()
    assert bank.gain.mean() == pytest.approx(1 / np.linalg.norm(kernel), rel=1e-5)


def test_measured_variance_is_one_in_flats_ramps_and_corners() -> None:
    # 6000 draws x (1600..3000) pixels of little-correlated noise: each mean variance is known to about 0.1 %.
    bank = _bank((60, 60), sigma=1.0)
    axis = axis_patches(60, 10, 3)
    ramp = np.ones(60, bool)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        ramp[start : start + 10] &= weight < 1
    total = np.zeros((60, 60))
    for first in range(0, 6000, 500):
        total += np.square(synthesise(bank, _words(500, first)), dtype=np.float64).sum(axis=0)
    variance = total / 6000
    flat = variance[np.ix_(~ramp, ~ramp)].mean()
    for part in (variance[np.ix_(ramp, ramp)], variance[np.ix_(ramp, ~ramp)], variance[np.ix_(~ramp, ramp)]):
        assert part.mean() / flat == pytest.approx(1, abs=0.005)
    assert flat == pytest.approx(1, abs=0.005)


def test_variance_of_a_linear_probe() -> None:
    """The probe's variance is computed from the filters alone: w^T n = sum_s W(s) sum_x w(x) K(x; x - s)."""
    shape, taps = (24, 26), (8, 8)
    rows, columns = axis_patches(24, 8, 2), axis_patches(26, 8, 2)
    rng = np.random.default_rng(6)
    kernels = rng.standard_normal((len(rows.starts), len(columns.starts), *taps)).astype(np.float32)
    sigma = rng.uniform(5, 15, shape).astype(np.float32)
    bank = build(rows, columns, kernels, sigma)
    filters = _filters(rows, columns, *taps)(kernels)
    filters *= (sigma / np.sqrt(np.square(filters).sum(axis=(2, 3))))[:, :, None, None]
    probes = rng.standard_normal((12, *shape))
    back = np.zeros((12, shape[0] + 7, shape[1] + 7))
    for v in range(8):
        for u in range(8):
            back[:, 7 - v : 7 - v + shape[0], 7 - u : 7 - u + shape[1]] += probes * filters[:, :, v, u]
    expected = np.square(back).sum(axis=(1, 2))
    values = np.concatenate(
        [np.tensordot(synthesise(bank, _words(1000, r)), probes, ([1, 2], [1, 2])) for r in range(0, 20000, 1000)]
    )
    ratio = np.square(values).mean(axis=0) / expected
    # One probe: standard error sqrt(2/20000) = 1 %. Mean of 12 nearly independent probes: 0.3 %, and 1 % is 3.4 of it.
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert np.abs(ratio - 1).max() < 0.045
