"""Plugins that hang, print, raise, or change global state: contained where they run, or named."""

from __future__ import annotations

import json
import os
import random
import types
from dataclasses import dataclass

import numpy as np
import pytest
from models import mean_probe, write_image
from test_registry import METRIC, info_of, installed

from robustkit import containment, hookimpl, registry
from robustkit.errors import RobustkitError
from robustkit.run import audit_model

SHAPE = (16, 16)


def test_a_plugin_that_hangs_at_import_is_named_and_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(containment, "TOLD_SECONDS", 0.1)
    monkeypatch.setattr(containment, "GIVEN_UP_SECONDS", 0.5)
    installed(tmp_path, monkeypatch, "sleepy", "import time; time.sleep(600)")
    installed(tmp_path, monkeypatch, "zz", METRIC)
    loaded = registry.load()
    assert "plugin sleepy to be imported took more than 0.5 s" in info_of("sleepy", loaded).reason
    assert "mine" in loaded.metrics()
    told = capsys.readouterr()
    assert "still waiting for plugin sleepy" in told.err
    assert "ROBUSTKIT_DISABLE_PLUGINS=sleepy" in told.err
    assert told.out == ""


@dataclass(frozen=True)
class Rude:
    """White noise whose code prints, moves, reseeds and, when it is `angry`, raises for one slice."""

    unit: str = "mAs"
    angry: float = np.inf

    def sample(self, clean, levels, of):
        print("rude on stdout")
        os.chdir("/")
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        if clean.mean() > self.angry:
            raise ValueError("no noise for this one")
        fields = np.stack([draw.generator().standard_normal(clean.shape, dtype=np.float32) for draw in of])
        return np.repeat(30 * fields[:, None], len(levels), axis=1)

    def sd(self, clean, levels):
        return None


def rude_fit(repeats, *, angry=np.inf):
    print("rude at the fit")
    return Rude(angry=angry)


rude_fit.needs_repeats = False


@pytest.fixture
def asked(tmp_path, monkeypatch):
    hooks = types.ModuleType("rude")
    hooks.robustkit_noise_models = hookimpl(lambda: {"rude": rude_fit})
    loaded = registry.load(extra=[("rude", hooks)])
    monkeypatch.setattr(registry, "_default", [loaded])
    mean_probe(tmp_path / "m.onnx", SHAPE, 0.0)
    write_image(tmp_path / "i.npz", np.stack([np.full(SHAPE, 1.0), np.full(SHAPE, 5.0)]))
    return {
        "model": str(tmp_path / "m.onnx"),
        "images": str(tmp_path / "i.npz"),
        "noise": "rude",
        "levels": [25.0],
        "n": 70,
    }


def test_noise_that_prints_moves_and_reseeds_changes_nothing_outside(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = os.getcwd(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    outcome = audit_model(**asked, out="here/run")
    assert (os.getcwd(), random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert (tmp_path / "here" / "run" / "results.parquet").exists()
    assert capsys.readouterr().out == ""
    told = json.loads((tmp_path / "here" / "run" / "noise.json").read_text())
    assert "printed on stdout" in " ".join(told[0]["warnings"])
    assert len(outcome.table) == 140


def test_noise_that_raises_for_one_slice_is_named_and_the_rest_is_kept(asked, tmp_path):
    with pytest.raises(RobustkitError, match=r"1 tasks failed, the rest is kept \(slice \w+: ValueError: no noise"):
        audit_model(**asked, settings={"angry": 3.0}, out=tmp_path / "run")
    assert len([p for p in (tmp_path / "run" / "shards").glob("*.npz") if "-case-" not in p.name]) == 2
