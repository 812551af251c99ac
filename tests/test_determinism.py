"""Same seed, same flips: whatever the batch, the workers, the cluster, a resume or the order, one hash of the table."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from clusters import scheduler
from models import mean_probe, write_image
from soak import table_hash

from robustkit import cluster, engine, gathering, results, rundir
from robustkit.cases import NoiseChoice, find_images, gather
from robustkit.engine import serial
from robustkit.errors import RobustkitError
from robustkit.models import ModelRef, refer
from robustkit.run import audit_model, make_plan, work_off

SHAPE = (64, 64)
N = 192


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Return keywords of a small audit with NPS noise fitted to repeats, and the hash of its table made in order."""
    folder = tmp_path_factory.mktemp("asked")
    rng = np.random.default_rng(4)
    mean_probe(folder / "model.onnx", SHAPE, 0.0)
    write_image(folder / "images.npz", np.stack([np.full(SHAPE, 0.5), np.full(SHAPE, -0.8)]))
    np.savez(folder / "repeats.npz", pixels=30 * rng.standard_normal((8, *SHAPE)), pixel_mm=[1.0, 1.0], mas=50.0)
    common = {
        "model": str(folder / "model.onnx"),
        "images": str(folder / "images.npz"),
        "repeats": str(folder / "repeats.npz"),
        "levels": [12.5, 25.0, 100.0],
        "n": N,
    }
    outcome = audit_model(**common, out=folder / "whole")
    assert 0 < results.flipped(outcome.table).sum() < len(outcome.table)
    return common, bits(folder / "whole")


def bits(path):
    """Return the hash of a table without the name of the run, which a batch size is part of."""
    table = results.read(path / "results.parquet").drop(columns="run")
    return str(hash(table.to_csv(index=False, float_format="%.9g")))


@pytest.mark.parametrize(
    "way",
    [{"batch": 1}, {"batch": 5, "jobs": 2}, {"batch": 64, "dask": "local:2"}, {"batch": 16, "jobs": 3}],
    ids=lambda way: "-".join(f"{name}={value}" for name, value in way.items()),
)
def test_batch_jobs_and_cluster_change_no_bit(asked, tmp_path, way):
    if "dask" in way:
        pytest.importorskip("distributed")
    common, wanted = asked
    audit_model(**common | way, out=tmp_path / "run")
    assert bits(tmp_path / "run") == wanted


