"""What a fit says of itself: geometry, magnitude, texture by region, and how much of it chance alone explains."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.noise.dose import DoseLaw
from robustkit.noise.profile import Profile, frequencies, half_plane_weights, patch_variance
from robustkit.noise.regions import region_map


def fit_report(profile: Profile) -> dict[str, Any]:
    """Describe a profile in JSON-able numbers.

    Frequencies in 1/mm, NPS in HU^2 mm^2, sigma in HU. `mean_frequency` is sum f S(f) / sum S(f) of the radial curve
    (bins of equal width, weighting 1), `peak_frequency` its largest bin.
    """
    used = profile.sigma[profile.sigma > 0]
    curves = radial_by_region(profile)
    whole = curves[0] if curves else {"frequency": [], "nps": []}
    peak, mean = peak_and_mean(whole["frequency"], whole["nps"])
    return {
        "method": profile.method,
        "K": profile.repeats,
        "patch_mm": [n * d for n, d in zip(profile.patch, profile.pixel_mm, strict=True)],
        "patch_px": list(profile.patch),
        "overlap": [o / n for o, n in zip(profile.overlap, profile.patch, strict=True)],
        "reference_mas": profile.mas,
        "sigma_median_hu": float(np.median(used)) if used.size else 0.0,
        "sigma_rms_hu": profile.white_sigma,
        "sigma_percentiles_hu": [float(v) for v in np.percentile(used, [5, 50, 95])] if used.size else [0.0] * 3,
        "peak_frequency": peak,
        "mean_frequency": mean,
        "radial": curves,
        "sampling_floor": sampling_floor(profile),
        "source": profile.source,
        "warnings": _warnings(profile),
    }


def report_without_spectrum(
    method: str, repeats: int, law: DoseLaw, sigma_hu: tuple[float, float], source: str, warning: str
) -> dict[str, Any]:
    """Describe noise that has no NPS of its own, in the keys of `fit_report`; `sigma_hu` is median and rms."""
    return {
        "method": method,
        "K": repeats,
        "reference_mas": law.reference_mas,
        "electronic_ratio": law.electronic_ratio,
        "sigma_median_hu": sigma_hu[0],
        "sigma_rms_hu": sigma_hu[1],
        "peak_frequency": None,
        "mean_frequency": None,
        "radial": [],
        "source": source,
        "warnings": [warning],
    }


def radial_by_region(profile: Profile) -> list[dict[str, Any]]:
    """Radial NPS curves: first the whole image, then each region of a 3 x 3 grid (patches by their centre)."""
    labels, names = region_map(profile.sigma > 0)
    rows, columns = profile.axes()
    patch_label = labels[np.ix_(rows.centres, columns.centres)]
    curves = []
    for index, name in [(-1, "whole image"), *enumerate(names)]:
        chosen = patch_label >= 0 if index < 0 else patch_label == index
        if chosen.any():
            pooled = profile.spectra[chosen].mean(axis=0, dtype=np.float64)
            f, nps = radial(pooled, profile)
            sigma = float(np.sqrt(patch_variance(pooled, profile.plane, profile.pixel_mm)))
            curves.append({"region": name, "frequency": f.tolist(), "nps": nps.tolist(), "sigma_hu": sigma})
    return curves


def radial(spectrum: NDArray[np.float64], profile: Profile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average a half-plane spectrum over rings as wide as the coarser frequency step, up to the lower Nyquist."""
    f = frequencies(profile.plane, profile.pixel_mm)
    step = max(1 / (n * d) for n, d in zip(profile.plane, profile.pixel_mm, strict=True))
    ring = np.rint(f / step).astype(int)
    weight = np.broadcast_to(half_plane_weights(profile.plane[1]), f.shape)
    last = int(min(0.5 / d for d in profile.pixel_mm) / step + 0.5) + 1
    count = np.bincount(ring.ravel(), weight.ravel())[:last]
    total = np.bincount(ring.ravel(), (weight * spectrum).ravel())[:last]
    centre = np.bincount(ring.ravel(), (weight * f).ravel())[:last]
    keep = count > 0
    return centre[keep] / count[keep], total[keep] / count[keep]


def peak_and_mean(frequency: list[float], nps: list[float]) -> tuple[float, float]:
    """Peak frequency and mean frequency (1/mm) of a radial curve; 0 where there is no noise."""
    f, s = np.asarray(frequency), np.asarray(nps)
    if not s.size or s.sum() <= 0:
        return 0.0, 0.0
    return float(f[np.argmax(s)]), float((f * s).sum() / s.sum())


def sampling_floor(profile: Profile) -> dict[str, float]:
    """Relative standard errors that K scans cannot go below: of a bin, of a pixel's sigma, of a patch's sigma."""
    free = max(profile.repeats - 1, 1)
    whole = np.broadcast_to(half_plane_weights(profile.plane[1]), profile.spectra.shape[-2:])
    pooled = profile.spectra.mean(axis=(0, 1), dtype=np.float64)
    total = float((whole * pooled).sum())
    ratio = float((whole * pooled**2).sum()) / total**2 if total > 0 else 0.0
    dense = np.prod(profile.plane) / np.prod(profile.patch)  # a padded plane repeats what its neighbours say
    return {
        "bin": float(1 / np.sqrt(free)),
        "pixel_sigma": float(1 / np.sqrt(2 * free)),
        "patch_sigma": float(np.sqrt(2 * ratio * dense / free) / 2),
    }


def _warnings(profile: Profile) -> list[str]:
    said = []
    if profile.repeats and profile.repeats < 10:
        said.append(
            f"only {profile.repeats} scans: a pixel's sigma is known to "
            f"{100 / np.sqrt(2 * max(profile.repeats - 1, 1)):.0f} %"
        )
    if not (profile.sigma > 0).any():
        said.append("the repeats show no noise at all")
    if profile.mas is None:
        said.append("mAs unknown: levels need --set reference_mas=MAS")
    return said
