"""The same audit with robustkit and with MAITE + NRTK: time, memory, lines of user code.

    pip install 'robustkit[maite,nrtk]' 'nrtk[skimage]' robustkit-ct-bodysite
    python benchmarks/peers.py [-n 100] [--markdown docs/comparison.md]

Same model (one ONNX session, one thread), same four phantom slices at 512 x 512, same white Gaussian noise, which is
what both can make; that it is equally strong is checked first, on both sides. Each arm runs in a process of its own;
CPU time and peak memory are that process's. What one arm does beyond the other is listed, not timed away.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sections import put, table

SIGMA, LEVELS = 30.0, (25.0, 50.0, 100.0)  # HU at 25 mAs; the levels make sd 30, 21 and 15 HU
SCALE = 4096.0  # NRTK's noise wants floats between -1 and 1


def robustkit_arm(n: int) -> list[list[int]]:
    """Return [changed, scored] per level."""
    from robustkit.run import audit_model

    settings = {"sigma": SIGMA, "reference_mas": 25.0}
    with tempfile.TemporaryDirectory() as folder:
        outcome = audit_model(
            "ct-bodysite", noise="white", settings=settings, levels=LEVELS, n=n, clean="slice", out=f"{folder}/run"
        )
    rows = outcome.summary["sar"]
    return [[sum(r[key] for r in rows if r["level"] == level) for key in ("k", "n")] for level in LEVELS]


def nrtk_arm(n: int) -> list[list[int]]:
    """Return [changed, scored] per level."""
    from maite import tasks
    from maite.protocols import DatasetMetadata, MetricMetadata, ModelMetadata
    from nrtk.impls.perturb_image.photometric.noise import GaussianNoisePerturber
    from nrtk.interop import MAITEImageClassificationAugmentation
    from robustkit_ct_bodysite.phantom import central_slices
    from robustkit_ct_bodysite.plugin import shipped_model

    network = shipped_model()
    slices = central_slices()
    spacing = slices[0].pixel_mm
    answers = network.predict(np.stack([s.pixels for s in slices]), spacing)

    class Slices:
        metadata = DatasetMetadata(id="phantom")

        def __len__(self):
            return n * len(slices)

        def __getitem__(self, i):
            which = i % len(slices)
            return slices[which].pixels[None] / np.float32(SCALE), answers[which], {"id": i}

    class Network:
        metadata = ModelMetadata(id="ct-bodysite")

        def __call__(self, batch):
            images = np.stack([np.asarray(image)[0] for image in batch]) * np.float32(SCALE)
            return list(network.predict(images, spacing))

    class Changed:
        metadata = MetricMetadata(id="changed")

        def reset(self):
            self.k = self.n = 0

        def update(self, predictions, targets, _):
            for predicted, clean in zip(predictions, targets, strict=True):
                self.k += int(np.argmax(predicted) != np.argmax(clean))
                self.n += 1

        def compute(self):
            return {"k": self.k, "n": self.n}

    found = []
    for level in LEVELS:
        sd = SIGMA * np.sqrt(25.0 / level) / SCALE
        noise = GaussianNoisePerturber(var=float(sd**2), seed=0, clip=False)
        told, _, _ = tasks.evaluate(
            model=Network(),
            dataset=Slices(),
            metric=Changed(),
            augmentation=MAITEImageClassificationAugmentation(augment=noise, augment_id="gaussian"),
            batch_size=16,
        )
        found.append([told["k"], told["n"]])
    return found


ARMS: dict[str, Callable[[int], list[list[int]]]] = {"robustkit": robustkit_arm, "MAITE + NRTK": nrtk_arm}
DONE = {
    "robustkit": "exact intervals, rounding to stored HU, CMR, null audit, report, resumable shards",
    "MAITE + NRTK": "two counts a level",
}


def noise_is_equal() -> str:
    """Return a sentence on how strong each side's noise is at 25 mAs; AssertionError beyond 0.5 %."""
    from nrtk.impls.perturb_image.photometric.noise import GaussianNoisePerturber

    from robustkit import draws
    from robustkit.noise import fit_white

    clean = np.zeros((512, 512), np.float32)
    mine = fit_white(None, sigma=SIGMA, reference_mas=25.0).sample(clean, [25.0], draws(0, "audit", "0", range(8)))
    perturb = GaussianNoisePerturber(var=(SIGMA / SCALE) ** 2, seed=0, clip=False)
    theirs = np.stack([perturb(image=clean)[0] for _ in range(8)]) * SCALE
    sds = float(mine.std()), float(theirs.std())
    assert all(abs(sd / SIGMA - 1) < 0.005 for sd in sds), sds
    return f"Noise checked first: sd {sds[0]:.2f} and {sds[1]:.2f} HU where {SIGMA:g} were asked."


def lines_of(arm: Callable[..., object]) -> int:
    """Return the lines of code of an arm, blank lines and its docstring not counted."""
    lines, _ = inspect.getsourcelines(arm)
    return sum(1 for line in lines if line.strip() and '"""' not in line)


def measured(name: str, n: int) -> dict[str, object]:
    """Run one arm in a fresh process, once to warm its caches and once for the figures."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--arm", name, "-n", str(n)]
    subprocess.run([*command[:-1], "4"], check=True, capture_output=True, env=environment)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_arm(name: str, n: int) -> None:
    ARMS[name](1)  # imports and compilation are not the audit
    cpu, wall = time.process_time(), time.monotonic()
    counts = ARMS[name](n)
    told = {"counts": counts, "cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
    told["mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--arm", choices=list(ARMS))
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    if asked.arm:
        run_arm(asked.arm, asked.n)
        return
    sentence = noise_is_equal()
    rows = []
    for name, arm in ARMS.items():
        found = measured(name, asked.n)
        counts = found["counts"]
        assert isinstance(counts, list)
        images = sum(n for _, n in counts)
        cpu = float(str(found["cpu"]))
        changed = ", ".join(f"{k}/{n}" for k, n in counts)
        speed = f"{1000 * cpu / images:.1f}"
        rows.append([name, changed, f"{cpu:.1f}", speed, f"{found['mb']:.0f}", str(lines_of(arm)), DONE[name]])
    heads = ["", "changed at 25, 50, 100 mAs", "CPU s", "ms an image", "peak MB", "lines of user code", "and does"]
    with_versions = ", ".join(f"{name} {version(name)}" for name in ("maite", "nrtk", "onnxruntime", "numpy"))
    text = f"{sentence} n = {asked.n} a slice and level; {with_versions}.\n\n{table(heads, rows)}"
    if asked.markdown:
        put(asked.markdown, "peers", text)
    print(text)


if __name__ == "__main__":
    main()
