"""The virtual CT scanner: noise is made where a scanner makes it, in the counts, and reconstructed from there.

Line integrals p of a slice are worked out once. One scan then counts photons, c ~ Poisson(c0 exp(-p)) + N(0, s^2),
takes the logarithm, q = -ln(max(c, 1) / c0), and is reconstructed by filtered back-projection (FBP). FBP is linear,
so of a repeat only q - p, its noise, need be reconstructed; the logarithm's own non-linearity is in q.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import UsageError
from robustkit.scanner.counting import log_moments
from robustkit.scanner.filters import check_kernel, response, taps
from robustkit.scanner.geometry import (
    MU_WATER,
    Geometry,
    attenuation,
    geometry_for,
    line_integrals,
    line_integrals_of_many,
)
from robustkit.seeding import Draw, draws
from robustkit.types import Image, RepeatScans, Slice, Storage

REFERENCE_MAS = 200.0
REFERENCE_VIEWS = 600
REFERENCE_DETECTOR_MM = 0.85
CT_STORAGE = Storage(low=-1024.0, high=3071.0)
"""12-bit integers of 1 HU, as CT images are stored."""
_LANES = 16
_BLOCK = 8
_BAND = 32


class Projection(NamedTuple):
    """A slice as the scanner's rays see it: line integrals p and exp(-p) with the bow-tie, both (views, detectors)."""

    geometry: Geometry
    integrals: Image
    transmission: Image


class _Lane(NamedTuple):
    """One reconstruction: whose rays, its noise (photons per ray, a draw's words; None is no noise), signal or not."""

    projection: Projection
    photons: float | None
    words: NDArray[np.uint32] | None
    signal: bool = False


