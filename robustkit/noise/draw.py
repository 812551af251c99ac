"""Draw a profile: sigma map, local spectra, radial curves."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.errors import MissingExtraError
from robustkit.files import atomic_path
from robustkit.noise.profile import Profile

_INK, _QUIET = "#1b2a33", "#5c6b73"


def plot_profile(profile: Profile, path: str | Path) -> Path:
    """Write a PNG of a profile: sigma map (HU), radial NPS by region, and four local 2-D spectra.

    Raises MissingExtraError without matplotlib (extra `report`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing a profile", "report") from error
    figure = Figure(figsize=(11, 8), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    top, bottom = parts
    left, right = top.subplots(1, 2, width_ratios=[1, 1.15])
    _sigma_map(figure, left, profile)
    _radial_curves(right, profile)
    _local_spectra(bottom, profile)
    name, source = _headline(profile)
    figure.suptitle(name, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    top.suptitle(textwrap.fill(source, 160), x=0.01, ha="left", fontsize=9, color=_QUIET)
    target = Path(path)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return target


def _headline(profile: Profile) -> tuple[str, str]:
    """Return what was fitted to what, and where the scans came from."""
    mas = "mAs unknown" if profile.mas is None else f"{profile.mas:g} mAs"
    side = " x ".join(f"{n * d:.1f}" for n, d in zip(profile.patch, profile.pixel_mm, strict=True))
    fit = f"{profile.method}, patch {side} mm"
    return f"Noise of {profile.id}, {profile.repeats} scans at {mas}", f"Fit: {fit}. Scans: {profile.source}"


def _sigma_map(figure: Any, axes: Any, profile: Profile) -> None:
    shown = np.ma.masked_equal(profile.sigma, 0)
    height, width = (n * d for n, d in zip(profile.shape, profile.pixel_mm, strict=True))
    image = axes.imshow(shown, cmap="viridis", extent=(0, width, height, 0), interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.85, label="standard deviation (HU)")
    axes.set(title="Sigma map", xlabel="mm", ylabel="mm")
    for number, (y, x) in enumerate(_places(profile), start=1):
        rows, columns = profile.axes()
        centre = (
            (columns.starts[x] + columns.size / 2) * profile.pixel_mm[1],
            (rows.starts[y] + rows.size / 2) * profile.pixel_mm[0],
        )
        axes.text(*centre, str(number), color="white", ha="center", va="center", fontweight="bold")


def _radial_curves(axes: Any, profile: Profile) -> None:
    for curve in profile.report.get("radial", []):
        whole = curve["region"] == "whole image"
        style = {"color": _INK, "linewidth": 2.4, "zorder": 5} if whole else {"linewidth": 1.1}
        label = f"{curve['region']} ({curve['sigma_hu']:.1f} HU)"
        axes.plot(curve["frequency"], curve["nps"], label=label, **style)
    axes.set(title="Radial noise power spectrum", xlabel="spatial frequency (1/mm)", ylabel="NPS (HU² mm²)")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


def _local_spectra(figure: Any, profile: Profile) -> None:
    places = _places(profile)
    for number, (y, x) in enumerate(places, start=1):
        axes = figure.add_subplot(1, 4, number)
        nyquist = [0.5 / d for d in profile.pixel_mm]
        whole = np.fft.fftshift(_whole_plane(profile.spectra[y, x], profile.plane))
        extent = (-nyquist[1], nyquist[1], nyquist[0], -nyquist[0])
        axes.imshow(whole, cmap="magma", extent=extent, interpolation="nearest")
        axes.set_title(f"Local NPS at {number}", fontsize=9)
        axes.set_xlabel("1/mm", fontsize=8, color=_QUIET, labelpad=1)
        axes.tick_params(labelsize=7)


def _places(profile: Profile) -> list[tuple[int, int]]:
    """Up to four patches with noise: middle, and towards the left, the top and a corner of what carries noise."""
    rows, columns = profile.axes()
    used = np.argwhere(profile.sigma > 0)
    if not used.size:
        return []
    low, high = used.min(axis=0), used.max(axis=0)
    places: list[tuple[int, int]] = []
    for share in ((0.5, 0.5), (0.5, 0.25), (0.25, 0.5), (0.3, 0.7)):
        y, x = low + (high - low) * np.asarray(share)
        place = (
            int(np.argmin(np.abs(rows.starts + rows.size / 2 - y))),
            int(np.argmin(np.abs(columns.starts + columns.size / 2 - x))),
        )
        if place not in places:
            places.append(place)
    return places


def _whole_plane(half: np.ndarray[Any, Any], plane: tuple[int, int]) -> np.ndarray[Any, Any]:
    """(Gy, Gx) from its half, by S(-f) = S(f)."""
    y = -np.arange(plane[0]) % plane[0]
    x = np.arange(half.shape[1], plane[1])
    return np.concatenate([half, half[y][:, plane[1] - x]], axis=1)
