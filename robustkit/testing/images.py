"""What readers of images and of repeat scans must do, checked: `check_scans`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.testing.core import CheckResult, NotApplicableError, demand, describe, raise_first, run
from robustkit.types import RepeatScans, Slice, slice_id

SCANS = "scans"
OPENER = "reader"


@dataclass
class ScansBench:
    """Slices or repeat scans on the bench, or the reader that brings them and the path it is given."""

    given: Any
    path: str | None = None

    @cached_property
    def found(self) -> Sequence[Slice | RepeatScans]:
        """Return what was given, or read it."""
        return self.read() if callable(self.given) else self.given  # type: ignore[no-any-return]

    def read(self) -> Any:
        """Read once more."""
        return self.given(self.path)


def _brings_slices_or_repeats(bench: ScansBench) -> None:
    kinds = {type(item) for item in bench.found} if isinstance(bench.found, Sequence) else set()
    demand(
        kinds in ({Slice}, {RepeatScans}),
        asked="a sequence of robustkit.Slice, or one of robustkit.RepeatScans, not empty",
        came=describe(bench.found) if not kinds else ", ".join(sorted(kind.__name__ for kind in kinds)),
        why="None says that the path is not yours; anything else is audited.",
    )


def _pixels_are_sound(bench: ScansBench) -> None:
    for item in bench.found:
        axes = 3 if isinstance(item, RepeatScans) else 2
        shape = "(K, H, W)" if axes == 3 else "(H, W)"
        demand(
            isinstance(item.pixels, np.ndarray) and item.pixels.dtype == np.float32 and item.pixels.ndim == axes,
            asked=f"pixels of shape {shape} and type float32",
            came=describe(item.pixels),
            why="They are HU at native resolution.",
        )
        demand(
            bool(np.isfinite(item.pixels).all()),
            asked="finite pixels",
            came="NaN or infinity",
            why="A classifier's answer to them is void.",
        )
        demand(
            axes == 2 or len(item.pixels) >= 2,
            asked="at least two scans a set",
            came=f"{len(item.pixels)}",
            why="Noise is what differs between scans of the same object.",
        )
        mask = item.mask
        demand(
            mask is None or (mask.dtype == np.bool_ and mask.shape == item.pixels.shape[-2:]),
            asked="a mask (H, W) of bool, or None",
            came=describe(mask),
            why="It tells image from padding.",
        )


def _lengths_and_dose_are_sound(bench: ScansBench) -> None:
    for item in bench.found:
        spacing: Any = item.pixel_mm
        demand(
            isinstance(spacing, tuple) and len(spacing) == 2 and all(isinstance(s, float) and s > 0 for s in spacing),
            asked="pixel_mm as (row, column) spacing, two positive floats in mm",
            came=describe(spacing),
            why="Noise spectra are per mm.",
        )
        demand(
            item.mas is None or item.mas > 0,
            asked="a positive mAs, or None when it is unknown",
            came=describe(item.mas),
            why="Noise is scaled from it.",
        )


def _ids_name_nobody(bench: ScansBench) -> None:
    for item in bench.found:
        if isinstance(item, Slice):
            demand(
                item.id == slice_id(item.pixels, item.pixel_mm),
                asked="robustkit.slice_id(pixels, pixel_mm) as the id of a slice",
                came=describe(item.id),
                why="A row of the table is the image that its id hashes; a file name may name a patient.",
            )
        demand(
            re.fullmatch("[0-9a-f]{16}", item.id) is not None,
            asked="an id of 16 hexadecimal digits",
            came=describe(item.id),
            why="Ids are printed everywhere; a file name may name a patient.",
        )


def _stored_grid_holds_the_pixels(bench: ScansBench) -> None:
    stored = [item for item in bench.found if item.storage is not None]
    if not stored:
        raise NotApplicableError("no storage is stated")
    for item in stored:
        pixels = item.pixels if item.mask is None else np.where(item.mask, item.pixels, item.pixels[..., item.mask][0])
        gap = float(np.abs(item.storage.apply(pixels) - pixels).max())  # type: ignore[union-attr]
        demand(
            gap <= 1e-3,
            asked="pixels on the grid and inside the limits of their storage",
            came=f"pixels off it by up to {gap:.3g} HU",
            why="Noisy images are rounded and clipped to it; the clean image must already be.",
        )


def _reading_twice_brings_the_same(bench: ScansBench) -> None:
    if not callable(bench.given):
        raise NotApplicableError("scans were given, not a reader")
    again = [(item.id, item.pixels.tobytes()) for item in bench.read()]
    demand(
        again == [(item.id, item.pixels.tobytes()) for item in bench.found],
        asked="the same scans in the same order when read again",
        came="others",
        why="A resumed run reads them again; sort what the file system lists.",
    )


SCAN_CHECKS = (
    _brings_slices_or_repeats,
    _pixels_are_sound,
    _lengths_and_dose_are_sound,
    _ids_name_nobody,
    _stored_grid_holds_the_pixels,
    _reading_twice_brings_the_same,
)


def run_scans(scans: Any, *, path: str | Path | None = None) -> list[CheckResult]:
    """Run every check of `check_scans` and return what each found."""
    return run(SCANS, SCAN_CHECKS, ScansBench(scans, None if path is None else str(path)), basic=1)


def check_scans(
    scans: Sequence[Slice] | Sequence[RepeatScans] | Callable[[str], Any], *, path: str | Path | None = None
) -> None:
    """Check slices or repeat scans, or a reader of them together with a path that it reads.

    Parameters
    ----------
    scans : what a reader brought, or the reader: an implementation of `robustkit_load_images` or
        `robustkit_load_repeats`. path : what the reader is given.

    Raises
    ------
    ConformanceError
        Naming the first check that failed: what was asked, what came, and why it matters.
    """
    raise_first(run_scans(scans, path=path))


@dataclass
class OpenerBench:
    """A hook that opens files on the bench; it is shown files that are not its own."""

    ask: Callable[[str], Any]


def _strange_files_are_left_to_others(bench: OpenerBench) -> None:
    with tempfile.TemporaryDirectory() as folder:
        strange = {"no file": Path(folder, "absent.xyz"), "a text file": Path(folder, "notes.txt")}
        strange |= {"an empty file": Path(folder, "empty.xyz"), "random bytes": Path(folder, "random.xyz")}
        strange["a text file"].write_text("not an image, not a model\n")
        strange["an empty file"].touch()
        strange["random bytes"].write_bytes(np.random.default_rng(0).bytes(4096))
        for what, path in strange.items():
            try:
                answer, raised = bench.ask(str(path)), ""
            except Exception as error:  # a stranger's code may raise anything
                answer, raised = None, type(error).__name__
            demand(
                answer is None and not raised,
                asked=f"None for a path that is not yours ({what})",
                came=raised or describe(answer),
                why="The hook is asked before the other readers are; look at the content before opening it.",
            )


def run_opener(ask: Callable[[str], Any]) -> list[CheckResult]:
    """Check that a hook which opens files answers None to files that are not its own."""
    return run(OPENER, (_strange_files_are_left_to_others,), OpenerBench(ask))
