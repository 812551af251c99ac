"""Objects of which every HU is known: discs and ellipses, painted with area-true edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from robustkit.types import Slice, slice_id

Ellipse = tuple[float, float, float, float, float]
"""Centre x, centre y, half-axis x, half-axis y in mm, and HU; later ones lie on top."""


def paint(shape: tuple[int, int], pixel_mm: tuple[float, float], ellipses: Sequence[Ellipse]) -> Slice:
    (height, width), (dy, dx), fine = shape, pixel_mm, 4
    y = (np.arange(height * fine) - 0.5 * (height * fine - 1)) * dy / fine
    x = (np.arange(width * fine) - 0.5 * (width * fine - 1)) * dx / fine
    image = np.full((y.size, x.size), -1000.0, np.float32)
    for cx, cy, ax, ay, hu in ellipses:
        image[((x[None, :] - cx) / ax) ** 2 + ((y[:, None] - cy) / ay) ** 2 < 1.0] = hu
    pixels = image.reshape(height, fine, width, fine).mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return Slice(slice_id(pixels, pixel_mm), pixels, pixel_mm, synthetic=True)


def place(shape: tuple[int, int], pixel_mm: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y (H, W) of the pixels in mm from the centre."""
    y, x = ((np.arange(n) - 0.5 * (n - 1)) * mm for n, mm in zip(shape, pixel_mm, strict=True))
    return np.broadcast_to(x[None, :], shape), np.broadcast_to(y[:, None], shape)


@pytest.fixture(scope="session")
def painter() -> Callable[..., Slice]:
    return paint


@pytest.fixture(scope="session")
def water() -> Slice:
    """Paint a 30 cm water cylinder in a 400 mm field of view, 200 x 200 px."""
    return paint((200, 200), (2.0, 2.0), [(0, 0, 150, 150, 0)])


@pytest.fixture(scope="session")
def hips() -> Slice:
    """Paint an ellipse of 380 x 230 mm with two femoral heads of 900 HU."""
    heads = [(-100.0, 0.0, 26.0, 26.0, 900.0), (100.0, 0.0, 26.0, 26.0, 900.0)]
    return paint((192, 192), (2.2, 2.2), [(0, 0, 190, 115, 20), *heads])
