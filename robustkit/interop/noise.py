"""One image in, the same image with the noise of a dose out: what the interfaces of other toolkits share.

The image is that of the row (seed, slice, realization) of an audit: the same bits, whatever toolkit asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit import audit, cases
from robustkit.errors import DataError, UsageError
from robustkit.seeding import draws
from robustkit.types import PixelSize, Slice, slice_id

CACHED = 8
"""Slices whose fitted noise is kept: fitting costs a second, drawing a millisecond."""


@dataclass(frozen=True)
class Perturbation:
    """The noise of one level on any image.

    Attributes
    ----------
    level : mAs for CT noise, else in the noise model's own unit. noise : name of the noise model.
    profile, repeats : paths that the noise is fitted to; without both, repeats are simulated for the very image.
    seed, realization : which noise; the same at every level. stream : of the draw.
    pixel_mm : (row, column) spacing in mm where an image does not bring its own.
    window, range : (low, high) HU that the image's values `range` stand for; without a window the values are HU.
    image_mas : dose of the images themselves, where known. settings : of the noise model, as `--set`.
    """

    level: float
    noise: str = "nps"
    profile: str | None = None
    repeats: str | None = None
    seed: int = 0
    realization: int = 0
    stream: str = "audit"
    pixel_mm: PixelSize = (1.0, 1.0)
    window: tuple[float, float] | None = None
    range: tuple[float, float] | None = None
    image_mas: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.level > 0:
            raise UsageError(f"a level must be a positive number, got {self.level:g}")
        if self.range is not None and self.window is None:
            raise UsageError("range says what the window's ends are stored as; give the window in HU too")

    def __call__(self, image: NDArray[Any], *, channel_axis: int | None = None, pixel_mm: Any = None) -> NDArray[Any]:
        """Return an image of the same shape and dtype, with noise; the input stays as it was.

        Parameters
        ----------
        image : (H, W), or three-dimensional with equal channels along `channel_axis`.
        pixel_mm : of this image, in place of the general one.

        Raises
        ------
        DataError
            Channels that differ, or values that cannot be HU.
        """
        given = np.asarray(image)
        plane = plane_of(given, channel_axis)
        low, slope, first, ends = self._scale(given.dtype)
        hu = (plane.astype(np.float64) - first) * slope + low
        noisy = self.hu(hu.astype(np.float32), pixel_mm)
        values = (noisy.astype(np.float64) - low) / slope + first
        if ends is not None:
            values = np.clip(values, *ends)
        typed = _typed(values, given.dtype)
        if given.ndim == 2:
            return typed
        axis = int(channel_axis or 0)
        return np.repeat(np.expand_dims(typed, axis), given.shape[axis], axis=axis)

    def hu(self, pixels: NDArray[np.float32], pixel_mm: PixelSize | None = None) -> NDArray[np.float32]:
        """Return pixels (H, W) in HU with the noise of this level."""
        cases.refuse_unusable(pixels, "image")
        spacing = pixel_mm or self.pixel_mm
        item = Slice(slice_id(pixels, spacing), pixels, (float(spacing[0]), float(spacing[1])), mas=self.image_mas)
        case = self._case(item)
        drawn = draws(self.seed, self.stream, item.id, [self.realization])
        noisy: NDArray[np.float32] = audit.perturb(case, [self.level], drawn)[0, 0]
        return noisy

    def _scale(self, dtype: np.dtype[Any]) -> tuple[float, float, float, tuple[float, float] | None]:
        """Return (low, HU a unit, first, (least, most) value)."""
        if self.window is None:
            if dtype == np.uint8:
                raise DataError(
                    "an image of uint8 holds no HU; say with window=(low, high) which HU 0 and 255 stand for"
                )
            return 0.0, 1.0, 0.0, None
        first, last = self.range or ((0.0, 255.0) if dtype == np.uint8 else (0.0, 1.0))
        slope = (self.window[1] - self.window[0]) / (last - first)
        return self.window[0], slope, first, (min(first, last), max(first, last))

    def _case(self, item: Slice) -> audit.Case:
        """Return the fitted noise of a slice, kept for the next level or realization."""
        key = (
            self.noise,
            self.profile,
            self.repeats,
            self.seed,
            self.image_mas,
            repr(sorted(self.settings.items())),
            item.id,
        )
        if key not in _fitted:
            while len(_fitted) >= CACHED:
                _fitted.pop(next(iter(_fitted)))
            profiles = [self.profile] if self.profile else []
            source = cases.attach([cases.Source(item)], self.repeats, profiles)[0]
            choice = cases.NoiseChoice(self.noise, dict(self.settings), self.seed, self.image_mas)
            _fitted[key] = cases.prepare(source, choice)
        return _fitted[key]


_fitted: dict[Any, audit.Case] = {}


def channel_axis_of(shape: tuple[int, ...]) -> int:
    """Return which axis of one image holds its 1 or 3 channels, first or last; DataError when that is not plain."""
    ends = [axis for axis in (0, 2) if len(shape) == 3 and shape[axis] in (1, 3)]
    if len(ends) != 1:
        raise DataError(f"an image of shape {shape} has no plain channel axis; give (1 or 3, H, W) or (H, W, 1 or 3)")
    return ends[0]


def plane_of(image: NDArray[Any], channel_axis: int | None) -> NDArray[Any]:
    """Return one channel (H, W) of an image; all must be equal."""
    if image.ndim == 2:
        return image
    if image.ndim != 3 or channel_axis is None or 0 in image.shape:
        raise DataError(f"noise is added to one image (H, W) or with channels, got an array of shape {image.shape}")
    planes = np.moveaxis(image, channel_axis, 0)
    if any(not np.array_equal(planes[0], plane) for plane in planes[1:]):
        raise DataError("the channels of the image differ; CT has one value a pixel, give it once or equal in all")
    plane: NDArray[Any] = planes[0]
    return plane


def _typed(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)
