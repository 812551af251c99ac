"""Refuse repeats that do not repeat: too few, not finite, drifting, moved, or copies of one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.types import RepeatScans

DRIFT_HU = 0.25
"""Smallest range of scan offsets that is called drift, in HU, if it is also beyond chance."""
SHIFT_PIXELS = 0.1
"""Smallest range of scan positions that is called motion, in pixels, if it is also beyond chance."""
_CHANCE = 5.5  # standard errors of a range over scans: below 1 in 1000 for up to 50 scans
_BLOCK = 32
_FEWEST = 6  # blocks from which chance can be judged; a smaller image is not tested


def check_repeats(repeats: RepeatScans) -> NDArray[np.bool_]:
    """Return the pixels (H, W) that carry noise: in the mask, and not constant over the scans.

    Raises DataError for fewer than two scans, pixels that are not finite, a mask of another shape, duplicated scans,
    a drift of the HU scale or a shift of the object between scans.
    """
    pixels = repeats.pixels
    if pixels.ndim != 3 or len(pixels) < 2:
        count = len(pixels) if pixels.ndim == 3 else 1
        raise DataError(
            f"noise needs at least 2 repeated scans of one slice, got {count}: scan the object again without moving "
            "it, or simulate repeats with `robustkit scan`"
        )
    mask = np.ones(pixels.shape[1:], bool) if repeats.mask is None else repeats.mask
    if mask.shape != pixels.shape[1:]:
        raise DataError(
            f"mask of {mask.shape} pixels does not fit repeats of {pixels.shape[1:]}; give one of their shape"
        )
    if not np.isfinite(pixels).all():
        raise DataError("repeats hold pixels that are not finite (NaN or infinity): export the series again")
    valid: NDArray[np.bool_] = mask & (np.ptp(pixels, axis=0) > 0)
    if valid.any():
        _refuse_copies(pixels)
        _refuse_drift(repeats, valid)
        _refuse_motion(repeats, valid)
    return valid


def _refuse_copies(pixels: NDArray[np.float32]) -> None:
    seen: dict[int, int] = {}
    for k, scan in enumerate(pixels):
        digest = hash(scan.tobytes())
        if digest in seen:
            raise DataError(f"scans {seen[digest] + 1} and {k + 1} are identical: a copy is no repeat; remove one")
        seen[digest] = k


def _refuse_drift(repeats: RepeatScans, valid: NDArray[np.bool_]) -> None:
    """Scan offsets d_k of residual = d_k + noise, each pixel weighted by 1/variance."""
    residuals = repeats.residuals
    weight = valid / np.maximum(residuals.var(axis=0), 1e-6)
    offsets, error = _coefficients(residuals, weight, weight)
    reach = float(np.ptp(offsets))
    if reach > DRIFT_HU and reach > _CHANCE * error:
        raise DataError(
            f"the HU scale drifts between repeats by {reach:.2f} HU (chance alone: {error:.2f}): let the tube warm up "
            "and scan again, or remove the scans that drifted"
        )


def _refuse_motion(repeats: RepeatScans, valid: NDArray[np.bool_]) -> None:
    """Shifts of the object in px: regression of each residual on the gradient of the mean image."""
    residuals = repeats.residuals
    inverse = valid / np.maximum(_local_mean(residuals.var(axis=0)), 1e-6)
    for axis, name in ((0, "rows"), (1, "columns")):
        slope = np.gradient(_tent(repeats.clean), axis=axis) if repeats.clean.shape[axis] > 2 else None
        if slope is None:
            continue
        shifts, error = _coefficients(residuals, inverse * slope, inverse * slope**2)
        reach = float(np.ptp(shifts))
        if reach > SHIFT_PIXELS and reach > _CHANCE * error:
            raise DataError(
                f"the object moves between repeats by {reach:.2f} px along {name}: fix it and the table, scan "
                "again, or remove the scans that moved"
            )


def _coefficients(
    residuals: NDArray[np.float32], numerator: NDArray[np.floating], denominator: NDArray[np.floating]
) -> tuple[NDArray[np.float64], float]:
    """Weighted least squares of each scan on one regressor: (coefficients (K,), their standard error by chance).

    The error comes from blocks of 32 x 32 pixels, so that noise correlated over less than a block is allowed for.
    """
    tops = [_blocks(numerator * scan) for scan in residuals]
    top = np.asarray(tops, dtype=np.float64)
    bottom = np.asarray(_blocks(denominator), dtype=np.float64)
    total = max(float(bottom.sum()), 1e-30)
    coefficients = top.sum(axis=1) / total
    left = top - coefficients[:, None] * bottom
    used = int((bottom > 0).sum())
    if used < _FEWEST:
        return coefficients, float("inf")
    error = np.sqrt(np.square(left).sum() / len(residuals) * used / (used - 1)) / total
    return coefficients, float(error)


def _blocks(image: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = np.arange(0, image.shape[0], _BLOCK)
    columns = np.arange(0, image.shape[1], _BLOCK)
    return np.add.reduceat(np.add.reduceat(image, rows, axis=0, dtype=np.float64), columns, axis=1).ravel()


def _tent(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth both axes by 1-2-1, so that noise left in the mean makes no edges."""
    from scipy.ndimage import convolve1d

    kernel = np.array([0.25, 0.5, 0.25])
    smooth: NDArray[np.float32] = convolve1d(convolve1d(image, kernel, axis=0), kernel, axis=1)
    return smooth


def _local_mean(variance: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.ndimage import uniform_filter

    mean: NDArray[np.float32] = uniform_filter(variance, 9)
    return mean
