"""A linear model under noise has a closed form: it flips with probability Phi(-margin / sigma), sigma^2 = w^T C w."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from models import linear_probe
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from robustkit import RepeatScans, Slice, draws, slice_id
from robustkit.adapters import load_model
from robustkit.audit import Case, perturb, score_realizations
from robustkit.noise import fit_nps, fit_white
from robustkit.noise.patches import Axis, axis_patches

SHAPE = (24, 26)
PIXEL_MM = (1.0, 1.0)
LEVELS = (12.5, 25.0, 100.0)
N = 20_000
VALUE = 40.0


def weights() -> NDArray[np.float64]:
    """Return a smooth probe (24, 26): it sees low frequencies, as a classifier with pooling does."""
    y, x = np.indices(SHAPE)
    return np.exp(-((y - 11) ** 2 + (x - 14) ** 2) / 50.0) / 100.0 + np.cos(0.3 * x) / 2000.0


def repeats(count: int = 20) -> RepeatScans:
    """Return scans of a constant object; the noise is correlated, and twice as strong on the right."""
    white = np.random.default_rng(4).standard_normal((count, SHAPE[0] + 2, SHAPE[1] + 2))
    smooth = sum(white[:, i : i + SHAPE[0], j : j + SHAPE[1]] for i in range(3) for j in range(3)) / 3.0
    sd = np.linspace(8.0, 16.0, SHAPE[1])
    return RepeatScans("f" * 16, (VALUE + sd * smooth).astype(np.float32), PIXEL_MM, 25.0)


def variance_by_the_paper(scans: RepeatScans, patch_mm: float, w: NDArray[np.float64]) -> float:
    """w^T C w of the paper's noise at the scans' mAs, from the scans alone: Eq. 3 with K/(K-1), then filter and blend.

    One white field W, n(x) = sum_t K(x, t) W(x - t): so w^T n = sum_s W(s) sum_x w(x) K(x, x - s).
    """
    rows, columns = (axis_patches(length, round(patch_mm), round(0.3 * round(patch_mm))) for length in SHAPE)
    size = rows.size
    residuals = scans.pixels.astype(float) - scans.pixels.astype(float).mean(axis=0)
    bessel = len(residuals) / (len(residuals) - 1)
    filters = np.zeros((*SHAPE, size, size))
    variance = np.zeros(SHAPE)
    for v, y in enumerate(rows.starts):
        for u, x in enumerate(columns.starts):
            patch = residuals[:, y : y + size, x : x + size]
            spectrum = bessel * np.mean(np.abs(np.fft.fft2(patch)) ** 2, axis=0) / size**2
            kernel = np.fft.fftshift(np.fft.ifft2(np.sqrt(spectrum)).real)
            weight = np.outer(on_axis(rows, v), on_axis(columns, u))
            filters += weight[:, :, None, None] * kernel
            variance += weight * spectrum.mean()
    filters *= np.sqrt(variance / np.square(filters).sum(axis=(2, 3)))[:, :, None, None]
    back = np.zeros((SHAPE[0] + size - 1, SHAPE[1] + size - 1))
    for i in range(size):
        for j in range(size):
            back[size - 1 - i :, size - 1 - j :][: SHAPE[0], : SHAPE[1]] += w * filters[:, :, i, j]
    return float(np.square(back).sum())


def on_axis(axis: Axis, patch: int) -> NDArray[np.float64]:
    """Return the trapezoid of one patch over the whole axis."""
    found = np.zeros(axis.length)
    found[axis.starts[patch] : axis.starts[patch] + axis.size] = axis.weights[patch]
    return found


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], object]:
    """Make an ONNX classifier whose logit on the constant slice is `margin`."""
    folder = tmp_path_factory.mktemp("probe")

    def make(margin: float) -> object:
        threshold = VALUE * float(weights().astype(np.float32).sum()) - margin
        return load_model(linear_probe(folder / f"{margin:g}.onnx", weights(), threshold), {})

    return make


def constant() -> Slice:
    pixels = np.full(SHAPE, VALUE, np.float32)
    return Slice(slice_id(pixels, PIXEL_MM), pixels, PIXEL_MM)


def white_noise():
    return fit_white(repeats(), sigma=20.0, reference_mas=25.0), 400.0 * float(np.square(weights()).sum())


def nps_noise():
    scans = repeats()
    return fit_nps(scans, method="paper", patch_mm=7.0), variance_by_the_paper(scans, 7.0, weights())


@pytest.mark.parametrize("made", [white_noise, nps_noise], ids=["white", "nps"])
def test_flips_as_often_as_the_closed_form_says(made, probe) -> None:
    noise, variance = made()
    margin = 0.8 * np.sqrt(variance)
    item = constant()
    scores = score_realizations(probe(margin), Case(item, item.pixels, noise), LEVELS, range(N), seed=3, batch=64)
    for column, level in enumerate(LEVELS):
        expected = norm.cdf(-margin / np.sqrt(variance * 25.0 / level))
        flips = int((scores.noisy[:, column] == 0).sum())
        # Each of six intervals misses a true rate in at most 0.1 % of seeds.
        low, high = binomtest(flips, N).proportion_ci(0.999)
        assert low <= expected <= high, f"{level:g} mAs: {flips}/{N} against {expected:.4f}"


@pytest.mark.parametrize("made", [white_noise, nps_noise], ids=["white", "nps"])
def test_logit_has_the_variance_of_the_filters(made, probe) -> None:
    noise, variance = made()
    item, model = constant(), probe(1.0)
    case = Case(item, item.pixels, noise)
    logits = []
    for first in range(0, 8 * N, 1000):
        noisy = perturb(case, [25.0], draws(5, "audit", item.id, range(first, first + 1000)))[:, 0]
        p = model.predict(noisy, PIXEL_MM).astype(float)
        logits.append(np.log(p[:, 1] / p[:, 0]))
    # Standard error sqrt(2 / 160,000) = 0.35 %; a missing K/(K-1) is 5 % of the variance.
    assert np.var(np.concatenate(logits)) == pytest.approx(variance, rel=0.01)
