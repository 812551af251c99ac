"""The noise of one object on another: texture of the profile, loudness of the slice.

A sigma map belongs to the anatomy it was measured on: sigma grows by half for 4 cm more of body, and streaks lie where
the bones are. Texture, the spectrum over its variance, mostly belongs to the scanner. So on another slice each region
of a 3 x 3 grid keeps the mean normalised spectrum of the profile, and sigma comes from that slice: its shape
re-projected (`robustkit.noise.reprojection`), its size from the noise measured in it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.noise.fitreport import fit_report
from robustkit.noise.patches import Axis, cut
from robustkit.noise.profile import Profile, patch_variance
from robustkit.noise.regions import region_map
from robustkit.noise.reprojection import directional_variance, variance_shape
from robustkit.types import Slice


def transplant(profile: Profile, item: Slice, sigma: float | None, where: NDArray[np.bool_] | None) -> Profile:
    """Return the profile for another slice of the same matrix and pixel size.

    Parameters
    ----------
    profile : measured on some object. item : the slice, HU. sigma : HU, the noise measured in the slice at the pixels
    `where` (H, W); None where it cannot be measured: the profile's own root mean square is taken, and a warning says
    that the noise is not anchored.

    Raises
    ------
    DataError
        for another matrix or pixel size, or a profile without noise.
    """
    if item.pixels.shape != profile.shape or not np.allclose(item.pixel_mm, profile.pixel_mm, rtol=1e-3):
        raise DataError(
            "a profile serves slices of its own matrix and pixel size only; scan both with one field of view"
        )
    if not (profile.sigma > 0).any():
        raise DataError("the profile holds no noise at all: estimate it from other repeats")
    valid = np.ones(profile.shape, bool) if item.mask is None else item.mask
    directional, factor = directional_variance(item.pixels, valid, item.pixel_mm)
    shape = np.sqrt(variance_shape(directional[0], factor, valid)) * valid
    read = valid if where is None else where & valid
    anchored = sigma is not None and where is not None and bool(read.any())
    if anchored:
        loud = float(sigma or 0.0) / float(np.median(shape[read]))
        told = f"re-projected from this slice and anchored to the {sigma:.1f} HU measured in it"
    else:
        loud = profile.white_sigma / float(np.sqrt(np.square(shape[valid], dtype=np.float64).mean()))
        told = "re-projected from this slice, as loud as the profile: not anchored to noise measured in it"
    new = replace(profile, id=item.id, sigma=(loud * shape).astype(np.float32))
    spectra = _regional_textures(profile, valid) * _patch_variances(new)[..., None, None]
    new = replace(
        new, spectra=spectra.astype(np.float32), source=f"noise of {profile.id} on {item.id} ({profile.source})"
    )
    report = fit_report(new)
    said = [f"noise of {profile.id} on this slice: regional spectra of the profile; sigma {told}"]
    return replace(new, report={**report, "warnings": said + list(report["warnings"]), "anchored": anchored})


def _regional_textures(profile: Profile, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Spectra of unit variance for the slice's patches (Py, Px, ...): of the same region, else of all."""
    rows, columns = profile.axes()
    variance = patch_variance(profile.spectra, profile.plane, profile.pixel_mm)[..., None, None]
    unit = np.divide(profile.spectra, variance, out=np.zeros(profile.spectra.shape), where=variance > 0)
    source, names = _patch_regions(profile.sigma > 0, rows, columns)
    target, _ = _patch_regions(valid, rows, columns)
    noisy = variance[..., 0, 0] > 0
    whole = unit[noisy].mean(axis=0)
    means = [unit[chosen].mean(axis=0) if (chosen := (source == r) & noisy).any() else whole for r in range(len(names))]
    table = np.stack([*means, whole])
    textures: NDArray[np.float64] = table[np.where((target >= 0) & (target < len(means)), target, len(means))]
    return textures


def _patch_regions(valid: NDArray[np.bool_], rows: Axis, columns: Axis) -> tuple[NDArray[np.int64], list[str]]:
    labels, names = region_map(valid)
    return labels[np.ix_(rows.centres, columns.centres)], names


def _patch_variances(profile: Profile) -> NDArray[np.float64]:
    """Mean variance (Py, Px) of the sigma map over each patch."""
    squares = np.square(profile.sigma, dtype=np.float64)
    variances: NDArray[np.float64] = cut(squares, *profile.axes()).mean(axis=(-2, -1))
    return variances
