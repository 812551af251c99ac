"""The `scanner` noise model: noise made in the sinogram of one slice, at any mAs; exact for the virtual scanner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError, UsageError
from robustkit.scanner.filters import check_kernel
from robustkit.scanner.patients import kernel_class
from robustkit.scanner.scanner import VirtualScanner
from robustkit.scanner.truncation import BODY_HU, as_object
from robustkit.seeding import Draw
from robustkit.types import Image, RepeatScans, Slice

_CALIBRATION_STEPS = 3


@dataclass(frozen=True, eq=False)
class ScannerNoise:
    """Noise of scans of one slice by a `VirtualScanner`.

    Every level of a draw uses the same normal numbers, ray by ray: counts at each mAs are the same quantile of that
    mAs' own law. So levels are coupled monotonely and each has its exact marginal. A level costs a scan: the logarithm
    is not linear in the counts, so no level is a multiple of another.

    Attributes
    ----------
    scanner : the scanner. item : the slice whose rays it counts. reference_mas : mAs of the repeats it was fitted to.
    add_to_source : mAs of the image that noise will be added to, when only the missing part is wanted.
    report : what was fitted, JSON-able. unit : "mAs". zero_mean : False, because the logarithm of few counts is biased
    upward by 1/(2 N): a fraction of a percent of the noise, which shifts the image.
    """

    scanner: VirtualScanner
    item: Slice
    reference_mas: float
    add_to_source: float | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "mAs"
    zero_mean: bool = False

    def sample(self, clean: Image, levels: Sequence[float], draws: Sequence[Draw]) -> Image:
        """Noise (B, L, H, W) float32 HU, zero on padding; UsageError for mAs <= 0, DataError for another shape."""
        self._check(clean)
        if self.add_to_source is None:
            noise = self.scanner.noise_at(self.item, levels, draws)
        else:
            parts = [scanner.noise(self.item, mas, draws) for scanner, mas in map(self._missing, levels)]
            noise = np.stack(parts, axis=1)
        return self._padding_free(noise)

    def sd(self, clean: Image, levels: Sequence[float]) -> Image:
        """Analytic standard deviation (L, H, W) float32 HU, zero on padding."""
        self._check(clean)
        if self.add_to_source is None:
            return self._padding_free(self.scanner.sd_at(self.item, levels))
        parts = [scanner.sd_map(self.item, mas) for scanner, mas in map(self._missing, levels)]
        return self._padding_free(np.stack(parts))

    def _missing(self, level: float) -> tuple[VirtualScanner, float]:
        """Return a scanner and an mAs whose noise is what `level` has more than the source image.

        Quantum variance goes with 1 / mAs and electronic variance with 1 / mAs^2; both differences are met.
        """
        source = self.add_to_source or math.inf
        if not 0 < level < source:
            raise UsageError(
                f"noise can be added only below the image's own {source:g} mAs, not at {level:g} mAs; "
                "leave that level out"
            )
        less, more = 1.0 / source, 1.0 / level
        return replace(
            self.scanner, electronic=self.scanner.electronic * math.sqrt((more + less) / (more - less))
        ), 1.0 / (more - less)

    def _check(self, clean: Image) -> None:
        if clean.shape != self.item.pixels.shape:
            raise DataError(
                f"this noise was fitted to a slice of {self.item.pixels.shape} px, not {clean.shape}; "
                "fit it to the image's own repeats"
            )

    def _padding_free(self, noise: Image) -> Image:
        if self.item.mask is not None:
            noise[..., ~self.item.mask] = 0.0
        return noise


def fit_scanner(
    repeats: RepeatScans,
    *,
    kernel: str | None = None,
    photons: float | None = None,
    electronic: float = 3.0,
    reference_mas: float | None = None,
    add_to_source: float | None = None,
    threads: int = 1,
) -> ScannerNoise:
    """Fit the virtual scanner to repeats: their mean is what its rays meet, their spread sets its photons.

    Parameters
    ----------
    repeats : K scans of one slice.
    kernel : "standard", "smooth", "sharp"; by default the class of the repeats' own kernel name.
    photons : per ray at 200 mAs; by default such that the variance over the body is that of the repeats.
    electronic : standard deviation of a ray's electronic noise, photons. reference_mas : mAs of the repeats where they
    do not say it. add_to_source : mAs of the image, to add only the noise missing between it and a lower level.
    threads : plain threads; 0 takes every core.

    Raises
    ------
    UsageError : an unknown kernel, mAs <= 0. DataError : repeats that do not say their mAs, or hold no body.
    """
    mas = repeats.mas if reference_mas is None else reference_mas
    if mas is None:
        raise DataError("these repeats do not say their mAs; give it with --set reference_mas=MAS")
    chosen = check_kernel(kernel) if kernel is not None else kernel_class(repeats.kernel)
    item = as_object(_mean_slice(repeats, mas))
    scanner = VirtualScanner(kernel=chosen, electronic=electronic, threads=threads)
    body = (item.pixels > BODY_HU) if item.mask is None else (item.pixels > BODY_HU) & item.mask
    if not body.any():
        raise DataError("these repeats show nothing but air, so no noise can be fitted to them")
    fitted = photons if photons is not None else _calibrated(scanner, item, mas, repeats, body)
    scanner = replace(scanner, photons=fitted)
    sd = scanner.sd_map(item, mas)
    report = {
        "method": "sinogram",
        "K": len(repeats.pixels),
        "reference_mas": float(mas),
        "kernel": chosen,
        "photons_at_200_mas": float(fitted),
        "photons_from": "given" if photons is not None else "the variance of the repeats over the body",
        "electronic_photons": float(electronic),
        "sigma_median_hu": float(np.median(sd[body])),
        "sampling_floor": 1.0 / math.sqrt(2.0 * (len(repeats.pixels) - 1)),
        "warnings": _warnings(scanner, item, mas),
    }
    return ScannerNoise(scanner, item, float(mas), add_to_source, report)


def _mean_slice(repeats: RepeatScans, mas: float) -> Slice:
    return Slice(repeats.id, repeats.clean, repeats.pixel_mm, mas=mas, mask=repeats.mask, storage=repeats.storage)


def _calibrated(
    scanner: VirtualScanner, item: Slice, mas: float, repeats: RepeatScans, body: NDArray[np.bool_], every: int = 4
) -> float:
    """Photons at which the mean analytic variance over the body is the repeats' own, less that of rounding."""
    step = repeats.storage.step if repeats.storage else 0.0
    measured = repeats.pixels.var(axis=0, ddof=1, dtype=np.float64)[body].mean() - step**2 / 12.0
    if not measured > 0:
        raise DataError("these repeats do not differ from one another, so they hold no noise to fit")
    sampled = body[every // 2 :: every, every // 2 :: every]
    if not sampled.any():
        every, sampled = 1, body
    photons = scanner.photons
    for _ in range(_CALIBRATION_STEPS):
        sd = replace(scanner, photons=photons).sd_map(item, mas, every=every)
        photons *= float(np.mean(sd[sampled].astype(np.float64) ** 2) / measured)
    return photons


def _warnings(scanner: VirtualScanner, item: Slice, mas: float) -> list[str]:
    fewest = float(scanner.project(item).transmission.min()) * scanner.photons_per_ray(mas)
    found = ["noise of the virtual scanner's rays and kernel, not measured on this scanner"]
    if fewest < 20:
        found.append(f"the darkest ray gets {fewest:.1f} photons at {mas:g} mAs: its logarithm is biased")
    return found
