"""`robustkit nps` as a physicist meets it: profiles estimated, looked at, drawn from, compared; the dose law."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import robustkit

from robustkit.noise import load_profile
from robustkit.scans import save_repeats

SHAPE = (64, 72)
SIGMA = 12.0


@pytest.fixture
def profile(make_repeats, tmp_path):
    save_repeats(tmp_path / "scans.npz", make_repeats(20, SHAPE, sigma=SIGMA))
    done = robustkit("nps", "estimate", tmp_path / "scans.npz", "-o", tmp_path / "noise.npz", "--json")
    assert done.returncode == 0, done.stderr
    return tmp_path / "noise.npz", json.loads(done.stdout)


def test_estimate_writes_what_it_tells(profile):
    path, told = profile
    (report,) = told["profiles"]
    assert (report["file"], report["K"]) == (str(path), 20)
    assert report["sigma_median_hu"] == pytest.approx(SIGMA, rel=0.05)
    assert load_profile(path).report["sigma_median_hu"] == report["sigma_median_hu"]


def test_several_slices_give_a_numbered_profile_each(make_repeats, tmp_path):
    from dataclasses import replace

    sets = [replace(make_repeats(4, SHAPE, seed=i), id=f"{i}" * 16) for i in (1, 2)]
    folder = save_repeats(tmp_path / "scans.npz", sets)
    done = robustkit("nps", "estimate", folder, "-o", tmp_path / "noise.npz", "--method", "lag-corrected")
    assert done.returncode == 0, done.stderr
    assert [load_profile(tmp_path / f"noise-{i}.npz").id for i in (1, 2)] == ["1" * 16, "2" * 16]


def test_show_draws_a_picture_and_a_page(profile, tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="drawing needs the extra report")
    pytest.importorskip("matplotlib", reason="drawing needs the extra report")
    path, _ = profile
    for name in ("noise.png", "noise.html"):
        done = robustkit("nps", "show", path, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "profile of slice" in done.stdout
        assert str(path.name) not in done.stdout
    with Image.open(tmp_path / "noise.png") as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("L").getcolors(256)) > 64  # maps and curves, not a blank
    assert "<svg" in (tmp_path / "noise.html").read_text(encoding="utf-8")
    assert json.loads(robustkit("nps", "show", path, "--json").stdout)["K"] == 20


def test_sampled_noise_is_as_loud_as_the_profile_at_its_level(profile, tmp_path):
    path, _ = profile
    done = robustkit("nps", "sample", path, "-n", "30", "--mas", "100", "--seed", "3", "-o", tmp_path / "fields.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "fields.npz") as archive:
        fields = archive["noise"]
    assert fields.shape == (30, *SHAPE)
    # 25 mAs measured, 100 asked: half as loud; 30 fields know their sd to better than 2 %
    assert fields.std() == pytest.approx(load_profile(path).white_sigma / 2, rel=0.05)


@pytest.mark.parametrize(
    ("name", "words"), [("patch_mm=wide", "setting patch_mm must be a number above 0"), ("overlap=-1", "overlap")]
)
def test_a_setting_that_is_no_number_is_named(profile, tmp_path, name, words):
    done = robustkit("nps", "estimate", tmp_path / "scans.npz", "--set", name, "-o", tmp_path / "x.npz")
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(("louder", "code", "verdict"), [(1.0, 0, "within"), (1.3, 1, "drifted")])
def test_compare_tells_a_louder_scanner_by_its_exit_code(make_repeats, profile, tmp_path, louder, code, verdict):
    # 5 % tolerance, sampling error of sigma 0.4 %: neither answer can be chance
    path, _ = profile
    save_repeats(tmp_path / "later.npz", make_repeats(20, SHAPE, sigma=louder * SIGMA, seed=8))
    assert robustkit("nps", "estimate", tmp_path / "later.npz", "-o", tmp_path / "late.npz").returncode == 0
    done = robustkit("nps", "compare", path, tmp_path / "late.npz", "--json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (code, verdict)


@pytest.mark.parametrize(("sigma", "code"), [(6.0, 0), (9.0, 1)])
def test_check_dose_tells_a_broken_law_by_its_exit_code(make_repeats, tmp_path, sigma, code):
    for name, mas, loud in (("low", 25.0, 12.0), ("high", 100.0, sigma)):
        save_repeats(tmp_path / f"{name}.npz", make_repeats(20, SHAPE, sigma=loud, mas=mas, seed=int(mas)))
    done = robustkit("nps", "check-dose", tmp_path / "low.npz", tmp_path / "high.npz")
    assert done.returncode == code, done.stderr
    assert ("holds" if code == 0 else "fails") in done.stdout
