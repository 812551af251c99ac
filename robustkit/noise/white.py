"""White noise: one sigma, no texture. The simplest model, and a control for the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.errors import UsageError
from robustkit.noise.checks import check_repeats
from robustkit.noise.dose import DoseLaw, dose_law
from robustkit.noise.fitreport import report_without_spectrum
from robustkit.noise.nps import at_levels, same_shape, with_law, words_of
from robustkit.noise.profile import Profile
from robustkit.noise.settings import choice, number, optional
from robustkit.seeding import Draw
from robustkit.types import Image, RepeatScans


@dataclass(frozen=True, eq=False)
class WhiteNoise:
    """Independent N(0, sigma^2) in every pixel.

    Attributes
    ----------
    sigma : HU at the reference mAs; 1 when `unit` is "sigma" and levels are sigmas themselves.
    law : how it scales with mAs, None for unit "sigma". mask : (H, W) bool, False where no noise is added, or None.
    """

    sigma: float
    law: DoseLaw | None
    report: dict[str, Any]
    unit: str = "mAs"
    mask: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    @property
    def reference_mas(self) -> float | None:
        """MAs at which sigma holds; None when levels are sigmas."""
        return None if self.law is None else self.law.reference_mas

    def sample(self, clean: Image, levels: Sequence[float], draws: Sequence[Draw]) -> Image:
        """Noise (B, L, H, W) float32 HU; a realization is one white field, scaled to each level."""
        from robustkit.philox import white_fields

        fields = white_fields(words_of(draws), (clean.shape[0], clean.shape[1]))
        if self.mask is not None:
            same_shape(clean, self.mask)
            fields *= self.mask
        return at_levels(fields, self._sigmas(levels))

    def sd(self, clean: Image, levels: Sequence[float]) -> Image:
        """(L, H, W) float32 HU: exactly the standard deviation of `sample`."""
        area = np.ones(clean.shape, np.float32) if self.mask is None else self.mask.astype(np.float32)
        same_shape(clean, area)
        return self._sigmas(levels).astype(np.float32)[:, None, None] * area

    def warnings(self, levels: Sequence[float]) -> list[str]:
        """Sentences about levels far from what was measured."""
        return [] if self.law is None else self.law.warnings(levels)

    def _sigmas(self, levels: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self.law is not None:
            return self.sigma * self.law.factors(levels)
        if any(not (np.isfinite(level) and level >= 0) for level in levels):
            raise UsageError("a sigma must be a number of at least 0")
        return np.asarray(levels, dtype=np.float64)


def fit_white(
    repeats: RepeatScans | Sequence[RepeatScans] | None = None,
    *,
    sigma: float | None = None,
    reference_mas: float | None = None,
    unit: str = "mAs",
    electronic_ratio: float | None = None,
    add_to_source: float | None = None,
) -> WhiteNoise:
    """Fit white noise: sigma is the root mean variance of the repeats, or given.

    Parameters
    ----------
    repeats : K >= 2 scans; not needed where `sigma` and `reference_mas` are given, or with unit "sigma".
    sigma : HU at `reference_mas`, >= 0. unit : "mAs", or "sigma": then levels are standard deviations themselves.
    electronic_ratio, add_to_source : as `fit_nps`.

    Raises
    ------
    DataError
        for unusable repeats or an unknown mAs. UsageError where neither repeats nor sigma are given.
    """
    if choice("unit", unit, ("mAs", "sigma")) == "sigma":
        return WhiteNoise(1.0, None, {"method": "white", "K": 0, "warnings": []}, unit="sigma", mask=_mask(repeats))
    value = optional("sigma", sigma, above=-1e-300)
    if repeats is None:
        if value is None or reference_mas is None:
            raise UsageError("white noise needs repeats, or --set sigma=HU and reference_mas=MAS, or --set unit=sigma")
        law = dose_law(reference_mas, electronic_ratio=electronic_ratio, add_to_source=add_to_source)
        return WhiteNoise(value, law, _report(value, 0, law, "given"))
    first, law = with_law(repeats, reference_mas, electronic_ratio, add_to_source)
    if value is not None:
        return WhiteNoise(value, law, _report(value, len(first.pixels), law, "given"), mask=_mask(first))
    valid = check_repeats(first)
    count = len(first.pixels)
    power = np.square(first.residuals, dtype=np.float64).sum(axis=0) / (count - 1)
    value = float(np.sqrt(power[valid].mean())) if valid.any() else 0.0
    return WhiteNoise(value, law, _report(value, count, law, first.source), mask=valid)


def _from_profile(
    profile: Profile,
    *,
    sigma: float | None = None,
    reference_mas: float | None = None,
    electronic_ratio: float | None = None,
    add_to_source: float | None = None,
) -> WhiteNoise:
    """Take sigma from a saved profile (root mean variance); settings as for `fit_white`."""
    law = dose_law(
        reference_mas if reference_mas is not None else profile.mas,
        electronic_ratio=electronic_ratio,
        add_to_source=add_to_source,
    )
    value = profile.white_sigma if sigma is None else number("sigma", sigma, above=-1e-300)
    return WhiteNoise(value, law, _report(value, profile.repeats, law, profile.source), mask=profile.sigma > 0)


fit_white.from_profile = _from_profile  # type: ignore[attr-defined]
fit_white.takes_several_sets = True  # type: ignore[attr-defined]


def _mask(repeats: RepeatScans | Sequence[RepeatScans] | None) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    return repeats.mask if isinstance(repeats, RepeatScans) else None


def _report(sigma: float, count: int, law: DoseLaw, source: str) -> dict[str, Any]:
    said = "white noise has no texture: it does not look like CT noise, whatever its sigma"
    return report_without_spectrum("white", count, law, (sigma, sigma), source, said)
