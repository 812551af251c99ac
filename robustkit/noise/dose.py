"""How noise grows as mAs falls: the square-root law, its electronic-noise correction, and whether they hold.

Variance of one projection ray: 1/lambda + s_e^2/lambda^2, with lambda proportional to mAs and s_e the electronic
noise in photons; so the image variance is v(m) = A/m + B/m^2. With k = reference/m and r = B/(A reference), the
electronic share at the reference,

    v(m) / v(reference) = k (1 + r k) / (1 + r),        alpha = its square root.

r = 0 is the square-root law, alpha = sqrt(reference/m) (Peng et al. 2023, Eq. 4). Both hold for linear
reconstruction (filtered back-projection) at fixed kVp, filter, kernel and slice thickness; not for iterative or deep
reconstruction, nor where photons starve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError, UsageError
from robustkit.noise.checks import check_repeats
from robustkit.noise.patches import grid
from robustkit.noise.profile import half_plane_weights
from robustkit.noise.regions import region_map
from robustkit.noise.settings import number
from robustkit.noise.spectra import local_spectra
from robustkit.types import RepeatScans

_WHOLLY_ELECTRONIC = 1e6
"""The ratio that stands for noise of which no part is quantum noise."""


@dataclass(frozen=True)
class DoseLaw:
    """Scale noise from `reference_mas` to other levels.

    Attributes
    ----------
    reference_mas : mAs at which the noise was measured. electronic_ratio : r of the module's text, >= 0.
    measured : every mAs that was measured. source_mas : mAs of an image that is noisy already; then only what is
    missing is added, alpha_add = sqrt(v(m) - v(source)), and only downwards. None: the image counts as clean.
    """

    reference_mas: float
    electronic_ratio: float = 0.0
    measured: tuple[float, ...] = ()
    source_mas: float | None = None

    def variance_ratio(self, mas: float) -> float:
        """v(mas) / v(reference); UsageError unless mas > 0."""
        if not (math.isfinite(mas) and mas > 0):
            raise UsageError(f"a level must be a mAs above 0, got {mas:g}")
        k = self.reference_mas / mas
        return k * (1 + self.electronic_ratio * k) / (1 + self.electronic_ratio)

    def factors(self, levels: Sequence[float]) -> NDArray[np.float64]:
        """Return alpha (L,): what a realization at the reference is multiplied by at each level.

        Raises UsageError for a level <= 0, or above the source's mAs (noise cannot be taken away).
        """
        ratios = [self.variance_ratio(float(level)) for level in levels]
        if self.source_mas is None:
            return np.sqrt(ratios)
        present = self.variance_ratio(self.source_mas)
        for level, ratio in zip(levels, ratios, strict=True):
            if ratio < present * (1 - 1e-12):
                raise UsageError(
                    f"noise cannot be taken away: the image was taken at {self.source_mas:g} mAs, {level:g} mAs was "
                    f"asked; ask for levels up to {self.source_mas:g} or drop add_to_source"
                )
        return np.sqrt(np.maximum(np.subtract(ratios, present), 0.0))

    def warnings(self, levels: Sequence[float]) -> list[str]:
        """Sentences about levels to which the law is stretched; empty when all lie within what was measured."""
        known = self.measured or (self.reference_mas,)
        low, high = min(known), max(known)
        below = [level for level in levels if level < low / 2]
        above = [level for level in levels if level > high * 2]
        said = []
        if below and self.electronic_ratio == 0:
            said.append(
                f"{_list(below)} mAs: far below the {low:g} mAs measured; without electronic noise the square-root law "
                "gives too little noise there"
            )
        elif below:
            said.append(f"{_list(below)} mAs: far below the {low:g} mAs measured; the fitted dose law is extrapolated")
        if above:
            said.append(
                f"{_list(above)} mAs: far above the {high:g} mAs measured; the dose law may overstate the noise there"
            )
        return said


def dose_law(
    reference_mas: float | None,
    *,
    electronic_ratio: object = None,
    add_to_source: object = None,
    measured: tuple[float, ...] = (),
) -> DoseLaw:
    """Make a law from settings; DataError when no reference mAs is known (the cure is `reference_mas`)."""
    if reference_mas is None:
        raise DataError("the mAs of the repeats is unknown: give it with --set reference_mas=MAS")
    ratio = 0.0 if electronic_ratio is None else number("electronic_ratio", electronic_ratio, above=-1e-300)
    source = None if add_to_source is None else _source(add_to_source, reference_mas)
    return DoseLaw(number("reference_mas", reference_mas), ratio, measured or (float(reference_mas),), source)


def _source(value: object, reference_mas: float) -> float | None:
    """Return the mAs of a noisy source image; true means that it was taken at the reference itself."""
    if (isinstance(value, str) and value.lower() in {"true", "yes"}) or value is True:
        return reference_mas
    if (isinstance(value, str) and value.lower() in {"false", "no"}) or value is False:
        return None
    return number("add_to_source", value)


def fit_dose(sets: Sequence[RepeatScans], reference_mas: float | None = None) -> DoseLaw:
    """Fit v(m) = A/m + B/m^2, A, B >= 0, to repeats of one object at two or more mAs levels.

    Weighted by the sampling error of each level. `reference_mas` defaults to the lowest level measured.
    Raises DataError for fewer than two levels, an unknown mAs, or sets of different shapes.
    """
    from scipy.optimize import nnls

    mas, variance, error = _levels(sets)
    reference = min(mas) if reference_mas is None else float(reference_mas)
    k = reference / np.asarray(mas)
    v = np.array([np.mean(rows) for rows in variance])
    e = np.array([max(math.hypot(*rows) / len(rows), 1e-6 * value) for rows, value in zip(error, v, strict=True)])
    (a, b), _ = nnls(np.column_stack([k, k * k]) / e[:, None], v / e)
    ratio = float(b / max(a, b / _WHOLLY_ELECTRONIC)) if b > 0 else 0.0
    return DoseLaw(reference, ratio, tuple(sorted(mas)))


@dataclass(frozen=True)
class DoseCheck:
    """Whether a dose law describes measured levels.

    Attributes
    ----------
    verdict : "holds", "fails" or "inconclusive". law : "square-root" (two levels) or "A/mAs + B/mAs^2" (more).
    levels : mAs, ascending. deviation : (L, R) relative deviation of sigma from the law, per level and region;
    error : (L, R) its standard error. tolerance : the deviation of sigma that is still called agreement.
    electronic_ratio : fitted r at the lowest level. reason : one sentence.
    """

    verdict: str
    law: str
    levels: tuple[float, ...]
    deviation: NDArray[np.float64]
    error: NDArray[np.float64]
    tolerance: float
    electronic_ratio: float
    reason: str


def check_dose(sets: Sequence[RepeatScans], *, tolerance: float = 0.05, alpha: float = 0.01) -> DoseCheck:
    """Test whether noise follows the law across sets of repeats of one object, region by region (3 x 3).

    Two levels test the pure square-root law; three or more test A/mAs + B/mAs^2 (two parameters fitted in each
    region). It fails where sigma deviates from the law by more than `tolerance` beyond its sampling error
    (Bonferroni over levels and regions, family error `alpha`), holds where every interval lies within the tolerance
    or no deviation exceeds it and the overall one is known to within it, and is inconclusive otherwise.
    Iterative and deep reconstructions usually fail: then only levels between measured ones can be simulated.
    """
    from scipy.stats import norm

    mas, variance, error = _levels(sets)
    order = np.argsort(mas)
    m = np.asarray(mas)[order]
    v, e = np.asarray(variance)[order], np.asarray(error)[order]
    terms = np.column_stack([1 / m, 1 / m**2])[:, : 1 if len(m) == 2 else 2]
    deviation, spread = _misfit(terms, v, e)
    z = float(norm.isf(alpha / (2 * deviation.size)))
    excess = np.abs(deviation) - z * spread
    law = "square-root" if len(m) == 2 else "A/mAs + B/mAs^2"
    worst = np.unravel_index(int(np.argmax(excess)), deviation.shape)
    whole = float(np.max(np.abs(deviation.mean(axis=1)) + 2 * np.sqrt((spread**2).mean(axis=1) / spread.shape[1])))
    told = (
        f"sigma off by {100 * deviation[worst]:+.1f} % (sampling error {100 * spread[worst]:.1f} %) "
        f"at {m[worst[0]]:g} mAs"
    )
    if excess.max() > tolerance:
        verdict, reason = "fails", f"the {law} law fails: {told}; simulate only between measured levels"
    elif whole <= tolerance:
        verdict, reason = "holds", f"the {law} law holds within {100 * tolerance:g} %: largest deviation, {told}"
    else:
        verdict, reason = "inconclusive", f"too few scans to tell within {100 * tolerance:g} %: {told}"
    ratio = fit_dose(sets).electronic_ratio
    return DoseCheck(verdict, law, tuple(m.tolist()), deviation, spread, tolerance, ratio, reason)


def _misfit(
    terms: NDArray[np.float64], v: NDArray[np.float64], e: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative deviation of sigma from the fitted law and its standard error, (L, R) each."""
    from scipy.optimize import nnls

    deviation, spread = np.empty_like(v), np.empty_like(v)
    for region in range(v.shape[1]):
        weight = 1 / np.maximum(e[:, region], 1e-9 * v[:, region])
        design = terms * weight[:, None]
        fitted = terms @ nnls(design, v[:, region] * weight)[0]
        hat = design @ np.linalg.pinv(design)
        deviation[:, region] = (v[:, region] / fitted - 1) / 2
        spread[:, region] = np.sqrt(np.maximum(1 - np.diag(hat), 0)) / weight / fitted / 2
    return deviation, spread


