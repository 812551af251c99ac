from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustkit.errors import DataError, UsageError
from robustkit.noise import estimate
from robustkit.noise.patches import grid
from robustkit.noise.profile import patch_variance


def _full(half: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """Rebuild a whole plane from its half by Hermitian symmetry."""
    whole = np.zeros(plane)
    whole[:, : half.shape[1]] = half
    for y in range(plane[0]):
        for x in range(half.shape[1], plane[1]):
            whole[y, x] = half[-y % plane[0], plane[1] - x]
    return whole


@pytest.mark.parametrize("count", [2, 5, 20])
def test_paper_spectrum_is_equation_3_with_bessel(make_repeats, count) -> None:
    repeats = make_repeats(count, (40, 33), (0.9, 1.3))
    profile = estimate(repeats, method="paper")
    rows, columns = grid(profile.shape, profile.patch, profile.overlap)
    assert profile.patch == (8, 5)
    residuals = repeats.pixels.astype(float) - repeats.pixels.astype(float).mean(axis=0)
    for i, j in ((0, 0), (2, 3), (len(rows.starts) - 1, len(columns.starts) - 1)):
        y, x = rows.starts[i], columns.starts[j]
        cut = residuals[:, y : y + rows.size, x : x + columns.size]
        direct = np.mean([np.abs(np.fft.fft2(c)) ** 2 for c in cut], axis=0)
        direct *= count / (count - 1) * 0.9 * 1.3 / (rows.size * columns.size)
        assert np.allclose(_full(profile.spectra[i, j], profile.plane), direct, rtol=2e-4)


def test_parseval(make_repeats) -> None:
    from robustkit.noise.spectra import local_spectra

    repeats = make_repeats(7, (41, 52), (0.7, 1.1))
    repeats = replace(repeats, pixels=repeats.pixels.astype(np.float64))  # the sums themselves, not their storage
    valid = np.ones((41, 52), bool)
    rows, columns = grid((41, 52), (9, 8), (3, 2))
    spectra, plane = local_spectra(repeats, valid, rows, columns, corrected=False, precision=np.float64)
    variance = patch_variance(spectra, plane, repeats.pixel_mm)
    pixels = repeats.pixels - repeats.clean
    for i, y in enumerate(rows.starts):
        for j, x in enumerate(columns.starts):
            cut = pixels[:, y : y + 9, x : x + 8]
            direct = np.square(cut).sum() / (6 * 72)  # K/(K-1) mean over scans = sum / (K-1)
            assert variance[i, j] == pytest.approx(direct, rel=1e-10)


@pytest.mark.parametrize("method", ["paper", "lag-corrected"])
def test_white_noise_gives_sigma_squared_times_area(method) -> None:
    rng = np.random.default_rng(3)
    from robustkit.types import RepeatScans

    pixels = rng.normal(0, 20, (20, 120, 120)).astype(np.float32)
    profile = estimate(RepeatScans("w", pixels, (0.5, 0.8), 25.0), method=method)
    whole = profile.spectra.mean(axis=(0, 1))
    # 273,600 independent values: the variance is known to 0.27 %, each pooled bin of a periodogram to some 2 %, of
    # the lag-corrected spectrum, which trades variance for leakage, to some 6 %; bounds of about 5 such.
    assert patch_variance(whole, profile.plane, profile.pixel_mm) == pytest.approx(400, rel=0.014)
    assert np.sqrt(np.mean((whole / (400 * 0.5 * 0.8) - 1) ** 2)) < (0.06 if method == "paper" else 0.15)


def test_missing_bessel_would_be_seen(make_repeats) -> None:
    # K = 2 without K/(K-1) reads sigma low by 29 %; 60 sets bound the mean to about 0.5 %.
    ratios = [estimate(make_repeats(2, (48, 48), seed=s), method="paper").white_sigma / 10 for s in range(60)]
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("method", "bound"), [("lag-corrected", 0.35), ("paper", 0.9)])
def test_low_frequencies_fill_up_only_without_lag_correction(make_repeats, method, bound) -> None:
    """A ring spectrum f exp(-(f/p)^2) at f = 0.03/mm; the window of a patch leaks the ring's power into it."""
    from robustkit.noise.profile import frequencies

    repeats = make_repeats(20, (140, 140), peak=0.2)
    profile = estimate(repeats, method=method, patch_mm=14)
    f = frequencies(profile.plane, profile.pixel_mm)
    pooled = profile.spectra.mean(axis=(0, 1))
    zero = pooled[0, 0] / pooled[(f > 0.12) & (f < 0.16)].mean()
    assert zero > 0
    assert (zero < bound) if method == "lag-corrected" else (zero > 0.25)


@pytest.mark.parametrize("method", ["paper", "lag-corrected"])
def test_padding_is_no_noise_and_does_not_dilute_its_neighbours(make_repeats, method) -> None:
    repeats = make_repeats(20, (90, 90))
    mask = np.ones((90, 90), bool)
    mask[:, :31] = False
    pixels = repeats.pixels.copy()
    pixels[:, ~mask] = -2000
    padded = estimate(replace(repeats, pixels=pixels, mask=mask), method=method)
    assert (padded.sigma[~mask] == 0).all()
    edge = padded.sigma[:, 31:36].mean()
    assert edge == pytest.approx(10, rel=0.08)  # 90 x 5 pixels, 20 scans: about 2 % by chance
    clipped = estimate(replace(repeats, pixels=pixels), method=method)  # no mask, but constant over the scans
    assert np.array_equal(clipped.sigma, padded.sigma)


