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
from robustkit_ct_bodysite.cohort import Scan, Shot
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
                mas=shot.scan.mas,
                kernel=shot.scan.kernel,
                storage=STORAGE,
                synthetic=True,
            )
            for image, shot in zip(floats, self.shots, strict=True)
        ]


def scanned(shots: Sequence[Shot], progress: Callable[[int, int], None] | None = None) -> Images:
    """Return the images of `shots`, from the cache where they have been scanned before.

    The cache is a folder of `cache_dir()`, one file a body, named by the hash of what made it: the scans and
    the code that paints them. `progress(done, total)` is called after each file.
    """
    parts, done = [], 0
    for _, series in itertools.groupby(shots, key=lambda shot: (shot.scan.patient, shot.scan.number)):
        taken = tuple(series)
        scans = tuple(dict.fromkeys(shot.scan for shot in taken))
        parts.append(_reconstructed(taken, dict(zip(scans, _kept(scans), strict=True))))
        done += len(taken)
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


def _kept(scans: tuple[Scan, ...]) -> NDArray[np.int16]:
    """Return the stored images (N, 128, 128) of scans, made now if they are not in the cache."""
    path = cache_dir() / f"{_key(scans)}.npy"
    if path.exists():
        return np.asarray(np.load(path), dtype=np.int16)
    pixels = _scanned(scans)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, pixels)
    temporary.replace(path)
    return pixels


def _scanned(scans: tuple[Scan, ...]) -> NDArray[np.int16]:
    from robustkit.scanner import VirtualScanner

    pixels = np.empty((len(scans), GRID, GRID), np.int16)
    for kernel in sorted({scan.kernel for scan in scans}):
        where = [i for i, scan in enumerate(scans) if scan.kernel == kernel]
        scanner = VirtualScanner(kernel=kernel, views=_VIEWS, threads=1)
        objects, levels = [_object(scans[i]) for i in where], [scans[i].mas for i in where]
        pixels[where] = scanner.scan_each(objects, levels, stream="train", every=_RENDERED // GRID)
    return pixels


def _object(scan: Scan) -> Slice:
    """Return what lies in the scanner; its id makes the noise, so it tells one scan of the same slice from another."""
    pixels = render(scan.body, scan.z_mm, view=scan.view, size=_RENDERED)
    name = hashlib.blake2b(repr(scan).encode(), digest_size=8).hexdigest()
    return Slice(id=name, pixels=pixels, pixel_mm=(FIELD_MM / _RENDERED,) * 2, storage=STORAGE)


def _reconstructed(shots: tuple[Shot, ...], scans: dict[Scan, NDArray[np.int16]]) -> NDArray[np.int16]:
    return np.stack([_cropped(_moved(scans[shot.scan], shot.centre), shot) for shot in shots])


def _moved(image: NDArray[np.int16], centre: tuple[float, float]) -> NDArray[np.int16]:
    """Return the field about another point: whole pixels of the same scan, air where it was not scanned."""
    dx, dy = (round(mm / (FIELD_MM / GRID)) for mm in centre)
    at_y, at_x = np.arange(GRID) + dy, np.arange(GRID) + dx
    inside = ((at_y >= 0) & (at_y < GRID))[:, None] & ((at_x >= 0) & (at_x < GRID))[None, :]
    found = image[np.clip(at_y, 0, GRID - 1)[:, None], np.clip(at_x, 0, GRID - 1)[None, :]]
    return np.where(inside, found, np.int16(-1000))


def _cropped(image: NDArray[np.int16], shot: Shot) -> NDArray[np.int16]:
    return image if shot.crop is None else np.where(shot.crop.inside(GRID, FIELD_MM), image, np.int16(-1000))


def _key(scans: tuple[Scan, ...]) -> str:
    return hashlib.blake2b((painters() + repr(scans)).encode(), digest_size=12).hexdigest()


@cache
def painters() -> str:
    """Return the hash of the modules that decide the images, as parsed (so layout and comments do not count)."""
    digest = hashlib.blake2b(digest_size=12)
    for name in ("brush", "painter", "patient", "spine", "head", "trunk", "organs", "pelvis", "legs", "phantom"):
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()
