"""The `scanner` noise model against scans it never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustkit.errors import DataError, UsageError
from robustkit.scanner import VirtualScanner, fit_scanner
from robustkit.seeding import draws
from robustkit.types import NoiseModel, RepeatScans, Slice


@pytest.fixture(scope="module")
def repeats(hips: Slice) -> RepeatScans:
    return VirtualScanner(kernel="smooth", views=600).repeats(hips, 50, 20, seed=4)


def test_photons_are_found_again(repeats: RepeatScans, hips: Slice) -> None:
    model = fit_scanner(repeats)
    assert isinstance(model, NoiseModel)
    # 20 scans of some thousand independent body pixels: variance to about 1 %; the mean image's own noise adds little.
    assert model.scanner.photons == pytest.approx(5e5, rel=0.04)
    assert (model.unit, model.reference_mas, model.report["K"], model.report["kernel"]) == ("mAs", 50.0, 20, "smooth")
    assert model.report["sigma_median_hu"] > 1
    assert any("not measured on this scanner" in text for text in model.report["warnings"])


def test_noise_is_that_of_further_scans(repeats: RepeatScans, hips: Slice) -> None:
    model = fit_scanner(repeats)
    truth = VirtualScanner(kernel="smooth").sd_at(hips, [12.5, 200])
    body = hips.pixels > -300
    ratio = model.sd(repeats.clean, [12.5, 200]) / truth
    assert np.abs(ratio[:, body].mean(axis=1) - 1).max() < 0.02
    assert np.sqrt(np.mean((ratio[:, body] - 1) ** 2)) < 0.025
    noise = model.sample(repeats.clean, [12.5, 200], draws(0, "audit", hips.id, range(16)))
    assert noise.shape == (16, 2, 192, 192)
    # 16 fields of thousands of pixels: about 1 %.
    power = (noise[:, :, body] ** 2).mean(axis=(0, 2)) / (truth[:, body] ** 2).mean(axis=1)
    assert np.abs(np.sqrt(power) - 1).max() < 0.04


def test_given_photons_are_kept(repeats: RepeatScans) -> None:
    model = fit_scanner(repeats, photons=3e5, kernel="sharp", electronic=8.0)
    assert (model.scanner.photons, model.scanner.kernel, model.scanner.electronic) == (3e5, "sharp", 8.0)
    assert model.report["photons_from"] == "given"


def test_missing_noise_adds_up(repeats: RepeatScans) -> None:
    whole = fit_scanner(repeats, photons=5e5)
    part = fit_scanner(repeats, photons=5e5, add_to_source=200.0)
    target, source = whole.sd(repeats.clean, [25, 200])
    added = part.sd(repeats.clean, [25])[0]
    body = repeats.clean > -300
    share = ((added**2 + source**2) / target**2)[body]
    # The logarithm of few counts is not part of the sum: rays through both heads differ by some per cent.
    assert abs(share.mean() - 1) < 0.01
    assert np.abs(share - 1).max() < 0.06
    keys = draws(0, "audit", "a", range(2))
    assert part.sample(repeats.clean, [25, 100], keys).shape == (2, 2, 192, 192)
    with pytest.raises(UsageError, match="only below the image's own 200 mAs, not at 200 mAs"):
        part.sample(repeats.clean, [200], keys)


def test_padding_stays_free_of_noise(repeats: RepeatScans) -> None:
    mask = np.ones((192, 192), bool)
    mask[:, :9] = False
    model = fit_scanner(replace(repeats, mask=mask), photons=5e5)
    assert (model.sample(repeats.clean, [50], draws(0, "audit", "a", [0]))[..., :9] == 0).all()
    assert (model.sd(repeats.clean, [50])[..., :9] == 0).all()


def test_unusable_repeats_are_refused(repeats: RepeatScans) -> None:
    with pytest.raises(DataError, match="do not say their mAs"):
        fit_scanner(replace(repeats, mas=None))
    assert fit_scanner(replace(repeats, mas=None), reference_mas=50, photons=5e5).reference_mas == 50
    with pytest.raises(DataError, match="nothing but air"):
        fit_scanner(replace(repeats, pixels=np.full((3, 32, 32), -1000.0, np.float32)))
    with pytest.raises(DataError, match="do not differ"):
        fit_scanner(replace(repeats, pixels=np.repeat(repeats.pixels[:1], 2, axis=0)))
    with pytest.raises(DataError, match="fitted to a slice"):
        fit_scanner(repeats, photons=5e5).sample(repeats.clean[:20], [50], [])
