from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from robustkit.errors import DataError
from robustkit.noise import fit_nps, fit_patch_nps, fit_white, library_kernels, library_profile
from robustkit.noise.library import _curves, nearest_kernel
from robustkit.seeding import draws


def test_the_26_published_curves_are_there() -> None:
    assert len(library_kernels()) == 26


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("B30f", ("b30f", True)),
        ("STANDARD", ("standard", True)),
        ("BONE+", ("boneplus", True)),
        ("B31s", ("b31f", False)),
        ("I70f", ("b70f", False)),
        ("Br40d", ("b40f", False)),
        ("FC13", ("standard", False)),
        (None, ("standard", False)),
    ],
)
def test_kernel_names(asked, found) -> None:
    assert nearest_kernel(asked) == found


@pytest.mark.parametrize("kernel", ["b10f", "b30f", "b50f", "soft", "standard", "lung"])
def test_texture_is_that_of_the_curve(kernel) -> None:
    """Peak and mean frequency of the sampled plane against the published curve, integrated by the trapezoid rule."""
    f, nnps = _curves()[kernel]
    report = library_profile(kernel, 10.0, (0.45, 0.45), shape=(128, 128), mas=100).report
    assert report["peak_frequency"] == pytest.approx(f[np.argmax(nnps)], abs=0.04)
    assert report["mean_frequency"] == pytest.approx(trapezoid(f * nnps, f) / trapezoid(nnps, f), rel=0.02)
    assert "not measured on this scanner" in report["warnings"][0]


@pytest.mark.parametrize(("kernel", "peak"), [("b10f", 0.16), ("b30f", 0.23), ("b70f", 0.60), ("chest", 0.31)])
def test_peaks_of_the_literature(kernel, peak) -> None:
    f, nnps = _curves()[kernel]
    assert f[np.argmax(nnps)] == pytest.approx(peak, abs=0.01)


def test_noise_has_the_sigma_map_that_was_given() -> None:
    sigma = np.linspace(5, 25, 60 * 70).reshape(60, 70).astype(np.float32)
    profile = library_profile("B40f", sigma, (0.9, 0.9), mas=100)
    clean = np.zeros((60, 70), np.float32)
    for fit in (fit_nps, fit_patch_nps, fit_white):
        model = fit.from_profile(profile)
        assert model.sample(clean, [100.0, 25.0], draws(0, "audit", "a", range(2))).shape == (2, 2, 60, 70)
    model = fit_nps.from_profile(profile)
    assert np.array_equal(model.sd(clean, [100.0])[0], sigma)
    noise = model.sample(clean, [100.0], draws(0, "audit", "a", range(400)))[:, 0]
    # 400 draws: each pixel's sd is known to 3.5 %, the mean of 4200 correlated pixels to about 0.4 %
    assert (noise.std(axis=0) / sigma).mean() == pytest.approx(1, abs=0.015)


def test_sharp_kernels_fold_at_coarse_pixels_without_losing_power() -> None:
    from robustkit.noise.profile import patch_variance

    profile = library_profile("bone", 30.0, (0.977, 0.977), shape=(64, 64))
    assert patch_variance(profile.spectra[0, 0], profile.plane, profile.pixel_mm) == pytest.approx(900, rel=1e-4)


def test_impossible_sigma() -> None:
    for sigma in (-1.0, np.nan):
        with pytest.raises(DataError, match="sigma in HU"):
            library_profile("soft", sigma, (1.0, 1.0), shape=(20, 20))
    with pytest.raises(DataError, match="image's shape"):
        library_profile("soft", 5.0, (1.0, 1.0))
