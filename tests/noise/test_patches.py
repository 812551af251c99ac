from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.noise.patches import axis_patches, blend, paper_geometry


@given(length=st.integers(1, 300), size=st.integers(1, 60), overlap=st.integers(0, 59))
def test_weights_sum_to_one(length: int, size: int, overlap: int) -> None:
    axis = axis_patches(length, size, overlap)
    total = np.zeros(length)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert start >= 0
        assert start + axis.size <= length
        total[start : start + axis.size] += weight
    assert np.abs(total - 1).max() < 1e-12
    assert axis.weights.min() >= 0


def test_trapezoid_of_the_paper() -> None:
    axis = axis_patches(17, 7, 2)
    assert axis.starts.tolist() == [0, 5, 10]
    assert axis.weights[1].tolist() == [0.25, 0.75, 1, 1, 1, 0.75, 0.25]
    assert axis.weights[0][:2].tolist() == [1, 1]  # no ramp at the border


def test_last_patch_is_shifted_inward() -> None:
    axis = axis_patches(15, 7, 2)
    assert axis.starts.tolist() == [0, 5, 8]


@pytest.mark.parametrize(("pixel", "size", "shared"), [(0.488, 14, 4), (0.684, 10, 3), (0.977, 7, 2), (1.172, 6, 2)])
def test_millimetres_to_pixels(pixel: float, size: int, shared: int) -> None:
    patch, overlap = paper_geometry((512, 512), (pixel, 0.977), 6.8, 0.3)
    assert (patch, overlap) == ((size, 7), (shared, 2))


def test_blend_of_a_constant_is_constant() -> None:
    rows, columns = axis_patches(31, 7, 2), axis_patches(40, 9, 3)
    values = np.full((len(rows.starts), len(columns.starts)), 4.0)
    assert np.abs(blend(rows, columns, values) - 4).max() < 1e-12
