"""What the readers hand to one another, and the rule that nothing of a patient leaves them.

Identifiers are read for two purposes only, in memory: to keep the images of one patient together, and to notice a
copied file. They are held in fields that no repr shows and are dropped before an image leaves this package.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.types import Image, PixelSize, Slice, Storage

LOG = logging.getLogger("robustkit")
MAX_SIDE = 8192  # pixels a side; the largest detectors have about half of this
MAX_BYTES = 4 << 30  # one file, expanded
SANE_MAS = (1.0, 5000.0)
PROTOCOL_KEYS = (
    "kvp",
    "thickness_mm",
    "manufacturer",
    "filter",
    "pitch",
    "ir",
    "ctdivol",
    "fov_mm",
    "tilt",
    "collimation_mm",
    "mas_source",
)
OWN_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, eq=False)
class Found:
    """One image as read.

    Attributes
    ----------
    slice : the image, its label and group still open.
    owner : what tells patients apart (None: unknown). uid : what tells scans apart. Both stay in memory.
    series : what belongs to one stack. along : mm along the stack's normal. place : position and orientation.
    subject : the id of the slice this is a repeat of, in files that say so; source : how it was made.
    file, frame : which file of the listing (from 0), which image in it. notes : what to warn of, free of values.
    """

    slice: Slice
    owner: str | None = field(default=None, repr=False)
    uid: str | None = field(default=None, repr=False)
    series: str = field(default="", repr=False)
    along: float = 0.0
    place: tuple[float, ...] = ()
    subject: str | None = None
    source: str | None = None
    file: int = 0
    frame: int = 0
    notes: tuple[str, ...] = ()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's own warnings and log lines to itself: they quote what a file's elements hold."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def opaque(text: str) -> str:
    """16 hex digits: `text` itself when it is one of our own ids, else its hash."""
    if OWN_ID.fullmatch(text):
        return text
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"robustkit-id").hexdigest()


def name_groups(owners: Sequence[str | None], ids: Sequence[str]) -> list[str | None]:
    """Name each owner's group by the pixels of its images alone.

    The name is the hash of the smallest slice id among them, so no search through names, numbers or dates can
    lead back from it to a person; the same files give the same names on every machine.
    """
    first: dict[str, str] = {}
    for owner, name in zip(owners, ids, strict=True):
        if owner is not None:
            first[owner] = min(name, first.get(owner, name))
    return [None if owner is None else opaque(f"group of {first[owner]}") for owner in owners]


def with_groups(found: Sequence[Found]) -> list[Found]:
    """Return the images with `Slice.group` set from their owners."""
    groups = name_groups([f.owner for f in found], [f.slice.id for f in found])
    return [
        replace(f, slice=replace(f.slice, group=group)) if group is not None else f
        for f, group in zip(found, groups, strict=True)
    ]


def sane_mas(mas: float | None) -> tuple[float | None, str | None]:
    """Return (mas, None), or (None, why not) for a value outside 1 .. 5000 mAs."""
    if mas is None or SANE_MAS[0] <= mas <= SANE_MAS[1]:
        return mas, None
    return None, "mAs outside 1 .. 5000, so it is taken as unknown (give --image-mas)"


def check_size(shape: Sequence[int], what: str) -> None:
    """DataError for an empty image or one of more than `MAX_SIDE` pixels a side."""
    if any(side < 1 for side in shape):
        raise DataError(f"{what}: an image of {' x '.join(map(str, shape))} holds no pixels")
    if max(shape[-2:]) > MAX_SIDE:
        raise DataError(
            f"{what}: {' x '.join(map(str, shape))} is larger than {MAX_SIDE} pixels a side; crop or resample it"
        )


def check_pixels(pixels: Image, what: str) -> None:
    """DataError for NaN, infinite or absurd values; a stack is checked image by image."""
    images = pixels if pixels.ndim == 3 else pixels[None]
    bad = sum(image.size - int(np.isfinite(image).sum()) for image in images)
    if bad:
        raise DataError(
            f"{what}: {bad} pixels are NaN or infinite; set them to the value of air (-1000 HU) "
            "and mark them False in `mask`"
        )
    if max((float(np.abs(image).max(initial=0.0)) for image in images), default=0.0) > 1e6:
        raise DataError(f"{what}: values beyond 1e6 are not Hounsfield units; convert the pixels to HU")


def check_spacing(values: Sequence[float], what: str) -> PixelSize:
    """Return (row, column) mm; DataError unless both are finite and within 0.001 .. 100 mm."""
    if len(values) != 2 or not all(np.isfinite(v) and 1e-3 <= v <= 100 for v in values):
        raise DataError(f"{what}: pixel spacing must be two lengths in mm (row, column) within 0.001 .. 100")
    return float(values[0]), float(values[1])


def clean_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the allow-listed entries alone: finite numbers, and short texts free of what names are made of."""
    kept: dict[str, Any] = {}
    for key in PROTOCOL_KEYS:
        value = protocol.get(key)
        if (figure := number(value)) is not None:
            kept[key] = figure
        elif isinstance(value, str) and re.fullmatch(r"[\w .+/-]{1,40}", value):
            kept[key] = value
    return kept


