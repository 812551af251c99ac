"""Noise for real slices without repeats: library curves on a chest (Siemens) and a plastic head (Philips)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from robustkit.cases import NoiseChoice, Source, prepare
from robustkit.scanner.measure import measured_sigma, windows_of
from robustkit.scans import load_images

DATA = Path(os.environ.get("ROBUSTKIT_TEST_DATA", "nowhere"))
SERIES = {
    "chest": (DATA / "C" / "cptac_pda_chest_siemens", "curve b40f,", 10.0, 25.0),
    "plastic head": (DATA / "PH" / "philips_plastic_head", "curve standard,", 1.0, 10.0),
}


@pytest.mark.parametrize("name", SERIES)
def test_library_noise_is_as_loud_as_the_slice(name) -> None:
    folder, curve, low, high = SERIES[name]
    if not folder.exists():
        pytest.skip("real images are not here: set ROBUSTKIT_TEST_DATA")
    item = load_images(str(folder))[0]
    sigma, where = measured_sigma(item), windows_of(item)
    assert low < sigma < high  # HU; what these protocols give
    case = prepare(Source(item), NoiseChoice("nps", {"library": True}))
    assert curve in case.story["source"]
    assert "not measured on this scanner" in case.story["source"]
    claimed = case.noise.sd(item.pixels, [item.mas])[0]
    assert np.median(claimed[where]) == pytest.approx(sigma, rel=1e-3)
    padding = np.zeros(claimed.shape, bool) if item.mask is None else ~item.mask
    assert not claimed[padding].any()
    assert case.story["anchored"]
