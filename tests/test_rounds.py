"""The hardening loop: what it accepts, refuses, compares, and how it goes on after an interruption."""

from __future__ import annotations

import json

import numpy as np
import pytest
from models import mean_probe
from studies import WHITE, TinyRecipe

from robustkit import DataError, ModelError, UsageError, hookimpl, registry, rounds
from robustkit.hardening import control
from robustkit.testing import FakeClassifier, FakeTrainable

ASKED = {
    "noise": "white",
    "settings": WHITE,
    "levels": (25.0, 100.0),
    "realizations": 300,
    "scans": 0,
    "attacks": 30,
    "attack_levels": (25.0, 100.0),
}


def harden(out, recipe=None, **more):
    return rounds.harden(recipe or TinyRecipe(), out=out, **{**ASKED, **more})


class Strategies:
    """A plugin whose strategies do what a test wants."""

    @staticmethod
    @hookimpl
    def robustkit_hardeners():
        return {"ruin": ruin, "idle": idle, "twice": twice}


def ruin(model, train, cases, *, levels, n, seed):
    """Yield a model that forgets one class, then the control's."""
    table = np.zeros((17, 2))
    table[16, 0] = 9.0
    yield FakeTrainable(model.classes, table)
    yield from control(model, train, cases, levels=levels, n=n, seed=seed)


def idle(model, train, cases, *, levels, n, seed):
    """Yield nothing: no attack succeeds."""
    yield from ()


def twice(model, train, cases, *, levels, n, seed):
    """Train on twice."""
    for step in range(2):
        model = model.fit(train, seed + step, epochs=2)
        yield model


@pytest.fixture
def strategies(monkeypatch):
    monkeypatch.setattr(registry, "_default", [registry.load(extra=[("extra", Strategies())])])


def test_adaptive_training_takes_a_model_that_flips_to_zero(tmp_path):
    found = harden(tmp_path / "h", against=["control"])
    s = found.summary
    before, after = s["rounds"]["adaptive"][0], s["rounds"]["adaptive"][s["best"]]
    assert before["worst"] > 0.4
    assert (after["flips"], s["robust"], found.exit_code) == (0, True, 0)
    assert {row["set"] for row in after["rows"]} == {"attacked", "held out"}
    assert all(row["upper"] == pytest.approx(1 - 0.05 ** (1 / 300)) for row in after["rows"])
    other = next(one for one in s["strategies"] if one["strategy"] == "control")
    assert other["worst"] > 0.4
    assert other["passes"] <= 1.5 * after["passes"]


def test_the_best_model_is_written_and_is_the_one_judged(tmp_path):
    s = harden(tmp_path / "h").summary
    assert s["files"] == ["hardened.npz"]
    model = TinyRecipe().load(tmp_path / "h" / "hardened.npz")
    kept = TinyRecipe().load(tmp_path / "h" / "rounds" / f"adaptive-{s['best']:02d}.model")
    np.testing.assert_array_equal(model.weights, kept.weights)


def test_a_round_that_costs_accuracy_is_refused_and_told(tmp_path, strategies):
    s = harden(tmp_path / "h", strategy="ruin", rounds=2).summary
    ruined = s["rounds"]["ruin"][1]
    assert not ruined["accepted"]
    assert ruined["guard"]["change"] < -0.3
    assert s["best"] != 1
    assert "1 round refused because clean accuracy fell" in s["sentence"]


def test_no_successful_attack_changes_nothing_and_says_so(tmp_path, strategies):
    found = harden(tmp_path / "h", strategy="idle")
    assert found.summary["stopped"] == "no attack succeeded"
    assert "No attack succeeded, so nothing was changed" in found.summary["sentence"]
    assert (found.summary["best"], found.summary["files"], found.exit_code) == (0, [], 1)


def test_a_robust_model_is_left_alone(tmp_path):
    easy = TinyRecipe(mislead=-250.0)
    found = harden(tmp_path / "h", easy)
    assert found.summary["stopped"] == "already robust"
    assert (found.summary["best"], found.exit_code) == (0, 0)