def number(value: object) -> float | None:
    """Return a finite int or float as float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        figure = float(value)
    except OverflowError:
        return None
    return figure if np.isfinite(figure) else None


def clean_text(value: object, limit: int = 64) -> str | None:
    """Return a printable text of at most `limit` characters, stripped; None for anything else."""
    if not isinstance(value, str):
        return None
    text = "".join(c for c in value if c.isprintable()).strip()[:limit]
    return text or None


def tell(found: Sequence[Found]) -> None:
    """Log each warning once, with the number of images it concerns."""
    counts = Counter(note for f in found for note in f.notes)
    for note, count in sorted(counts.items()):
        LOG.warning("%d of %d images: %s", count, len(found), note)


def outside(pixels: Image, tagged: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Return the mask of image pixels (True), or None when every pixel is image.

    Padding is what the file tags as such, and any constant below -1024 HU that fills at least 0.5 % of the
    image from its border inwards: scanners write -1500, -2000, -2048 or -3024 outside the reconstructed circle.
    """
    padded = np.zeros(pixels.shape, bool) if tagged is None else tagged.copy()
    rest = pixels[~padded]
    lowest = float(rest.min(initial=0.0))
    if lowest < -1024.0:
        flat = (pixels == lowest) & ~padded
        if flat.sum() >= 0.005 * pixels.size:
            padded |= _touching_border(flat)
    return ~padded if padded.any() else None


def _touching_border(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, _ = ndimage.label(region)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    result: NDArray[np.bool_] = np.isin(labels, edge[edge > 0])
    return result


def grid(low: float, high: float, step: float) -> Storage:
    """Return a Storage whose limits stay within the 24 bits that float32 arithmetic keeps whole."""
    reach = step * 2.0**22
    return Storage(max(low, -reach), min(high, reach), step)


LOW_LIMITS = (-1024.0, -1000.0)


def seen_limits(pixels: Image, mask: NDArray[np.bool_] | None, storage: Storage) -> Storage:
    """Narrow `storage` to the limits at which this image was clipped, where that can be seen.

    A clipped scan shows noise that ends in a pile of pixels on the limit itself. Only -1024 and -1000 HU are
    believed below, and 1500 HU or more above, so that a flat object is never taken for a limit.
    """
    values = np.round((pixels if mask is None else pixels[mask]) / storage.step) * storage.step
    if values.size == 0:
        return storage
    low, high = float(values.min()), float(values.max())
    if low in LOW_LIMITS and _piles_up(values - low, storage.step, 1.4):
        storage = replace(storage, low=low)
    if high >= 1500.0 and _piles_up(high - values, storage.step, 4.0):
        storage = replace(storage, high=high)
    return storage


def _piles_up(above: NDArray[Any], step: float, ratio: float) -> bool:
    counts = np.bincount(np.rint(above[above <= 20.5 * step] / step).astype(np.int64), minlength=21)
    return bool(counts[0] >= 16 and counts[0] > ratio * counts[1] and (counts[1:] > 0).sum() >= 10)
