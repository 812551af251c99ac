"""A soak: audits disturbed at random until the time is over, each of which must end verified and bit-identical.

    python tests/soak.py --minutes 30 --seed 1 --out soak.json

Each round is one audit in a fresh directory on a small tmpfs (an ordinary folder where none can be mounted). It is
started, hit by a fault (SIGKILL of the run, SIGKILL of one worker, SIGINT, SIGTERM, or the disk filled to the last
byte), and started again with `--resume` until it ends by itself. Then its table must hash to that of an undisturbed
run, `robustkit verify` must re-create its flips, no process may be left over, no shard may ever have been lost, and
nothing but one-line errors may have been written. The first violation ends the soak with what was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from models import mean_probe, write_image

SHAPE = (128, 128)
N = 1280
SHARDS = 2 * N // 64
DISK = 12 << 20
MARK = "ROBUSTKIT_SOAK_ROUND"
FAULTS = ("kill", "kill worker", "interrupt", "terminate", "disk full")
WAYS = (("--jobs", "2"), ("--jobs", "2"), ("--dask", "local:2"), ())


def prepare(folder: Path) -> list[str]:
    """Write a model and two images it is unsure of; return the audit's arguments without --out."""
    mean_probe(folder / "model.onnx", SHAPE, 0.0)
    pixels = np.stack([np.full(SHAPE, 0.25), np.full(SHAPE, -0.4)])
    write_image(folder / "images.npz", pixels)
    white = ["--noise", "white", "--set", "sigma=30", "--set", "reference_mas=100"]
    asked = ["--images", str(folder / "images.npz"), *white, "--mas", "25,50,100,400", "-n", str(N), "--quiet"]
    return ["audit", str(folder / "model.onnx"), *asked]


ROBUSTKIT = str(Path(sys.executable).with_name("robustkit"))


