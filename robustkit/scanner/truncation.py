"""A body that the field of view cuts: found, and rounded off, so that rays meet about as much of it as they met.

A slice whose border runs through the body says nothing of what the rays met outside; projected as it is, the rays
along the border would be far too bright and its noise too low. Beyond each cut the body goes on as half an ellipse of
soft tissue; that is a guess, and whoever uses it says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError, UsageError
from robustkit.types import Slice

BODY_HU = -300.0
"""Pixels above this are body."""
EMPTY_HU = -950.0
"""Pixels of an image below this are air with noise on it; rays pass them as air."""
SHORTEST_CUT_MM = 15.0
"""A shorter stretch of body on the border is a couch or a lead, not a cut body."""
MOST_CUT = 0.8
"""Share of the border that may be body: beyond it, nothing says how the body ends."""
FILL_HU = (-150.0, 100.0)


@dataclass(frozen=True, eq=False)
class Whole:
    """A slice as an object with nothing cut off.

    Attributes
    ----------
    image : the slice as it was. object : what rays are sent through; it holds the image at [rows, columns].
    cut : share, 0 to 1, of the border of what was imaged that runs through the body.
    told : what was done, in sentence fragments.
    """

    image: Slice
    object: Slice
    rows: slice
    columns: slice
    cut: float = 0.0
    told: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Cut:
    """Where body meets the border of what was imaged: its share, and what goes on beyond each pixel of it (H, W)."""

    share: float
    depth_mm: NDArray[np.float64]
    fill_hu: NDArray[np.float64]


def as_object(item: Slice) -> Slice:
    """Return the slice as rays meet it: noisy air, and whatever is not image, made plain air of -1000 HU."""
    pixels = item.pixels.copy()
    empty = pixels < EMPTY_HU
    if item.mask is not None:
        empty |= ~item.mask
    pixels[empty] = -1000.0
    return replace(item, pixels=pixels)


def completed(item: Slice, truncated: str = "complete") -> Whole:
    """Return the slice with a body that its field of view cut rounded off ("complete"), or refuse it ("refuse").

    Beyond a stretch of length c of body on the border the body goes on as half an ellipse over that chord, c / 4 deep
    at its middle, filled with the median HU of the stretch (kept within soft tissue).

    Raises
    ------
    UsageError : another value of `truncated`. DataError : nothing but air; a body cut by most of the border, or cut at
    all with "refuse".
    """
    if truncated not in ("complete", "refuse"):
        raise UsageError(f"truncated must be complete or refuse, got {truncated!r}")
    plain = as_object(item)
    if not (plain.pixels > BODY_HU).any():
        raise DataError("this image shows nothing but air: the virtual scanner has nothing to scan")
    height, width = plain.pixels.shape
    cut = _cut(plain)
    if cut.share == 0.0:
        return Whole(item, plain, slice(0, height), slice(0, width))
    if truncated == "refuse" or cut.share > MOST_CUT:
        other = "complete the body (truncated=complete)" if cut.share <= MOST_CUT else "take an image of the whole body"
        raise DataError(
            f"the field of view cuts the body on {cut.share:.0%} of its border, so its noise cannot be simulated; "
            f"give --repeats or --profile for it, or {other}"
        )
    return _rounded_off(item, plain, cut)


def _valid(item: Slice) -> NDArray[np.bool_]:
    return np.ones(item.pixels.shape, bool) if item.mask is None else item.mask


def _cut(item: Slice) -> _Cut:
    from scipy import ndimage

    valid = _valid(item)
    border = valid & ~ndimage.binary_erosion(valid)
    body = border & ndimage.binary_opening(item.pixels > BODY_HU, iterations=2)
    runs, count = ndimage.label(body, np.ones((3, 3)))
    to_end = ndimage.distance_transform_edt(~(border & ~body), sampling=item.pixel_mm)
    pixel = math.sqrt(item.pixel_mm[0] * item.pixel_mm[1])
    depth, fill, total = np.zeros(valid.shape), np.full(valid.shape, -1000.0), 0
    for run in range(1, count + 1):
        where = runs == run
        length = where.sum() * pixel
        if length < SHORTEST_CUT_MM:
            continue
        total += int(where.sum())
        along = np.minimum(to_end[where], 0.5 * length)
        depth[where] = 0.5 * np.sqrt(along * (length - along))
        fill[where] = np.clip(np.median(item.pixels[where]), *FILL_HU)
    return _Cut(total / max(1, int(border.sum())), depth, fill)


def _rounded_off(item: Slice, plain: Slice, cut: _Cut) -> Whole:
    from scipy import ndimage

    deepest = float(cut.depth_mm.max())
    rim = [math.ceil(deepest / mm) + 1 for mm in item.pixel_mm]
    pad = ((rim[0], rim[0]), (rim[1], rim[1]))
    valid = np.pad(_valid(item), pad)
    pixels = np.pad(plain.pixels, pad, constant_values=-1000.0)
    away, nearest = ndimage.distance_transform_edt(~valid, sampling=item.pixel_mm, return_indices=True)
    added = ~valid & (away < np.pad(cut.depth_mm, pad)[tuple(nearest)])
    pixels[added] = np.pad(cut.fill_hu, pad)[tuple(nearest)][added]
    height, width = item.pixels.shape
    told = (
        f"the field of view cuts the body on {cut.share:.0%} of its border: completed with soft tissue up to "
        f"{deepest:.0f} mm beyond it, a guess"
    )
    rows, columns = slice(rim[0], rim[0] + height), slice(rim[1], rim[1] + width)
    return Whole(item, replace(plain, pixels=pixels, mask=None), rows, columns, cut.share, (told,))
