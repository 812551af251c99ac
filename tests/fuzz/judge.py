"""What becomes of a mutated file: a clean error, or a valid result that an independent reader bears out.

    python tests/fuzz/judge.py [--out figures.json]        the whole corpus; exit 1 when anything else happened

Each kind is judged in a process of its own with bounded memory. An example that takes more than a minute is a hang, one
that raises anything but robustkit's own one-line error is a traceback, one after which the process had grown by more
than 2 GiB a runaway allocation (an image of 4096 x 4096 is no mistake and takes 1.3), and a result that the independent
reader contradicts a silent wrong answer.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from fuzz import corpus

SECONDS = 60
GROWTH = 1 << 30
VALID, DONE = -2, -1
"""In place of an example's number: the valid file, which is judged first, and the end."""
PIXELS = np.random.default_rng(3).normal(0, 200, (3, corpus.SIDE, corpus.SIDE)).astype(np.float32)
HARMLESS = {"command", "hardware", "wall_seconds", "finished", "asked", "unsafe_load"}
"""What run.json may say without a word of the results being another."""


class WrongError(AssertionError):
    """A result that an independent reader contradicts."""


def check(truth: bool, words: str) -> None:
    if not truth:
        raise WrongError(words)


def images(path: Path, kind: str) -> None:
    """Load as images and as repeats; what is loaded must be finite HU, and those that the format's own reader gives."""
    from robustkit.errors import RobustkitError
    from robustkit.scans import load_images, load_repeats

    failed = None
    found: Any = ()
    for load in (load_repeats, load_images):
        try:
            found = load(str(path)) or ()
        except RobustkitError as error:
            found, failed = (), error
        for item in found:
            check(item.pixels.dtype == np.float32 and bool(np.isfinite(item.pixels).all()), "pixels are not finite")
            check(all(0 < mm <= 100 for mm in item.pixel_mm), "spacing is impossible")
            check(item.mas is None or item.mas > 0, "mAs is not above 0")
    if not found and failed is not None:
        raise failed
    own = _dicom_hu(path) if kind == "dicom" else _npz_hu(path)
    for item, wanted in zip(found, own, strict=True):
        check(item.pixels.shape == wanted.shape, f"shape {item.pixels.shape}, the file holds {wanted.shape}")
        there = item.mask if item.mask is not None else np.ones(wanted.shape, bool)
        check(
            bool(np.allclose(item.pixels[there], wanted[there], rtol=1e-4, atol=0.01)), "other HU than the file holds"
        )


def _dicom_hu(path: Path) -> list[Any]:
    import pydicom

    dataset = pydicom.dcmread(path)
    raw = dataset.pixel_array.astype(np.float64)
    return [raw * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)]


def _npz_hu(path: Path) -> list[Any]:
    with np.load(path) as arrays:
        pixels = arrays["pixels"].astype(np.float64)
    return list(pixels if pixels.ndim == 3 else pixels[None])


def model(path: Path, kind: str) -> None:
    """Load and score; the answer must be a distribution, the same twice, and for ONNX that of onnxruntime itself."""
    from robustkit.models import refer

    if kind == "toml":
        spec = path.with_name("m.robustkit.toml")
        path.rename(spec)
        (path.parent / "m.onnx").write_bytes((path.parent / "valid.onnx").read_bytes())
        path = path.parent / "m.onnx"
    flags = {"window": "-1000,1000", "layout": "nhwc"} if kind == "keras" else {}
    flags = {"window": "-1000,1000"} if kind == "pt2" else flags
    loaded: Any = refer(path, flags).load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [loaded.predict(PIXELS, (1.0, 1.0)) for _ in range(2)]
    check(bool(np.isfinite(answers[0]).all()), "probabilities are not finite")
    check(bool(np.allclose(answers[0].sum(axis=1), 1, atol=1e-3)), "probabilities do not sum to 1")
    check(bool(np.array_equal(*answers)), "two answers to one question")
    if kind == "onnx":
        _as_onnxruntime(path, loaded, answers[0])
    if kind == "toml":
        _as_toml_says(path.with_name("m.robustkit.toml"), loaded.spec)


