"""The clean image's own noise."""

from __future__ import annotations

import pytest

from robustkit.centre import Centres, centre_facts, effective_level, frozen_share


def centre_warnings(stories, levels, unit):
    found = Centres()
    for story in stories:
        found.add(story)
    return found.warnings(levels, unit)


def test_noise_of_the_same_dose_halves_the_dose():
    assert effective_level(100.0, 100.0) == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("level", "k", "mas", "share"), [(25, 20, 25, 0.2236), (500, 20, 25, 1.0), (500, 20, 200, 0.3536)]
)
def test_frozen_share_of_worked_means(level, k, mas, share):
    assert frozen_share(level, k, mas) == pytest.approx(share, abs=5e-5)


def test_a_quiet_mean_gives_no_warning_and_a_noisy_one_does():
    quiet = {"clean": {"k": 20, "mas": 200.0}} | centre_facts({"k": 20, "mas": 200.0}, [12.5, 25.0])
    noisy = {"clean": {"k": 20, "mas": 25.0}} | centre_facts({"k": 20, "mas": 25.0}, [12.5, 25.0])
    assert centre_warnings([quiet], [12.5, 25.0], "mAs") == []
    assert "22%" in centre_warnings([noisy], [12.5, 25.0], "mAs")[0]


def test_a_single_scan_tells_its_effective_dose():
    story = {"clean": {"k": 1, "mas": 100.0}} | centre_facts({"k": 1, "mas": 100.0}, [25.0])
    assert "makes an image of 20 mAs" in centre_warnings([story], [25.0], "mAs")[0]


def test_a_single_scan_of_unknown_dose_says_so():
    assert "unknown mAs" in centre_warnings([{"clean": {"k": 1, "mas": None}}], [25.0], "mAs")[0]


def test_other_units_have_no_effective_dose():
    assert centre_warnings([{"clean": {"k": 1, "mas": None}}], [25.0], "sigma") == []
