"""Flips kept for looking at: which ones, and that the command beside each makes it again."""

import json
import shlex

import numpy as np
import pytest
from models import mean_probe, write_image

from robustkit.gallery import SHOWN
from robustkit.run import audit_model

SHAPE = (32, 32)
WHITE = {"sigma": 40, "reference_mas": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Audit two slices that the model calls `high` by 2 and by 1 HU, with white noise; keep the flips' pictures."""
    folder = tmp_path_factory.mktemp("gallery")
    mean_probe(folder / "model.onnx", SHAPE, 0.0)
    (folder / "images").mkdir()
    for name, value in (("a", 2.0), ("b", 1.0)):
        write_image(folder / "images" / f"{name}.npz", np.full(SHAPE, value))
    command = (
        f"robustkit audit {folder}/model.onnx --images IMAGES --noise white --set sigma=40 --set reference_mas=100"
    )
    audit_model(
        folder / "model.onnx",
        images=str(folder / "images"),
        noise="white",
        settings=WHITE,
        levels=[25.0, 50.0, 100.0, 400.0],
        n=300,
        gallery=True,
        out=folder / "run",
        command=[*shlex.split(command), "--mas=25,50,100,400", "-n", "300", "--max-sar", "2%", "--gallery", "--json"],
    )
    return folder


def records(run):
    return json.loads((run / "run" / "gallery.json").read_text())


def test_every_slice_comes_first_at_its_quietest_flip(run):
    found = records(run)
    assert 2 < len(found) <= SHOWN
    by_slice = {name: [r["level"] for r in found if r["slice"] == name] for name in {r["slice"] for r in found}}
    assert len(by_slice) == 2
    for levels in by_slice.values():
        assert levels == sorted(set(levels), reverse=True)
    assert {len(levels) for levels in by_slice.values()} <= {2, 3, 4}


def test_pictures_are_those_of_the_answers(run):
    with np.load(run / "run" / "gallery.npz") as kept:
        for i, record in enumerate(records(run)):
            before, after = (kept[f"{which}_{i}"].astype(float).mean() for which in ("clean", "noisy"))
            assert (before > 0, after > 0) == (record["clean"] == "high", record["noisy"] == "high")
            assert record["answer"] == record["noisy"] != record["clean"]


def test_the_command_beside_a_flip_makes_it_again(run, tmp_path, monkeypatch):
    from robustkit.cli.main import main

    record = min(records(run), key=lambda r: r["realization"])
    words = shlex.split(record["command"])
    assert not {"--gallery", "--json", "--max-sar", "2%", "300"} & set(words)
    typed = [str(run / "images") if word == "IMAGES" else word for word in words]
    monkeypatch.setattr("sys.argv", [*typed, "--out", str(tmp_path / "again")])
    assert main() == 0
    name = f"{record['slice']}-{record['level']:g}-{record['realization']}.dcm"
    assert name in {p.name for p in (tmp_path / "again" / "noisy").iterdir()}