@dataclass(frozen=True)
class VirtualScanner:
    """A parallel-beam CT scanner with counting noise, reconstructing by FBP, in HU.

    Attributes
    ----------
    kernel : "standard", "smooth" or "sharp" (`robustkit.scanner.filters`).
    photons : photons per ray in air at 200 mAs, for 600 views of 0.85 mm detectors; other views and detectors share
        the same total, so dose does not depend on them.
    electronic : standard deviation of the electronic noise of a ray, in photons.
    views : angles over 180 degrees, a multiple of 8. detector_mm : detector width on the axis.
    bowtie_mm : diameter of the water cylinder that a bow-tie filter evens out; None is no bow-tie.
    threads : plain threads to use; 0 takes every core this process may run on. Bits do not depend on it.

    Raises
    ------
    UsageError : an unknown kernel, or a number that no scanner has.
    """

    kernel: str = "standard"
    photons: float = 5e5
    electronic: float = 3.0
    views: int = REFERENCE_VIEWS
    detector_mm: float = REFERENCE_DETECTOR_MM
    bowtie_mm: float | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        check_kernel(self.kernel)
        if self.views < _BLOCK or self.views % _BLOCK:
            raise UsageError(f"views must be a positive multiple of {_BLOCK}, got {self.views}")
        for name in ("photons", "detector_mm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UsageError(f"{name} must be greater than 0, got {getattr(self, name):g}")
        if not (math.isfinite(self.electronic) and self.electronic >= 0):
            raise UsageError(f"electronic must not be negative, got {self.electronic:g}")
        if self.bowtie_mm is not None and not self.bowtie_mm > 0:
            raise UsageError(f"bowtie_mm must be greater than 0, got {self.bowtie_mm:g}")

    def photons_per_ray(self, mas: float) -> float:
        """Return the photons that a ray through air brings at `mas`; UsageError unless mas > 0."""
        if not (math.isfinite(mas) and mas > 0):
            raise UsageError(f"mAs must be greater than 0, got {mas:g}")
        share = REFERENCE_VIEWS / self.views * self.detector_mm / REFERENCE_DETECTOR_MM
        return self.photons * mas / REFERENCE_MAS * share

    def project(self, item: Slice) -> Projection:
        """Return the line integrals of a slice (kept for the last few slices)."""
        return _projected(item, self.views, self.detector_mm, self.bowtie_mm, self.threads)

    def noiseless(self, item: Slice, *, every: int = 1) -> Image:
        """Reconstruct a slice from noiseless projections: (H, W) float32 HU, unrounded.

        `every` > 1 reconstructs the pixels [every // 2 :: every] of either axis alone, with the very values they
        have in the full image.
        """
        image: Image = self._reconstruct([_Lane(self.project(item), None, None, signal=True)], every)[0]
        image -= np.float32(1000.0)
        return image

    def noise(self, item: Slice, mas: float, draws: Sequence[Draw], *, every: int = 1) -> Image:
        """Return the noise of scans of a slice at `mas`, one a draw: (B, H, W) float32 HU, unrounded.

        A realization depends on its draw and the slice alone. Levels of one draw share their quantiles: the same
        normal number decides a ray's counts at every mAs (common random numbers), and each level has its own exact law.
        """
        return self.noise_at(item, [mas], draws, every=every)[:, 0]

    def noise_at(self, item: Slice, levels: Sequence[float], draws: Sequence[Draw], *, every: int = 1) -> Image:
        """Return the noise of each draw at each mAs: (B, L, H, W) float32 HU. Each level costs a scan."""
        projection = self.project(item)
        photons = [self.photons_per_ray(mas) for mas in levels]
        lanes = [_Lane(projection, n0, _words(draw)) for draw in draws for n0 in photons]
        flat = self._reconstruct(lanes, every)
        return flat.reshape(len(draws), len(photons), *flat.shape[1:])

    def repeats(
        self, item: Slice, mas: float, k: int, *, seed: int = 0, stream: str = "scan", first: int = 0, every: int = 1
    ) -> RepeatScans:
        """Scan a slice k times at `mas`: realizations first .. first + k - 1 of (seed, stream, slice id).

        The slice's pixels are the object. Scans are stored as a scanner stores them, in whole HU from -1024 to 3071
        (or on the slice's own grid); pixels of the slice's padding keep their value.

        Raises
        ------
        UsageError : mas <= 0, k < 2.
        """
        if k < 2:
            raise UsageError(f"repeat scans need k of at least 2, got {k}")
        clean = self.noiseless(item, every=every)
        noise = self.noise(item, mas, draws(seed, stream, item.id, range(first, first + k)), every=every)
        return scans_of(item, clean, noise, mas, kernel=self.kernel, source=self.describe(), every=every)

    def scan_each(
        self,
        items: Sequence[Slice],
        mas: Sequence[float] | float,
        *,
        seed: int = 0,
        stream: str = "scan",
        realization: int = 0,
        every: int = 1,
    ) -> list[Image]:
        """Scan many slices once each, sixteen together: stored images (H, W) float32 HU, one a slice.

        Realization `realization` of `repeats` of each slice, but for the rounding of one sum (a HU here and there), at
        a fraction of its cost when only one scan of each is wanted.
        """
        levels = [float(mas)] * len(items) if isinstance(mas, int | float) else [float(m) for m in mas]
        if len(levels) != len(items):
            raise UsageError(f"{len(items)} slices and {len(levels)} mAs: give one mAs for all, or one for each slice")
        images: dict[int, Image] = {}
        for numbers in _blocks(len(items), _LANES):
            group = list(zip(range(len(items))[numbers], items[numbers], levels[numbers], strict=True))
            projections = self._project_each([item for _, item, _ in group])
            lanes = {
                i: _Lane(projection, self.photons_per_ray(m), _words(Draw(seed, stream, item.id, realization)))
                for (i, item, m), projection in zip(group, projections, strict=True)
            }
            for where in _same_geometry(lanes):
                found = self._reconstruct([lanes[i]._replace(signal=True) for i in where], every)
                images.update(zip(where, found, strict=True))
        return [_store(item, images[i] - np.float32(1000.0), every) for i, item in enumerate(items)]

    def sd_map(self, item: Slice, mas: float, *, every: int = 1) -> Image:
        """Return each pixel's standard deviation over scans of a slice at `mas`, analytic: (H, W) float32 HU."""
        only: Image = self.sd_at(item, [mas], every=every)[0]
        return only

    def sd_at(self, item: Slice, levels: Sequence[float], *, every: int = 1) -> Image:
        """Return the analytic standard deviation at each mAs: (L, H, W) float32 HU.

        The variance of every ray, carried through the squared weights of filter, interpolation and back-projection;
        exact, since rays are independent.
        """
        projection = self.project(item)
        photons = [self.photons_per_ray(mas) for mas in levels]
        parts = [self._variance(projection, photons[i : i + _LANES], every) for i in range(0, len(photons), _LANES)]
        variance: Image = np.concatenate(parts)
        np.sqrt(variance, out=variance)
        return variance

    def bias_map(self, item: Slice, mas: float, *, every: int = 1) -> Image:
        """Return the mean of `noise` at `mas`, analytic: (H, W) float32 HU.

        The logarithm of few counts is high on average, by 1 / (2 counts) to first order: rays through much bone leave
        bright streaks in the mean of low-dose scans.
        """
        projection = self.project(item)
        bias, _ = log_moments(self.photons_per_ray(mas) * projection.transmission, self.electronic)
        shifted = projection._replace(integrals=bias.astype(np.float32))
        only: Image = self._reconstruct([_Lane(shifted, None, None, signal=True)], every)[0]
        return only

    def describe(self) -> str:
        """Return the sentence fragment by which outputs name this scanner."""
        bowtie = f", bow-tie for {self.bowtie_mm:g} mm" if self.bowtie_mm else ""
        return (
            f"scanned by the virtual scanner ({self.kernel} kernel, {self.photons:.3g} photons per ray at "
            f"{REFERENCE_MAS:g} mAs, electronic noise {self.electronic:g} photons{bowtie}; virtual-scanner mAs)"
        )

    def _project_each(self, items: Sequence[Slice]) -> list[Projection]:
        """Project up to 16 slices, those of one geometry together."""
        groups: dict[Geometry, list[int]] = {}
        for i, item in enumerate(items):
            groups.setdefault(geometry_for(item, self.views, self.detector_mm), []).append(i)
        found: dict[int, Projection] = {}
        for geometry, where in groups.items():
            mus = [attenuation(items[i]) for i in where]
            for i, integrals in zip(where, line_integrals_of_many(mus, geometry, _mapper(self.threads)), strict=True):
                found[i] = _seen(geometry, integrals, self.bowtie_mm)
        return [found[i] for i in range(len(items))]

    def _reconstruct(self, lanes: Sequence[_Lane], every: int) -> Image:
        """FBP of lanes that share one geometry: (B, H, W) float32, water = 1000."""
        geometry = lanes[0].projection.geometry
        ys, xs = geometry.centres(_checked(every))
        out = np.empty((len(lanes), ys.size, xs.size), np.float32)
        mapped = _mapper(self.threads)
        from robustkit.scanner.lanes import aligned

        sinogram = aligned((geometry.views, geometry.width, _LANES))
        for start in range(0, len(lanes), _LANES):
            group = lanes[start : start + _LANES]
            self._filter(group, sinogram, mapped)
            _backproject(geometry, sinogram, ys, xs, out[start : start + len(group)], mapped)
        return out

    def _filter(self, lanes: Sequence[_Lane], sinogram: Image, mapped: Callable[..., Any]) -> None:
        """Fill (views, width, LANES) with the filtered log data of up to 16 lanes."""
        from scipy import fft

        from robustkit.scanner import kernels

        geometry = lanes[0].projection.geometry
        length, start = _fft_length(geometry), geometry.pad
        gain = response(self.kernel, self.detector_mm, length).astype(np.float32)

        def block(views: slice) -> None:
            rows = np.empty((len(lanes), views.stop - views.start, length), np.float32)
            for lane, row in zip(lanes, rows, strict=True):
                if lane.photons is None or lane.words is None:
                    row[:] = 0.0
                else:
                    kernels.sinogram_noise(
                        lane.projection.transmission[views],
                        np.float32(lane.photons),
                        self.electronic,
                        lane.words,
                        views.start,
                        start,
                        row,
                    )
                if lane.signal:
                    row[:, start : start + geometry.detectors] += lane.projection.integrals[views]
            spectrum = fft.rfft(rows, axis=-1, overwrite_x=True)
            spectrum *= gain
            kernels.interleave(fft.irfft(spectrum, length, axis=-1, overwrite_x=True), sinogram[views])

        mapped(block, _blocks(geometry.views, _BLOCK))

    def _variance(self, projection: Projection, photons: Sequence[float], every: int) -> Image:
        """Variance (L <= 16, H, W) float32 HU^2 of the scans with so many photons per ray."""
        from scipy import fft

        from robustkit.scanner import kernels
        from robustkit.scanner.lanes import aligned

        geometry = projection.geometry
        length, start = _fft_length(geometry), geometry.pad
        weights = taps(self.kernel, self.detector_mm, length)
        own, neighbour = (fft.rfft(weights * np.roll(weights, shift)) for shift in (0, 1))
        variance, dip = (aligned((geometry.views, geometry.width, _LANES)) for _ in range(2))
        for level, n0 in enumerate(photons):
            rows = np.zeros((geometry.views, length))
            _, rows[:, start : start + geometry.detectors] = log_moments(n0 * projection.transmission, self.electronic)
            spectrum = fft.rfft(rows, axis=-1)
            a = fft.irfft(spectrum * own, length, axis=-1)
            # neighbour_k = w_k w_{k-1}: the covariance of outputs i and i - 1, read one to the right for i + 1 and i
            c = np.roll(fft.irfft(spectrum * neighbour, length, axis=-1), -1, axis=-1)
            variance[..., level] = a[:, : geometry.width]
            dip[..., level] = (a + np.roll(a, -1, axis=-1) - 2.0 * c)[:, : geometry.width]
        ys, xs = geometry.centres(_checked(every))
        out = np.empty((len(photons), ys.size, xs.size), np.float32)
        cosine, sine, centre = _angles(geometry)

        def band(rows: slice) -> None:
            image = aligned((ys[rows].size, xs.size, _LANES))
            kernels.backproject_variance(variance, dip, cosine, sine, xs, ys[rows], centre, image)
            kernels.separate(image, np.float32(_scale(geometry) ** 2), out[:, rows])

        _mapper(self.threads)(band, _blocks(ys.size, _BAND))
        return np.maximum(out, 0.0, out=out)


def scans_of(
    item: Slice, clean: Image, noise: Image, mas: float, *, kernel: str | None, source: str, every: int = 1
) -> RepeatScans:
    """Return repeat scans (K, H, W) of a slice: clean (H, W) plus noise (K, H, W), stored; padding as in the slice."""
    noise += clean
    pixels = _store(item, noise, every)
    mask = None if item.mask is None else item.mask[every // 2 :: every, every // 2 :: every]
    return RepeatScans(
        id=item.id,
        pixels=pixels,
        pixel_mm=(item.pixel_mm[0] * every, item.pixel_mm[1] * every),
        mas=mas,
        kernel=kernel,
        label=item.label,
        group=item.group,
        mask=mask,
        storage=item.storage or CT_STORAGE,
        protocol=item.protocol,
        source=source,
        synthetic=item.synthetic,
    )


def _store(item: Slice, pixels: Image, every: int) -> Image:
    stored = (item.storage or CT_STORAGE).apply(pixels, out=pixels)
    if item.mask is not None:
        sampled = (slice(every // 2, None, every),) * 2
        stored[..., ~item.mask[sampled]] = item.pixels[sampled][~item.mask[sampled]]
    return stored


@lru_cache(maxsize=4)
def _projected(item: Slice, views: int, detector_mm: float, bowtie_mm: float | None, threads: int) -> Projection:
    geometry = geometry_for(item, views, detector_mm)
    return _seen(geometry, line_integrals(attenuation(item), geometry, _mapper(threads)), bowtie_mm)


def _seen(geometry: Geometry, integrals: Image, bowtie_mm: float | None) -> Projection:
    transmission = np.exp(-integrals)
    if bowtie_mm is not None:
        transmission *= bowtie(geometry.positions_mm, bowtie_mm).astype(np.float32)
    return Projection(geometry, integrals, np.maximum(transmission, np.float32(1e-30)))


def bowtie(positions_mm: NDArray[np.float64], diameter_mm: float) -> NDArray[np.float64]:
    """Return the share of photons (D,) that a bow-tie passes at each distance from the axis, 1 at the centre.

    It evens out a water cylinder of `diameter_mm`: exp(-MU_WATER (diameter - chord)), but never less than 0.05.
    """
    chord = np.sqrt(np.maximum(diameter_mm**2 - (2.0 * positions_mm) ** 2, 0.0))
    return np.maximum(np.exp(-MU_WATER * (diameter_mm - chord)), 0.05)


def _backproject(
    geometry: Geometry, sinogram: Image, ys: Image, xs: Image, out: Image, mapped: Callable[..., Any]
) -> None:
    from robustkit.scanner import kernels
    from robustkit.scanner.lanes import aligned

    cosine, sine, centre = _angles(geometry)

    def band(rows: slice) -> None:
        image = aligned((ys[rows].size, xs.size, _LANES))
        kernels.backproject(sinogram, cosine, sine, xs, ys[rows], centre, image)
        kernels.separate(image, np.float32(_scale(geometry)), out[:, rows])

    mapped(band, _blocks(ys.size, _BAND))


def _angles(geometry: Geometry) -> tuple[Image, Image, np.float32]:
    angles = geometry.angles
    centre = np.float32(0.5 * (geometry.width - 1))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32), centre


def _scale(geometry: Geometry) -> float:
    """Sum of views to mu by pi / views, mu to HU by 1000 / MU_WATER."""
    return math.pi / geometry.views * 1000.0 / MU_WATER


@lru_cache(maxsize=16)
def _fft_length(geometry: Geometry) -> int:
    """Return a fast length at which no output pixel sees the other end of the row."""
    from scipy import fft

    return int(fft.next_fast_len(2 * (geometry.detectors + geometry.pad), real=True))


def _words(draw: Draw) -> NDArray[np.uint32]:
    return np.asarray(draw.words, dtype=np.uint32)


def _checked(every: int) -> int:
    if every < 1:
        raise UsageError(f"every must be at least 1, got {every}")
    return every


def _blocks(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _same_geometry(lanes: Mapping[int, _Lane]) -> list[list[int]]:
    groups: dict[Geometry, list[int]] = {}
    for i, lane in lanes.items():
        groups.setdefault(lane.projection.geometry, []).append(i)
    return list(groups.values())


def _mapper(threads: int) -> Callable[[Callable[[Any], None], Iterable[Any]], None]:
    """Return a function that runs another over items, on plain threads."""
    count = threads or _cores()

    def run(function: Callable[[Any], None], items: Iterable[Any]) -> None:
        if count == 1:
            for item in items:
                function(item)
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(count) as pool:
            list(pool.map(function, items))

    return run


def _cores() -> int:
    """Cores that this process may run on; not every system can tell it apart from those there are."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
