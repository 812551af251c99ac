from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustkit.errors import DataError
from robustkit.noise import compare_profiles, estimate


@pytest.mark.parametrize("method", ["paper", "lag-corrected", "regional"])
def test_steady_noise_is_within(make_repeats, method) -> None:
    profiles = [estimate(make_repeats(20, (128, 128), seed=s), method=method) for s in range(4)]
    for other in profiles[1:]:
        assert compare_profiles(profiles[0], other).verdict == "within"


@pytest.mark.parametrize("method", ["paper", "regional"])
def test_more_noise_is_drift(make_repeats, method) -> None:
    old = estimate(make_repeats(20, (128, 128)), method=method)
    new = estimate(make_repeats(20, (128, 128), sigma=11.5, seed=1), method=method)
    result = compare_profiles(old, new)
    assert result.verdict == "drifted"
    assert "sigma" in result.reason
    assert result.changes[0].deviation == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("method", ["paper", "regional"])
def test_another_texture_is_drift(make_repeats, method) -> None:
    old = estimate(make_repeats(20, (128, 128), peak=0.2), method=method)
    new = estimate(make_repeats(20, (128, 128), peak=0.26, seed=1), method=method)
    result = compare_profiles(old, new)
    assert result.verdict == "drifted"
    assert all(c.quantity == "texture" for c in result.changes if c.drifted)


def test_one_loud_region_is_named(make_repeats) -> None:
    repeats = make_repeats(20, (128, 128), seed=1)
    pixels = repeats.pixels.copy()
    corner = pixels[:, :40, :40]
    corner += 0.5 * (corner - corner.mean(axis=0))
    result = compare_profiles(estimate(make_repeats(20, (128, 128))), estimate(replace(repeats, pixels=pixels)))
    assert result.verdict == "drifted"
    assert {c.region for c in result.changes if c.drifted and c.quantity == "sigma"} == {"upper left"}


def test_few_scans_are_inconclusive(make_repeats) -> None:
    old, new = (estimate(make_repeats(2, (40, 40), seed=s)) for s in (1, 2))
    assert compare_profiles(old, new).verdict == "inconclusive"


def test_stated_errors_are_true(make_repeats) -> None:
    """Over pairs of steady sets, deviation/error has a variance near 1 for both quantities."""
    profiles = [estimate(make_repeats(8, (96, 96), seed=s), method="paper") for s in range(24)]
    scores = {"sigma": [], "texture": []}
    for old, new in zip(profiles[::2], profiles[1::2], strict=True):
        for change in compare_profiles(old, new).changes[2:]:
            scores[change.quantity].append(change.deviation / change.error)
    # 108 scores each: the sd of a unit score is known to 7 %
    assert np.std(scores["sigma"]) == pytest.approx(1, abs=0.35)
    assert 0.5 < np.std(scores["texture"]) < 1.35


@pytest.mark.parametrize(
    ("change", "name"),
    [({"mas": 50.0}, "mAs"), ({"pixel_mm": (1.0, 1.1)}, "pixel size"), ({"kernel": "B70f"}, "kernel")],
)
def test_another_protocol_is_refused(make_repeats, change, name) -> None:
    old = estimate(make_repeats(3, (40, 40)))
    with pytest.raises(DataError, match=f"differ in {name}"):
        compare_profiles(old, replace(old, **change))
