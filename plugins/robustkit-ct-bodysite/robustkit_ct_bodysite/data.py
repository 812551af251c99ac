"""The cohort's images: rendered, scanned by the virtual scanner, cropped to what each series knows, and cached.

Images are kept at 128 x 128 over 500 mm: every fourth pixel of a 512 grid, taken as it is (reconstructed there and
nowhere else), so that a pixel's noise is that of the full image.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustkit import Slice, slice_id
from robustkit_ct_bodysite.cohort import Shot
from robustkit_ct_bodysite.phantom import FIELD_MM, STORAGE, render

GRID = 128
_RENDERED = 256
_VIEWS = 240


@dataclass(frozen=True, eq=False)
class Images:
    """Scanned slices in the order of their shots: pixels (N, 128, 128) int16 HU over 500 mm."""

    pixels: NDArray[np.int16]
    shots: tuple[Shot, ...]

    @property
    def pixel_mm(self) -> float:
        """Spacing of rows and columns in mm."""
        return FIELD_MM / GRID

    @property
    def labels(self) -> list[str]:
        """The class of each."""
        return [shot.label for shot in self.shots]

    def slices(self) -> list[Slice]:
        """Return them as robustkit slices, with group, mAs and kernel."""
        spacing = (FIELD_MM / GRID, FIELD_MM / GRID)
        floats = self.pixels.astype(np.float32)
        return [
            Slice(
                id=slice_id(image, spacing),
                pixels=image,
                pixel_mm=spacing,
                label=shot.label,
                group=shot.group,
                mas=shot.mas,
                kernel=shot.kernel,
                storage=STORAGE,
                synthetic=True,
            )
            for image, shot in zip(floats, self.shots, strict=True)
        ]


def scanned(shots: Sequence[Shot], progress: Callable[[int, int], None] | None = None) -> Images:
    """Return the images of `shots`, from the cache where they have been scanned before.

    The cache is a folder of `cache_dir()`, one file a body, named by the hash of what made it: the shots and
    the code that paints them. `progress(done, total)` is called after each file.
    """
    parts, done = [], 0
    for _, series in itertools.groupby(shots, key=lambda shot: (shot.patient, shot.scan)):
        parts.append(_stack(tuple(series)))
        done += len(parts[-1])
        if progress is not None:
            progress(done, len(shots))
    pixels = np.concatenate(parts) if parts else np.empty((0, GRID, GRID), np.int16)
    return Images(pixels, tuple(shots))


def cache_dir() -> Path:
    """Return where scanned images are kept: $ROBUSTKIT_CACHE, else the user's cache folder of this system."""
    if "ROBUSTKIT_CACHE" in os.environ:
        base = Path(os.environ["ROBUSTKIT_CACHE"])
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches" / "robustkit"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home())) / "robustkit"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "robustkit"
    return base / "ct-bodysite"


def _stack(shots: tuple[Shot, ...]) -> NDArray[np.int16]:
    path = cache_dir() / f"{_key(shots)}.npy"
    if path.exists():
        return np.asarray(np.load(path), dtype=np.int16)
    pixels = _scan(shots)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, pixels)
    temporary.replace(path)
    return pixels


def _scan(shots: tuple[Shot, ...]) -> NDArray[np.int16]:
    from robustkit.scanner import VirtualScanner

    pixels = np.empty((len(shots), GRID, GRID), np.int16)
    for kernel in sorted({shot.kernel for shot in shots}):
        where = [i for i, shot in enumerate(shots) if shot.kernel == kernel]
        scanner = VirtualScanner(kernel=kernel, views=_VIEWS, threads=1)
        images = scanner.scan_each(
            [_object(shots[i]) for i in where],
            [shots[i].mas for i in where],
            stream="train",
            every=_RENDERED // GRID,
        )
        for i, image in zip(where, images, strict=True):
            pixels[i] = _cropped(image, shots[i])
    return pixels


def _object(shot: Shot) -> Slice:
    """Return what lies in the scanner; its id makes the noise, so it tells one scan of the same slice from another."""
    pixels = render(shot.body, shot.z_mm, view=shot.view, size=_RENDERED)
    name = hashlib.blake2b(repr(shot).encode(), digest_size=8).hexdigest()
    return Slice(id=name, pixels=pixels, pixel_mm=(FIELD_MM / _RENDERED,) * 2, storage=STORAGE)


def _cropped(image: NDArray[np.float32], shot: Shot) -> NDArray[np.float32]:
    if shot.crop is None:
        return image
    return np.where(shot.crop.inside(GRID, FIELD_MM), image, np.float32(-1000.0))


def _key(shots: tuple[Shot, ...]) -> str:
    return hashlib.blake2b((_painters() + repr(shots)).encode(), digest_size=12).hexdigest()


@cache
def _painters() -> str:
    """Hash of the modules that decide the images, as parsed (so layout and comments do not count)."""
    digest = hashlib.blake2b(digest_size=12)
    for name in ("brush", "painter", "patient", "spine", "head", "trunk", "organs", "pelvis", "legs", "phantom"):
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()
