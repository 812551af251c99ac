"""Flips to look at: the clean image, the noise, the noisy image, both answers, and how to make it again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustkit.plain import Record
from robustkit.report import png, words
from robustkit.report.source import Source

SHOWN = 8
"""Flips drawn at most."""
BUDGET = 900_000
"""Bytes that all pictures of the gallery may take."""
SIDES = (256, 192, 160, 128, 96)
"""Longest sides tried, largest first, until the budget holds."""


class Window(NamedTuple):
    """How grey values stand for HU: the name, centre (L) and width (W)."""

    name: str
    centre: float
    width: float

    def __str__(self) -> str:
        return f"{self.name}, W\u202f{self.width:.0f} L\u202f{self.centre:.0f}".replace("-", "−")

    @property
    def limits(self) -> tuple[float, float]:
        """Return the HU shown black and white."""
        return self.centre - self.width / 2, self.centre + self.width / 2


_HEAD = Window("head and neck", 40, 350)
_LUNG = Window("lung", -600, 1500)
_ABDOMEN = Window("abdomen", 50, 400)
_BONE = Window("bone", 300, 1500)
_SOFT = Window("soft tissue", 40, 400)
_WINDOWS = {
    _HEAD: ("bn", "brain", "head", "neck", "head and neck", "brain and neck"),
    _LUNG: ("c", "chest", "lung", "thorax"),
    _ABDOMEN: ("ap", "abdomen", "pelvis", "liver", "abdomen and pelvis"),
    _BONE: ("lf", "leg", "foot", "bone", "leg and foot", "extremity"),
}
WINDOWS = {name: window for window, names in _WINDOWS.items() for name in names}


class Picture(NamedTuple):
    """An image with its caption and its words for those who do not see it."""

    uri: str
    caption: str
    alt: str


class Flip(NamedTuple):
    """One changed answer."""

    title: str
    pictures: list[Picture]
    width: int
    height: int
    clean: list[tuple[str, str, float]]
    noisy: list[tuple[str, str, float]]
    slice: str
    realization: str
    scale: str
    command: str


def window_for(label: str, pixels: NDArray[Any]) -> Window:
    """Return the display window of a body site; without a known name soft tissue for CT, else the values' own range."""
    known = WINDOWS.get(label.strip().lower())
    if known:
        return known
    low, high = (float(v) for v in np.percentile(pixels, (1, 99)))
    if low < -500 and high < 5000:
        return _SOFT
    return Window("full range", (low + high) / 2, max(high - low, 1e-6))


def flips(source: Source) -> list[Flip]:
    """Return the flips to show, their pictures as large as the budget allows."""
    usable = [
        (record, source.flip_images[f"clean_{i}"], source.flip_images[f"noisy_{i}"])
        for i, record in enumerate(source.flips)
        if f"clean_{i}" in source.flip_images and f"noisy_{i}" in source.flip_images
    ][:SHOWN]
    found: list[Flip] = []
    for side in SIDES:
        found = [_flip(record, clean, noisy, side) for record, clean, noisy in usable]
        if sum(len(p.uri) for flip in found for p in flip.pictures) <= BUDGET:
            break
    return found


def _flip(record: Record, clean: NDArray[Any], noisy: NDArray[Any], side: int) -> Flip:
    label = str(record.get("label") or record.get("clean") or "")
    window = _stated_window(record) or window_for(label, clean)
    small, noise = png.shrink(clean, side), png.shrink(noisy.astype(np.float32) - clean.astype(np.float32), side)
    reach = _noise_reach(noise)
    unit = str(record.get("unit") or "")
    before, after = str(record.get("clean", "–")), str(record.get("noisy", "–"))
    level = words.at_level(float(record.get("level", 0.0)), unit)
    step = -(-max(clean.shape) // side)
    pictures = [
        Picture(png.grey(small, *window.limits, 128), f"without noise · {window}", f"Clean image, answered {before}"),
        Picture(png.grey(noise, -reach, reach, 48), f"the noise · ±{reach:.0f} HU", f"Noise at {level}"),
        Picture(png.grey(small + noise, *window.limits, 96), f"with noise · {level}", f"Noisy image, answered {after}"),
    ]
    return Flip(
        title=f"{before} → {after} at {level}",
        pictures=pictures,
        width=small.shape[1],
        height=small.shape[0],
        clean=top_two(record.get("probabilities_clean")),
        noisy=top_two(record.get("probabilities_noisy")),
        slice=str(record.get("slice", "–")),
        realization=words.plain(record.get("realization")),
        scale=f"shown at 1/{step} of full size by averaging, which softens the noise" if step > 1 else "",
        command=str(record.get("command") or ""),
    )


def _stated_window(record: Record) -> Window | None:
    stated = record.get("window")
    if isinstance(stated, list) and len(stated) == 2 and all(isinstance(v, int | float) for v in stated):
        return Window("stated", (stated[0] + stated[1]) / 2, max(stated[1] - stated[0], 1e-6))
    return None


def _noise_reach(noise: NDArray[Any]) -> float:
    """Return the symmetric display limit of noise: three standard deviations, rounded up to two digits."""
    spread = 3 * float(np.std(noise)) or 1.0
    power = 10 ** (np.floor(np.log10(spread)) - 1)
    return float(np.ceil(spread / power) * power)


def top_two(probabilities: Any) -> list[tuple[str, str, float]]:
    """Return (class, probability as text, probability) of the two most probable classes."""
    if not isinstance(probabilities, dict):
        return []
    usable = {str(k): float(v) for k, v in probabilities.items() if isinstance(v, int | float)}
    best = sorted(usable.items(), key=lambda item: -item[1])[:2]
    return [(name, f"{p:.3f}", min(max(p, 0.0), 1.0)) for name, p in best]
