"""Has a scanner's noise changed? Two profiles of one object and protocol, region by region, against tolerances.

Each region of a 3 x 3 grid gives two numbers: the ratio of sigma, and the ratio of the mean frequency of its radial
NPS (texture). Both have a sampling error that follows from K, the number of pixels and their correlation; two sets of
20 scans of one steady scanner differ by some 0.3 % in overall sigma and 3.5 to 7 % in one patch by chance alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.noise.fitreport import peak_and_mean, radial
from robustkit.noise.profile import Profile, half_plane_weights
from robustkit.noise.regions import region_map
from robustkit.noise.settings import number


@dataclass(frozen=True)
class Change:
    """One comparison: `deviation` = new/old - 1, its standard `error`; `drifted` after false-discovery control."""

    region: str
    quantity: str
    old: float
    new: float
    deviation: float
    error: float
    tolerance: float
    drifted: bool = False


@dataclass(frozen=True)
class Constancy:
    """Verdict "within", "drifted" or "inconclusive"; `changes`, the whole image first; `reason`, one sentence."""

    verdict: str
    changes: tuple[Change, ...]
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def compare_profiles(
    old: Profile,
    new: Profile,
    *,
    sigma_tolerance: float = 0.05,
    texture_tolerance: float = 0.05,
    rate: float = 0.05,
) -> Constancy:
    """Test two profiles for constancy.

    drifted: in some region sigma or mean frequency deviates by more than its tolerance beyond sampling error
    (Benjamini and Hochberg 1995 at false-discovery `rate` over all regions and both quantities, one-sided against the
    tolerance). within: nothing drifted, and for the whole image the 90 % interval of both quantities lies inside the
    tolerance. inconclusive: neither; more scans are needed.

    Raises
    ------
    DataError
        for profiles that differ in matrix, pixel size, mAs or kernel, or without noise: they cannot be compared.
    """
    from scipy.stats import false_discovery_control, norm

    limits = {
        "sigma": number("sigma_tolerance", sigma_tolerance),
        "texture": number("texture_tolerance", texture_tolerance),
    }
    _same_protocol(old, new)
    changes = _changes(old, new, limits)
    chance = [float(norm.sf((abs(c.deviation) - c.tolerance) / max(c.error, 1e-12))) for c in changes]
    flags = false_discovery_control(chance) <= rate
    changes = [Change(**{**asdict(c), "drifted": bool(flag)}) for c, flag in zip(changes, flags, strict=True)]
    return _verdict(changes)


def _verdict(changes: list[Change]) -> Constancy:
    worst = max(changes, key=lambda c: (c.drifted, (abs(c.deviation) - c.tolerance) / max(c.error, 1e-12)))
    told = (
        f"{worst.quantity} of {worst.region} changed by {100 * worst.deviation:+.1f} % "
        f"(sampling error {100 * worst.error:.1f} %, tolerance {100 * worst.tolerance:g} %)"
    )
    whole = [c for c in changes if c.region == "whole image"]
    if any(c.drifted for c in changes):
        verdict = "drifted"
    elif all(abs(c.deviation) + 1.645 * c.error <= c.tolerance for c in whole):
        verdict = "within"
    else:
        verdict, told = "inconclusive", f"too few scans to tell: {told}"
    return Constancy(verdict, tuple(changes), told)


def _same_protocol(old: Profile, new: Profile) -> None:
    facts = {
        "matrix": (old.shape, new.shape),
        "pixel size": (tuple(np.round(old.pixel_mm, 4)), tuple(np.round(new.pixel_mm, 4))),
        "mAs": (old.mas, new.mas),
        "kernel": (old.kernel, new.kernel),
    }
    for name, (first, second) in facts.items():
        if first != second:
            raise DataError(f"profiles differ in {name} ({first} and {second}): constancy needs one protocol")
    if not (old.sigma > 0).any() or not (new.sigma > 0).any():
        raise DataError("a profile holds no noise at all: there is nothing to compare")


def _changes(old: Profile, new: Profile, limits: dict[str, float]) -> list[Change]:
    labels, names = region_map((old.sigma > 0) & (new.sigma > 0))
    changes = []
    for index, name in [(-1, "whole image"), *enumerate(names)]:
        area = labels >= 0 if index < 0 else labels == index
        first, second = _measure(old, area), _measure(new, area)
        for quantity in ("sigma", "texture"):
            (a, da), (b, db) = first[quantity], second[quantity]
            if a > 0:
                changes.append(Change(name, quantity, a, b, b / a - 1, float(np.hypot(da, db)), limits[quantity]))
    return changes


def _measure(profile: Profile, area: NDArray[np.bool_]) -> dict[str, tuple[float, float]]:
    """(value, relative standard error) of sigma and of mean frequency over an area, from all patches centred in it."""
    rows, columns = profile.axes()
    chosen = area[np.ix_(rows.centres, columns.centres)]
    pooled = (profile.spectra[chosen] if chosen.any() else profile.spectra).mean(axis=(0,) if chosen.any() else (0, 1))
    weights = half_plane_weights(profile.plane[1])
    points = profile.plane[0] * profile.plane[1]
    total = float((weights * pooled).sum(dtype=np.float64))
    crowd = float((weights * pooled.astype(np.float64) ** 2).sum()) * points / max(total, 1e-30) ** 2
    free = max(profile.repeats - 1, 1) * float(area.sum())
    sigma = float(np.sqrt(np.square(profile.sigma[area], dtype=np.float64).mean()))
    f, s = radial(pooled.astype(np.float64), profile)
    _, mean = peak_and_mean(f.tolist(), s.tolist())
    ring = np.maximum(2 * np.pi * f * np.gradient(f) * profile.pixel_mm[0] * profile.pixel_mm[1], 1 / points)
    slope = s * (f - mean) / max(float(s.sum()), 1e-30)
    spread = float(np.sqrt((slope**2 * 2 / (free * ring)).sum())) / max(mean, 1e-12)
    return {"sigma": (sigma, float(np.sqrt(2 * crowd / free)) / 2), "texture": (mean, spread)}
