"""Noise for a scanner that nobody measured: published NPS curves by reconstruction kernel, sigma from elsewhere.

Curves: Solomon, Christianson, Samei 2012 (Siemens B10f to B80f, GE soft to edge), as packaged in DICaugment under the
MIT license, whose notice is in `nps_library.license.txt`. One isotropic texture for the whole image; every report
says that it was not measured on this scanner.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.noise.profile import Profile, patch_variance
from robustkit.types import PixelSize

_SUPPORT_MM = 30.0  # of the kernel: resolves 1/30 mm, a seventh of the lowest peak
_SUPPORT = 24, 64  # least and most pixels
_UNKNOWN = "standard"
_FOLDS = range(-3, 4)


def library_kernels() -> tuple[str, ...]:
    """Names of the curves that ship."""
    return tuple(_curves())


def nearest_kernel(kernel: str | None) -> tuple[str, bool]:
    """Return the curve for a DICOM kernel name, and whether it is that very kernel.

    Siemens names (B31s, I30f, Br40d) go to the curve of the nearest sharpness number; names nobody measured to GE
    standard.
    """
    text = re.sub(r"[^a-z0-9+]", "", (kernel or "").lower()).replace("+", "plus")
    if text in _curves():
        return text, True
    siemens = re.match(r"[bihjq][a-z]?(\d\d)", text)
    if siemens is None:
        return _UNKNOWN, False
    sharpness = int(siemens[1])
    numbered = [name for name in _curves() if re.fullmatch(r"b\d\df", name)]
    return min(numbered, key=lambda name: abs(int(name[1:3]) - sharpness)), False


def library_profile(
    kernel: str | None,
    sigma: float | NDArray[np.floating[Any]],
    pixel_mm: PixelSize,
    *,
    shape: tuple[int, int] | None = None,
    mas: float | None = None,
    id: str = "library",
    mask: NDArray[np.bool_] | None = None,
) -> Profile:
    """Make a profile from a library curve and a sigma that was measured in the image.

    Parameters
    ----------
    kernel : DICOM kernel name, or None. sigma : HU, one number (then `shape` is needed) or a map (H, W).
    pixel_mm : (row, column) spacing. mas : mAs at which sigma holds. mask : False where there is no noise.

    Raises
    ------
    DataError
        for a sigma that is negative, not finite, or a number without `shape`.
    """
    values = np.asarray(sigma, dtype=np.float32)
    if values.ndim == 0 and shape is not None:
        values = np.full(shape, values, dtype=np.float32)
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise DataError("library noise needs sigma in HU, >= 0: a map (H, W), or one number and the image's shape")
    name, exact = nearest_kernel(kernel)
    sides = [min(max(round(_SUPPORT_MM / d), _SUPPORT[0]), _SUPPORT[1]) for d in pixel_mm]
    side = (sides[0], sides[1])
    spectrum = _folded(name, side, pixel_mm)
    median = float(np.median(values[values > 0])) if (values > 0).any() else 0.0
    spectrum *= median**2 / float(patch_variance(spectrum, side, pixel_mm))
    profile = Profile(
        id=id,
        pixel_mm=pixel_mm,
        mas=mas,
        repeats=0,
        method="library",
        patch=(values.shape[0], values.shape[1]),
        overlap=(0, 0),
        spectra=spectrum[None, None].astype(np.float32),
        plane=side,
        sigma=values if mask is None else np.where(mask, values, np.float32(0)),
        kernel=kernel,
        source=f"library curve {name}, not measured on this scanner",
    )
    return _with_report(profile, name, exact)


def _with_report(profile: Profile, name: str, exact: bool) -> Profile:
    from dataclasses import replace

    from robustkit.noise.fitreport import fit_report

    report = fit_report(profile)
    stands = "" if exact else f", which stands for {profile.kernel or 'an unknown kernel'}"
    said = [f"NPS not measured on this scanner: published curve {name}{stands}, one texture for the whole image"]
    return replace(profile, report={**report, "library_curve": name, "warnings": said + report["warnings"]})


def _folded(name: str, plane: tuple[int, int], pixel_mm: PixelSize) -> NDArray[np.float64]:
    """Half-plane NPS of a curve sampled on pixels: what lies beyond the Nyquist frequency folds back."""
    f, nnps = _curves()[name]
    rows = np.fft.fftfreq(plane[0], pixel_mm[0])
    columns = np.fft.rfftfreq(plane[1], pixel_mm[1])
    total = np.zeros((rows.size, columns.size))
    for i in _FOLDS:
        for j in _FOLDS:
            radius = np.hypot((rows + i / pixel_mm[0])[:, None], (columns + j / pixel_mm[1])[None, :])
            total += np.interp(radius, f, nnps, right=0.0)
    return total


@cache
def _curves() -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    text = files("robustkit.noise").joinpath("nps_library.json").read_text(encoding="utf-8")
    curves = json.loads(text)["curves"]
    return {name: (np.array(c["frequency"]), np.array(c["nnps"])) for name, c in curves.items()}
