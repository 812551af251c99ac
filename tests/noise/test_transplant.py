from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustkit.errors import DataError
from robustkit.noise import estimate
from robustkit.noise.profile import patch_variance
from robustkit.noise.transplant import transplant
from robustkit.types import Slice


def _disc(radius: float) -> Slice:
    y, x = np.indices((96, 112))
    inside = np.hypot(y - 47.5, x - 55.5) < radius
    return Slice(f"{radius:g}", np.where(inside, 0.0, -1000.0).astype(np.float32), (3.0, 3.0), mas=100.0)


@pytest.fixture
def profile(make_repeats):
    repeats = make_repeats(8, (96, 112), (3.0, 3.0), peak=0.08, stretch=1.5)
    return estimate(replace(repeats, id="phantom", pixels=repeats.residuals))


def test_sigma_is_anchored_to_the_slice(profile) -> None:
    where = np.zeros((96, 112), bool)
    where[40:56, 48:64] = True
    made = transplant(profile, _disc(40), 17.0, where)
    assert np.median(made.sigma[where]) == pytest.approx(17, rel=1e-5)
    assert made.report["anchored"]
    assert "noise of phantom on this slice" in made.report["warnings"][0]
    assert "17.0 HU measured in it" in made.report["warnings"][0]


def test_a_larger_body_is_louder_inside_than_outside(profile) -> None:
    """Through the centre of a water disc, rays lose exp(-mu d): sigma^2 grows with it, and falls towards the rim."""
    small, large = (transplant(profile, _disc(r), None, None).sigma for r in (25, 40))
    assert small[48, 56] / small[48, 56 + 24] < large[48, 56] / large[48, 56 + 39]
    assert large[48, 56] > 2 * large[2, 2]


def test_texture_stays_that_of_the_profile(profile) -> None:
    made = transplant(profile, _disc(40), 17.0, np.ones((96, 112), bool))
    unit = [p.spectra / patch_variance(p.spectra, p.plane, p.pixel_mm)[..., None, None] for p in (profile, made)]
    assert np.allclose(unit[0].mean(axis=(0, 1)), unit[1].mean(axis=(0, 1)), rtol=0.15, atol=0.02 * unit[0].max())


def test_without_an_anchor_it_says_so(profile) -> None:
    made = transplant(profile, _disc(40), None, None)
    assert made.white_sigma == pytest.approx(profile.white_sigma, rel=1e-3)
    assert not made.report["anchored"]
    assert "not anchored" in made.report["warnings"][0]


def test_another_matrix_is_refused(profile) -> None:
    with pytest.raises(DataError, match="own matrix"):
        transplant(profile, replace(_disc(40), pixel_mm=(1.0, 1.0)), None, None)


def test_an_audit_makes_the_profile_over_and_refuses_another_protocol(profile) -> None:
    from robustkit.cases import NoiseChoice, Source, prepare

    item = _disc(40)
    case = prepare(Source(item, profile=profile), NoiseChoice("nps"))
    assert not case.story["anchored"]  # a disc without noise: nothing to anchor to
    assert "noise of phantom on 40" in case.story["source"]
    forced = prepare(Source(item, profile=profile), NoiseChoice("nps", {"transplant": True}))
    assert np.array_equal(forced.noise.sigma, profile.sigma)
    other = replace(profile, kernel="B70f")
    with pytest.raises(DataError, match=r"another protocol.*kernel \(B70f there, B30f here\)"):
        prepare(Source(replace(item, kernel="B30f"), profile=other), NoiseChoice("nps"))


def test_library_noise_for_a_slice_of_which_nobody_has_repeats(make_repeats) -> None:
    from robustkit.cases import NoiseChoice, Source, prepare

    noisy = make_repeats(2, (96, 112), (3.0, 3.0), sigma=15.0, peak=0.08).pixels[0]
    item = Slice("patient", noisy, (3.0, 3.0), mas=100.0, kernel="B30f")
    case = prepare(Source(item), NoiseChoice("nps", {"library": True}))
    assert "library curve b30f, not measured on this scanner" in case.story["source"]
    assert "anchored to the" in " ".join(case.noise.report["warnings"])
    body = case.noise.sd(item.pixels, [100.0])[0][40:56, 48:64]
    assert np.median(body) == pytest.approx(15, rel=0.25)  # one image, read in 8 mm windows of 3 px
    with pytest.raises(DataError, match="its mAs is unknown"):
        prepare(Source(replace(item, mas=None)), NoiseChoice("nps", {"library": True}))
