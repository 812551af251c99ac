"""Patch-NPS noise: one spectrum, measured in one region of interest, for the whole image (Shen et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robustkit.errors import DataError, UsageError
from robustkit.noise.checks import check_repeats
from robustkit.noise.dose import DoseLaw, dose_law
from robustkit.noise.fitreport import fit_report
from robustkit.noise.nps import FilteredNoise, modelled, with_law
from robustkit.noise.profile import Profile, patch_variance
from robustkit.noise.settings import choice, number
from robustkit.noise.spectra import roi_spectrum
from robustkit.types import PixelSize, RepeatScans

_ROI = re.compile(r"\s*(-?\d+(?:\.\d*)?)\s*,\s*(-?\d+(?:\.\d*)?)\s*(px|mm)?\s*$")


def fit_patch_nps(
    repeats: RepeatScans | Sequence[RepeatScans],
    *,
    roi: str | tuple[float, float] | None = None,
    roi_mm: float = 32.0,
    method: str = "lag-corrected",
    reference_mas: float | None = None,
    electronic_ratio: float | None = None,
    add_to_source: float | None = None,
) -> FilteredNoise:
    """Fit one stationary spectrum, and one sigma, to a region of K repeated scans.

    Parameters
    ----------
    repeats : K >= 2 scans. roi : centre of the region: "row,column" or "row,columnpx" in pixels from the upper left
    corner, or "down,rightmm" in mm from the image centre; default the image centre. roi_mm : its side in mm.
    method : "paper" (periodogram) or "lag-corrected". The rest as `fit_nps`.

    Raises
    ------
    DataError
        for repeats that cannot be used, or a region without noise. UsageError for a region outside the image.
    """
    first, law = with_law(repeats, reference_mas, electronic_ratio, add_to_source)
    corrected = choice("method", method, ("lag-corrected", "paper")) == "lag-corrected"
    valid = check_repeats(first)
    shape = (valid.shape[0], valid.shape[1])
    centre = roi_centre(roi, shape, first.pixel_mm)
    side = number("roi_mm", roi_mm)
    size = tuple(min(max(5, round(side / d)), n) for d, n in zip(first.pixel_mm, shape, strict=True))
    corner = [min(max(round(c - n / 2), 0), m - n) for c, n, m in zip(centre, size, shape, strict=True)]
    half, plane = roi_spectrum(first, valid, corner[0], corner[1], (size[0], size[1]), corrected=corrected)
    variance = float(patch_variance(half, plane, first.pixel_mm))
    if valid.any() and variance == 0:
        raise DataError("the region of interest shows no noise (padding, or clipped air): choose another roi")
    profile = Profile(
        id=first.id,
        pixel_mm=first.pixel_mm,
        mas=first.mas,
        repeats=len(first.pixels),
        method=f"patch-nps, {method}",
        patch=shape,
        overlap=(0, 0),
        spectra=half[None, None],
        plane=plane,
        sigma=np.where(valid, np.float32(np.sqrt(variance)), np.float32(0)),
        kernel=first.kernel,
        source=first.source,
    )
    roi_px = {"roi_px": [*corner, *size]}
    return _stationary(profile, law, {**roi_px, "patch_px": list(size)})


def _from_profile(
    profile: Profile,
    *,
    reference_mas: float | None = None,
    electronic_ratio: float | None = None,
    add_to_source: float | None = None,
    roi: str | tuple[float, float] | None = None,
) -> FilteredNoise:
    """Take the spectrum of the patch under `roi` (default the centre) of a saved profile; settings as for the fit."""
    law = dose_law(
        reference_mas if reference_mas is not None else profile.mas,
        electronic_ratio=electronic_ratio,
        add_to_source=add_to_source,
    )
    centre = roi_centre(roi, profile.shape, profile.pixel_mm)
    near = [
        int(np.argmin(np.abs(axis.starts + axis.size / 2 - c))) for axis, c in zip(profile.axes(), centre, strict=True)
    ]
    half = profile.spectra[near[0], near[1]]
    variance = float(patch_variance(half, profile.plane, profile.pixel_mm))
    one = replace(
        profile,
        method=f"patch-nps, {profile.method}",
        patch=profile.shape,
        overlap=(0, 0),
        spectra=half[None, None],
        sigma=np.where(profile.sigma > 0, np.float32(np.sqrt(variance)), np.float32(0)),
    )
    return _stationary(one, law, {"patch_px": list(profile.patch)})


fit_patch_nps.from_profile = _from_profile  # type: ignore[attr-defined]
fit_patch_nps.takes_several_sets = True  # type: ignore[attr-defined]


def roi_centre(
    roi: str | tuple[float, float] | None, shape: tuple[int, int], pixel_mm: PixelSize
) -> tuple[float, float]:
    """Return the region's centre (row, column) in px; UsageError for text that is none, or a point off the image."""
    if roi is None:
        return shape[0] / 2, shape[1] / 2
    text = roi if isinstance(roi, str) else f"{roi[0]},{roi[1]}"
    match = _ROI.match(text)
    if match is None:
        raise UsageError(f"roi={text!r} is not understood: write row,column in px, or down,rightmm from the centre")
    y, x = float(match[1]), float(match[2])
    if match[3] == "mm":
        y, x = shape[0] / 2 + y / pixel_mm[0], shape[1] / 2 + x / pixel_mm[1]
    if not (0 <= y < shape[0] and 0 <= x < shape[1]):
        raise UsageError(f"roi={text!r} lies outside the image of {shape[0]} x {shape[1]} pixels; choose one inside")
    return y, x


def _stationary(profile: Profile, law: DoseLaw, facts: dict[str, object]) -> FilteredNoise:
    return modelled(replace(profile, report={**fit_report(profile), **facts}), law)
