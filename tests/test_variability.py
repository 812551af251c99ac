"""Many retrainings: each model's counts against an audit of its own, summaries by hand, resume, folders of models."""

from __future__ import annotations

import numpy as np
import pytest
from models import mean_probe
from studies import WHITE, TinyRecipe

from robustkit import DataError, UsageError, audit, cases, stats, variability
from robustkit.testing import FakeTrainable

ASKED = {"noise": "white", "settings": WHITE, "levels": (25.0, 100.0), "realizations": 70, "scans": 0}


def study(out, recipe=None, **more):
    return variability.study(recipe or TinyRecipe(), out=out, **{**ASKED, **more})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return study(tmp_path_factory.mktemp("v") / "v", n=3).summary


def view(summary, level, noise="white"):
    return next(v for v in summary["views"] if (v["level"], v["noise"]) == (level, noise))


def test_every_model_is_counted_as_by_an_audit_of_its_own(found):
    recipe = TinyRecipe()
    choice = cases.NoiseChoice("white", WHITE)
    prepared = [cases.prepare(cases.Source(item, clean_from="simulate"), choice) for item in recipe.cases()]
    for seed in range(3):
        model = recipe.build(seed).fit(recipe.data()["train"], seed)
        flips = np.zeros(2, int)
        for case in prepared:
            clean = audit.predict_clean(model, case.slice, case.clean, 16).argmax()
            scores = audit.score_realizations(model, case, (25.0, 100.0), range(70), seed=0)
            flips += (scores.noisy != clean).sum(axis=0)
        told = found["models"][seed]["flips"]
        assert [told["white|25"]["k"], told["white|100"]["k"]] == flips.tolist()
        assert told["white|25"]["n"] == 140


def test_share_of_flipping_models_has_an_exact_interval(found):
    share = view(found, 25.0)["flipping"]
    flipping = sum(m["flips"]["white|25"]["k"] > 0 for m in found["models"])
    ends = stats.clopper_pearson(flipping, 3)
    assert (share["k"], share["n"]) == (flipping, 3)
    assert (share["low"], share["high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))


def test_columns_of_the_mean_cmr_sum_to_one_and_off_diagonals_are_the_mean_sar(found):
    one = view(found, 25.0)
    mean = np.array(one["cmr"]["mean"])
    np.testing.assert_allclose(mean.sum(axis=0), 1.0)
    for j, spread in enumerate(one["sar"]):
        assert 1 - mean[j, j] == pytest.approx(spread["mean"])
        assert spread["quantiles"][0] == min(spread["rates"])
        assert spread["sd"] == pytest.approx(np.std(spread["rates"], ddof=1))


def test_more_models_are_added_to_those_on_record(tmp_path, monkeypatch):
    first = study(tmp_path / "v", n=2).summary
    fits, real = [], FakeTrainable.fit
    monkeypatch.setattr(FakeTrainable, "fit", lambda *a, **k: fits.append(1) or real(*a, **k))
    more = study(tmp_path / "v", n=3, resume=True).summary
    assert len(fits) == 1
    assert [m["flips"] for m in more["models"]][:2] == [m["flips"] for m in first["models"]]


def test_models_are_kept_or_dropped(tmp_path):
    for keep, count in ((True, 2), (False, 0)):
        study(tmp_path / str(keep), n=2, keep=keep)
        assert len(list((tmp_path / str(keep) / "models").glob("*.model"))) == count


@pytest.mark.slow
def test_two_workers_find_what_one_finds(tmp_path, found):
    both = study(tmp_path / "v", n=3, jobs=2).summary
    assert both["views"] == found["views"]


def test_a_folder_of_models_is_audited_on_the_phantom(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "find_images", lambda path: list(TinyRecipe().cases()))
    folder = tmp_path / "models"
    folder.mkdir()
    clean = float(TinyRecipe().cases()[1].pixels.mean())
    for name, threshold in (("a", clean - 1.0), ("b", clean - 500.0)):
        mean_probe(folder / f"{name}.onnx", (16, 20), threshold)
    found = study(tmp_path / "v", str(folder)).summary
    assert [m["name"] for m in found["models"]] == ["a.onnx", "b.onnx"]
    flips = [m["flips"]["white|25"]["k"] for m in found["models"]]
    assert flips[0] > 20
    assert flips[1] == 0
    assert found["models"][0]["f1"] is None


def test_models_of_different_classes_are_refused(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    spec = '[input]\nwindow = "none"\n[output]\nclasses = ["no", "yes"]\nkind = "logits"\n'
    mean_probe(folder / "a.onnx", (16, 20), 0.0)
    mean_probe(folder / "b.onnx", (16, 20), 0.0, spec)
    with pytest.raises(DataError, match=r"different classes \(low, high; no, yes\)"):
        study(tmp_path / "v", str(folder))


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(DataError, match=r"none of its files ends in .onnx, .pt2"):
        study(tmp_path / "v", str(tmp_path / "models"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n": 0}, "-n must be at least 1"),
        ({"centre": "median"}, "unknown --centre 'median'; there is: low-noise, paper"),
        ({"scans": -1}, "--scans must not be negative"),
        ({"levels": (0.0,)}, "a level must be a positive number"),
        ({"recipe": "nothing"}, "unknown recipe 'nothing'"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, asked, message):
    with pytest.raises(UsageError, match=message):
        study(tmp_path / "v", **asked)


def test_rank_correlation_is_the_textbooks():
    told = variability._correlation([0.1, 0.2, 0.3, 0.4], [0.99, 0.97, 0.98, 0.96])
    assert told["spearman"] == pytest.approx(-0.8)  # ranks differ by 3, 0, 0, 3: 1 - 6 * 18 / 60
    assert (
        variability._correlation([0.0, 0.0, 0.0], [0.9, 0.8, 0.7])["reason"] == "SAR or F1 is the same in every model"
    )
