"""Cross-validation: folds by patient, Table 1, the fold that goes on, and data that cannot be trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import Given, TinyRecipe, discs

from robustkit import DataError, UsageError, recipes, training
from robustkit.testing import FakeTrainable


def parts(**changed):
    return {**TinyRecipe().data(), **changed}


@given(st.integers(2, 8), st.integers(1, 9))
@settings(max_examples=25)
def test_folds_deal_patients_and_never_split_one(folds, groups):
    recipe = TinyRecipe(groups=groups)
    if groups + 4 < folds:
        return
    held = []
    for fold in range(folds):
        data = recipes.data_of(recipe, fold, folds)
        sides = [{recipes.group_of(item) for item in data[name]} for name in ("train", "validation")]
        assert not sides[0] & sides[1]
        held.append(sides[1])
        assert len(data["train"]) + len(data["validation"]) == 4 * groups + 4
    assert sum(map(len, held)) == groups + 4
    assert len(set.union(*held)) == groups + 4


def test_cross_validation_tells_table_one_and_the_fold_that_goes_on(tmp_path):
    found = training.train_recipe(TinyRecipe(), folds=3, out=tmp_path / "t").summary
    assert [row["data"] for row in found["table"][::3]] == ["Training", "Validation", "Testing 1", "Testing 2"]
    testing = {row["data"]: row for row in found["table"] if row["measure"] == "f1"}
    assert (testing["Testing 1"]["images"], testing["Testing 2"]["images"]) == ([6] * 3, [4] * 3)
    f1 = [fold["f1"] for fold in found["folds"]]
    assert found["best"]["place"] == int(np.argmax(f1))
    assert found["files"] == ["model.npz"]
    assert (tmp_path / "t" / "report.html").read_text().count("Table 1") >= 1


def test_the_written_model_is_the_best_folds(tmp_path):
    found = training.train_recipe(TinyRecipe(), folds=3, seed=7, out=tmp_path / "t").summary
    written = TinyRecipe().load(tmp_path / "t" / "model.npz")
    data = recipes.data_of(TinyRecipe(), found["best"]["fold"], 3)
    again = TinyRecipe().build(7).fit(data["train"], 7)
    np.testing.assert_array_equal(written.weights, again.weights)


def test_a_finished_training_is_not_done_again(tmp_path, monkeypatch):
    first = training.train_recipe(TinyRecipe(), folds=2, out=tmp_path / "t").summary
    monkeypatch.setattr(FakeTrainable, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = training.train_recipe(TinyRecipe(), folds=2, out=tmp_path / "t", resume=True).summary
    assert again["table"] == first["table"]


def test_report_is_rebuilt_and_a_study_is_no_audit(tmp_path):
    from robustkit.report import rebuild
    from robustkit.verify import verify_run

    training.train_recipe(TinyRecipe(), folds=2, out=tmp_path / "t")
    before = (tmp_path / "t" / "report.html").read_text()
    (tmp_path / "t" / "report.html").unlink()
    assert rebuild(tmp_path / "t").read_text() == before
    with pytest.raises(DataError, match=r"holds a study \(`robustkit train`\), not an audit of one model"):
        verify_run(tmp_path / "t")


def test_table_one_is_mean_and_sd_over_folds():
    counts = [{"clear": {"a": [[8, 2], [0, 10]]}, "transition": {"a": [[0, 1], [0, 0]]}}]
    counts.append({"clear": {"a": [[10, 0], [0, 10]]}, "transition": {}})
    rows = training.table_one([{"confusion": {"test": c}} for c in counts])
    recall = {row["data"]: row for row in rows if row["measure"] == "recall"}
    assert recall["Testing 2"]["mean"] == pytest.approx([0.9, 1.0])
    assert recall["Testing 2"]["sd"] == pytest.approx([np.sqrt(0.02), 0.0])
    assert recall["Testing 1"]["mean"] == pytest.approx([(8 / 11 + 1) / 2, 1.0])
    assert recall["Testing 1"]["images"] == [21, 20]


@pytest.mark.parametrize(
    ("given_parts", "message"),
    [
        ({}, "train split of recipe 'given' has no slices"),
        (parts(train=[]), "train split of recipe 'given' has no slices"),
        (parts(test=[]), "test split of recipe 'given' has no slices"),
        (parts(train=discs((200.0, 210.0), (0.0, 0.0), "a")), "holds one class, high; training needs"),
    ],
    ids=["no data", "no training", "no test", "one class"],
)
def test_data_that_nothing_can_be_learnt_from_are_refused(tmp_path, given_parts, message):
    with pytest.raises(DataError, match=message):
        training.train_recipe(Given(given_parts), folds=1, out=tmp_path / "t")


def test_labels_that_are_no_class_are_named(tmp_path):
    from dataclasses import replace

    strange = [replace(item, label="head") for item in discs((200.0, -210.0), (0.0, 0.0), "a")]
    with pytest.raises(DataError, match=r"validation split .* has labels head; the model's classes are low, high"):
        training.train_recipe(Given(parts(validation=strange)), folds=1, out=tmp_path / "t")


def test_more_folds_than_patients_are_refused(tmp_path):
    with pytest.raises(DataError, match="20 folds need as many patients, recipe 'tiny' has 10"):
        training.train_recipe(TinyRecipe(), folds=20, out=tmp_path / "t")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"folds": 0}, "--folds must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"backend": "keras"}, "recipe 'tiny' comes in one framework only"),
        ({"backend": "jax"}, "unknown backend 'jax'; there is: torch, keras"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, asked, message):
    with pytest.raises(UsageError, match=message):
        training.train_recipe(TinyRecipe(), out=tmp_path / "t", **asked)
