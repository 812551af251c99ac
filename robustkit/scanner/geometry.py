"""Where the rays of the virtual scanner run, and what they meet: parallel beam over 180 degrees.

Clinical fan-beam data are rebinned to parallel rays before reconstruction; a parallel scanner has half the views, no
distance weights, and noise that is just as non-stationary and streaky, because both come from the attenuation of the
rays. mu = MU_WATER (1 + HU / 1000), monochromatic at 70 keV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.types import Image, PixelSize, Slice

MU_WATER = 0.0193
"""Linear attenuation coefficient of water at 70 keV, per mm."""
MARGIN_MM = 22.0
"""What the detector sees beyond the field of view on either side."""
DETECTOR_BLOCK = 64
"""Detectors come in blocks of this many (noise is made in such blocks)."""
AIR_HU = -950.0
"""Pixels above this are part of what the rays must not miss."""


@dataclass(frozen=True)
class Geometry:
    """The rays of one scan: `views` angles over 180 degrees, `detectors` of `detector_mm` mm, and where pixels lie.

    shape, pixel_mm : the image's matrix and spacing (row, column). `pad` columns on either side of the detector are
    added before filtering, so that every pixel of the image, its corners too, has filtered data under it.
    """

    shape: tuple[int, int]
    pixel_mm: PixelSize
    views: int
    detectors: int
    detector_mm: float
    pad: int

    @property
    def width(self) -> int:
        """Columns of the filtered sinogram: detectors and padding."""
        return self.detectors + 2 * self.pad

    @property
    def angles(self) -> NDArray[np.float64]:
        """(views,) radians."""
        return np.arange(self.views, dtype=np.float64) * np.float64(math.pi / self.views)

    @property
    def positions_mm(self) -> NDArray[np.float64]:
        """(detectors,) distance of each ray from the axis."""
        return (np.arange(self.detectors, dtype=np.float64) - 0.5 * (self.detectors - 1)) * np.float64(self.detector_mm)

    def centres(self, every: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return y (rows) and x (columns) of the pixels [every // 2 :: every], in detector widths from the centre."""
        axes = []
        for count, spacing in zip(self.shape, self.pixel_mm, strict=True):
            mm = (np.arange(count) - 0.5 * (count - 1)) * spacing
            axes.append((mm[every // 2 :: every] / self.detector_mm).astype(np.float32))
        return axes[0], axes[1]


def geometry_for(item: Slice, views: int, detector_mm: float) -> Geometry:
    """Return the rays that cover a slice: its field of view, or what lies outside of that and is not air, and a margin.

    The field of view is the circle whose diameter is the longer side of the image: 640 detectors of 0.85 mm for
    500 mm. Corners of the image outside the detector's circle hold air, of which no ray is measured.
    """
    height, width = item.pixels.shape
    dy, dx = item.pixel_mm
    half = max(0.5 * max(height * dy, width * dx), _object_radius(item)) + MARGIN_MM
    blocks = math.ceil(2.0 * half / detector_mm / DETECTOR_BLOCK - 1e-9)
    detectors = blocks * DETECTOR_BLOCK
    corner = 0.5 * math.hypot(height * dy, width * dx)
    pad = max(2, math.ceil(corner / detector_mm - 0.5 * (detectors - 1)) + 3)
    return Geometry((height, width), item.pixel_mm, views, detectors, detector_mm, pad)


def attenuation(item: Slice) -> Image:
    """Return mu (H, W) float32 per mm; padding (mask False, or HU of -1000 and less) is air, and air is nothing."""
    mu = np.maximum(item.pixels * np.float32(MU_WATER / 1000.0) + np.float32(MU_WATER), np.float32(0.0))
    if item.mask is not None:
        mu[~item.mask] = 0.0
    return np.asarray(mu, dtype=np.float32)


def line_integrals(mu: Image, geometry: Geometry, mapped: Any) -> Image:
    """Return p (views, detectors) float32 of mu (H, W) per mm; `mapped` runs a function over view ranges."""
    from robustkit.scanner import kernels

    image, turned = _bordered(mu), _bordered(mu.T)
    cosine, sine = np.cos(geometry.angles), np.sin(geometry.angles)
    out = np.empty((geometry.views, geometry.detectors), np.float32)

    def some(views: slice) -> None:
        kernels.project(image, turned, geometry.pixel_mm, cosine[views], sine[views], geometry.detector_mm, out[views])

    mapped(some, _view_ranges(geometry))
    return out


def line_integrals_of_many(mus: Sequence[Image], geometry: Geometry, mapped: Any) -> list[Image]:
    """Return what `line_integrals` does of each of up to 16 mu (H, W), worked out together, for about a tenth each."""
    from robustkit.scanner import kernels
    from robustkit.scanner.lanes import LANES, aligned

    sides = []
    for stack in ([_bordered(mu) for mu in mus], [_bordered(mu.T) for mu in mus]):
        lanes = aligned((*stack[0].shape, LANES))
        lanes[..., : len(stack)] = np.stack(stack, axis=-1)
        sides.append((lanes, kernels.nonzero_ends(np.max(stack, axis=0))))
    (image, ends), (turned, turned_ends) = sides
    cosine, sine = np.cos(geometry.angles), np.sin(geometry.angles)
    out = aligned((geometry.views, geometry.detectors, LANES))

    def some(views: slice) -> None:
        kernels.project_many(
            image, turned, ends, turned_ends, geometry.pixel_mm, cosine[views], sine[views],
            geometry.detector_mm, out[views],
        )  # fmt: skip

    mapped(some, _view_ranges(geometry))
    return [np.ascontiguousarray(out[..., i]) for i in range(len(mus))]


def _bordered(image: Image) -> Image:
    """One column of zeros before, two behind: a ray's two neighbours exist wherever rounding puts it."""
    return np.ascontiguousarray(np.pad(image, ((0, 0), (1, 2))))


def _view_ranges(geometry: Geometry) -> list[slice]:
    return [slice(v, v + 8) for v in range(0, geometry.views, 8)]


def _object_radius(item: Slice) -> float:
    solid = item.pixels > AIR_HU
    if item.mask is not None:
        solid &= item.mask
    rows = np.nonzero(solid.any(axis=1))[0]
    if rows.size == 0:
        return 0.0
    height, width = solid.shape
    dy, dx = item.pixel_mm
    first = np.argmax(solid[rows], axis=1)
    last = width - 1 - np.argmax(solid[rows][:, ::-1], axis=1)
    x = (np.maximum(np.abs(first - 0.5 * (width - 1)), np.abs(last - 0.5 * (width - 1))) + 0.5) * dx
    y = (np.abs(rows - 0.5 * (height - 1)) + 0.5) * dy
    return float(np.hypot(y, x).max())