def _as_onnxruntime(path: Path, loaded: Any, answer: Any) -> None:
    import onnxruntime

    spec = loaded.spec
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if spec.window is None and spec.size in (None, PIXELS.shape[1:]) and spec.channels == 1 and spec.fov_mm is None:
        image = PIXELS[:, None] if spec.layout == "nchw" else PIXELS[..., None]
        entry = session.get_inputs()[0]
        size = entry.shape[0] if isinstance(entry.shape[0], int) else len(image)
        raw = np.asarray(session.run(None, {entry.name: image[:size].astype(spec.dtype)})[0]).reshape(min(size, 3), -1)
        if raw.shape[1] > 1:
            check(
                bool((raw.argmax(axis=1) == answer[: len(raw)].argmax(axis=1)).all()), "other answers than onnxruntime"
            )


def _as_toml_says(path: Path, spec: Any) -> None:
    import tomllib

    told = tomllib.loads(path.read_text(encoding="utf-8"))
    window = told.get("input", {}).get("window")
    given = spec.window if window in (None, "none") else tuple(map(float, window))
    check(window is None or spec.window == (None if window == "none" else given), "another window than the TOML says")
    classes = told.get("output", {}).get("classes")
    classes = [part.strip() for part in classes.split(",")] if isinstance(classes, str) else classes
    check(classes is None or spec.classes == tuple(classes), "other classes than the TOML says")


def profile(path: Path, _: str) -> None:
    """Load, fit and draw: noise that is finite, and as strong as the file's own map says."""
    from robustkit import draws, noise

    fit: Any = noise.fit_nps
    loaded = noise.load_profile(path)
    with np.load(path) as arrays:
        check(bool(np.array_equal(arrays["sigma"], loaded.sigma)), "another sigma map than the file holds")
    check(loaded.mas is None or loaded.mas > 0, "mAs is not above 0")
    fitted = fit.from_profile(loaded)
    field = fitted.sample(np.zeros(loaded.shape, np.float32), [50.0], draws(0, "audit", "x", [0, 1]))
    check(field.shape == (2, 1, *loaded.shape), "noise of another shape")
    check(bool(np.isfinite(field).all()), "noise is not finite")


def finished_run(path: Path, _: str) -> None:
    """Verify, report and compare: whatever was changed and matters is found, or refused."""
    from robustkit.errors import RobustkitError
    from robustkit.replay import compare_runs
    from robustkit.report import write_report
    from robustkit.verify import verify_run

    folder = path.with_suffix("")
    valid = corpus.unzip((path.parent / "valid.zip").read_bytes())
    members = corpus.unzip(path.read_bytes())
    folder.mkdir()
    for name, content in members.items():
        (folder / name).write_bytes(content)
    refused = None
    verdict = "refused"
    for step in (
        lambda: verify_run(folder)["verdict"],
        lambda: write_report(folder),
        lambda: compare_runs(folder, folder),
    ):
        try:
            found = step()
            verdict = found if isinstance(found, str) and verdict == "refused" else verdict
        except RobustkitError as error:
            refused = error
    changed = [name for name, content in members.items() if content != valid.get(name)]
    if verdict == "verified" and changed:
        before, after = json.loads(valid["run.json"]), json.loads(members["run.json"])
        moved = {key for key in {*before, *after} if before.get(key) != after.get(key)} - HARMLESS - {"files"}
        rehashed = [name for name in changed if name != "run.json"]
        check(not moved, f"verified with another {', '.join(sorted(moved))}")
        check(not set(rehashed) & {"results.parquet"}, "verified with another table")
        check("summary.json" not in rehashed or _same_sar(valid, members), "verified with another SAR")
    if refused is not None:
        raise refused


def _same_sar(valid: dict[str, bytes], members: dict[str, bytes]) -> bool:
    """Say whether k and n are as they were; of the rest of summary.json a report redraws what the table says."""
    rows = [
        {(r["class"], r["level"]): (r["k"], r["n"]) for r in json.loads(m["summary.json"])["sar"]}
        for m in (valid, members)
    ]
    return rows[0] == rows[1]


JUDGES = {
    "dicom": images,
    "npz": images,
    "onnx": model,
    "toml": model,
    "pt2": model,
    "keras": model,
    "profile": profile,
    "run": finished_run,
}


def judge(kind: str, data: bytes, folder: Path) -> str:
    """Return "valid", "refused", or what went wrong in words."""
    from robustkit.errors import RobustkitError

    path = folder / f"example{corpus.SUFFIX.get(kind, f'.{kind}')}"
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            JUDGES[kind](path, kind)
    except RobustkitError as error:
        text = str(error)
        return (
            "refused"
            if "\n" not in text and 0 < len(text) < 1500
            else f"error of {len(text)} characters or several lines"
        )
    except WrongError as error:
        return f"silent wrong answer: {error}"
    except MemoryError:
        return "runaway allocation: MemoryError"
    except Exception as error:  # what must not happen
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__}: {str(error)[:200]} at {Path(where.filename).name}:{where.lineno}"
    return "valid"