def test_order_and_interruptions_change_no_bit(asked, tmp_path):
    """Every shard is made alone, in random order, some by another way, half of them lost and made again."""
    common, wanted = asked
    reference = refer(common["model"], {})
    sources = gather(common["images"], common["repeats"], [], None)
    choice = NoiseChoice("nps")
    plan = make_plan(reference, choice, sources, common["levels"], N, 0, 16)
    chance = random.Random(8)

    def shuffled(function, tasks):
        single = [replace(task, ranges=(part,)) for task in tasks for part in task.ranges]
        chance.shuffle(single)
        return engine.processes(2)(function, single)

    with rundir.locked(tmp_path / "run"):
        directory = rundir.start(tmp_path / "run", plan, resume=False)
        work_off(directory, sources, choice, reference, N, shuffled, None)
        made = sorted(directory.shards.glob("*.npz"))
        for path in chance.sample(made, len(made) // 2):
            path.unlink()
    work_off(directory, sources, choice, reference, N, serial, None)
    found = gathering.gather(directory, N, tuple(reference.load().classes))
    table = results.read(found.table.path).drop(columns="run")
    assert str(hash(table.to_csv(index=False, float_format="%.9g"))) == wanted


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")  # torch's own, of a clean image
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own, on torch
@pytest.mark.parametrize("kind", ["pt2", "keras"])
def test_torch_and_keras_give_the_same_labels_and_ties_for_any_batch(asked, tmp_path, kind):
    common, _ = asked
    path = {"pt2": torch_model, "keras": keras_model}[kind](tmp_path)
    tables = [
        audit_model(**common | {"model": str(path)} | way, spec=SPEC, out=tmp_path / str(i)).table
        for i, way in enumerate([{"batch": 1, "n": 64}, {"batch": 7, "n": 64}, {"batch": 16, "n": 64, "jobs": 2}])
    ]
    for other in tables[1:]:
        for column in ("slice", "level", "realization", "clean", "noisy", "tied"):
            assert other[column].equals(tables[0][column]), column


SPEC = {"window": "none", "classes": "low,high", "kind": "logits"}


def torch_model(folder):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 4, 3)
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.tanh(self.conv(x / 30)).mean(dim=(2, 3)))

    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.head.bias -= net(torch.zeros(1, 1, *SHAPE))[0]  # undecided on an empty image
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(net, (torch.zeros(2, 1, *SHAPE),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def keras_model(folder):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", exc_type=ImportError)
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.layers.Input((1, *SHAPE) if keras.config.image_data_format() == "channels_first" else (*SHAPE, 1)),
            keras.layers.Rescaling(1 / 30),
            keras.layers.Conv2D(4, 3, activation="tanh"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    net.save(folder / "model.keras")
    return folder / "model.keras"


def test_a_real_scheduler_whose_worker_is_killed_changes_no_bit(asked, tmp_path):
    pytest.importorskip("distributed")
    common, _ = asked
    more = common | {"n": 1280}
    audit_model(**more, jobs=2, out=tmp_path / "whole")
    with scheduler(tmp_path, 2) as (address, workers):
        run = tmp_path / "run"

        def kill_one():
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                if run.exists() and len(list(run.glob("shards/*.npz"))) >= 4:
                    os.kill(workers[0].pid, signal.SIGKILL)
                    return
                time.sleep(0.01)

        killer = threading.Thread(target=kill_one)
        killer.start()
        audit_model(**more, dask=address, out=run)
        killer.join()
        assert workers[0].poll() == -signal.SIGKILL
        assert workers[1].poll() is None
    assert bits(run) == bits(tmp_path / "whole")
    assert table_hash(run) == table_hash(tmp_path / "whole")


def test_a_task_travels_without_its_weight_and_arrives_whole(asked, tmp_path):
    common, _ = asked
    reference = refer(common["model"], {"kind": "logits"})
    images = find_images("phantom/C")
    big = (reference, images[0].pixels, {"again": images[0].pixels})
    payload, weights = cluster.pack(big)
    assert len(payload) < 2000
    assert len(weights) == 2  # the pixels once, and the model
    model, pixels, more = cluster.unpack(payload, weights, tmp_path)
    np.testing.assert_array_equal(pixels, images[0].pixels)
    assert more["again"] is pixels
    assert model.path != reference.path
    assert isinstance(model, ModelRef)
    assert model.load().classes == ("low", "high")
    _, known = cluster.pack(big, set(weights))
    assert [key for key, weight in known.items() if weight is None] == [
        k for k in weights if k.startswith("robustkit-model")
    ]


def test_another_input_spec_is_another_model_on_a_cluster(asked, tmp_path):
    common, _ = asked
    keys = [next(iter(cluster.pack(refer(common["model"], flags))[1])) for flags in ({}, {"kind": "logits"})]
    assert keys[0] != keys[1]


def test_work_is_cut_for_its_workers():
    assert engine.parts(serial, 10) == 1
    assert engine.parts(engine.processes(8), 1) == 32
    assert engine.parts(engine.processes(8), 1000) == 1


def test_no_shard_is_missed_where_workers_write_elsewhere(asked, tmp_path):
    common, _ = asked
    reference = refer(common["model"], {})
    sources = gather(common["images"], common["repeats"], [], None)
    plan = make_plan(reference, NoiseChoice("nps"), sources, common["levels"], N, 0, 16)

    def elsewhere(_function, tasks):
        return ((task, None) for task in tasks)

    directory = rundir.start(tmp_path / "run", plan, resume=False)
    with pytest.raises(RobustkitError, match="all of them share"):
        work_off(directory, sources, NoiseChoice("nps"), reference, N, elsewhere, None)
