"""Real residuals replayed: scan minus mean of the measured repeats. True noise, but only K different fields of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.noise.checks import check_repeats
from robustkit.noise.dose import DoseLaw
from robustkit.noise.fitreport import report_without_spectrum
from robustkit.noise.nps import at_levels, same_shape, with_law
from robustkit.seeding import Draw
from robustkit.types import Image, RepeatScans


@dataclass(frozen=True, eq=False)
class ReplayedNoise:
    """The residuals of K scans, sqrt(K/(K-1)) larger so that their variance is that of a scan.

    Attributes
    ----------
    fields : (K, H, W) float32 HU at the law's reference. sigma : (H, W), their standard deviation.
    """

    fields: Image
    sigma: Image
    law: DoseLaw
    report: dict[str, Any]
    unit: str = "mAs"

    @property
    def reference_mas(self) -> float:
        """MAs of the scans."""
        return self.law.reference_mas

    def sample(self, clean: Image, levels: Sequence[float], draws: Sequence[Draw]) -> Image:
        """Noise (B, L, H, W): realization r replays scan r modulo K, so K draws see each scan once."""
        same_shape(clean, self.sigma)
        chosen = [draw.realization % len(self.fields) for draw in draws]
        return at_levels(self.fields[chosen], self.law.factors(levels))

    def sd(self, clean: Image, levels: Sequence[float]) -> Image:
        """(L, H, W) float32 HU: the standard deviation over the K fields."""
        same_shape(clean, self.sigma)
        return (self.law.factors(levels)[:, None, None] * self.sigma).astype(np.float32)

    def warnings(self, levels: Sequence[float]) -> list[str]:
        """Sentences about levels far from what was measured."""
        return self.law.warnings(levels)


def fit_residuals(
    repeats: RepeatScans | Sequence[RepeatScans],
    *,
    reference_mas: float | None = None,
    electronic_ratio: float | None = None,
    add_to_source: float | None = None,
) -> ReplayedNoise:
    """Keep the residuals of K repeated scans for replay; settings and errors as `fit_nps`.

    However many realizations are asked, they hold K different fields, which moreover sum to zero: the effective n
    of any rate is K, and the report says so.
    """
    first, law = with_law(repeats, reference_mas, electronic_ratio, add_to_source)
    valid = check_repeats(first)
    count = len(first.pixels)
    fields = np.where(valid, first.residuals, 0) * np.float32(math.sqrt(count / (count - 1)))
    sigma = np.sqrt(np.square(fields, dtype=np.float64).mean(axis=0)).astype(np.float32)
    used = sigma[sigma > 0]
    median = float(np.median(used)) if used.size else 0.0
    rms = float(np.sqrt(np.square(used, dtype=np.float64).mean())) if used.size else 0.0
    said = f"replayed residuals: only {count} different fields, so the effective n is {count}"
    report = report_without_spectrum("residuals", count, law, (median, rms), first.source, said)
    report["effective_n"] = count
    return ReplayedNoise(fields.astype(np.float32), sigma, law, report)