def test_a_wrong_answer_that_never_changes_is_no_success(tmp_path, strategies):
    s = harden(tmp_path / "h", TinyRecipe(mislead=300.0), strategy="idle").summary
    assert s["rounds"]["idle"][0]["flips"] == 0
    assert s["rounds"]["idle"][0]["wrong"] == ["high called low", "low called high"]
    assert not s["robust"]


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_a_run_interrupted_in_any_round_is_resumed_to_the_same_end(tmp_path, strategies, monkeypatch, stop_at):
    whole = harden(tmp_path / "whole", strategy="twice").summary
    real, fits = rounds.judge, []

    def interrupted(*args):
        if len(list((tmp_path / "cut" / "rounds").glob("*.json"))) == stop_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(rounds, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harden(tmp_path / "cut", strategy="twice")
    monkeypatch.setattr(rounds, "judge", real)
    trained = FakeTrainable.fit
    monkeypatch.setattr(FakeTrainable, "fit", lambda *a, **k: fits.append(1) or trained(*a, **k))
    again = harden(tmp_path / "cut", strategy="twice", resume=True).summary
    assert again["rounds"] == whole["rounds"]
    assert len(fits) == 2 - stop_at  # the first model and every finished training are read back


def test_resuming_something_else_is_refused(tmp_path):
    harden(tmp_path / "h")
    with pytest.raises(UsageError, match=r"made for another run: .*limit"):
        harden(tmp_path / "h", limit=0.02, resume=True)


def test_a_limit_that_so_few_realizations_cannot_show_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"n = 200 realizations cannot show SAR <= 0.01; .* takes 299"):
        harden(tmp_path / "h", realizations=200)


def test_a_model_that_can_only_be_scored_is_refused(tmp_path):
    with pytest.raises(ModelError, match="FakeClassifier cannot be trained: a FakeClassifier can only be scored"):
        harden(tmp_path / "h", model=FakeClassifier())


def test_a_model_of_other_classes_than_the_recipes_is_refused(tmp_path):
    other = FakeTrainable(("no", "yes"))
    with pytest.raises(
        DataError, match="train split of recipe 'tiny' has labels high, low; the model's classes are no"
    ):
        harden(tmp_path / "h", model=other)


def test_an_onnx_file_is_hardened_and_written_as_one(tmp_path):
    pytest.importorskip("torch")
    low, high = (float(item.pixels.mean()) for item in TinyRecipe().cases())
    path = mean_probe(tmp_path / "probe.onnx", (16, 20), 0.5 * (low + high))
    s = harden(tmp_path / "h", model=path, strategy="control", rounds=1, options={"epochs": 2, "rate": 1e-4}).summary
    assert [r["round"] for r in s["rounds"]["control"]] == [0, 1]
    assert s["rounds"]["control"][1]["passes"] == 2 * len(TinyRecipe().data()["train"])
    assert s["files"] == (["hardened.onnx"] if s["best"] else [])
    assert (tmp_path / "h" / "rounds" / "control-01.onnx").exists()


def test_unknown_strategy_and_option_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"unknown hardener 'magic'; there is: adaptive, augment-nps"):
        harden(tmp_path / "h", strategy="magic")
    with pytest.raises(UsageError, match="no option 'speed'"):
        harden(tmp_path / "h", options={"speed": 1})


def test_measured_zero_is_told_as_a_bound():
    from robustkit.report.hardening import notes

    summary = {"rounds": {"adaptive": []}, "plan": {"scans": 150, "n": 1000}}
    told = notes(summary)[0].replace("\u202f", " ")
    assert told == (
        "0 of 150 measured scans means at most 2.0 %; 0 of 1000 realizations at most 0.30 % (one-sided, 95 %)."
    )


def test_the_record_of_a_round_is_plain_json(tmp_path):
    harden(tmp_path / "h")
    record = json.loads((tmp_path / "h" / "rounds" / "start.json").read_text())
    assert record["round"] == 0
    assert record["confusion"]["test"]["transition"].keys() == {"x-2", "x-3"}
