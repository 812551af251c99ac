"""The clean image is a scan too: what its own noise does to the dose axis and to the answer.

Noise of level m added to a single scan taken at m_s leaves an image of effective level 1/m_eff = 1/m + 1/m_s. Noise
added to the mean of K scans at m_c turns around a centre whose frozen noise is sqrt(m / (K m_c)) of what is added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WARN_ABOVE = 0.1
"""Frozen noise of the centre over added noise from which on readers are warned."""


def effective_level(level: float, source_mas: float) -> float:
    """Return the mAs that an image of `source_mas` has after noise of `level` mAs is added to it."""
    return 1.0 / (1.0 / level + 1.0 / source_mas)


def frozen_share(level: float, k: int, mas: float) -> float:
    """Return the standard deviation of the noise left in a mean of k scans at `mas`, over that added at `level`."""
    return math.sqrt(level / (k * mas))


def centre_facts(centre: Mapping[str, Any], levels: Sequence[float]) -> dict[str, Any]:
    """Return what a story tells of its clean image: per level the effective mAs, or the frozen share of a mean."""
    k, mas = centre.get("k"), centre.get("mas")
    if not k or not mas:
        return {}
    if k == 1:
        return {"effective_mas": [effective_level(level, mas) for level in levels]}
    return {"frozen_share": [frozen_share(level, k, mas) for level in levels]}


@dataclass
class Centres:
    """What the stories of a run say together of their clean images; `add` each, then ask for `warnings`."""

    effective: tuple[float, float] | None = None
    unknown: int = 0
    worst: list[float] = field(default_factory=list)

    def add(self, story: Mapping[str, Any]) -> None:
        """Take one story in."""
        if story.get("effective_mas"):
            lowest = story["effective_mas"][0]
            low, high = self.effective or (lowest, lowest)
            self.effective = min(low, lowest), max(high, lowest)
        if story["clean"].get("k") == 1 and not story["clean"].get("mas"):
            self.unknown += 1
        if story.get("frozen_share"):
            here = story["frozen_share"]
            self.worst = [max(pair) for pair in zip(self.worst or here, here, strict=True)]

    def warnings(self, levels: Sequence[float], unit: str) -> list[str]:
        """Return the sentences a reader needs about the clean images of a run."""
        if unit != "mAs":
            return []
        return [*self._about_single_scans(levels), *self._about_means(levels)]

    def _about_single_scans(self, levels: Sequence[float]) -> list[str]:
        told = []
        if self.effective:
            low, high = self.effective
            span = f"{low:.3g}" + (f" to {high:.3g}" if high > low * 1.01 else "")
            told.append(
                f"the clean image is a single scan with noise of its own: added noise of {levels[0]:g} mAs makes an "
                f"image of {span} mAs (noise.json has every level)"
            )
        if self.unknown:
            one = "the clean image is a single scan"
            whose = one if self.unknown == 1 else f"{self.unknown} clean images are single scans"
            told.append(f"{whose} of unknown mAs: noise of its own is not accounted for")
        return told

    def _about_means(self, levels: Sequence[float]) -> list[str]:
        over = [level for level, share in zip(levels, self.worst, strict=False) if share > WARN_ABOVE]
        if not over:
            return []
        return [
            f"from {min(over):g} mAs on, noise left in the mean of the repeats is up to {max(self.worst):.0%} of the "
            "noise added: SAR there speaks of this centre; give a quieter one with --clean"
        ]
