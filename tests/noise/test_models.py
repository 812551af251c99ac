from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustkit.errors import DataError, UsageError
from robustkit.noise import estimate, fit_nps, fit_patch_nps, fit_residuals, fit_white
from robustkit.seeding import draws
from robustkit.types import NoiseModel

FITS = [fit_white, fit_patch_nps, fit_nps, fit_residuals]
LEVELS = [12.5, 25.0, 100.0]


def _draws(n: int, first: int = 0):
    return draws(0, "audit", "ef" * 8, range(first, first + n))


@pytest.fixture
def repeats(make_repeats):
    return make_repeats(10, (60, 70))


@pytest.mark.parametrize("fit", FITS)
class TestEveryModel:
    def test_keeps_the_contract(self, fit, repeats) -> None:
        model = fit(repeats)
        clean = repeats.clean
        noise = model.sample(clean, LEVELS, _draws(3))
        assert isinstance(model, NoiseModel)
        assert model.unit == "mAs"
        assert model.reference_mas == 25
        assert noise.shape == (3, 3, 60, 70)
        assert noise.dtype == np.float32
        assert model.sd(clean, LEVELS).shape == (3, 60, 70)

    def test_one_realization_is_seen_at_every_level(self, fit, repeats) -> None:
        noise = fit(repeats).sample(repeats.clean, LEVELS, _draws(2))
        for level, mas in enumerate(LEVELS):
            assert np.allclose(noise[:, level], noise[:, 1] * np.sqrt(25 / mas), rtol=1e-5)

    def test_levels_asked_alone_or_together_agree(self, fit, repeats) -> None:
        model = fit(repeats)
        together = model.sample(repeats.clean, LEVELS, _draws(2))
        for level, mas in enumerate(LEVELS):
            assert np.array_equal(model.sample(repeats.clean, [mas], _draws(2))[:, 0], together[:, level])

    def test_any_batch_gives_the_same_bits(self, fit, repeats) -> None:
        model = fit(repeats)
        together = model.sample(repeats.clean, LEVELS, _draws(9))
        parts = [model.sample(repeats.clean, LEVELS, _draws(3, first)) for first in (0, 3, 6)]
        assert np.array_equal(together, np.concatenate(parts))

    def test_input_is_untouched(self, fit, repeats) -> None:
        clean = repeats.clean
        before = clean.copy()
        fit(repeats).sample(clean, [25.0], _draws(2))
        assert np.array_equal(clean, before)

    def test_impossible_levels(self, fit, repeats) -> None:
        for level in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(UsageError, match="mAs above 0"):
                fit(repeats).sample(repeats.clean, [level], _draws(1))

    def test_another_shape_is_refused(self, fit, repeats) -> None:
        with pytest.raises(DataError, match="does not fit"):
            fit(repeats).sample(np.zeros((60, 71), np.float32), [25.0], _draws(1))

    def test_unknown_mas_names_the_cure(self, fit, repeats) -> None:
        with pytest.raises(DataError, match="--set reference_mas"):
            fit(replace(repeats, mas=None))
        assert fit(replace(repeats, mas=None), reference_mas="50").reference_mas == 50

    def test_one_scan_is_refused(self, fit, repeats) -> None:
        with pytest.raises(DataError, match="at least 2"):
            fit(replace(repeats, pixels=repeats.pixels[:1]))

    def test_noise_free_repeats_give_exact_zeros(self, fit, repeats) -> None:
        model = fit(replace(repeats, pixels=np.zeros((2, 60, 70), np.float32)))
        assert not model.sample(repeats.clean, LEVELS, _draws(2)).any()

    def test_added_to_a_noisy_source_only_downwards(self, fit, repeats) -> None:
        model = fit(repeats, add_to_source=100.0)
        ratio = model.sd(repeats.clean, [25.0, 50.0, 100.0])
        plain = fit(repeats).sd(repeats.clean, [25.0])[0]
        # sqrt(reference/m - reference/source): sqrt(1 - 1/4), sqrt(1/2 - 1/4), 0
        assert np.allclose(ratio[0], plain * np.sqrt(0.75), rtol=1e-5)
        assert np.allclose(ratio[1], plain * 0.5, rtol=1e-5)
        assert not ratio[2].any()
        with pytest.raises(UsageError, match="cannot be taken away"):
            model.sample(repeats.clean, [101.0], _draws(1))

    def test_half_a_quarter_and_a_tenth_of_the_dose(self, fit, repeats) -> None:
        law = fit(repeats, add_to_source="true").law
        assert law.factors([12.5, 6.25, 2.5]) == pytest.approx([1.0, 3**0.5, 3.0])


def test_sd_is_that_of_the_samples(repeats) -> None:
    # 750 draws: each pixel's sd is known to 2.6 %, the mean over 4200 pixels to about 0.25 %.
    for fit in (fit_white, fit_patch_nps, fit_nps):
        model = fit(repeats)
        power = np.zeros((60, 70))
        for first in range(0, 750, 250):
            power += np.square(model.sample(repeats.clean, [25.0], _draws(250, first))[:, 0], dtype=float).sum(axis=0)
        ratio = np.sqrt(power / 750) / model.sd(repeats.clean, [25.0])[0]
        assert ratio.mean() == pytest.approx(1, abs=0.008)
        assert ratio.std() < 0.035


