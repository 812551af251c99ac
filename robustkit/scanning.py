"""Repeat scans by the virtual scanner: `robustkit scan`, here or by any map over workers, with the same bits.

Workers write parts beside the output, named by realization; whoever asked joins them there, so memory holds one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from robustkit import engine, files, rundir, spill
from robustkit.errors import RobustkitError
from robustkit.types import Image, RepeatScans, Slice

STREAM = "scan"


@dataclass(frozen=True)
class Part:
    """Scans [start, stop) of one slice to make, and the file they go to."""

    item: Slice
    kernel: str
    mas: float
    seed: int
    start: int
    stop: int
    path: Path


def scanned(
    items: Sequence[Slice],
    mas: float,
    k: int,
    *,
    kernel: str = "standard",
    seed: int = 0,
    out: Path,
    jobs: int | None = None,
    dask: str | None = None,
) -> list[RepeatScans]:
    """Return k scans (K, H, W) of each slice at `mas`, stored as a scanner stores them; bits depend on no worker.

    Parameters
    ----------
    out : where the scans will be written; workers leave their parts in a folder beside it, on a disk that all see.
    jobs, dask : as `robustkit scan` takes them; without either the scans are made here, on all cores.

    Raises
    ------
    UsageError : mas <= 0, k < 2, an unknown kernel. RobustkitError names the slices that no worker could finish.
    """
    from robustkit.scanner import VirtualScanner

    work_map = engine.choose(jobs, dask)
    scanner = VirtualScanner(kernel=kernel)
    if work_map is engine.serial:
        return [scanner.repeats(item, mas, k, seed=seed, stream=STREAM) for item in items]
    first = [scanner.repeats(item, mas, min(k, 2), seed=seed, stream=STREAM) for item in items]
    beside = out.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".robustkit-scans-", dir=beside) as folder:
        wanted = [
            [
                Part(item, kernel, mas, seed, *ends, Path(folder) / f"{number}-{ends[0]:07d}.npy")
                for ends in rundir.ranges(k)
            ]
            for number, item in enumerate(items)
        ]
        tasks = [part for parts in wanted for part in parts]
        failures = [f"slice {part.item.id}: {error}" for part, error in work_map(make, tasks) if error is not None]
        if failures:
            raise RobustkitError(f"{len(failures)} parts could not be scanned ({'; '.join(failures)}); scan again")
        return [_joined(scans, parts) for scans, parts in zip(first, wanted, strict=True)]


def make(part: Part) -> None:
    """Make the scans of one part and write them, whole or not at all."""
    pixels = scans(part.item, part.mas, part.start, part.stop, kernel=part.kernel, seed=part.seed)
    with files.atomic_stream(part.path) as stream:
        np.save(stream, pixels)


def scans(
    item: Slice,
    mas: float,
    start: int,
    stop: int,
    *,
    kernel: str = "standard",
    seed: int = 0,
    stream: str = STREAM,
    every: int = 1,
) -> Image:
    """Return scans start .. stop - 1 of a slice, (K, H, W) as stored, made by one thread; `every` thins the pixels."""
    from robustkit.scanner import VirtualScanner

    count = stop - start
    scanner = VirtualScanner(kernel=kernel, threads=1)
    made = scanner.repeats(  # repeats come at least in pairs
        item, mas, max(count, 2), seed=seed, stream=stream, first=start, every=every
    )
    return made.pixels[:count]


def _joined(scans: RepeatScans, parts: Sequence[Part]) -> RepeatScans:
    """Return the scans of one slice, laid on disk."""
    shape = (parts[-1].stop, *scans.pixels.shape[1:])
    reserved = spill.room(shape, np.dtype(np.float32))
    for part in parts:
        try:
            pixels = np.load(part.path, allow_pickle=False)
        except OSError:
            raise RobustkitError(
                "workers wrote scans that are not seen here: with workers on other machines, --out must lie on a file "
                "system that all of them share, under the same path"
            ) from None
        spill.fill(reserved, np.ascontiguousarray(pixels, np.float32).data, part.start * pixels[0].nbytes)
    return replace(scans, pixels=reserved[0])
