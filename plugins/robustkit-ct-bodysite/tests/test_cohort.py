from collections import Counter

import numpy as np
import pytest
from robustkit_ct_bodysite.cohort import CLINIC, PAPER, PHANTOM, STRESS, Crop, Shot, patient_shots
from robustkit_ct_bodysite.data import GRID, scanned
from robustkit_ct_bodysite.patient import SITES


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTKIT_CACHE", str(tmp_path))


def test_paper_cohort_has_the_papers_numbers() -> None:
    assert (len(PAPER.train), len(PAPER.test), PAPER.phantom_scans) == (37, 10, 10)
    scans = {
        split: {shot.scan.number for shot in PAPER.shots(split, fold=0) if shot.scan.patient == PHANTOM}
        for split in ("train", "test")
    }
    assert scans == {"train": set(range(10)), "test": set(range(10, 20))}


@pytest.mark.parametrize("fold", range(10))
def test_no_patient_is_in_two_splits(fold) -> None:
    groups = [
        {shot.scan.patient for shot in PAPER.shots(split, fold) if shot.scan.patient != PHANTOM}
        for split in ("train", "validation", "test")
    ]
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 47


def test_every_patient_validates_once() -> None:
    held = [number for fold in PAPER.folds() for number in fold]
    assert sorted(held) == sorted(PAPER.train)
    with_phantom = [f for f in range(10) if any(s.scan.patient == PHANTOM for s in PAPER.shots("validation", f))]
    assert with_phantom == [9]


def test_stress_cohort_is_the_papers_without_the_phantom() -> None:
    for split in ("train", "validation", "test", "guard"):
        shots = [shot for shot in PAPER.shots(split) if shot.scan.patient != PHANTOM]
        assert list(STRESS.shots(split)) == shots


def test_no_cohort_but_the_papers_shows_the_phantom() -> None:
    assert (CLINIC.train, CLINIC.test) == (PAPER.train, PAPER.test)
    assert not any(shot.scan.patient == PHANTOM for split in ("train", "test") for shot in CLINIC.shots(split))


def test_every_site_and_view_is_shown() -> None:
    for cohort in (PAPER, STRESS, CLINIC):
        assert min(Counter(shot.label for shot in cohort.shots("train")).values()) > 400
    assert {shot.series for shot in PAPER.shots("train")} == {"whole"}
    names = {shot.series for shot in CLINIC.shots("train")}
    assert names == {"whole", "head", "neck", "chest", "belly", "hips", "knees", "leg-1", "leg1"}


def test_guarding_patients_neither_train_nor_test() -> None:
    assert len(PAPER.guard) == 30
    assert not set(PAPER.guard) & {*PAPER.train, *PAPER.test}
    assert {shot.scan.patient for shot in PAPER.shots("guard")} == set(PAPER.guard)


def test_labels_follow_the_body() -> None:
    for shot in patient_shots(7, 24.0):
        assert shot.label == shot.scan.body.site(shot.scan.z_mm)
        assert shot.label in SITES


def test_crop_is_measured_in_millimetres() -> None:
    square = Crop((100.0, 50.0)).inside(500, 500.0)
    assert square.sum() == pytest.approx(200 * 100, rel=0.01)
    circle = Crop((100.0, 100.0), round=True).inside(500, 500.0)
    assert circle.sum() == pytest.approx(np.pi * 100**2, rel=0.01)


def test_scans_are_repeatable_cropped_and_kept(tmp_path) -> None:
    shots = [shot for shot in patient_shots(3, 300.0) if shot.crop is not None or shot.series == "whole"][:8]
    assert {shot.crop is None for shot in shots} == {True, False}
    first = scanned(shots)
    files = list(tmp_path.rglob("*.npy"))
    assert first.pixels.shape == (len(shots), GRID, GRID)
    np.testing.assert_array_equal(scanned(shots).pixels, first.pixels)
    for file in files:
        file.unlink()
    np.testing.assert_array_equal(scanned(shots).pixels, first.pixels)
    assert len(files) == 1
    for image, shot in zip(first.pixels, shots, strict=True):
        if shot.crop is not None:
            assert (image[~shot.crop.inside(GRID, 500.0)] == -1000).all()


def test_scans_carry_noise_of_their_dose() -> None:
    from dataclasses import replace

    shot = next(s for s in patient_shots(3, 60.0) if s.label == "C")
    low, high = (
        scanned([Shot(replace(shot.scan, mas=mas, kernel="standard"))]).pixels[0].astype(float)
        for mas in (20.0, 2000.0)
    )
    inside = high > -200
    # 100 times the dose is a tenth of the noise; what is left of it hides below the other
    assert 5.0 < (low - high)[inside].std() < 60.0


def test_slices_of_the_cohort_are_complete() -> None:
    shots = patient_shots(11, 400.0)[:3]
    for item, shot in zip(scanned(shots).slices(), shots, strict=True):
        assert (item.label, item.group, item.mas, item.kernel) == (
            shot.label,
            shot.group,
            shot.scan.mas,
            shot.scan.kernel,
        )
        assert item.synthetic
        assert item.pixels.shape == (GRID, GRID)
