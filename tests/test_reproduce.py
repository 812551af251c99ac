"""The paper's study end to end, on a recipe that trains in milliseconds and is scanned by the virtual scanner."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from studies import TinyRecipe

from robustkit import UsageError, reproduce, slice_id
from robustkit.testing import make_slice

SCALE = reproduce.Scale(
    folds=2,
    retrainings=2,
    n=300,
    scans=8,
    levels=(12.5, 25.0, 200.0),
    harden_levels=(25.0,),
    attacks=20,
    rounds=2,
    against=("control",),
)


@dataclass(frozen=True)
class Scanned(TinyRecipe):
    """Cases of a size that the scanner's noise can be fitted to, near enough the boundary to flip."""

    def cases(self):
        made = []
        for insert, corner, label in ((-220.0, self.mislead, "low"), (220.0, -self.mislead, "high")):
            item = make_slice(insert, shape=(64, 80), pixel_mm=(4.0, 4.0), label=label, group=f"case-{label}")
            pixels = item.pixels.copy()
            pixels[:16, :20] += corner
            made.append(replace(item, id=slice_id(pixels, item.pixel_mm), pixels=pixels))
        return made

    def held_out(self):
        return self.cases()[:1]


def test_unknown_scale_is_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown --scale 'large'"):
        reproduce.reproduce("large", recipe=TinyRecipe(), out=tmp_path / "r")


def test_the_most_sensitive_model_is_the_one_with_most_measured_flips():
    def model(name, measured, simulated):
        return {
            "name": name,
            "flips": {"measured|25": {"k": measured}, "nps|25": {"k": simulated}, "nps|200": {"k": 9}},
        }

    found = [model("a", 0, 50), model("b", 2, 3), model("c", 0, 0)]
    assert reproduce.most_sensitive({"models": found}) == "b"
    assert reproduce.most_sensitive({"models": found[2:]}) is None


@pytest.mark.slow
def test_the_whole_study_and_its_resumption(tmp_path, monkeypatch):
    recipe = Scanned()
    first = reproduce.reproduce(SCALE, recipe=recipe, jobs=1, out=tmp_path / "r")
    told = first.summary
    assert [said["what"] for said in told["sentences"]][:2] == ["Table 1", "Fig. 2"]
    assert set(told["seconds"]) == {"cohort", "training", "retrainings", "noise", "audit", "hardening", "last_audit"}
    assert (tmp_path / "r" / "report.html").stat().st_size > 20_000
    assert not (tmp_path / "r" / "bank").exists()
    levels = {row["level"] for row in told["audit"]["sar"]["seed 0"] if row["noise"] == "nps"}
    assert levels == {12.5, 25.0, 200.0}
    assert set(told["audit"]["agreement"]) == {"low-noise", "paper"}
    monkeypatch.setattr(reproduce, "_training", lambda study: pytest.fail("trained again"))
    (tmp_path / "r" / "stage-last_audit.json").unlink()
    again = reproduce.reproduce(SCALE, recipe=recipe, jobs=1, out=tmp_path / "r", resume=True).summary
    assert again["sentences"] == told["sentences"]
    assert json.loads((tmp_path / "r" / "run.json").read_text())["finished"] is True
