"""The conformance kit passes what conforms, and the fakes have the answers they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from robustkit import UsageError, draws, registry, slice_id
from robustkit import testing as kit
from robustkit.results import COLUMNS, flipped
from robustkit.testing import (
    ConformanceError,
    FakeClassifier,
    FakeNoise,
    FakeRecipe,
    FakeTrainable,
    known_nps,
    make_results,
    make_scans,
    make_slice,
    make_slices,
    run_checks,
)


def ramp(frequency):
    return frequency * np.exp(-((frequency / 0.3) ** 2))


def share_of_flips(probe, clean, noise):
    """Return flips and trials of a probe under noise (N, H, W)."""
    sign = np.sign(probe.margin(clean))
    return int((np.sign(probe.margin(clean + noise)) != sign).sum()), len(noise)


GOOD = [
    ("noise model", FakeNoise()),
    ("noise model", lambda repeats: FakeNoise(10.0, repeats.mas)),
    ("noise model", FakeNoise(unit="SNR")),
    ("model", FakeClassifier(threshold=-550.0)),
    ("model", lambda: FakeTrainable.untrained(0)),
    ("trainable model", FakeTrainable.untrained(0)),
    ("recipe", FakeRecipe),
    ("scans", [make_slice(), make_slice(0.0)]),
    ("scans", [make_scans()]),
]


@pytest.mark.parametrize(("kind", "part"), GOOD)
def test_honest_parts_pass_every_check(kind, part):
    failed = [result for result in run_checks(kind, part) if not result.passed]
    assert failed == []


@pytest.mark.parametrize("name", ["sar", "cmr"])
def test_built_in_metrics_conform(name):
    kit.check_metric(registry.load().metrics()[name])


@pytest.mark.parametrize("name", ["white", "patch-nps", "nps", "residuals"])
def test_built_in_noise_conforms_and_recovers_its_sd(name):
    fit = registry.load().noise_model(name)
    kit.check_noise_model(fit, repeats=make_scans(sigma=12.0, mas=50.0, seed=3), sigma=12.0)


def test_scanner_noise_conforms():
    from robustkit.scanner import VirtualScanner

    repeats = VirtualScanner().repeats(make_slice(40.0), 25.0, 8, seed=0)
    kit.check_noise_model(registry.load().noise_model("scanner"), repeats=repeats, n=24)


def test_unknown_kind_lists_the_kinds():
    with pytest.raises(UsageError, match="unknown kind 'noize'; there is: noise model, model, trainable model, metric"):
        run_checks("noize", FakeNoise())


def test_results_tell_every_check_once():
    results = run_checks("noise model", FakeNoise())
    names = [result.check for result in results]
    assert len(set(names)) == len(names) > 15
    assert {result.kind for result in results} == {"noise model"}


def test_a_check_that_does_not_apply_says_why():
    told = {result.check: result for result in run_checks("noise model", FakeNoise())}
    assert told["known sd is recovered"].passed
    assert "no known sd was given" in told["known sd is recovered"].message


def test_a_basic_failure_ends_the_checks():
    results = run_checks("noise model", object())
    assert [result.passed for result in results] == [True, False]


def test_error_counts_the_other_failures():
    class Broken(FakeNoise):
        def sample(self, clean, levels, draws):
            return super().sample(clean, levels, draws) + np.float32(5.0)

    with pytest.raises(ConformanceError, match=r"\(\d+ more checks failed\)"):
        kit.check_noise_model(Broken())


def test_error_is_an_assertion_error():
    assert issubclass(ConformanceError, AssertionError)


def test_fake_noise_has_the_sd_it_claims():
    clean = np.zeros((32, 32), np.float32)
    noise = FakeNoise(12.0, 100.0).sample(clean, [25.0, 400.0], draws(0, "audit", "a", range(64)))
    # 65,536 values: relative standard error of an sd 0.28 %, 1.5 % is more than five of them
    np.testing.assert_allclose(noise.std(axis=(0, 2, 3)), [24.0, 6.0], rtol=0.015)


@given(st.floats(-30, 30), st.floats(0.5, 30))
def test_flip_probability_is_the_normal_tail(distance, sd):
    clean = np.full((8, 8), distance, np.float32)
    expected = norm.cdf(-abs(float(clean[0, 0])) / (sd / 8.0))
    assert FakeClassifier().flip_probability(clean, sd) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_white_noise_flips_the_probe_as_often_as_claimed():
    weights = np.random.default_rng(1).normal(size=(12, 10))
    clean = np.zeros((12, 10), np.float32)
    probe = FakeClassifier(weights, threshold=-60.0)
    noise = np.random.default_rng(2).normal(0.0, 7.0, (20_000, 12, 10))
    # two-sided exact test at 1e-4: one false alarm in 10,000 seeds
    assert binomtest(*share_of_flips(probe, clean, noise), probe.flip_probability(clean, 7.0)).pvalue > 1e-4


def test_coloured_noise_flips_the_probe_as_often_as_claimed():
    weights = np.random.default_rng(1).normal(size=(16, 12))
    scanned = make_slice(shape=(16, 12), pixel_mm=(0.7, 0.9))
    scans = make_scans(20_000, sigma=9.0, spectrum=ramp, of=scanned, seed=4)
    nps = known_nps((16, 12), (0.7, 0.9), 9.0, ramp)
    threshold = float(np.tensordot(scanned.pixels.astype(np.float64), weights)) - 80.0
    probe = FakeClassifier(weights, threshold=threshold)
    found = share_of_flips(probe, scanned.pixels, scans.pixels - scanned.pixels)
    claimed = probe.flip_probability(scanned.pixels, nps=nps, pixel_mm=(0.7, 0.9))
    assert 0.01 < claimed < 0.4
    # two-sided exact test at 1e-4: one false alarm in 10,000 seeds
    assert binomtest(*found, claimed).pvalue > 1e-4


def test_spectrum_integrates_to_the_variance():
    nps = known_nps((32, 20), (0.5, 0.8), 11.0, ramp)
    area = 1.0 / (32 * 0.5 * 20 * 0.8)
    assert nps.sum() * area == pytest.approx(121.0, rel=1e-12)


def test_scans_have_the_spectrum_they_were_asked_for():
    scans = make_scans(2000, sigma=8.0, spectrum=ramp, of=make_slice(shape=(16, 16)))
    noise = scans.pixels.astype(np.float64) - make_slice(shape=(16, 16)).pixels
    found = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0) * 0.9 * 0.9 / 256
    expected = known_nps((16, 16), (0.9, 0.9), 8.0, ramp)
    # a periodogram over 2000 scans has a relative standard error of at most 3.2 % (real bins), 15 % is 4.7 of them;
    # 129 independent bins: false alarm below 4e-4
    np.testing.assert_allclose(found, expected, rtol=0.15, atol=1e-4 * expected.max())


def test_white_scans_have_the_sd_they_were_asked_for():
    scans = make_scans(20, sigma=5.0)
    variance = scans.residuals.var(axis=0, ddof=1, dtype=np.float64).mean()
    # 5120 pixels of 19 degrees of freedom: relative standard error 0.45 %, 2.5 % is 5.5 of them
    assert variance == pytest.approx(25.0, rel=0.025)


def test_slices_carry_the_hash_of_their_pixels():
    made = make_slice(30.0)
    assert made.id == slice_id(made.pixels, made.pixel_mm)
    assert len({item.id for item in make_slices(6)}) == 6


def test_slice_is_water_with_an_insert_in_air():
    assert set(np.unique(make_slice(60.0).pixels)) == {-1000.0, 0.0, 60.0}


def test_results_have_flips_and_ties():
    table = make_results()
    assert list(table.columns) == list(COLUMNS)
    changed = table["clean"] != table["noisy"]
    assert 0 < flipped(table).sum() < changed.sum() < len(table)


def test_fake_trainable_learns_what_it_is_shown():
    model = FakeTrainable.untrained(0).fit(make_slices(20), 0)
    unseen = make_slices(20, seed=5)
    answers = [model.classes[model.predict(s.pixels[None], s.pixel_mm).argmax()] for s in unseen]
    assert answers == [s.label for s in unseen]


def test_fake_trainable_tells_three_classes_apart():
    classes = ("low", "middle", "high")
    model = FakeTrainable.untrained(0, classes).fit(make_slices(30, classes=classes), 0)
    unseen = make_slices(12, seed=5, classes=classes)
    answers = [classes[model.predict(s.pixels[None], s.pixel_mm).argmax()] for s in unseen]
    assert answers == [s.label for s in unseen]


def test_probe_of_half_probability_sits_on_its_threshold():
    probe = FakeClassifier(threshold=5.0, sharpness=2.0)
    image = np.full((1, 4, 4), 6.0, np.float32)
    expected = 1 / (1 + math.exp(-2.0))
    np.testing.assert_allclose(probe.predict(image, (1.0, 1.0))[0], [1 - expected, expected], rtol=1e-6)


def test_public_list_is_what_can_be_imported():
    assert all(hasattr(kit, name) for name in kit.__all__)
    assert list(kit.__all__) == sorted(kit.__all__)