@pytest.mark.parametrize("shape", [(3, 4), (5, 200), (1, 30)])
@pytest.mark.parametrize("method", ["paper", "lag-corrected"])
def test_image_smaller_than_a_patch(make_repeats, shape, method) -> None:
    profile = estimate(make_repeats(20, shape), method=method)
    assert profile.sigma.shape == shape
    assert profile.patch[0] == min(shape[0], profile.patch[0])
    assert 3 < np.sqrt(np.square(profile.sigma).mean()) < 30


def test_each_axis_has_its_own_spacing(make_repeats) -> None:
    profile = estimate(make_repeats(4, (80, 80), (0.5, 1.0)), method="paper")
    assert profile.patch == (14, 7)
    assert profile.report["patch_mm"] == [7.0, 7.0]


def test_transposed_repeats_give_the_transposed_profile(make_repeats) -> None:
    repeats = make_repeats(6, (60, 60), (0.8, 1.2), stretch=2.0)
    turned = replace(repeats, pixels=np.ascontiguousarray(repeats.pixels.transpose(0, 2, 1)), pixel_mm=(1.2, 0.8))
    straight, other = (estimate(r, method="lag-corrected") for r in (repeats, turned))
    assert np.allclose(straight.sigma, other.sigma.T, rtol=1e-3)
    assert np.allclose(straight.kernels().transpose(1, 0, 3, 2), other.kernels(), atol=1e-3)
    straight, other = estimate(repeats), estimate(turned)  # its patches are wider than high
    assert np.allclose(straight.sigma, other.sigma.T, rtol=1e-3)
    one, two = (_full(p.spectra.mean(axis=(0, 1)), p.plane) for p in (straight, other))
    assert np.abs(one.T - two).max() < 0.02 * one.max()


@pytest.mark.parametrize("pixel_mm", [(0.5, 0.5), (1.0, 1.0)])
def test_regional_spectrum_is_the_truth(make_repeats, pixel_mm) -> None:
    shape = (160, 160)
    repeats = make_repeats(20, shape, pixel_mm, peak=0.15 / pixel_mm[0], stretch=1.6)
    profile = estimate(repeats)
    found = _full(profile.spectra.mean(axis=(0, 1)), profile.plane)
    rows, columns = (np.fft.fftfreq(n) for n in profile.plane)
    f = np.hypot(rows[:, None], 1.6 * columns[None, :])
    truth = f * np.exp(-((f / 0.15) ** 2))
    truth *= 100 * np.prod(pixel_mm) / truth.mean()
    # 20 scans of 4 to 25 independent windows: 11 to 5 % a bin
    assert np.linalg.norm(found - truth) < 0.13 * np.linalg.norm(truth)


def test_input_is_untouched(make_repeats) -> None:
    repeats = make_repeats(4, (40, 40))
    before = repeats.pixels.copy()
    estimate(repeats)
    assert np.array_equal(repeats.pixels, before)


def test_noiseless_repeats_give_zero_everywhere() -> None:
    from robustkit.types import RepeatScans

    profile = estimate(RepeatScans("z", np.zeros((2, 30, 30), np.float32), (1.0, 1.0), 25.0))
    assert not profile.sigma.any()
    assert not profile.spectra.any()
    assert "no noise at all" in " ".join(profile.report["warnings"])


def test_one_scan_is_refused_with_its_cure(make_repeats) -> None:
    repeats = make_repeats(3)
    with pytest.raises(DataError, match=r"at least 2 repeated scans.*robustkit scan"):
        estimate(replace(repeats, pixels=repeats.pixels[:1]))


def test_unknown_method_lists_what_exists(make_repeats) -> None:
    with pytest.raises(UsageError, match="paper, lag-corrected"):
        estimate(make_repeats(3), method="welch")


def test_report_states_the_floor_of_k_scans(make_repeats) -> None:
    report = estimate(make_repeats(20, (98, 98)), method="paper").report
    assert report["sampling_floor"]["bin"] == pytest.approx(1 / np.sqrt(19))
    assert report["sampling_floor"]["pixel_sigma"] == pytest.approx(0.1622, abs=1e-4)
    assert {"K", "patch_mm", "patch_px", "sigma_median_hu", "peak_frequency", "radial"} <= set(report)


def test_patch_floor_matches_the_scatter_of_patches(make_repeats) -> None:
    # Stationary truth: the spread of patch sigmas is the floor; some 250 independent patches know it to 5 %.
    profile = estimate(make_repeats(20, (150, 150)), method="paper")
    sigma = np.sqrt(patch_variance(profile.spectra, profile.plane, profile.pixel_mm))
    assert profile.report["sampling_floor"]["patch_sigma"] == pytest.approx(sigma.std() / sigma.mean(), rel=0.25)
