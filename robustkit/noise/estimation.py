"""A noise profile from K repeated scans: local spectra and a sigma map, by one of three methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import UsageError
from robustkit.noise.checks import check_repeats
from robustkit.noise.patches import blend, cut, grid, paper_geometry
from robustkit.noise.profile import Profile, patch_variance
from robustkit.noise.settings import choice, number, optional
from robustkit.noise.spectra import local_spectra
from robustkit.types import RepeatScans

METHODS = ("paper", "lag-corrected", "regional")
DEFAULT = "regional"
_AIR = -900.0  # HU: below it there is nothing to look at
_PATCH_MM = {"paper": 6.8, "lag-corrected": 14.0}


def estimate(
    repeats: RepeatScans,
    *,
    method: str = DEFAULT,
    patch_mm: float | None = None,
    overlap: float = 0.3,
) -> Profile:
    """Measure the local NPS and the sigma map of one slice from K repeated scans.

    Parameters
    ----------
    repeats : (K >= 2, H, W) HU. method : "regional" (magnitude and texture apart, both pooled as far as left-out scans
    allow), "lag-corrected" (each patch by itself, without window leakage) or "paper" (Peng et al. 2023, Eq. 3).
    patch_mm : side of a patch, default 6.8 mm for "paper", 14 mm for "lag-corrected", without meaning for "regional".
    overlap : fraction of a patch that it shares with its neighbour, default 0.3; likewise.

    Raises
    ------
    DataError
        for one scan only, pixels that are not finite, duplicated scans, HU drift or motion between scans.
    UsageError
        for an unknown method or an impossible patch.
    """
    from robustkit.noise.fitreport import fit_report

    method = choice("method", method, METHODS)
    valid = check_repeats(repeats)
    side, fraction = optional("patch_mm", patch_mm), number("overlap", overlap)
    if fraction > 0.9:
        raise UsageError(f"setting overlap must be a fraction of at most 0.9, got {fraction:g}")
    facts: dict[str, Any] = {}
    if method == "regional" and valid.any():
        profile, facts = _regional(repeats, valid)
    else:
        profile = _patchwise(repeats, valid, method, side or _PATCH_MM.get(method, 14.0), fraction)
    return replace(profile, report={**fit_report(profile), **facts})


def _patchwise(repeats: RepeatScans, valid: NDArray[np.bool_], method: str, patch_mm: float, overlap: float) -> Profile:
    """Estimate each patch by itself: its spectrum, whose integral is its variance."""
    shape = repeats.pixels.shape[1], repeats.pixels.shape[2]
    patch, shared = paper_geometry(shape, repeats.pixel_mm, patch_mm, overlap)
    rows, columns = grid(shape, patch, shared)
    spectra, plane = local_spectra(repeats, valid, rows, columns, corrected=method != "paper")
    variance = blend(rows, columns, patch_variance(spectra, plane, repeats.pixel_mm))
    sigma = np.where(valid, np.sqrt(np.maximum(variance, 0)), 0).astype(np.float32)
    return _profile(repeats, method, patch, shared, spectra, plane, sigma)


def _regional(repeats: RepeatScans, valid: NDArray[np.bool_]) -> tuple[Profile, dict[str, Any]]:
    """Estimate magnitude and texture apart, each pooled as far as left-out scans allow."""
    from robustkit.noise.magnitude import sigma_map
    from robustkit.noise.reprojection import directional_variance, variance_shape
    from robustkit.noise.texture import regional_spectra

    directional, factor = directional_variance(repeats.clean, valid, repeats.pixel_mm)
    sigma, magnitude = sigma_map(repeats, valid, [variance_shape(d, factor, valid) for d in directional])
    found = regional_spectra(
        repeats.residuals, valid, repeats.clean > _AIR, sigma, directional, factor, repeats.pixel_mm
    )
    rows, columns = grid((valid.shape[0], valid.shape[1]), found.patch, found.overlap)
    variance = np.square(cut(sigma, rows, columns)).mean(axis=(-2, -1)) * np.float32(np.prod(repeats.pixel_mm))
    spectra = found.spectra * variance[..., None, None]
    profile = _profile(repeats, "regional", found.patch, found.overlap, spectra, found.plane, sigma)
    return profile, {"magnitude": magnitude, "texture": found.how}


def _profile(
    repeats: RepeatScans,
    method: str,
    patch: tuple[int, int],
    overlap: tuple[int, int],
    spectra: NDArray[np.float32],
    plane: tuple[int, int],
    sigma: NDArray[np.float32],
) -> Profile:
    return Profile(
        id=repeats.id,
        pixel_mm=repeats.pixel_mm,
        mas=repeats.mas,
        repeats=len(repeats.pixels),
        method=method,
        patch=patch,
        overlap=overlap,
        spectra=spectra,
        plane=plane,
        sigma=sigma,
        kernel=repeats.kernel,
        source=repeats.source,
        protocol=dict(repeats.protocol),
    )
