"""The page of one noise profile: sigma map, radial spectra and fit report, for `robustkit nps show`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.report import noise, page, png, words
from robustkit.report.words import Fact

_SHOWN_FIRST = ("method", "K", "reference_mas", "sigma_median_hu", "patch_mm", "peak_frequency", "mean_frequency")
_SIGMA = ("sigma", "sd", "sigma_map")


def write_profile_page(report: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], path: Path) -> Path:
    """Write the page of a noise profile and return its path.

    Parameters
    ----------
    report : the fit report (method, K, reference_mas, radial [{region, frequency 1/mm, nps HU^2 mm^2}], warnings, ...).
    arrays : pictures by name, (H, W) in HU; "sigma" is the standard deviation. Others are drawn after it.
    path : the HTML file.
    """
    facts = noise.fit_facts(dict(report))
    first = {noise.fact_name(name) for name in _SHOWN_FIRST}
    shown = page.render(
        "profile.html",
        title="Noise profile",
        kicker="Noise profile",
        stamp=[],
        facts=[Fact(name, value) for name, value in facts if name in first],
        rest=[(name, value) for name, value in facts if name not in first],
        warnings=[str(w) for w in report.get("warnings") or []],
        maps=[(name, found) for name, array in _ordered(arrays) if (found := _map(name, array)) is not None],
        colour_bar=png.colour_bar(),
        spectra=noise.spectra(report.get("radial"), "nps"),
        source=words.plain(report.get("source")),
    )
    return page.write(Path(path), shown)


def _ordered(arrays: Mapping[str, NDArray[Any]]) -> list[tuple[str, NDArray[Any]]]:
    return sorted(arrays.items(), key=lambda item: item[0] not in _SIGMA)


def _map(name: str, array: NDArray[Any]) -> noise.SigmaMap | None:
    """Return the map of an array; pixels of a sigma map that carry no noise are left out."""
    values = np.asarray(array, dtype=np.float32)
    if name in _SIGMA:
        values = np.where(values > 0, values, np.nan)
    return noise.sigma_map(values, "this profile", 256)
