"""The noise of each slice: its sigma map, its radial spectra, and what the fit reports of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustkit.plain import Record
from robustkit.report import png, words
from robustkit.report.chart import SMALL, Axis, Plot, Point, Series, draw, nice_ticks
from robustkit.report.source import Source

MAPS = 12
"""Slices whose maps and spectra are drawn; every slice is in the table."""
MAP_PX = 192
_OWN_PLACE = {"radial", "warnings"}
_NAMES = {
    "method": "Method",
    "K": "Repeat scans (K)",
    "patch_mm": "Patch, mm",
    "patch_px": "Patch, px",
    "reference_mas": "Reference mAs",
    "sigma_median_hu": "Median sigma, HU",
    "peak_frequency": "Peak frequency, 1/mm",
    "mean_frequency": "Mean frequency, 1/mm",
    "sampling_floor": "Sampling floor of the spectrum",
}


class SigmaMap(NamedTuple):
    """A picture of the standard deviation with the numbers at its colour bar, HU."""

    uri: str
    width: int
    height: int
    ticks: list[str]
    alt: str


class Spectra(NamedTuple):
    """Radial noise power spectra as a chart, with the table of every `step`-th value behind it."""

    id: str
    plot: Plot
    legend: list[tuple[int, str]]
    heads: list[str]
    rows: list[list[str]]
    description: str


class NoiseCard(NamedTuple):
    """What is shown of one slice's noise."""

    title: str
    source: str
    clean: str
    map: SigmaMap | None
    spectra: Spectra | None
    facts: list[tuple[str, str]]
    effective: list[list[str]]
    warnings: list[str]


def cards(source: Source) -> list[NoiseCard]:
    """Return a card for each of the first slices."""
    return [card(record, source, index) for index, record in enumerate(source.noise[:MAPS])]


def card(record: Record, source: Source, index: int) -> NoiseCard:
    """Return the card of one noise record."""
    report = record.get("report") if isinstance(record.get("report"), dict) else {}
    report = report or {}
    sd = source.noise_maps.get(f"sd_{record.get('slice')}")
    label = str(record.get("label") or "")
    return NoiseCard(
        title=f"{label} · {record.get('slice', '')}" if label else str(record.get("slice", "")),
        source=str(record.get("source") or ""),
        clean=clean_story(record.get("clean")),
        map=sigma_map(sd, label or "this slice"),
        spectra=spectra(report.get("radial"), f"nps-{index}", label),
        facts=fit_facts(report),
        effective=effective(record, source),
        warnings=[str(w) for w in [*(record.get("warnings") or []), *(report.get("warnings") or [])]],
    )


def fit_facts(report: Record) -> list[tuple[str, str]]:
    """Return what a fit reports of itself, known names in words, nested ones dotted."""
    found = words.flatten({k: _rounded(v) for k, v in report.items() if k not in _OWN_PLACE})
    return [(fact_name(name), text) for name, text in found]


def _rounded(value: Any) -> Any:
    """Return a value of a fit report with four digits: more of them say nothing."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def fact_name(key: str) -> str:
    """Return a key of a fit report in words."""
    return _NAMES.get(key, key.replace("_", " "))


def clean_story(clean: Any) -> str:
    """Say which image the noise was added to."""
    if isinstance(clean, str):
        return clean
    if not isinstance(clean, dict) or not clean.get("from"):
        return ""
    mas = clean.get("mas")
    at = f" at {words.at_level(float(mas), 'mAs')}" if isinstance(mas, int | float) else ""
    return f"{clean['from']}{at}"


def effective(record: Record, source: Source) -> list[list[str]]:
    """Return (mAs asked, clean image's noise over the noise added, effective mAs) for each level.

    1 / effective = 1 / asked + 1 / (k mAs of the clean image): noise variances add. Empty where that is not known.
    """
    if source.unit != "mAs":
        return []
    rows = []
    for level in sorted(float(v) for v in source.summary.get("levels") or [] if v > 0):
        ratio = words.centre_ratio(record, level)
        if ratio is None:
            return []
        rows.append([words.number(level), f"{ratio:.2f}", f"{level / (1 + ratio**2):.4g}"])
    return rows


def sigma_map(sd: NDArray[Any] | None, what: str, side: int = MAP_PX) -> SigmaMap | None:
    """Return the map of (h, w) standard deviations in HU, from 0 to its 99.5th percentile."""
    if sd is None or sd.ndim != 2 or sd.size == 0:
        return None
    values = png.shrink(np.asarray(sd, dtype=np.float32), side)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    ticks = nice_ticks(0.0, max(float(np.percentile(finite, 99.5)), 1e-6), 4)
    middle = float(np.median(finite))
    alt = (
        f"Map of the noise standard deviation of {what}: median {middle:.3g} HU, 5th percentile "
        f"{np.percentile(finite, 5):.3g} HU, 95th percentile {np.percentile(finite, 95):.3g} HU"
    )
    height, width = values.shape
    return SigmaMap(png.coloured(values, 0.0, ticks[-1]), width, height, [words.number(t) for t in ticks], alt)


def spectra(radial: Any, id_: str, label: str = "") -> Spectra | None:
    """Return the chart of radial spectra [{region, frequency: 1/mm, nps: HU^2 mm^2}], None when there are none."""
    usable = [r for r in radial or [] if isinstance(r, dict) and r.get("frequency") and r.get("nps")]
    if not usable:
        return None
    series = [_spectrum(r, style) for style, r in enumerate(usable)]
    highest = max(p.y for s in series for p in s.points)
    furthest = max(p.x for s in series for p in s.points)
    x_ticks, y_ticks = nice_ticks(0.0, furthest), nice_ticks(0.0, max(highest, 1e-12), 4)
    x = Axis("spatial frequency, 1/mm", 0.0, x_ticks[-1], x_ticks)
    y = Axis("noise power, HU² mm²", 0.0, y_ticks[-1], y_ticks)
    rows = _spectrum_rows(usable)
    peaks = "; ".join(f"{s.name} peaks at {max(s.points, key=lambda p: p.y).x:.2g} per mm" for s in series)
    return Spectra(
        id=id_,
        plot=draw(series, x, y, SMALL, labelled=False),
        legend=[(s.style, s.name) for s in series],
        heads=["1/mm", *(s.name for s in series)],
        rows=rows,
        description=f"Radial noise power spectra{' of ' + label if label else ''}. {peaks}.",
    )


def _spectrum(record: Record, style: int) -> Series:
    name = str(record.get("region") or f"region {style + 1}")
    pairs = zip(record["frequency"], record["nps"], strict=False)
    points = tuple(
        Point(float(f), float(p), None, None, f"{name}: {float(p):.3g} HU² mm² at {float(f):.3g} per mm")
        for f, p in pairs
        if isinstance(f, int | float) and isinstance(p, int | float)
    )
    return Series(name, style, points)


def _spectrum_rows(usable: Sequence[Record], most: int = 16) -> list[list[str]]:
    """Return at most `most` rows of (frequency, power of each region); regions share the first one's frequencies."""
    frequency = np.asarray(usable[0]["frequency"], dtype=float)
    keep = frequency[:: max(1, -(-len(frequency) // most))]
    columns = [
        np.interp(keep, np.asarray(r["frequency"], dtype=float), np.asarray(r["nps"], dtype=float)) for r in usable
    ]
    return [[f"{f:.3g}", *(words.short(column[i]) for column in columns)] for i, f in enumerate(keep)]
