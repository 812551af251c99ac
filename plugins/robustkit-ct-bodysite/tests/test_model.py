"""The shipped model is the one its card speaks of, and worth auditing."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from robustkit_ct_bodysite import choose, evaluate
from robustkit_ct_bodysite.card import CANDIDATES, real_rows
from robustkit_ct_bodysite.network import SiteNet
from robustkit_ct_bodysite.patient import SITES
from robustkit_ct_bodysite.phantom import central_slices
from robustkit_ct_bodysite.plugin import MODEL, shipped_model
from robustkit_ct_bodysite.recipe import RECIPES

CARD = Path(__file__).parents[1] / "MODEL_CARD.md"
RECORDS = json.loads(CANDIDATES.read_text(encoding="utf-8"))


def chosen() -> dict:
    found = choose.chosen(RECORDS)
    assert found is not None
    return found


def test_card_names_this_very_file() -> None:
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() in CARD.read_text(encoding="utf-8")


def test_every_model_trained_is_told() -> None:
    trained = [(record["seed"], record["epochs"]) for record in RECORDS]
    assert sorted(trained) == sorted(set(trained))
    seeds = {seed for seed, _ in trained}
    assert seeds == set(range(len(seeds)))
    lines = CARD.read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if line.count("/200") == 4 or "not audited |" in line]
    assert [(int(row[1]), int(row[2])) for row in rows] == trained


@pytest.mark.parametrize(
    ("flips", "qualifies"),
    [
        ({"BN": {"answer": "BN", "k": 10, "n": 200}}, True),
        ({"BN": {"answer": "BN", "k": 120, "n": 200}}, True),
        ({"BN": {"answer": "BN", "k": 0, "n": 200}, "C": {"answer": "C", "k": 40, "n": 200}}, True),
        ({"BN": {"answer": "BN", "k": 9, "n": 200}}, False),
        ({"BN": {"answer": "BN", "k": 121, "n": 200}}, False),
        ({"BN": {"answer": "C", "k": 20, "n": 200}}, False),
        (None, False),
    ],
)
def test_rule(flips, qualifies) -> None:
    assert choose.qualifies({"flips": flips}) is qualifies


def test_model_names_the_phantoms_sites() -> None:
    model = shipped_model()
    for item in central_slices():
        assert SITES[int(model.predict(item.pixels[None], item.pixel_mm)[0].argmax())] == item.label


def test_the_files_hold_the_same_weights() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("keras")
    from robustkit.adapters import load_model

    state = torch.load(MODEL.with_suffix(".pt"), weights_only=True)
    plain = SiteNet(RECIPES[chosen()["recipe"]].settings, {name: value.numpy() for name, value in state.items()})
    images = np.stack([item.pixels for item in central_slices()])
    pixel_mm = central_slices()[0].pixel_mm
    expected = shipped_model().predict(images, pixel_mm)
    for model in (plain, load_model(MODEL.with_suffix(".keras"), {})):
        np.testing.assert_allclose(model.predict(images, pixel_mm), expected, atol=1e-5)


def test_flips_at_25_mas_as_recorded(tmp_path) -> None:
    """Other realizations than those that chose it: each rate within 5 sd of the difference of two samples of 200."""
    from robustkit.run import audit_model

    found = audit_model("ct-bodysite", levels=[25.0], n=200, seed=11, out=tmp_path / "run").summary["sar"]
    rates = {row["class"]: row["k"] / row["n"] for row in found}
    assert any(choose.FLIPS[0] <= rate <= choose.FLIPS[1] for rate in rates.values())
    for site, flips in chosen()["flips"].items():
        expected = flips["k"] / flips["n"]
        assert abs(rates[site] - expected) <= 5 * np.sqrt(2 * (expected * (1 - expected) + 0.002) / 200)


def test_names_real_patients_right() -> None:
    if "ROBUSTKIT_TEST_DATA" not in os.environ:
        pytest.skip("real CT images are found by ROBUSTKIT_TEST_DATA, which is not set")
    *rows, _ = real_rows(shipped_model(), Path(os.environ["ROBUSTKIT_TEST_DATA"]))
    full = {name: (int(right), int(of)) for name, right, of in rows if "ibsi" not in name}
    assert len(full) >= 6
    assert sum(right for right, _ in full.values()) >= 0.85 * sum(of for _, of in full.values())
    for name, (right, of) in full.items():
        assert right >= 0.6 * of, name


@pytest.mark.slow
def test_f1_on_virtual_patients_it_never_saw() -> None:
    every, clear = evaluate.testing(shipped_model(), RECIPES[chosen()["recipe"]].images("test"))
    assert min(every.mean_f1, clear.mean_f1) >= choose.LEAST_F1
    np.testing.assert_allclose(every.f1, chosen()["f1"], atol=2e-3)
    np.testing.assert_allclose(clear.f1, chosen()["f1_without_transitions"], atol=2e-3)
