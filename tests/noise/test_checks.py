from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from robustkit.errors import DataError
from robustkit.noise.checks import check_repeats
from robustkit.types import RepeatScans

SHAPE = (160, 160)


def _object() -> np.ndarray:
    y, x = np.indices(SHAPE) - 79.5
    image = np.where(np.hypot(y / 55, x / 70) < 1, 40.0, -1000.0)
    image[np.hypot(y - 15, x - 25) < 9] = 500
    return gaussian_filter(image, 0.8)


def _scans(seed: int, change=lambda image, k: image, sigma: float = 20.0, count: int = 20) -> RepeatScans:
    rng = np.random.default_rng(seed)
    noise = [gaussian_filter(w, 0.7) - gaussian_filter(w, 2.5) for w in rng.standard_normal((count, *SHAPE))]
    noise = np.asarray(noise) * sigma / np.std(noise)
    clean = _object()
    pixels = np.asarray([change(clean, k) for k in range(count)]) + noise
    return RepeatScans("x", pixels.astype(np.float32), (1.0, 1.0), 25.0)


def _refused(repeats: RepeatScans) -> str:
    try:
        check_repeats(repeats)
    except DataError as error:
        return str(error)
    return ""


def test_clean_sets_pass() -> None:
    assert [_refused(_scans(seed)) for seed in range(25)] == [""] * 25


def test_steady_drift_of_half_a_unit_is_found() -> None:
    told = [_refused(_scans(s, lambda image, k: image + 0.5 * k / 19)) for s in range(8)]
    assert all("drifts" in text for text in told)


def test_one_scan_half_a_unit_off_is_found() -> None:
    told = [_refused(_scans(s, lambda image, k: image + 0.5 * (k == 7))) for s in range(8)]
    assert all("drifts" in text for text in told)


@pytest.mark.parametrize("direction", [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_a_fifth_of_a_pixel_is_found(direction) -> None:
    def moved(image, k):
        return shift(image, 0.2 * (k == 4) * np.asarray(direction), order=3, mode="nearest")

    def sagging(image, k):
        return shift(image, 0.2 * k / 19 * np.asarray(direction) * np.sqrt(2), order=3, mode="nearest")

    assert all("moves" in _refused(_scans(s, moved)) for s in range(3))
    assert all("moves" in _refused(_scans(s, sagging)) for s in range(3))


def test_a_scan_given_twice_is_refused() -> None:
    repeats = _scans(1, count=5)
    pixels = repeats.pixels.copy()
    pixels[3] = pixels[1]
    with pytest.raises(DataError, match="scans 2 and 4 are identical"):
        check_repeats(replace(repeats, pixels=pixels))


def test_nan_is_refused() -> None:
    repeats = _scans(1, count=3)
    pixels = repeats.pixels.copy()
    pixels[1, 4, 4] = np.nan
    with pytest.raises(DataError, match="not finite"):
        check_repeats(replace(repeats, pixels=pixels))


def test_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="does not fit"):
        check_repeats(replace(_scans(1, count=3), mask=np.ones((4, 4), bool)))


@pytest.mark.slow
def test_false_alarms_and_power() -> None:
    # Goal: at most 1 % of 200 clean sets refused, at least 95 % of 100 sets of each fault found.
    assert sum(bool(_refused(_scans(1000 + s))) for s in range(200)) <= 2
    drift = sum(bool(_refused(_scans(3000 + s, lambda i, k: i + 0.5 * (k == 3)))) for s in range(100))
    moved = sum(
        bool(_refused(_scans(4000 + s, lambda i, k: shift(i, (0.2 * (k == 3), 0), order=3, mode="nearest"))))
        for s in range(100)
    )
    assert drift >= 95
    assert moved >= 95
