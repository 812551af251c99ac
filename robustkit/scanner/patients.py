"""Repeats of a slice that was scanned once: its noise measured in the image, its body completed, and scanned again."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import UsageError
from robustkit.scanner.filters import KERNELS, check_kernel
from robustkit.scanner.measure import typical_sd, window_share, windows_of
from robustkit.scanner.scanner import REFERENCE_MAS, VirtualScanner, scans_of
from robustkit.scanner.truncation import Whole, completed
from robustkit.seeding import draws
from robustkit.types import RepeatScans, Slice

_CALIBRATION_DRAWS = 4
_CALIBRATION_STEPS = 2
_CALIBRATION_FIRST = 2**40
"""Realizations by which the noise is calibrated begin here, far from those of any repeats."""
_FAMILIES = (
    (r"fc(\d+)", 10, 30),
    (r"[a-z]{1,2}(\d+)", 30, 50),
)
"""Numbered kernel names: pattern, first standard number, first sharp number (Toshiba FC; Siemens B, H, Br, Qr ...)."""
_WORDS = {"sharp": ("lung", "bone", "edge", "detail", "sharp"), "smooth": ("soft", "smooth")}
_LETTERS = {"a": "smooth", "ua": "smooth", "c": "sharp", "d": "sharp", "e": "sharp", "yc": "sharp", "yd": "sharp"}


def kernel_class(name: str | None) -> str:
    """Return the kernel of the virtual scanner nearest to a reconstruction kernel's name.

    Siemens numbers below 30 (B10f, H20s, Br26) and GE "SOFT" are smooth; Siemens numbers from 50 on, "LUNG", "BONE",
    "EDGE", "DETAIL", Toshiba FC30 and more, Philips C, D and E are sharp; anything else, and None, is standard.
    """
    text = (name or "").strip().lower()
    if text in KERNELS:
        return text
    for kind, words in _WORDS.items():
        if any(word in text for word in words):
            return kind
    for pattern, first_standard, first_sharp in _FAMILIES:
        numbered = re.match(pattern, text)
        if numbered:
            number = int(numbered[1])
            return "smooth" if number < first_standard else "standard" if number < first_sharp else "sharp"
    return _LETTERS.get(text, "standard")


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
    k, seed, stream : realizations 0 .. k - 1 of (seed, stream, slice id).
    kernel : of the virtual scanner; by default the class of the slice's kernel name (`kernel_class`).
    truncated : what to do with a body cut by the field of view: "complete" it (`truncation.completed`) or "refuse".
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
    whole = completed(item, truncated)
    setting = _calibrated(VirtualScanner(kernel=chosen, threads=threads), whole, mas)
    noise = setting.scanner.noise(whole.object, setting.mas, draws(seed, stream, item.id, range(k)))
    noise = np.ascontiguousarray(noise[:, whole.rows, whole.columns])
    clean = item.pixels
    if item.synthetic:
        clean = setting.scanner.noiseless(whole.object)[whole.rows, whole.columns]
    named = "" if kernel is not None else f" for {item.kernel!r}" if item.kernel else ", the image naming none"
    scanner = f"simulated for this slice by the virtual scanner ({chosen} kernel{named})"
    source = "; ".join([scanner, setting.told, *whole.told, "not measured on this scanner"])
    scans = scans_of(item, clean, noise, setting.mas, kernel=chosen, source=source)
    return replace(scans, anchored=setting.anchored)


@dataclass(frozen=True)
class _Setting:
    scanner: VirtualScanner
    mas: float
    told: str
    anchored: bool = True


def _calibrated(scanner: VirtualScanner, whole: Whole, mas: float | None) -> _Setting:
    """Set the photons (mAs known) or the mAs (not known) at which the scanner's noise reads as the image's does."""
    windows = None if whole.image.synthetic else windows_of(whole.image)
    if windows is None:
        why = "a synthetic image" if whole.image.synthetic else "no flat soft tissue to measure it in"
        told = f"noise not calibrated ({why}), virtual-scanner mAs"
        return _Setting(scanner, mas or REFERENCE_MAS, told, anchored=whole.image.synthetic)
    level = mas if mas is not None else REFERENCE_MAS
    seen = typical_sd(whole.image.pixels, windows, whole.image.pixel_mm)
    factor = _factor(scanner, whole, level, seen, windows)
    sigma = seen / math.sqrt(window_share(scanner.kernel, whole.image.pixel_mm))
    told = f"noise calibrated to the {sigma:.1f} HU seen in the image"
    if mas is None:
        return _Setting(scanner, level * factor, f"{told}, virtual-scanner mAs")
    return _Setting(replace(scanner, photons=scanner.photons * factor), mas, f"{told} at its {mas:g} mAs")


def _factor(scanner: VirtualScanner, whole: Whole, mas: float, seen: float, windows: NDArray[np.bool_]) -> float:
    """Factor on the photons at which simulated noise, read in the image's own windows, reads as the image does."""
    last = _CALIBRATION_FIRST + _CALIBRATION_DRAWS
    keys = draws(0, "fit", whole.image.id, range(_CALIBRATION_FIRST, last))
    factor = 1.0
    for _ in range(_CALIBRATION_STEPS):
        noise = scanner.noise(whole.object, mas * factor, keys)[:, whole.rows, whole.columns]
        factor *= (typical_sd(noise, windows, whole.image.pixel_mm) / seen) ** 2
    return factor
