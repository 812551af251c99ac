"""Reconstruction kernels: a ramp times an apodisation, as filter of the sinogram's rows.

The ramp is the transform of the sampled band-limited ramp (Kak and Slaney 1988, eq. 3.61), not |f| on a grid: its
taps are exact, so flat regions keep their HU. The apodisation A has A(0) = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import UsageError

STANDARD_ZERO = 0.50
SMOOTH_ZERO = 0.33
SHARP_FULL, SHARP_ZERO = 0.40, 0.62
"""Frequencies in 1 / mm: where the Hann windows of standard and smooth reach zero, where sharp's taper begins, ends."""


def _hann(frequency: NDArray[np.float64], zero: float) -> NDArray[np.float64]:
    return np.where(frequency < zero, 0.5 + 0.5 * np.cos(np.pi * frequency / zero), 0.0)


def standard(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hann window, zero at 0.50 / mm: soft tissue."""
    return _hann(frequency, STANDARD_ZERO)


def smooth(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hann window, zero at 0.33 / mm."""
    return _hann(frequency, SMOOTH_ZERO)


def sharp(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 up to 0.40 / mm, then a cosine taper to zero at 0.62 / mm: lung and bone."""
    taper = np.clip((frequency - SHARP_FULL) / (SHARP_ZERO - SHARP_FULL), 0.0, 1.0)
    return 0.5 + 0.5 * np.cos(np.pi * taper)


KERNELS = {"standard": standard, "smooth": smooth, "sharp": sharp}


def check_kernel(name: str) -> str:
    """Return the name of a kernel that exists; UsageError otherwise."""
    if name not in KERNELS:
        raise UsageError(f"unknown reconstruction kernel {name!r}; there is: {', '.join(KERNELS)}")
    return name


def response(name: str, detector_mm: float, length: int) -> NDArray[np.float64]:
    """Return the real, even frequency response (length // 2 + 1,) of a kernel, in 1 / mm, for rows of `length`."""
    frequency = np.asarray(np.fft.rfftfreq(length, detector_mm), dtype=np.float64)
    ramp = np.fft.rfft(_ramp_taps(detector_mm, length)).real * detector_mm
    return np.asarray(ramp * KERNELS[name](frequency), dtype=np.float64)


def taps(name: str, detector_mm: float, length: int) -> NDArray[np.float64]:
    """Return the kernel as circular convolution weights (length,), lag 0 first; their sum over data is in 1 / mm."""
    return np.fft.irfft(response(name, detector_mm, length), length)


def _ramp_taps(detector_mm: float, length: int) -> NDArray[np.float64]:
    lag = np.rint(np.fft.fftfreq(length) * length)
    odd = np.mod(lag, 2) == 1
    inverse_square = np.divide(1.0, lag**2, out=np.zeros(length), where=lag != 0)
    taps = np.where(odd, -inverse_square / (np.pi * detector_mm) ** 2, 0.0)
    taps[0] = 1.0 / (2.0 * detector_mm) ** 2
    return taps