def start(arguments: list[str], number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [ROBUSTKIT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {MARK: str(number)},
    )


def begun(pid: int) -> bool:
    """Say whether a process answers SIGTERM by itself: before, it is Python alone, starting, that hears signals."""
    with suppress(OSError):
        found = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def processes(number: int) -> list[int]:
    """Return the processes that a round started and that still run, found by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"{MARK}={number}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def workers(number: int, parent: int) -> list[int]:
    """Return the worker processes of a round: spawned children that compute."""
    found = []
    for pid in processes(number):
        with suppress(OSError):
            if pid != parent and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def shards(run: Path) -> set[str]:
    with suppress(OSError):
        return {n for n in os.listdir(run / "shards") if not n.startswith(".") and "-case-" not in n}
    return set()


def table_hash(run: Path) -> str:
    from robustkit import results

    table = results.read(run / "results.parquet")
    return hashlib.sha256(table.to_csv(index=False, float_format="%.9g").encode()).hexdigest()


@contextmanager
def small_disk(folder: Path):
    """Mount a tmpfs of `DISK` bytes; yield whether that is allowed here."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "robustkit-soak", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> Path:
    """Write until the disk is full to the last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return ballast


class ViolationError(AssertionError):
    """Something that a disturbed run must never do."""


def disturb(kind: str, process: subprocess.Popen[str], number: int, disk: Path) -> str:
    """Do one fault; return what was done in the end."""
    if kind == "kill":
        os.kill(process.pid, signal.SIGKILL)
    elif kind == "kill worker":
        found = workers(number, process.pid)
        if not found:
            return "nothing"
        with suppress(ProcessLookupError):
            os.kill(random.choice(found), signal.SIGKILL)
    elif kind == "interrupt":
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to all of them
    elif kind == "terminate":
        process.terminate()
    else:
        fill(disk)
    return kind


def attempt(arguments, run: Path, disk: Path, chance: random.Random, kinds, number: int, told: Counter) -> bool:
    """Start the audit once, disturb it once; return whether it ended by itself with its results."""
    before = shards(run)
    target = chance.choice([0, chance.randint(1, SHARDS - 1), SHARDS])
    kind = chance.choice(kinds) if kinds and chance.random() < 0.9 else "nothing"
    process = start(arguments, number)
    deadline, pause = time.monotonic() + 300, chance.uniform(0, 4 if target == 0 else 0.6)
    enough = min(len(before) + target, SHARDS)
    while process.poll() is None and (not begun(process.pid) or len(shards(run) | before) < enough):
        if time.monotonic() > deadline:
            raise ViolationError(f"no shard for 300 s with {len(before)} of {SHARDS}")
        time.sleep(0.02)
    time.sleep(pause)
    if process.poll() is None and kind != "nothing":
        kind = disturb(kind, process, number, disk)
        told[kind] += kind != "nothing"
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        raise ViolationError(f"hangs after {kind}") from None
    (disk / "ballast").unlink(missing_ok=True)
    told[f"exit {process.returncode}"] += 1
    check_end(process.returncode, kind, out, err, run, before, number)
    return process.returncode == 0


def check_end(code: int, kind: str, out: str, err: str, run: Path, before: set[str], number: int) -> None:
    """Raise ViolationError for anything but a clean end, whatever the fault was."""
    patience = time.monotonic() + 20
    while left := processes(number):
        if time.monotonic() > patience:
            raise ViolationError(f"processes {left} outlive their run after {kind}")
        time.sleep(0.1)
    expected = {"kill": {-9, 0}, "disk full": {4, 0}, "interrupt": {130, 0}, "terminate": {130, -15, 0}}
    if code not in expected.get(kind, {0}):
        raise ViolationError(f"exit {code} after {kind}: {err[-2000:]}")
    if "Traceback" in out + err:
        raise ViolationError(f"a traceback after {kind}: {err[-3000:]}")
    lost = before - shards(run)
    if lost and code != 0 and not (run / "results.parquet").exists():
        raise ViolationError(f"{len(lost)} finished shards are gone after {kind}")


def soak(seconds: float, seed: int, folder: Path) -> dict[str, object]:
    """Run rounds for `seconds`; return the figures. Raises ViolationError."""
    chance = random.Random(seed)
    arguments = prepare(folder)
    told: Counter[str] = Counter()
    whole = start([*arguments, "--out", str(folder / "whole")], 0)
    _, err = whole.communicate(timeout=900)
    if whole.returncode:
        raise ViolationError(err)
    wanted = table_hash(folder / "whole")
    began, rounds, starts = time.monotonic(), 0, []
    with small_disk(folder / "disk") as mounted:
        kinds = FAULTS if mounted else FAULTS[:-1]
        while time.monotonic() - began < seconds:
            rounds += 1
            run = folder / "disk" / "run"
            way = list(WAYS[rounds % len(WAYS)])
            tries = 0
            while not attempt(
                [*arguments, *way, "--out", str(run), "--resume"], run, folder / "disk", chance, kinds, rounds, told
            ):
                tries += 1
                if time.monotonic() - began > seconds:  # no more faults: let it end
                    kinds = ()
            starts.append(tries + 1)
            if table_hash(run) != wanted:
                raise ViolationError(f"round {rounds} ended in another table")
            verified = start(["verify", str(run), arguments[1], "--images", arguments[3], "--sample", "8"], rounds)
            out, err = verified.communicate(timeout=600)
            if verified.returncode or "verified" not in out:
                raise ViolationError(f"round {rounds} does not verify: {out} {err}")
            left = [p.name for p in run.iterdir() if p.name.startswith(".") and p.name != ".lock"]
            if left or (run / "shards").exists():
                raise ViolationError(f"left behind: {left or 'shards'}")
            subprocess.run(["rm", "-rf", str(run)], check=True)
    return {
        "seconds": round(time.monotonic() - began),
        "seed": seed,
        "rounds": rounds,
        "starts": sum(starts),
        "most_starts_of_a_round": max(starts),
        "faults": {kind: told[kind] for kind in FAULTS},
        "exits": {name: count for name, count in sorted(told.items()) if name.startswith("exit")},
        "tmpfs": mounted,
        "table_sha256": wanted,
        "violations": 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it, and so would the audits
    with TemporaryDirectory(prefix="robustkit-soak-") as folder:
        figures = soak(60 * given.minutes, given.seed, Path(folder))
    text = json.dumps(figures, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
