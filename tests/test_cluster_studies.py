"""Trainings, retrainings, hardening and virtual scans on a real scheduler: the same as in one process, to the bit."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clusters import scheduler
from models import mean_probe, write_image
from studies import WHITE, SlowRecipe, TinyRecipe
from workers import touch

from robustkit import results, rounds, scanning, training, variability
from robustkit.cluster import dask_map
from robustkit.errors import RobustkitError, UsageError
from robustkit.run import audit_model
from robustkit.testing import make_slice

pytest.importorskip("distributed", reason="needs the extra: pip install 'robustkit[distributed]'")

NOISE = {"noise": "white", "settings": WHITE, "levels": (25.0, 100.0), "scans": 0}
CLOCKS = ("seconds", "wall_seconds", "train_seconds")


DOCS = Path(__file__).parents[1] / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with scheduler(tmp_path_factory.mktemp("cluster"), 2) as (address, _):
        yield address


def timeless(found):
    """Return a summary without what a clock said."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name not in CLOCKS}
    return [timeless(value) for value in found] if isinstance(found, list) else found


def same(one, other):
    """Compare two studies to the bit: summaries, and tables but for the id of the run."""
    assert timeless(one.summary) == timeless(other.summary)
    tables = [path / "results.parquet" for path in (one.run_dir, other.run_dir)]
    assert tables[0].exists() == tables[1].exists()
    if tables[0].exists():
        pd.testing.assert_frame_equal(*(results.read(path) for path in tables), check_exact=True)


def test_cross_validation(cluster, tmp_path):
    here, there = (
        training.train_recipe(TinyRecipe(), folds=3, dask=dask, out=tmp_path / str(dask)[:3])
        for dask in (None, cluster)
    )
    same(here, there)
    weights = [np.load(path / "model.npz")["weights"] for path in (here.run_dir, there.run_dir)]
    np.testing.assert_array_equal(*weights)


def test_hardening(cluster, tmp_path):
    asked = {**NOISE, "realizations": 300, "attacks": 30, "attack_levels": (25.0, 100.0)}
    here, there = (
        rounds.harden(TinyRecipe(), **asked, dask=dask, out=tmp_path / str(dask)[:3]) for dask in (None, cluster)
    )
    same(here, there)


def test_retrainings_survive_a_worker_killed_mid_run(tmp_path):
    asked = {**NOISE, "realizations": 130, "n": 6}
    here = variability.study(SlowRecipe(), **asked, out=tmp_path / "here")
    with scheduler(tmp_path, 2) as (address, workers):

        def kill_one():
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and not list(tmp_path.glob("there/models/*.json")):
                time.sleep(0.01)
            os.kill(workers[0].pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        there = variability.study(SlowRecipe(), **asked, dask=address, out=tmp_path / "there")
        killer.join()
        assert workers[0].poll() == -signal.SIGKILL
        assert workers[1].poll() is None
    same(here, there)


def asked_scans():
    return [make_slice(value, shape=(40, 48), pixel_mm=(4.0, 4.0)) for value in (-100.0, 60.0)]


@pytest.mark.parametrize("way", ["jobs", "dask"])
def test_virtual_scans(request, tmp_path, way):
    how = {"jobs": 2} if way == "jobs" else {"dask": request.getfixturevalue("cluster")}
    here = scanning.scanned(asked_scans(), 50.0, 67, kernel="smooth", seed=3, out=tmp_path / "a.npz")
    there = scanning.scanned(asked_scans(), 50.0, 67, kernel="smooth", seed=3, out=tmp_path / "a.npz", **how)
    assert [scans.pixels.shape for scans in there] == [(67, 40, 48)] * 2
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert {**vars(other), "pixels": None} == {**vars(one), "pixels": None}
    assert list(tmp_path.iterdir()) == []


def test_scans_that_no_worker_can_make_are_named_and_nothing_is_left(tmp_path, monkeypatch):
    def failing(_function, tasks):
        return ((task, MemoryError("no room") if task.start else None) for task in tasks)

    monkeypatch.setattr("robustkit.engine.choose", lambda *_: failing)
    with pytest.raises(RobustkitError, match=r"2 parts could not be scanned \(slice [0-9a-f]{16}: no room; "):
        scanning.scanned(asked_scans(), 50.0, 67, out=tmp_path / "a.npz")
    monkeypatch.setattr("robustkit.engine.choose", lambda *_: lambda _function, tasks: ((task, None) for task in tasks))
    with pytest.raises(RobustkitError, match="all of them share"):
        scanning.scanned(asked_scans(), 50.0, 67, out=tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_where_to_scan_is_said_once(tmp_path):
    with pytest.raises(UsageError, match="give one"):
        scanning.scanned(asked_scans(), 50.0, 4, out=tmp_path / "a.npz", jobs=2, dask="local:2")


def test_tls_as_the_page_says(tmp_path, monkeypatch):
    """The configuration is the page's own; without it, or in plain text, nobody is let in."""
    pytest.importorskip("cryptography")
    import dask
    import yaml
    from distributed.security import Security

    throw_away = Security.temporary()
    said = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    for name in re.findall(r"\w+\.(?:pem|key)", said):
        text = throw_away.tls_ca_file if name == "ca.pem" else getattr(throw_away, f"tls_client_{CONTENT[name[-3:]]}")
        (tmp_path / name).write_text(text)
        said = said.replace(name, str(tmp_path / name))
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "tls.yaml").write_text(said)
    mean_probe(tmp_path / "m.onnx", (16, 16), 0.0)
    write_image(tmp_path / "i.npz", np.full((16, 16), 0.5))
    white = {"noise": "white", "settings": {"sigma": 30, "reference_mas": 100}, "levels": [25.0], "n": 64}
    asked = {"model": str(tmp_path / "m.onnx"), "images": str(tmp_path / "i.npz"), **white}
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "conf"))  # of scheduler and worker
    with scheduler(tmp_path, 1) as (address, _):
        assert address.startswith("tls://127.0.0.1:")
        with dask.config.set(dask.config.merge(dask.config.global_config, yaml.safe_load(said))):
            there = audit_model(**asked, dask=address, out=tmp_path / "there")
        with pytest.raises(UsageError, match="wants certificates"):
            list(dask_map(address)(touch, [str(tmp_path / "x")]))
        with pytest.raises(UsageError, match="no Dask scheduler answers"):
            list(dask_map(address.replace("tls", "tcp"))(touch, [str(tmp_path / "x")]))
    here = audit_model(**asked, out=tmp_path / "here")
    pd.testing.assert_frame_equal(here.table, there.table, check_exact=True)
    assert not (tmp_path / "x").exists()


CONTENT = {"pem": "cert", "key": "key"}
