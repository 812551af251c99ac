from __future__ import annotations

import json

import numpy as np
import pytest

from robustkit.errors import DataError
from robustkit.noise import estimate, load_profile, save_profile


@pytest.fixture
def saved(make_repeats, tmp_path):
    profile = estimate(make_repeats(4, (40, 50), (0.8, 1.1)))
    path = tmp_path / "p.npz"
    save_profile(profile, path)
    return profile, path


def _rewrite(path, change) -> None:
    with np.load(path) as data:
        facts = json.loads(bytes(data["robustkit_profile"]))
        arrays = {"spectra": data["spectra"], "sigma": data["sigma"]}
    change(facts, arrays)
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(path, robustkit_profile=text, **arrays)


def test_round_trip(saved) -> None:
    profile, path = saved
    again = load_profile(path)
    assert np.array_equal(again.spectra, profile.spectra)
    assert np.array_equal(again.sigma, profile.sigma)
    for name in (
        "id",
        "pixel_mm",
        "mas",
        "repeats",
        "method",
        "patch",
        "overlap",
        "plane",
        "kernel",
        "source",
        "report",
    ):
        assert getattr(again, name) == getattr(profile, name)


@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.99])
def test_truncated_file(saved, keep) -> None:
    _, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(DataError, match="no noise profile, or is damaged"):
        load_profile(path)


def test_missing_and_foreign_files(tmp_path) -> None:
    with pytest.raises(DataError, match="no such profile"):
        load_profile(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", pixels=np.zeros(3))
    with pytest.raises(DataError, match="no noise profile"):
        load_profile(tmp_path / "other.npz")
    np.savez(tmp_path / "pickle.npz", robustkit_profile=np.array([{"a": 1}], object), spectra=0, sigma=0)
    with pytest.raises(DataError, match="no noise profile"):
        load_profile(tmp_path / "pickle.npz")


def test_another_version_says_what_to_do(saved) -> None:
    _, path = saved
    _rewrite(path, lambda facts, _: facts.update(version=99))
    with pytest.raises(DataError, match="format 99"):
        load_profile(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda f, a: f.update(patch=[10**9, 7]),
        lambda f, a: f.update(plane=[3, 3]),
        lambda f, a: f.update(overlap=[-1, 2]),
        lambda f, a: f.update(pixel_mm=[0, 1]),
        lambda f, a: f.update(pixel_mm="1"),
        lambda f, a: f.update(mas=-5),
        lambda f, a: f.pop("method"),
        lambda f, a: f.update(report=3),
        lambda f, a: a.update(sigma=a["sigma"][:-1]),
        lambda f, a: a.update(sigma=-a["sigma"]),
        lambda f, a: a.update(spectra=a["spectra"] * np.float32(np.nan)),
        lambda f, a: a.update(spectra=a["spectra"].astype(np.float64)),
    ],
)
def test_contradictions_are_refused(saved, change) -> None:
    _, path = saved
    _rewrite(path, change)
    with pytest.raises(DataError, match="contradicts itself"):
        load_profile(path)


def test_unwritable_place_is_a_data_error(saved) -> None:
    profile, path = saved
    with pytest.raises(DataError, match="cannot write"):
        save_profile(profile, path / "below" / "a-file.npz")
