"""`train`, `variability`, `harden` and `reproduce` as a stranger meets them: exit codes, words, JSON alone."""

from __future__ import annotations

import json

import pytest
from studies import TinyRecipe
from test_cli import robustkit

from robustkit import hookimpl, registry

JUDGED = ("--mas", "25,100", "--realizations", "300", "--scans", "0")
SMALL = (*JUDGED, "--attacks", "20", "--attack-mas", "25")


class Recipes:
    """A plugin with a recipe that trains in milliseconds, and white noise that needs no repeats."""

    @staticmethod
    @hookimpl
    def robustkit_recipes():
        return {"tiny": TinyRecipe}

    @staticmethod
    @hookimpl
    def robustkit_noise_models():
        def quick(repeats):
            from robustkit.testing import FakeNoise

            return FakeNoise(60.0)

        quick.needs_repeats = False
        return {"quick": quick}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    from robustkit import recipes

    recipes._made.cache_clear()
    monkeypatch.setattr(registry, "_default", [registry.load(extra=[("tiny", Recipes())])])


def test_train_prints_table_one_and_where_the_model_is(tmp_path):
    done = robustkit("train", "tiny", "--folds", "2", "--seed", "3", "--out", tmp_path / "t", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Testing 2" in done.stdout
    assert "goes on: mean F1" in done.stdout
    assert (tmp_path / "t" / "model.npz").exists()
    told = json.loads((tmp_path / "t" / "run.json").read_text())
    assert told["command"][:3] == ["robustkit", "train", "tiny"]
    assert str(tmp_path) not in json.dumps(told)


def test_variability_as_json_is_the_summary_and_nothing_else(tmp_path):
    arguments = ("variability", "tiny", "-n", "2", "--noise", "quick", *JUDGED, "--json", "--out", tmp_path / "v")
    done = robustkit(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "v" / "summary.json").read_text())


def test_harden_says_what_came_of_it_and_compares(tmp_path):
    arguments = ("harden", "tiny", "--noise", "quick", *SMALL, "--against", "control", "--out", tmp_path / "h")
    done = robustkit(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the bound of SAR is under the limit at every level" in done.stdout
    assert "against control:" in done.stdout
    assert f"wrote {tmp_path / 'h' / 'hardened.npz'}" in done.stdout


def test_harden_fails_where_the_limit_is_not_reached(tmp_path):
    arguments = ("harden", "tiny", "--noise", "quick", *SMALL, "--strategy", "control", "--rounds", "1")
    done = robustkit(*arguments, "--out", tmp_path / "h", cwd=tmp_path)
    assert done.returncode == 1
    assert "After all 1 rounds" in done.stdout or "Nothing improved" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "nothing"), 2, "unknown recipe 'nothing'; there is: "),
        (("train", "tiny", "--backend", "jax"), 2, "unknown backend 'jax'"),
        (("train", "tiny", "--folds", "50"), 4, "50 folds need as many patients"),
        (("variability", "tiny", "--fold", "11"), 2, "--fold must lie in 1 .. 10, got 11"),
        (("harden", "model.onnx"), 2, "model.onnx is a model file: say with --recipe NAME"),
        (("harden", "tiny", "--recipe", "tiny"), 2, "'tiny' is no model file"),
        (("harden", "tiny", "--realizations", "100"), 2, "n = 100 realizations cannot show SAR <= 0.01"),
        (("harden", "tiny", "--max-sar", "0%"), 2, "a rate must lie between 0% and 100%"),
        (("reproduce", "--scale", "huge", "--recipe", "tiny"), 2, "unknown --scale 'huge'; there is: small, paper"),
        (("reproduce", "--centre", "middle", "--recipe", "tiny"), 2, "unknown --centre 'middle'"),
    ],
)
def test_mistakes_give_one_line_and_a_code(tmp_path, arguments, code, words):
    done = robustkit(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
