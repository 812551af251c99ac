"""Full-image non-stationary NPS noise: local spectra of a profile, synthesised from one shared white field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.noise.dose import DoseLaw, dose_law, fit_dose
from robustkit.noise.estimation import DEFAULT, estimate
from robustkit.noise.gpu import check_device
from robustkit.noise.profile import Profile
from robustkit.seeding import Draw
from robustkit.types import Image, RepeatScans

if TYPE_CHECKING:
    from robustkit.noise.kernel import FilterBank


@dataclass(frozen=True, eq=False)
class FilteredNoise:
    """Gaussian noise from a filter bank and one white field a realization; made by `fit_nps` and `fit_patch_nps`.

    Attributes
    ----------
    bank : the blended kernels. sigma : (H, W) HU at the law's reference. law : how it scales with mAs.
    report : JSON-able facts about the fit. device : a torch device that computes the fields; None is the numba engine.
    """

    bank: FilterBank
    sigma: Image
    law: DoseLaw
    report: dict[str, Any]
    unit: str = "mAs"
    device: str | None = None

    @property
    def reference_mas(self) -> float:
        """MAs at which the noise was measured."""
        return self.law.reference_mas

    def sample(self, clean: Image, levels: Sequence[float], draws: Sequence[Draw]) -> Image:
        """Noise (B, L, H, W) float32 HU for an image (H, W); a realization is one field, scaled to each level.

        Raises DataError when the image has another shape than the profile, UsageError for an impossible level.
        """
        same_shape(clean, self.sigma)
        return at_levels(self._fields(words_of(draws)), self.law.factors(levels))

    def _fields(self, words: NDArray[np.uint32]) -> Image:
        if self.device is None:
            from robustkit.noise.kernel import synthesise

            return synthesise(self.bank, words)
        from robustkit.noise.gpu import synthesise as on_device

        return on_device(self.bank, words, self.device)

    def sd(self, clean: Image, levels: Sequence[float]) -> Image:
        """(L, H, W) float32 HU: exactly the standard deviation of `sample`."""
        same_shape(clean, self.sigma)
        return (self.law.factors(levels)[:, None, None] * self.sigma).astype(np.float32)

    def warnings(self, levels: Sequence[float]) -> list[str]:
        """Sentences about levels far from what was measured."""
        return self.law.warnings(levels)


def fit_nps(
    repeats: RepeatScans | Sequence[RepeatScans],
    *,
    method: str = DEFAULT,
    patch_mm: float | None = None,
    overlap: float = 0.3,
    reference_mas: float | None = None,
    electronic_ratio: float | None = None,
    add_to_source: float | None = None,
    device: str | None = None,
) -> FilteredNoise:
    """Fit full-image non-stationary noise (Peng et al. 2023, section 2.2.1) to K repeated scans.

    Parameters
    ----------
    repeats : one set, or several sets of the object at different mAs: then the dose law is fitted to them and the
    first set gives the spectra. method, patch_mm, overlap : as `robustkit.noise.estimate`.
    reference_mas : mAs of the repeats where they do not say. electronic_ratio : r of `robustkit.noise.dose`.
    add_to_source : mAs of an image that is noisy already: add only what is missing at a lower level.
    device : "cuda" makes the fields on a GPU through torch (`robustkit.noise.gpu`); by default the numba engine does.

    Raises
    ------
    DataError
        for repeats that cannot be used (`estimate`) or whose mAs nobody gave. UsageError for impossible settings.
    """
    first, law = with_law(repeats, reference_mas, electronic_ratio, add_to_source)
    device = None if device is None else check_device(device)
    return modelled(estimate(first, method=method, patch_mm=patch_mm, overlap=overlap), law, device)


def _from_profile(
    profile: Profile,
    *,
    reference_mas: float | None = None,
    electronic_ratio: float | None = None,
    add_to_source: float | None = None,
    device: str | None = None,
) -> FilteredNoise:
    """Make the model from a saved profile; settings as for `fit_nps`."""
    law = dose_law(
        reference_mas if reference_mas is not None else profile.mas,
        electronic_ratio=electronic_ratio,
        add_to_source=add_to_source,
    )
    return modelled(profile, law, None if device is None else check_device(device))


fit_nps.from_profile = _from_profile  # type: ignore[attr-defined]
fit_nps.takes_several_sets = True  # type: ignore[attr-defined]


def modelled(profile: Profile, law: DoseLaw, device: str | None = None) -> FilteredNoise:
    """Return the noise of a profile under a dose law: its kernels blended, or its one kernel everywhere."""
    from robustkit.noise.kernel import build, build_stationary, cropped
    from robustkit.noise.pyramid import fit_kernels
    from robustkit.noise.texture import scale_of

    rows, columns = profile.axes()
    if profile.method == "regional":
        kernels = fit_kernels(profile.spectra, 1 + scale_of(profile.pixel_mm))
        bank = build(rows, columns, kernels[0], profile.sigma, kernels[1:])
    elif profile.spectra.shape[:2] == (1, 1):
        bank = build_stationary(cropped(profile.kernels()[0, 0]), profile.sigma)
    else:
        bank = build(rows, columns, profile.kernels(), profile.sigma)
    report = {**profile.report, "reference_mas": law.reference_mas, "electronic_ratio": law.electronic_ratio}
    if device is not None:
        report["engine"] = f"torch, {device}"
    return FilteredNoise(bank, profile.sigma, law, report, device=device)


def with_law(
    repeats: RepeatScans | Sequence[RepeatScans],
    reference_mas: float | None,
    electronic_ratio: float | None,
    add_to_source: float | None,
) -> tuple[RepeatScans, DoseLaw]:
    """Return the set that gives the noise, and the dose law of all sets."""
    sets = [repeats] if isinstance(repeats, RepeatScans) else list(repeats)
    first = _first(sets)
    measured = tuple(sorted(s.mas for s in sets if s.mas is not None)) if len(sets) > 1 else ()
    reference = reference_mas if reference_mas is not None else first.mas
    if len(sets) > 1 and electronic_ratio is None:
        electronic_ratio = fit_dose(sets, first.mas).electronic_ratio
    law = dose_law(reference, electronic_ratio=electronic_ratio, add_to_source=add_to_source, measured=measured)
    return first, law


def _first(sets: Sequence[RepeatScans]) -> RepeatScans:
    if not sets:
        raise DataError("no repeats were given; scan an object at least twice or use `robustkit scan`")
    return sets[0]


def words_of(draws: Sequence[Draw]) -> NDArray[np.uint32]:
    """(B, 4) uint32: the counter words of each draw."""
    return np.array([draw.words for draw in draws], dtype=np.uint32).reshape(len(draws), 4)


def at_levels(fields: Image, factors: NDArray[np.float64]) -> Image:
    """Scale fields (B, H, W) by factors (L,) to (B, L, H, W) float32; a single level is scaled in place."""
    if len(factors) == 1:
        fields *= np.float32(factors[0])
        return fields[:, None]
    out = np.empty((len(fields), len(factors), *fields.shape[1:]), dtype=np.float32)
    for level, factor in enumerate(factors):
        np.multiply(fields, np.float32(factor), out=out[:, level])
    return out


def same_shape(clean: Image, sigma: NDArray[Any]) -> None:
    """Raise DataError unless the image has the shape on which the noise was measured."""
    if clean.shape != sigma.shape:
        raise DataError(
            f"noise measured on {sigma.shape[0]} x {sigma.shape[1]} pixels does not fit an image of "
            f"{' x '.join(map(str, clean.shape))}: measure it on this slice, or resample the slice"
        )