def _memory() -> int:
    """Return the most memory that this process held since the last call."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    with suppress(OSError):
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        most = int(text.split("VmHWM:")[1].split()[0]) << 10
        Path("/proc/self/clear_refs").write_text("5")
    return most


def _work(kind: str, seed: bytes, others: dict[str, bytes], numbers: list[int], sent: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout = sys.stderr = io.TextIOWrapper(io.BytesIO())  # libraries talk; what matters comes through `sent`
    for number in (VALID, *numbers):
        data = seed if number == VALID else corpus.example(kind, number, seed)
        with TemporaryDirectory() as folder:
            for name, content in others.items():
                (Path(folder) / name).write_bytes(content)
            sent.send((number, "started", False, 0))
            _memory()
            before = _memory()
            found = judge(kind, data, Path(folder))
            grown = _memory() - before
        if number == VALID:  # imports the framework
            check(found == "valid", f"the valid file is {found}")
            continue
        if grown > GROWTH:
            found = f"runaway allocation: {grown >> 20} MiB"
        sent.send((number, found, corpus.past_header(kind, data), grown))
    sent.send((DONE, "", False, 0))


Finding = tuple[str, bool, int]
"""What became of an example, whether it got past the header, and by how many bytes memory grew at most."""


def judge_all(kind: str, seed: bytes, others: dict[str, bytes], numbers: list[int]) -> dict[int, Finding]:
    """Judge examples of a kind in processes of their own, a new one after each that dies or hangs."""
    found: dict[int, Finding] = {}
    left = list(numbers)
    while left:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.get_context("fork").Process(target=_work, args=(kind, seed, others, left, sender))
        worker.start()
        sender.close()
        started, words = VALID, ""
        try:
            while True:
                if not receiver.poll(6 * SECONDS if started == VALID else SECONDS):
                    words = f"hang: no answer within {SECONDS} s"
                    break
                number, outcome, deep, grown = receiver.recv()
                if number == DONE:
                    break
                started = number
                if outcome != "started":
                    found[number] = (outcome, deep, grown)
        except EOFError:
            worker.join()
            words = f"crash: the process ended with {worker.exitcode}"
        if worker.is_alive() and words:
            os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        if words and started == VALID:
            raise WrongError(f"the valid file of kind {kind}: {words}")
        if words:
            found[started] = (words, corpus.past_header(kind, corpus.example(kind, started, seed)), 0)
        left = [number for number in left if number not in found]
    return found


def _seeds(kinds: tuple[str, ...]) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        return corpus.seeds(Path(folder), kinds)


def figures(counts: dict[str, int], stride: int = 1) -> dict[str, Any]:
    """Judge every `stride`-th example of each kind; return what was found."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # frameworks loaded here would not survive the forks
        seeds = pool.apply(_seeds, (tuple(counts),))
    others = {"valid.onnx": seeds["onnx"], "valid.zip": seeds["run"]}
    told: dict[str, Any] = {"seed": corpus.SEED, "kinds": {}, "wrong": []}
    for kind in [kind for kind in counts if kind in seeds]:
        began = time.monotonic()
        found = judge_all(kind, seeds[kind], others, list(range(0, counts[kind], stride)))
        outcomes = Counter(words if words in ("valid", "refused") else "wrong" for words, _, _ in found.values())
        told["wrong"] += [
            f"{kind} {number}: {words}"
            for number, (words, _, _) in sorted(found.items())
            if words not in ("valid", "refused")
        ]
        deep = sum(past for _, past, _ in found.values())
        told["kinds"][kind] = {
            "examples": len(found),
            "past_header": deep,
            **outcomes,
            "seconds": round(time.monotonic() - began, 1),
            "most_MiB": max(grown for _, _, grown in found.values()) >> 20,
        }
    kinds = told["kinds"].values()
    told["examples"] = sum(k["examples"] for k in kinds)
    told["past_header"] = sum(k["past_header"] for k in kinds)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kind", choices=list(corpus.COUNTS))
    parser.add_argument("--stride", type=int, default=1)
    given = parser.parse_args()
    counts = {given.kind: corpus.COUNTS[given.kind]} if given.kind else corpus.COUNTS
    found = figures(counts, given.stride)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    sys.exit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
