"""Repeats whose noise is known exactly, made by FFT on a torus: a route that shares nothing with the engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from robustkit.types import RepeatScans


def ring(shape: tuple[int, int], pixel_mm: tuple[float, float], peak: float, stretch: float = 1.0) -> np.ndarray:
    """NPS (H, W) of unit variance: a ring at `peak` 1/mm, stretched along the column frequency."""
    fy = np.fft.fftfreq(shape[0], pixel_mm[0])[:, None]
    fx = np.fft.fftfreq(shape[1], pixel_mm[1])[None, :] * stretch
    f = np.hypot(fy, fx)
    nps = f * np.exp(-((f / peak) ** 2))
    area = shape[0] * shape[1] * pixel_mm[0] * pixel_mm[1]
    return nps * area / nps.sum()


def coloured(rng: np.random.Generator, count: int, nps: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """(count, H, W) fields with that NPS, periodic."""
    white = rng.standard_normal((count, *nps.shape))
    return np.fft.ifft2(np.fft.fft2(white) * np.sqrt(nps / (pixel_mm[0] * pixel_mm[1]))).real


@pytest.fixture
def make_repeats() -> Callable[..., RepeatScans]:
    def make(
        count: int = 20,
        shape: tuple[int, int] = (96, 112),
        pixel_mm: tuple[float, float] = (1.0, 1.0),
        *,
        sigma: float = 10.0,
        seed: int = 0,
        mas: float | None = 25.0,
        peak: float = 0.2,
        stretch: float = 1.0,
        mask: np.ndarray | None = None,
    ) -> RepeatScans:
        rng = np.random.default_rng(seed)
        fields = sigma * coloured(rng, count, ring(shape, pixel_mm, peak, stretch), pixel_mm)
        y, x = np.indices(shape)
        body = np.hypot((y - shape[0] / 2) / shape[0], (x - shape[1] / 2) / shape[1]) < 0.4
        clean = np.where(body, 40.0, -900.0)
        pixels = np.asarray(clean + fields, dtype=np.float32)
        return RepeatScans("0" * 16, pixels, pixel_mm, mas, mask=mask)

    return make
