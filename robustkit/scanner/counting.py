"""What counting does to the log data of a ray: mean and variance of -ln(max(c, 1) / lambda).

c ~ Poisson(lambda) + N(0, electronic^2). To first order the variance is 1 / lambda + electronic^2 / lambda^2
(Massoumzadeh et al. 2009); at few counts the logarithm and its floor change both moments, so they are integrated, once
for each electronic noise, over the very transform that the realizations go through.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TABLE = np.geomspace(1e-3, 1e8, 661)
_QUANTILES = np.linspace(-6.5, 6.5, 521)


def log_moments(mean: NDArray[Any], electronic: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bias and variance of the log data of rays with `mean` expected counts (any shape, same shape back)."""
    bias, variance = _tabulated(float(electronic))
    at = np.log(np.clip(mean, _TABLE[0], _TABLE[-1]))
    grid = np.log(_TABLE)
    return np.interp(at, grid, bias), np.exp(np.interp(at, grid, np.log(variance)))


@lru_cache(maxsize=8)
def _tabulated(electronic: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from robustkit.scanner import kernels

    weights = np.exp(-0.5 * _QUANTILES**2)
    weights /= weights.sum()
    moments = np.empty((_TABLE.size, 2))
    for i, mean in enumerate(_TABLE):
        if kernels.goes_exact(float(mean), electronic):
            values, probability = _few(float(mean), electronic, weights)
        else:
            values = np.empty(_QUANTILES.size, np.float32)
            full = np.full(_QUANTILES.size, mean, np.float32)
            kernels.log_noise(_QUANTILES.astype(np.float32), full, electronic, values)
            values, probability = values.astype(np.float64), weights
        centre = float((values * probability).sum())
        moments[i] = centre, float(((values - centre) ** 2 * probability).sum())
    return moments[:, 0], np.maximum(moments[:, 1], 1e-30)


def _few(mean: float, electronic: float, weights: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    from scipy.special import gammaln, xlogy

    spread = 10.0 * np.sqrt(mean) + 30.0
    photons = np.arange(max(0.0, np.floor(mean - spread)), np.ceil(mean + spread))
    chance = np.exp(xlogy(photons, mean) - mean - gammaln(photons + 1.0))
    counts = photons[:, None] + electronic * _QUANTILES
    return -np.log(np.maximum(counts, 1.0) / mean), chance[:, None] * weights