def _levels(
    sets: Sequence[RepeatScans],
) -> tuple[list[float], list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """(mAs, variance (R,), standard error (R,)) of each set, over 3 x 3 regions."""
    mas = [s.mas for s in sets]
    if any(m is None for m in mas):
        raise DataError("a dose law needs the mAs of every set of repeats; one is unknown")
    if len({float(m) for m in mas if m is not None}) < 2:
        raise DataError("a dose law needs repeats at two or more mAs levels; give another set at another mAs")
    if len({(s.pixels.shape[1:], s.pixel_mm) for s in sets}) > 1:
        raise DataError("sets of repeats differ in matrix or pixel size: they do not show one slice of one object")
    valid = np.logical_and.reduce([check_repeats(s) for s in sets])
    labels, names = region_map(valid)
    variances, errors = [], []
    for s in sets:
        power = np.square(s.residuals, dtype=np.float64).sum(axis=0) / (len(s.pixels) - 1)
        count = np.bincount(labels[valid], minlength=len(names))
        variance = np.bincount(labels[valid], power[valid], minlength=len(names)) / count
        independent = count / correlated_pixels(s, valid)
        variances.append(variance)
        errors.append(variance * np.sqrt(2 / ((len(s.pixels) - 1) * independent)))
    return [float(m) for m in mas if m is not None], variances, errors


def correlated_pixels(repeats: RepeatScans, valid: NDArray[np.bool_]) -> float:
    """How many neighbouring pixels count as one independent sample of variance: sum_t c(t)^2 / c(0)^2.

    By Parseval the sum over the plane of S^2 over that of S, squared; 1 for white noise. (The scatter of the scans'
    own variances would not do: K residuals sum to zero, and two have the same square.)
    """
    size = tuple(min(24, n) for n in valid.shape)
    rows, columns = grid((valid.shape[0], valid.shape[1]), (size[0], size[1]), (0, 0))
    spectra, plane = local_spectra(repeats, valid, rows, columns, corrected=False)
    pooled = spectra.mean(axis=(0, 1), dtype=np.float64)
    weights = half_plane_weights(plane[1])
    total = float((weights * pooled).sum())
    if total <= 0:
        return 1.0
    return float((weights * pooled**2).sum()) * plane[0] * plane[1] / total**2


def _list(levels: Sequence[float]) -> str:
    return ", ".join(f"{level:g}" for level in levels)
