"""Repeats of a slice that was scanned once: its noise measured in the image, its body completed, and scanned again."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError, UsageError
from robustkit.scanner.filters import KERNELS, check_kernel
from robustkit.scanner.scanner import REFERENCE_MAS, VirtualScanner, scans_of
from robustkit.seeding import draws
from robustkit.types import Image, PixelSize, RepeatScans, Slice

BODY_HU = -300.0
"""Pixels above this are body."""
EMPTY_HU = -950.0
"""Pixels of an image below this are air with noise on it; rays pass them as air."""
SOFT_TISSUE_HU = (-150.0, 200.0)
WINDOW_MM = 20.0
"""Side of the windows in which noise is measured: 6 mm windows read correlated noise a quarter too low."""
SHORTEST_CUT_MM = 15.0
"""A shorter stretch of body on the border is a couch or a lead, not a cut body."""
MOST_CUT = 0.6
"""Share of the border that may be body: beyond it, nothing says how the body ends."""
_CALIBRATION_DRAWS = 4
_CALIBRATION_STEPS = 3


def kernel_class(name: str | None) -> str:
    """Return the kernel of the virtual scanner nearest to a reconstruction kernel's name.

    Siemens B10-B29 (and Br, Bf, H ... of the same numbers) and GE "soft" are smooth, numbers from 50 on, "lung",
    "bone", "edge", "detail", Toshiba FC30 and more, Philips C, D, E are sharp; anything else, and None, is standard.
    """
    text = (name or "").strip().lower()
    if text in KERNELS:
        return text
    if any(word in text for word in ("lung", "bone", "edge", "detail", "sharp")):
        return "sharp"
    if any(word in text for word in ("soft", "smooth")):
        return "smooth"
    toshiba = re.match(r"fc(\d+)", text)
    if toshiba:
        return "sharp" if int(toshiba[1]) >= 30 else "standard"
    numbered = re.match(r"[a-z]{1,2}(\d+)", text)
    if numbered:
        number = int(numbered[1])
        return "smooth" if number < 30 else "standard" if number < 50 else "sharp"
    if text in ("c", "d", "e", "yc", "yd"):
        return "sharp"
    return "smooth" if text in ("a", "ua") else "standard"


def as_object(item: Slice) -> Slice:
    """Return the slice as rays meet it: noisy air, and whatever is not image, made plain air of -1000 HU."""
    pixels = item.pixels.copy()
    empty = pixels < EMPTY_HU
    if item.mask is not None:
        empty |= ~item.mask
    pixels[empty] = -1000.0
    return replace(item, pixels=pixels)


def local_sd(item: Slice, window_mm: float = WINDOW_MM) -> NDArray[np.float64]:
    """Return the standard deviation in a square window around each pixel (H, W), NaN where it is not all soft tissue."""
    return _local_sd(item.pixels.astype(np.float64), _soft_windows(item, window_mm), item.pixel_mm, window_mm)


def measured_sigma(item: Slice) -> float | None:
    """Measure the noise of one image, HU: the mode of the local standard deviation in soft tissue.

    Windows of 20 mm (after Christianson et al. 2015, whose 6 mm windows high-pass correlated noise); in a body too
    small for them 14, then 10 mm. None where no soft tissue holds such a window, or it is as flat as no scan is.
    """
    found = _mode(item)
    return None if found is None else found[0]


def simulate_repeats(
    item: Slice,
    *,
    mas: float | None = None,
    k: int = 20,
    seed: int = 0,
    stream: str = "fit",
    kernel: str | None = None,
    truncated: str = "complete",
    threads: int = 0,
) -> RepeatScans:
    """Simulate k repeats for this very slice: the virtual scanner's rays through it, noise at the level seen in it.

    The image itself stands for the noiseless reconstruction, so the mean of the repeats is the image; a synthetic
    slice is an object instead, scanned and reconstructed.

    Parameters
    ----------
    item : the slice. mas : mAs of the image and of the repeats; None where it is not known: the repeats then carry
    the mAs at which the virtual scanner makes this noise, and `source` says "virtual-scanner mAs".
    kernel : of the virtual scanner; by default the class of the slice's kernel name (`kernel_class`).
    truncated : what to do with a body cut by the field of view: "complete" it, rounded off beyond the cut by soft
    tissue, or "refuse".
    threads : plain threads, 0 for every core.

    Returns
    -------
    RepeatScans whose `source` tells kernel, calibration and completion in a sentence.

    Raises
    ------
    UsageError : mas <= 0, k < 2, an unknown kernel or way with cut bodies. DataError : nothing but air; a body cut by
    most of the border, or cut at all with "refuse".
    """
    if k < 2:
        raise UsageError(f"repeat scans need k of at least 2, got {k}")
    if mas is not None and not (math.isfinite(mas) and mas > 0):
        raise UsageError(f"mAs must be greater than 0, got {mas:g}")
    chosen = check_kernel(kernel) if kernel is not None else kernel_class(item.kernel)
    scanner = VirtualScanner(kernel=chosen, threads=threads)
    whole = completed(item, truncated)
    setting = _calibrate(scanner, whole, mas)
    noise = setting.scanner.noise(whole.object, setting.mas, draws(seed, stream, item.id, range(k)))
    noise = np.ascontiguousarray(noise[:, whole.rows, whole.columns])
    clean = item.pixels
    if item.synthetic:
        clean = setting.scanner.noiseless(whole.object)[whole.rows, whole.columns]
    told = [f"simulated for this slice by the virtual scanner ({chosen} kernel{_guessed(item, kernel)})"]
    source = "; ".join([*told, setting.told, *whole.told, "not measured on this scanner"])
    return scans_of(item, clean, noise, setting.mas, kernel=chosen, source=source)


@dataclass(frozen=True, eq=False)
class Whole:
    """A slice as an object with nothing cut off: `object` holds the image at [rows, columns]; `told` says what was done."""

    image: Slice
    object: Slice
    rows: slice
    columns: slice
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Setting:
    scanner: VirtualScanner
    mas: float
    told: str


def completed(item: Slice, truncated: str = "complete") -> Whole:
    """Return the slice with a body that its field of view cut rounded off; see `simulate_repeats` for `truncated`.

    Beyond a stretch of length c of body on the border the body goes on as an ellipse over that chord, c / 4 deep at
    its middle, filled with the median soft tissue of the stretch.
    """
    if truncated not in ("complete", "refuse"):
        raise UsageError(f"truncated must be complete or refuse, got {truncated!r}")
    plain = as_object(item)
    if not (plain.pixels > BODY_HU).any():
        raise DataError("this image shows nothing but air: the virtual scanner has nothing to scan")
    height, width = plain.pixels.shape
    inside = Whole(item, plain, slice(0, height), slice(0, width))
    cut = _cut(plain)
    if cut.share == 0.0:
        return inside
    if truncated == "refuse" or cut.share > MOST_CUT:
        cure = "give --repeats or --profile for it" + (
            ", or --set truncated=complete" if cut.share <= MOST_CUT else ", or an image of the whole body"
        )
        raise DataError(
            f"the field of view cuts the body on {cut.share:.0%} of its border, so its noise cannot be simulated; {cure}"
        )
    return _rounded_off(plain, cut)


@dataclass(frozen=True, eq=False)
class _Cut:
    """Where body meets the border of what was imaged: `share` of the border, `depth_mm` (H, W) to go on beyond it."""

    share: float
    depth_mm: NDArray[np.float64]
    fill: NDArray[np.float64]


def _valid(item: Slice) -> NDArray[np.bool_]:
    return np.ones(item.pixels.shape, bool) if item.mask is None else item.mask


def _cut(item: Slice) -> _Cut:
    from scipy import ndimage

    valid = _valid(item)
    border = valid & ~ndimage.binary_erosion(valid)
    body = ndimage.binary_opening(item.pixels > BODY_HU, iterations=2)
    touching = border & body
    depth, fill = np.zeros(valid.shape), np.full(valid.shape, -1000.0)
    runs, count = ndimage.label(touching, np.ones((3, 3)))
    pixel = math.sqrt(item.pixel_mm[0] * item.pixel_mm[1])
    cut = 0
    ends = ndimage.distance_transform_edt(~(border & ~body), sampling=item.pixel_mm)
    for run in range(1, count + 1):
        where = runs == run
        length = where.sum() * pixel
        if length < SHORTEST_CUT_MM:
            continue
        cut += int(where.sum())
        along = np.minimum(ends[where], 0.5 * length)
        depth[where] = 0.5 * np.sqrt(along * (length - along))
        fill[where] = np.clip(np.median(item.pixels[where]), -150.0, 100.0)
    return _Cut(cut / max(1, int(border.sum())), depth, fill)


def _rounded_off(item: Slice, cut: _Cut) -> Whole:
    from scipy import ndimage

    deepest = float(cut.depth_mm.max())
    rim = [math.ceil(deepest / mm) + 1 for mm in item.pixel_mm]
    pad = ((rim[0], rim[0]), (rim[1], rim[1]))
    valid = np.pad(_valid(item), pad)
    pixels = np.pad(item.pixels, pad, constant_values=-1000.0)
    away, nearest = ndimage.distance_transform_edt(~valid, sampling=item.pixel_mm, return_indices=True)
    depth = np.pad(cut.depth_mm, pad)[tuple(nearest)]
    fill = np.pad(cut.fill, pad)[tuple(nearest)]
    added = ~valid & (away < depth)
    pixels[added] = fill[added]
    height, width = item.pixels.shape
    told = (
        f"the field of view cuts the body on {cut.share:.0%} of its border: completed with soft tissue up to "
        f"{deepest:.0f} mm beyond, a guess"
    )
    whole = replace(item, pixels=pixels, mask=None)
    return Whole(item, whole, slice(rim[0], rim[0] + height), slice(rim[1], rim[1] + width), (told,))


def _guessed(item: Slice, kernel: str | None) -> str:
    if kernel is not None:
        return ""
    return f" for {item.kernel!r}" if item.kernel else ", the image naming none"


def _calibrate(scanner: VirtualScanner, whole: Whole, mas: float | None) -> _Setting:
    """Set the photons (mAs known) or the mAs (not known) at which the scanner's noise reads as the image's does."""
    found = None if whole.image.synthetic else _mode(whole.image)
    if found is None:
        why = "a synthetic image" if whole.image.synthetic else "no flat soft tissue to measure noise in"
        return _Setting(scanner, mas or REFERENCE_MAS, f"noise not calibrated ({why}), virtual-scanner mAs")
    sigma, windows, window_mm = found
    level = mas if mas is not None else REFERENCE_MAS
    factor = _factor(scanner, whole, level, sigma, windows, window_mm)
    if mas is None:
        return _Setting(
            scanner, level * factor, f"noise calibrated to {sigma:.1f} HU seen in the image, virtual-scanner mAs"
        )
    told = f"noise calibrated to {sigma:.1f} HU seen in the image at its {mas:g} mAs"
    return _Setting(replace(scanner, photons=scanner.photons * factor), mas, told)


def _factor(
    scanner: VirtualScanner, whole: Whole, mas: float, sigma: float, windows: NDArray[np.bool_], window_mm: float
) -> float:
    """Factor on the photons at which simulated noise, read in the image's own windows, has standard deviation sigma."""
    keys = draws(0, "fit", whole.image.id, range(10**6, 10**6 + _CALIBRATION_DRAWS))
    factor = 1.0
    for _ in range(_CALIBRATION_STEPS):
        noise = scanner.noise(whole.object, mas * factor, keys)[:, whole.rows, whole.columns]
        read = [_local_sd(one.astype(np.float64), windows, whole.image.pixel_mm, window_mm)[windows] for one in noise]
        factor *= float(np.mean(np.square(read)) / sigma**2)
    return factor


