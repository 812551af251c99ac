"""What an audit costs and how it grows: throughput, workers, memory, and the metadata of a hospital's run.

    python benchmarks/scale.py throughput    # audit against inference alone, two one-thread workers, 1 and 16 levels
    python benchmarks/scale.py workers       # two workers against one, processes and Dask
    python benchmarks/scale.py memory        # peak above the loaded model against n, levels and slices
    python benchmarks/scale.py shards        # a million shards' worth of scores aggregated; real ones written and read

Times are CPU seconds of the process that works, unless said: on a shared machine the wall clock measures the others.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE = 512
BATCH = 16
SHARDS_TIMED = 12
"""Shards of 64 images an audit is timed by: some 12 s of one core."""


def write_cnn(path: Path, side: int = SIDE) -> Path:
    """Write the reference load: three convolutions (16, 32, 64), pooling, two dense layers; 659 MMAC at 512^2."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name, channels, width = [], [], "image", 1, side
    for layer, filters in enumerate((16, 32, 64)):
        kernel = rng.normal(0, (2 / (9 * channels)) ** 0.5, (filters, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"k{layer}"))
        nodes += [
            helper.make_node("Conv", [name, f"k{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
            helper.make_node("MaxPool", [f"r{layer}"], [f"p{layer}"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        name, channels, width = f"p{layer}", filters, width // 2
    nodes.append(helper.make_node("Flatten", [name], ["flat"], axis=1))
    for layer, (rows, columns) in enumerate(((channels * width * width, 64), (64, 4))):
        weights.append(
            numpy_helper.from_array(rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32), f"d{layer}")
        )
        source = "flat" if layer == 0 else "hidden"
        nodes.append(helper.make_node("MatMul", [source, f"d{layer}"], ["dense" if layer == 0 else "logits"]))
        if layer == 0:
            nodes.append(helper.make_node("Relu", ["dense"], ["hidden"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "cnn", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(
        model,
        {"robustkit.spec": '[input]\nwindow = [-1000, 1000]\n[output]\nclasses = ["a", "b", "c", "d"]\n'},
    )
    onnx.save(model, str(path))
    return path


def clocked(function) -> float:
    """Return CPU seconds of this thread's process."""
    began = time.process_time()
    function()
    return time.process_time() - began


def measure(task) -> None:
    """Alternate inference alone and the audit of as many images in one worker; write both times."""
    from robustkit import audit, noise
    from robustkit.models import refer
    from robustkit.types import Slice

    path, profile, levels, images, blocks, out = task
    model = refer(path, {}).load()
    fitted = noise.fit_nps.from_profile(noise.load_profile(profile))
    clean = np.zeros((SIDE, SIDE), np.float32)
    case = audit.Case(Slice("a" * 16, clean, (0.7, 0.7)), clean, fitted)
    ready = np.random.default_rng(0).normal(0, 30, (BATCH, SIDE, SIDE)).astype(np.float32)
    asked = list(np.geomspace(25, 400, levels))

    def alone() -> None:
        for _ in range(images // BATCH):
            model.predict(ready, (0.7, 0.7))

    def audited() -> None:
        audit.score_realizations(model, case, asked, range(images // levels), seed=0, batch=BATCH)

    alone()
    audited()
    pairs = [(clocked(alone), clocked(audited)) for _ in range(blocks)]
    Path(out).write_text(json.dumps(pairs))


def throughput(folder: Path, blocks: int) -> dict[str, object]:
    from robustkit import engine, noise
    from robustkit.types import RepeatScans

    model = write_cnn(folder / "cnn.onnx")
    scans = np.random.default_rng(0).normal(0, 20, (8, SIDE, SIDE)).astype(np.float32)
    noise.save_profile(noise.estimate(RepeatScans("b" * 16, scans, (0.7, 0.7), 50.0)), folder / "p.npz")
    told: dict[str, object] = {}
    for levels in (1, 16):
        images = 32 if levels == 1 else 64
        tasks = [
            (str(model), str(folder / "p.npz"), levels, images, blocks, str(folder / f"{levels}-{i}")) for i in (0, 1)
        ]
        for _, error in engine.processes(2)(measure, tasks):
            assert error is None, error
        pairs = np.array([pair for *_, out in tasks for pair in json.loads(Path(out).read_text())])
        told[f"{levels} levels"] = {
            "audit over inference alone, median": round(float(np.median(pairs[:, 0] / pairs[:, 1])), 3),
            "quartiles": np.percentile(pairs[:, 0] / pairs[:, 1], [25, 75]).round(3).tolist(),
            "ms an image alone": round(1e3 * float(np.median(pairs[:, 0])) / images, 2),
            "ms an image audited": round(1e3 * float(np.median(pairs[:, 1])) / images, 2),
            "blocks": len(pairs),
        }
    return told


def workers(folder: Path, blocks: int) -> dict[str, object]:
    """Time audits by the wall clock, one and two workers in turn: as a whole, and from their first shards to the last.

    A worker takes seconds to start, whatever there is to do; between the first shard of each and the last of all they
    do nothing but work. The machine must be quiet: two workers cannot gain what others take.
    """
    from robustkit.run import audit_model

    model = write_cnn(folder / "cnn.onnx")
    np.savez(folder / "i.npz", pixels=np.zeros((SIDE, SIDE), np.float32), pixel_mm=[0.7, 0.7], mas=100.0)
    asked = {"images": str(folder / "i.npz"), "noise": "white", "settings": {"sigma": 20, "reference_mas": 100}}
    told: dict[str, object] = {"clock": "wall", "cores": os.cpu_count(), "load before": round(os.getloadavg()[0], 2)}
    for way in ("jobs", "dask"):
        whole, rates = {1: [], 2: []}, {1: [], 2: []}
        for block in range(blocks):
            for count in (1, 2):
                how = {way: count if way == "jobs" else f"local:{count}"}
                out, ended = folder / f"{way}{block}{count}", []

                def note(*_: int, out: Path = out, ended: list[float] = ended) -> None:
                    ended[:] = sorted(p.stat().st_mtime for p in out.glob("shards/[!.]*.npz") if "-case-" not in p.name)

                began = time.perf_counter()
                audit_model(str(model), **asked, **how, levels=[25.0], n=64 * SHARDS_TIMED, out=out, progress=note)
                whole[count].append(time.perf_counter() - began)
                rates[count].append((len(ended) - count) / (ended[-1] - ended[count - 1]))
        told[way] = {
            "two over one, first shards to last": round(float(np.median(rates[2]) / np.median(rates[1])), 2),
            "two over one, whole audit": round(float(np.median(whole[1]) / np.median(whole[2])), 2),
            "seconds a whole audit": {count: np.round(times, 1).tolist() for count, times in whole.items()},
            "images a second": {count: np.round(64 * np.array(rate), 1).tolist() for count, rate in rates.items()},
        }
    return told


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def one_audit(folder: str, n: int, levels: int, slices: int, side: int) -> None:
    """Audit in this process; print MiB of the loaded model and of the peak above it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from models import mean_probe

    place = Path(folder)
    model = mean_probe(place / f"m{side}.onnx", (side, side), 0.0)
    images = place / f"i{slices}-{side}"
    if not images.exists():
        images.mkdir()
        rng = np.random.default_rng(0)
        together = 1 if side == SIDE else 1000
        for i in range(0, slices, together):
            pixels = rng.normal(0.02, 1, (min(together, slices - i), side, side)).astype(np.float32)
            np.savez(images / f"{i:05}.npz", pixels=pixels, pixel_mm=[0.7, 0.7], mas=100.0)
    white = {"noise": "white", "settings": {"sigma": 30, "reference_mas": 100}}
    asked = list(np.geomspace(10, 500, levels))
    told = {"n": n, "levels": levels, "slices": slices, "side": side}
    out = place / f"r{n}-{levels}-{slices}"
    measured_audit(model, told, images=str(images), **white, levels=asked, n=n, out=out)


def phantom_audit(folder: str) -> None:
    """Audit the built-in model with noise fitted to simulated repeats, in this process; print the same."""
    from robustkit.run import DEFAULT_MAS

    told = {"n": 64, "levels": len(DEFAULT_MAS), "slices": 4, "side": SIDE, "noise": "nps"}
    measured_audit("ct-bodysite", told, n=64, out=Path(folder) / "phantom")


def measured_audit(model: str | Path, told: dict[str, object], **asked: object) -> None:
    """Load a model, audit it as asked, print what is told of it with MiB of the loaded model and of the peak above."""
    from robustkit import run
    from robustkit.models import refer

    refer(model, {}).load().predict(np.zeros((BATCH, told["side"], told["side"]), np.float32), (0.7, 0.7))
    loaded = peak()
    run.audit_model(model, **asked)
    print(json.dumps({**told, "loaded_MiB": loaded, "above_MiB": peak() - loaded}))


AUDITS = (
    (64, 1, 2, SIDE),
    (6400, 1, 2, SIDE),
    (64, 200, 1, SIDE),
    (1, 1, 300, SIDE),
    (1, 1, 5000, SIDE),
    (1, 13, 10_000, 32),
    (1, 13, 100_000, 32),
)
"""Realizations, levels, slices, side: the last two for what is kept of a slice besides its pixels."""


def memory(folder: Path, _: int) -> dict[str, object]:
    told = []
    for asked in (*(",".join(map(str, audit)) for audit in AUDITS), "phantom"):
        call = [sys.executable, __file__, "one-audit", "--folder", str(folder), "--asked", asked]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        told.append(json.loads(done.stdout.splitlines()[-1]))
        print(told[-1], file=sys.stderr, flush=True)
    return {"peak above the loaded model": told}


def shards(folder: Path, _: int, count: int = 1_000_000) -> dict[str, object]:
    """Write and read real shards to know their cost; then aggregate a million shards' scores through the same code."""
    from robustkit import gathering, rundir
    from robustkit.audit import Scores

    levels, classes, slices = [float(m) for m in np.geomspace(12.5, 500, 13)], ("BN", "C", "AP", "LF"), count // 16
    rng = np.random.default_rng(0)

    def scores(start: int) -> Scores:
        noisy = np.where(rng.random((64, 13), np.float32) < 0.01, 1, 0).astype(np.int16)
        return Scores(np.arange(start, start + 64), noisy, np.full((64, 13), 0.3, np.float32))

    some = [scores(0) for _ in range(64)]
    real, told = folder / "shards", {}
    real.mkdir()
    began = time.process_time()
    for i in range(500):
        rundir.write_scores(real / f"{i:06}.npz", some[i % 64])
    told["write a shard, CPU ms"] = round(2 * (time.process_time() - began), 3)
    told["bytes a shard"] = (real / "000000.npz").stat().st_size
    began = time.process_time()
    for i in range(500):
        rundir.read_scores(real / f"{i:06}.npz")
    told["read a shard, CPU ms"] = round(2 * (time.process_time() - began), 3)

    cases = [
        {"slice": f"{i:016x}", "group": f"{i // 40:016x}", "label": "", "from": "x" * 16, "clean": "slice"}
        for i in range(slices)
    ]
    plan = {"model": {"name": "m", "sha256": "0"}, "noise": "nps", "settings": {}, "levels": levels, "n": 1024,
            "seed": 0, "batch": 16, "version": 1, "versions": {}, "cases": cases}  # fmt: skip
    told["run.json of the plan, MB"] = round(len(json.dumps(plan)) / 1e6, 1)
    directory = rundir.RunDir(folder / "run", plan)
    directory.shards.mkdir(parents=True)
    record = {"probabilities": np.array([1.0, 0, 0, 0]), "null": {"floor": 0.0, "changed": 0, "n": 3},
              "story": {"unit": "mAs", "source": "repeats", "clean": {"k": 20, "from": "mean of 20 repeats"},
                        "frozen_share": [0.1] * 13}}  # fmt: skip
    drawn = iter(range(count))
    rundir.read_case = lambda _: record  # the files of these are what was measured above
    rundir.read_scores = lambda _: some[next(drawn) % 64]
    before, began = peak(), time.process_time()
    found = gathering.gather(directory, 1024, classes)
    told["aggregate, CPU s"] = round(time.process_time() - began, 1)
    told["shards aggregated"] = count - sum(1 for _ in drawn)
    told["images counted"] = int(sum(block["count"].sum() for block in found.table))
    told["rows of counts"] = sum(map(len, found.table))
    told["peak above the start, MiB"] = peak() - before
    began = time.process_time()
    from robustkit.summary import build

    asked = {"model": "m", "noise": "nps", "unit": "mAs", "classes": classes, "levels": levels, "n": 1024, "seed": 0}
    build(found.table, **asked)
    told["summary, CPU s"] = round(time.process_time() - began, 1)
    told["peak above the start with the summary, MiB"] = peak() - before
    return told


PARTS = {"throughput": throughput, "workers": workers, "memory": memory, "shards": shards}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=[*PARTS, "one-audit"])
    parser.add_argument("--blocks", type=int, help="Repetitions: 5, of workers 1, which takes a minute.")
    parser.add_argument("--folder", default="")
    parser.add_argument("--asked", default="")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.what == "one-audit":
        if given.asked == "phantom":
            phantom_audit(given.folder)
        else:
            one_audit(given.folder, *map(int, given.asked.split(",")))
        return
    with tempfile.TemporaryDirectory() as folder:
        blocks = given.blocks or (1 if given.what == "workers" else 5)
        print(json.dumps(PARTS[given.what](Path(folder), blocks), indent=1))


if __name__ == "__main__":
    main()
