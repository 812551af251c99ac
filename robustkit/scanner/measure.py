"""How noisy one image is: the standard deviation in small windows of soft tissue, where it is most often.

After Christianson et al. 2015 (Am J Roentgenol 205:W93), whose global noise level is the mode of local standard
deviations. A small window reads correlated noise too low, by a share that follows from the kernel's spectrum; a large
one reads anatomy. Windows of 8 mm are read, and the share is put right.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robustkit.scanner.filters import KERNELS
from robustkit.types import Image, PixelSize, Slice

WINDOW_MM = 8.0
TISSUES_HU = ((0.0, 100.0), (-150.0, 200.0))
"""Local means that count as soft tissue; the wider range, which holds fat and its borders, where the first has none."""
FLATTEST_HU = 0.3
"""A mode below this is no scan's noise."""
_BIN = 0.02
_SMOOTHING = 4.0


def measured_sigma(item: Slice, kernel: str | None = None) -> float | None:
    """Measure the noise of one image: the standard deviation of a pixel in soft tissue, HU.

    Parameters
    ----------
    item : the image. kernel : "standard", "smooth" or "sharp", for the share of noise that 8 mm windows miss; by
    default the class of the slice's own kernel name.

    Returns
    -------
    None where no soft tissue holds such windows, or where it is as flat as no scan is.
    """
    from robustkit.scanner.patients import kernel_class

    found = windows_of(item)
    if found is None:
        return None
    seen = typical_sd(item.pixels, found, item.pixel_mm)
    return seen / math.sqrt(window_share(kernel or kernel_class(item.kernel), item.pixel_mm))


def windows_of(item: Slice) -> NDArray[np.bool_] | None:
    """Return the centres (H, W) of the windows that hold nothing but soft tissue, None where there are too few."""
    from scipy import ndimage

    image = np.ones(item.pixels.shape, bool) if item.mask is None else item.mask
    smooth = ndimage.uniform_filter(item.pixels.astype(np.float64), _size(item.pixel_mm, 4.0))
    for low, high in TISSUES_HU:
        soft = (smooth > low) & (smooth < high) & image
        windows = ndimage.binary_erosion(soft, np.ones(_size(item.pixel_mm, WINDOW_MM), bool))
        if windows.sum() * item.pixel_mm[0] * item.pixel_mm[1] < 2.0 * WINDOW_MM**2:
            continue
        if typical_sd(item.pixels, windows, item.pixel_mm) >= FLATTEST_HU:
            return np.asarray(windows, bool)
    return None


def typical_sd(pixels: Image, windows: NDArray[np.bool_], pixel_mm: PixelSize) -> float:
    """Return the mode of the standard deviation in the windows (H, W) of one image or a stack (K, H, W), HU.

    Mode of a histogram of logarithms, 2 % bins, smoothed with 8 %.
    """
    from scipy import ndimage

    stack = pixels[None] if pixels.ndim == 2 else pixels
    read = np.concatenate([_local_sd(one, windows, pixel_mm) for one in stack])
    edges = np.arange(np.log(1e-2), np.log(1e4), _BIN)
    counts, _ = np.histogram(np.log(np.maximum(read, 1e-2)), edges)
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), _SMOOTHING)
    return float(np.exp(edges[int(np.argmax(smooth))] + 0.5 * _BIN))


def window_share(kernel: str, pixel_mm: PixelSize) -> float:
    """Return expected variance in an 8 mm window over the variance of a pixel, for stationary noise of a kernel.

    With c the noise's autocorrelation, n pixels in the window: (1 - mean of c over all pairs) n / (n - 1). The spectrum
    of FBP noise is |f| A(f)^2 (Riederer, Pelc, Chesler 1978), folded into the pixels' band.
    """
    size = _size(pixel_mm, WINDOW_MM)
    correlation = _autocorrelation(kernel, pixel_mm)
    lags = [np.abs(np.subtract.outer(np.arange(n), np.arange(n))).ravel() for n in size]
    pairs = correlation[np.ix_(lags[0], lags[1])].mean()
    count = size[0] * size[1]
    return float((1.0 - pairs) * count / (count - 1))


def _autocorrelation(kernel: str, pixel_mm: PixelSize, cells: int = 512) -> NDArray[np.float64]:
    """Autocorrelation (cells, cells), lag 0 first, of noise sampled at the pixels."""
    fine = [np.fft.fftfreq(cells, mm / 4.0) for mm in pixel_mm]
    frequency = np.hypot(fine[0][:, None], fine[1][None, :])
    spectrum = frequency * KERNELS[kernel](frequency) ** 2
    covariance = np.fft.ifft2(spectrum).real[::4, ::4]
    return np.asarray(covariance / covariance[0, 0], dtype=np.float64)


def _size(pixel_mm: PixelSize, window_mm: float) -> tuple[int, int]:
    return max(3, round(window_mm / pixel_mm[0])), max(3, round(window_mm / pixel_mm[1]))


def _local_sd(pixels: Image, windows: NDArray[np.bool_], pixel_mm: PixelSize) -> NDArray[np.float64]:
    from scipy import ndimage

    size = _size(pixel_mm, WINDOW_MM)
    count = size[0] * size[1]
    offset = pixels - pixels[windows].mean(dtype=np.float64)
    mean = ndimage.uniform_filter(offset, size)[windows]
    square = ndimage.uniform_filter(offset**2, size)[windows]
    return np.asarray(np.sqrt(np.maximum(square - mean**2, 0.0) * count / (count - 1)), dtype=np.float64)
