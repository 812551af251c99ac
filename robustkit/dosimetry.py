"""How large an object is to the beam: the water-equivalent diameter, beside which CTDIvol and mAs are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.types import Image, PixelSize, RepeatScans, Slice

AIR_HU = -1000.0


def water_equivalent_diameter(pixels: Image, pixel_mm: PixelSize, mask: NDArray[np.bool_] | None = None) -> float:
    """Return the diameter in mm of the water disc that attenuates like the object in an axial image.

    Parameters
    ----------
    pixels : (H, W) HU; the whole object lies in it, and what else does (the table) counts too.
    pixel_mm : (row, column) spacing in mm. mask : (H, W), True where a pixel is image; padding is air.

    Notes
    -----
    D_w = 2 sqrt(A_w / pi), A_w = sum over pixels of (HU / 1000 + 1) times the area of a pixel (AAPM Report 220, 2014,
    Eq. 4); pixels below the HU of air, such as padding, count as air, which attenuates nothing.
    """
    relative = np.maximum(np.asarray(pixels, dtype=np.float64), AIR_HU) / -AIR_HU + 1.0
    if mask is not None:
        relative = np.where(mask, relative, 0.0)
    area = float(relative.sum()) * pixel_mm[0] * pixel_mm[1]
    return 2.0 * math.sqrt(area / math.pi)


def dose_facts(item: Slice, repeats: Sequence[RepeatScans]) -> dict[str, Any]:
    """Return what compares doses between scanners: size of the object, and for each set of scans mAs and CTDIvol.

    Returns
    -------
    dict : wed_mm (`water_equivalent_diameter` of the slice), scans: records of k, mas, ctdivol (mGy, None where files
        do not state it); the slice itself where there are no repeats.
    """
    scans = [(len(r.pixels), r.mas, r.protocol) for r in repeats] or [(1, item.mas, item.protocol)]
    return {
        "wed_mm": round(water_equivalent_diameter(item.pixels, item.pixel_mm, item.mask), 1),
        "scans": [{"k": k, "mas": mas, "ctdivol": facts.get("ctdivol")} for k, mas, facts in scans],
    }