@pytest.mark.parametrize(("shape", "pixel_mm"), [((64, 64), (1.0, 1.0)), ((63, 66), (0.7, 1.2))])
def test_lag_correlations_are_symmetric_and_true(make_repeats, shape, pixel_mm) -> None:
    """The autocorrelation of the noise against the spectrum it was made from, for lags in both directions."""
    repeats = make_repeats(40, shape, pixel_mm, peak=0.15, stretch=1.5)
    model = fit_nps(repeats)
    noise = model.sample(repeats.clean, [25.0], _draws(300))[:, 0].astype(float)
    truth = repeats.residuals.astype(float)
    for dy, dx in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 1)):
        simulated, measured = (_correlation(n, dy, dx) for n in (noise, truth))
        assert simulated == pytest.approx(measured, abs=0.03)
    assert _correlation(noise, 1, -1) == pytest.approx(_correlation(noise, 1, 1), abs=0.02)


def _correlation(noise: np.ndarray, dy: int, dx: int) -> float:
    if dx < 0:
        noise, dx = noise[:, :, ::-1], -dx
    h, w = noise.shape[1:]
    a, b = noise[:, dy:, dx:], noise[:, : h - dy, : w - dx]
    return float((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))


def test_transposed_axes_give_transposed_noise(make_repeats) -> None:
    repeats = make_repeats(20, (64, 64), stretch=3.0)
    noise = fit_nps(repeats).sample(repeats.clean, [25.0], _draws(100))[:, 0].astype(float)
    assert _correlation(noise, 0, 2) - _correlation(noise, 2, 0) == pytest.approx(
        _correlation(repeats.residuals.astype(float), 0, 2) - _correlation(repeats.residuals.astype(float), 2, 0),
        abs=0.05,
    )


def test_white_needs_no_repeats_when_sigma_is_given() -> None:
    model = fit_white(sigma="12", reference_mas="25")
    clean = np.zeros((20, 30), np.float32)
    assert model.sd(clean, [100.0]) == pytest.approx(6.0)
    assert model.sample(clean, [100.0], _draws(2)).shape == (2, 1, 20, 30)
    with pytest.raises(UsageError, match="sigma=HU"):
        fit_white()


def test_white_levels_may_be_sigmas() -> None:
    model = fit_white(unit="sigma")
    clean = np.zeros((40, 40), np.float32)
    noise = model.sample(clean, [0.0, 1.0, 7.0], _draws(1))[0]
    assert model.unit == "sigma"
    assert not noise[0].any()
    assert np.array_equal(noise[2], np.float32(7) * noise[1])
    with pytest.raises(UsageError, match="at least 0"):
        model.sample(clean, [-1.0], _draws(1))


def test_white_takes_the_power_of_the_repeats(make_repeats) -> None:
    assert fit_white(make_repeats(20, (120, 120), sigma=15.0)).sigma == pytest.approx(15, rel=0.02)


def test_patch_nps_has_one_sigma_from_its_region(make_repeats) -> None:
    repeats = make_repeats(20, (100, 100))
    louder = repeats.pixels.copy()
    louder[:, :, 60:] += 2 * (louder[:, :, 60:] - louder[:, :, 60:].mean(axis=0))
    repeats = replace(repeats, pixels=louder)
    quiet = fit_patch_nps(repeats, roi="50,25", roi_mm=30)
    loud = fit_patch_nps(repeats, roi="0,30mm", roi_mm=30)
    assert np.ptp(quiet.sigma) == 0
    assert quiet.sigma[0, 0] == pytest.approx(10, rel=0.1)
    assert loud.sigma[0, 0] == pytest.approx(30, rel=0.1)
    with pytest.raises(UsageError, match="outside the image"):
        fit_patch_nps(repeats, roi="50,300")
    with pytest.raises(UsageError, match="not understood"):
        fit_patch_nps(repeats, roi="centre")


def test_residuals_replay_each_scan_once(repeats) -> None:
    model = fit_residuals(repeats)
    noise = model.sample(repeats.clean, [25.0], _draws(10))[:, 0]
    assert np.allclose(noise, repeats.residuals * np.sqrt(10 / 9), atol=1e-4)
    assert np.allclose(noise.std(axis=0), repeats.pixels.std(axis=0, ddof=1), atol=1e-3)
    assert model.report["effective_n"] == model.report["K"] == 10


@pytest.mark.parametrize("fit", [fit_white, fit_patch_nps, fit_nps])
def test_from_profile_makes_the_same_noise(fit, repeats) -> None:
    profile = estimate(repeats)
    model = fit.from_profile(profile)
    assert model.reference_mas == 25
    noise = model.sample(repeats.clean, [25.0], _draws(2))
    if fit is fit_nps:
        assert np.array_equal(noise, fit(repeats).sample(repeats.clean, [25.0], _draws(2)))
    assert noise.std() == pytest.approx(10, rel=0.2)


def test_padding_gets_no_noise(make_repeats) -> None:
    mask = np.ones((60, 70), bool)
    mask[:20] = False
    repeats = make_repeats(6, (60, 70), mask=mask)
    for fit in FITS:
        noise = fit(repeats).sample(repeats.clean, [25.0], _draws(2))
        assert not noise[:, :, :20].any()
        assert noise[:, :, 20:].all()


def test_importing_the_package_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, robustkit.noise; print([m for m in ('numba', 'scipy', 'pandas') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
