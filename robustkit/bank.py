"""Noisy images made once and scored by many models: on disk, in whole HU, thinned to the pixels that the models read.

A stack is one slice under one noise: simulated at L levels, or scanned K times at one mAs. Its parts are named by what
made them, so a bank is filled by any number of workers, in any order, and what is there is never made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import audit, cases, engine, files, rundir, scanning
from robustkit.errors import DataError, RobustkitError
from robustkit.plain import Record
from robustkit.recipes import thin, thinned
from robustkit.seeding import draws
from robustkit.types import Image, Slice, Storage

MEASURED = "measured"
INT16 = (-32768.0, 32767.0)
PARTS_AT_ONCE = 16
"""Parts a task makes, so that a slice's noise is fitted seldom."""
CENTRES = ("low-noise", "paper")
"""The clean image: the mean of 20 scans at 200 mAs, or as in the paper that of the 20 scans at 25 mAs."""


@dataclass(frozen=True, eq=False)
class Stack:
    """One slice's noisy images under one noise.

    Attributes
    ----------
    slice : the slice, thinned by `every`; its id is the full image's. noise : the noise model's name, or "measured".
    levels : (L,) of `unit`, among `made`, those that its parts hold. n : realizations. name : what decides its images.
    folder : of its parts. centre : file name of its clean image, which stacks of one slice share.
    source : the full slice and what its noise is fitted from; choice : the noise. seed, stream : of its draws.
    """

    slice: Slice
    noise: str
    unit: str
    levels: tuple[float, ...]
    n: int
    made: tuple[float, ...]
    name: str
    centre: str
    folder: Path
    every: int
    source: cases.Source
    choice: cases.NoiseChoice
    seed: int = 0
    stream: str = "audit"

    @property
    def centre_path(self) -> Path:
        """Return where the clean image and its story lie."""
        return self.folder / self.centre

    def part_path(self, start: int, stop: int) -> Path:
        """Return where the images of realizations [start, stop) lie."""
        return self.folder / f"{self.name}-{start:07d}-{stop:07d}.npy"

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges of realizations that are not made yet."""
        return [part for part in rundir.ranges(self.n) if not self.part_path(*part).exists()]

    def clean(self) -> Image:
        """Return the clean image (h, w) in HU, thinned."""
        return _read_centre(self.centre_path)[0]

    def story(self) -> dict[str, Any]:
        """Return where noise and clean image came from."""
        return _read_centre(self.centre_path)[1]

    def parts(self) -> Iterator[tuple[int, Image]]:
        """Yield (first realization, images (R, L, h, w) in HU) of every part."""
        shown = [self.made.index(level) for level in self.levels]
        for start, stop in rundir.ranges(self.n):
            try:
                images = np.load(self.part_path(start, stop), mmap_mode="r", allow_pickle=False)
            except files.DAMAGES as error:
                name = self.part_path(start, stop).name
                raise DataError(
                    f"noisy images {name} cannot be read ({error}); delete it and run again with --resume"
                ) from error
            yield start, images[:, shown]


@dataclass(frozen=True)
class Task:
    """Some parts of one stack to make."""

    stack: Stack
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Ask:
    """What is asked of a bank: which noise at which levels, how many, and how many scans at which mAs.

    `made` are the levels at which images are made, so that several asks share them; None is those asked for.
    """

    choice: cases.NoiseChoice = field(default_factory=lambda: cases.NoiseChoice("nps"))
    levels: tuple[float, ...] = (25.0, 200.0)
    n: int = 1000
    measured: tuple[float, ...] = (25.0, 200.0)
    scans: int = 150
    centre: str = "low-noise"
    seed: int = 0
    made: tuple[float, ...] | None = None

    def told(self) -> Record:
        """Return what a plan says of it: all that decides the images but their seed."""
        return {
            "noise": self.choice.name,
            "settings": dict(self.choice.settings),
            "levels": list(self.levels),
            "n": self.n,
            "scans": self.scans,
            "centre": self.centre,
        }


def stacks(items: Sequence[tuple[Slice, int]], ask: Ask, folder: Path) -> list[Stack]:
    """Return the stacks of slices, each with the step by which its models thin it: simulated, then scanned.

    Slices of a real patient have no scans: the virtual scanner scans only what shows nobody.
    """
    found = []
    for item, step in items:
        source = source_of(item, ask)
        if ask.levels and ask.n:
            found.append(_stack(source, item, step, ask, folder, ask.choice.name, ask.levels, ask.n, "audit"))
        if item.synthetic:
            for mas in ask.measured if ask.scans else ():
                found.append(_stack(source, item, step, ask, folder, MEASURED, (mas,), ask.scans, "scan"))
    return found


def source_of(item: Slice, ask: Ask) -> cases.Source:
    """Return a slice with the repeats that its noise is fitted to, made where they are needed."""
    source = cases.Source(item, clean_from="simulate")
    if ask.centre == "paper" and item.synthetic:
        return replace(source, clean_from="paper")
    return source


def _stack(
    source: cases.Source,
    item: Slice,
    step: int,
    ask: Ask,
    folder: Path,
    noise: str,
    levels: tuple[float, ...],
    n: int,
    stream: str,
) -> Stack:
    made = levels if noise == MEASURED else tuple(sorted({*(ask.made or levels), *levels}))
    clean = [ask.choice.fingerprint(source), ask.centre, step, rundir.versions()]
    return Stack(
        slice=thinned(item, step),
        noise=noise,
        unit="mAs",
        levels=levels,
        n=n,
        made=made,
        name=f"{item.id}-{noise}-{rundir.digest(clean, noise, made, ask.seed, stream)}",
        centre=f"{item.id}-centre-{rundir.digest(clean)}.npz",
        folder=folder,
        every=step,
        source=source,
        choice=ask.choice,
        seed=ask.seed,
        stream=stream,
    )


def fill(wanted: Sequence[Stack], work_map: engine.Map = engine.serial) -> None:
    """Make what is missing of these stacks; RobustkitError names the slices that no worker could finish."""
    tasks = []
    for stack in sorted(wanted, key=lambda stack: stack.noise == MEASURED):  # scans find the clean images there
        missing = stack.missing()
        if not missing and not stack.centre_path.exists():
            missing = rundir.ranges(min(stack.n, 1))
        tasks += [Task(stack, tuple(missing[i : i + PARTS_AT_ONCE])) for i in range(0, len(missing), PARTS_AT_ONCE)]
    failures = [f"slice {task.stack.slice.id}: {error}" for task, error in work_map(make, tasks) if error is not None]
    if failures:
        raise RobustkitError(
            f"{len(failures)} stacks of noisy images failed, the rest is kept ({'; '.join(failures)}); run again with "
            "--resume"
        )


def make(task: Task) -> None:
    """Make the parts of one task; the clean image is written with the first."""
    stack = task.stack
    if not stack.centre_path.exists():
        _write_centre(stack, *_centre(stack))
    for start, stop in task.ranges:
        if stack.noise == MEASURED:
            item, mas = stack.source.slice, stack.levels[0]
            made = scanning.scans(item, mas, start, stop, seed=stack.seed, stream=stack.stream, every=stack.every)
            images = made[:, None]
        else:
            images = _perturbed(stack, start, stop)
        _write_part(stack.part_path(start, stop), images, stack.slice.storage)


_prepared: dict[tuple[str, str, str], audit.Case] = {}
KEPT = 2
"""Cases kept by a worker for the other parts of their stacks."""


def _case(stack: Stack) -> audit.Case:
    """Return the case of a stack of simulated noise, fitted once."""
    key = (stack.source.slice.id, stack.choice.fingerprint(stack.source), stack.source.clean_from)
    if key not in _prepared:
        if len(_prepared) >= KEPT:
            forget()
        _prepared[key] = cases.prepare(with_repeats(stack.source, stack.choice), stack.choice)
    return _prepared[key]


def forget() -> None:
    """Drop the fitted cases that this process keeps."""
    _prepared.clear()


def _centre(stack: Stack) -> tuple[Image, dict[str, Any]]:
    """Return the clean image of a stack and its story; of scans without fitting any noise."""
    if stack.noise != MEASURED:
        case = _case(stack)
        return case.clean, case.story
    clean, centre = cases.clean_image(with_repeats(stack.source, stack.choice))
    story = {"slice": stack.slice.id, "noise": MEASURED, "source": "scans by the virtual scanner"}
    return clean, {**story, "clean": centre}


def with_repeats(source: cases.Source, choice: cases.NoiseChoice) -> cases.Source:
    """Return a source with the repeats its noise is fitted to; for `clean_from` "paper" their mean is the centre."""
    made = cases.anchored(source, choice)
    if source.clean_from != "paper":
        return made
    return replace(made, repeats=(cases.fit_set(made.repeats),), clean_from="mean")


def _perturbed(stack: Stack, start: int, stop: int) -> Image:
    """Return noisy images (R, L, h, w): noise of the full image, thinned before it is added and stored."""
    case = _case(stack)
    clean = thin(case.clean, stack.every)
    of = draws(stack.seed, stack.stream, stack.slice.id, range(start, stop))
    thinned_noise = Thinned(case.noise, case.clean, stack.every)
    small = audit.Case(stack.slice, clean, thinned_noise, case.story)
    step = 16 if thinned_noise.linear else audit.draws_per_call(len(stack.made), case.clean.shape)
    parts = [audit.perturb(small, stack.made, of[i : i + step]) for i in range(0, len(of), step)]
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Thinned:
    """The noise of a full image seen at the pixels [every // 2 :: every] alone. `full` is that image (H, W) in HU."""

    noise: Any
    full: Image
    every: int

    @property
    def unit(self) -> str:
        """Return the unit of the levels."""
        return str(self.noise.unit)

    @property
    def linear(self) -> bool:
        """Return whether one field, scaled, is the noise of every level: then it is thinned before it is scaled."""
        from robustkit.noise.nps import FilteredNoise

        return isinstance(self.noise, FilteredNoise)

    def sample(self, clean: Image, levels: Sequence[float], draws: Sequence[Any]) -> Image:
        """Return the noise (B, L, h, w) that the full image would get, at the pixels that are read."""
        if not self.linear:
            found: Image = thin(self.noise.sample(self.full, levels, draws), self.every)
            return found
        from robustkit.noise.nps import at_levels

        field: Image = thin(self.noise.sample(self.full, [self.noise.reference_mas], draws)[:, 0], self.every)
        return at_levels(field, self.noise.law.factors(levels))

    def sd(self, clean: Image, levels: Sequence[float]) -> Image | None:
        """Return the standard deviation (L, h, w), or None where the noise claims none."""
        claimed = self.noise.sd(self.full, levels)
        return None if claimed is None else thin(claimed, self.every)


def whole_numbers(storage: Storage | None) -> bool:
    """Say whether stored images fit 16-bit integers without loss."""
    if storage is None or storage.step != 1.0 or storage.low != round(storage.low):
        return False
    return INT16[0] <= storage.low and storage.high <= INT16[1]


def _write_part(path: Path, images: Image, storage: Storage | None) -> None:
    packed = images.astype(np.int16) if whole_numbers(storage) else images
    with files.atomic_stream(path) as stream:
        np.save(stream, packed)


def _write_centre(stack: Stack, clean: Image, story: dict[str, Any]) -> None:
    told = np.array(json.dumps(story, default=str))
    files.write_npz(stack.centre_path, {"clean": thin(clean, stack.every), "story": told})


@lru_cache(maxsize=64)
def _read_centre(path: Path) -> tuple[Image, dict[str, Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return archive["clean"], json.loads(str(archive["story"]))
    except files.DAMAGES as error:
        raise DataError(
            f"clean image {path.name} cannot be read ({error}); delete it and run again with --resume"
        ) from error