def _mode(item: Slice) -> tuple[float, NDArray[np.bool_], float] | None:
    """Mode of the local SD, the windows (centres) that lie within 15 % of it, and their side in mm."""
    for window_mm in (WINDOW_MM, 14.0, 10.0):
        windows = _soft_windows(item, window_mm)
        sd = _local_sd(item.pixels.astype(np.float64), windows, item.pixel_mm, window_mm)
        values = np.sort(sd[windows])
        if values.size * item.pixel_mm[0] * item.pixel_mm[1] < 2.0 * window_mm**2:
            continue
        mode = _half_sample_mode(values)
        if mode < 0.3:
            return None
        return mode, windows & (np.abs(sd - mode) <= 0.15 * mode), window_mm
    return None


def _half_sample_mode(values: NDArray[np.float64]) -> float:
    """Mode of sorted values: halve to the densest half until few are left (Robertson and Cryer 1974)."""
    while values.size > 40:
        half = (values.size + 1) // 2
        first = int(np.argmin(values[half - 1 :] - values[: values.size - half + 1]))
        values = values[first : first + half]
    return float(np.mean(values))


def _size(pixel_mm: PixelSize, window_mm: float) -> tuple[int, int]:
    return max(3, round(window_mm / pixel_mm[0])), max(3, round(window_mm / pixel_mm[1]))


def _soft_windows(item: Slice, window_mm: float) -> NDArray[np.bool_]:
    """Centres of windows that lie inside the image and hold nothing but soft tissue."""
    from scipy import ndimage

    smooth = ndimage.uniform_filter(item.pixels.astype(np.float64), _size(item.pixel_mm, 4.0))
    soft = (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1]) & _valid(item)
    return np.asarray(ndimage.binary_erosion(soft, np.ones(_size(item.pixel_mm, window_mm), bool)))


def _local_sd(
    pixels: NDArray[np.float64], windows: NDArray[np.bool_], pixel_mm: PixelSize, window_mm: float
) -> NDArray[np.float64]:
    from scipy import ndimage

    size = _size(pixel_mm, window_mm)
    count = size[0] * size[1]
    offset = pixels - (pixels[windows].mean() if windows.any() else 0.0)
    mean = ndimage.uniform_filter(offset, size)
    square = ndimage.uniform_filter(offset**2, size)
    variance = np.maximum(square - mean**2, 0.0) * count / (count - 1)
    return np.where(windows, np.sqrt(variance), np.nan)
