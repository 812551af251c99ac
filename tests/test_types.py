"""The nouns: hashes that name nobody, storage, repeats, and the protocols that the fakes fulfil."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import robustkit
from robustkit import Classifier, NoiseModel, RepeatScans, Slice, Storage, Trainable, slice_id
from robustkit.testing import FakeClassifier, FakeNoise, FakeTrainable, make_scans, make_slice

images = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-1024, 3071))


def test_public_list_is_what_can_be_imported():
    assert list(robustkit.__all__) == sorted(robustkit.__all__)
    assert all(getattr(robustkit, name) is not None for name in robustkit.__all__)
    assert set(robustkit.__all__) <= set(dir(robustkit))


def test_what_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Slices'"):
        _ = robustkit.Slices


@given(images)
def test_id_is_of_the_values_not_of_their_storage(pixels):
    expected = slice_id(pixels, (0.7, 0.8))
    assert slice_id(pixels.astype(np.int16), (0.7, 0.8)) == expected
    assert slice_id(pixels.astype(">f8"), (0.7, 0.8)) == expected
    assert slice_id(np.asfortranarray(pixels), (0.7, 0.8)) == expected
    assert slice_id(np.repeat(pixels, 2, axis=1)[:, ::2], (0.7, 0.8)) == expected


def test_id_is_sixteen_hexadecimal_digits():
    found = slice_id(np.zeros((3, 4)), (1.0, 1.0))
    assert len(found) == 16
    assert set(found) <= set("0123456789abcdef")


def test_recorded_id_stays_what_it_is():
    # tables of earlier runs name their slices so
    assert slice_id(np.arange(12).reshape(3, 4), (0.5, 0.75)) == "845a356870ff42c1"


def test_id_depends_on_values_shape_and_spacing():
    pixels = np.arange(12.0).reshape(3, 4)
    other = pixels.copy()
    other[0, 0] += 1.0
    ids = [
        slice_id(*asked) for asked in [(pixels, (1.0, 1.0)), (other, (1.0, 1.0)), (pixels.reshape(4, 3), (1.0, 1.0))]
    ]
    ids += [slice_id(pixels, (1.0, 0.9)), slice_id(pixels, (0.9, 1.0))]
    assert len(set(ids)) == len(ids)


def test_minus_zero_is_zero():
    assert slice_id(np.full((2, 2), -0.0), (1.0, 1.0)) == slice_id(np.zeros((2, 2)), (1.0, 1.0))


@given(images.map(lambda pixels: pixels + 0.3), st.sampled_from([1.0, 0.5, 2.0]))
def test_stored_pixels_lie_on_the_grid_and_inside_its_limits(pixels, step):
    storage = Storage(-1024.0, 3071.0, step)
    found = storage.apply(pixels.astype(np.float32))
    assert found.dtype == np.float32
    assert found.min() >= -1024.0
    assert found.max() <= 3071.0
    inside = found < 3071.0
    np.testing.assert_array_equal((found[inside] + 1024.0) % step, 0.0)
    assert np.abs(found - pixels)[inside].max(initial=0.0) <= step / 2 + 1e-3


@given(images)
def test_storing_twice_is_storing_once(pixels):
    storage = Storage(-1000.0, 2000.0)
    once = storage.apply(pixels)
    np.testing.assert_array_equal(storage.apply(once), once)


def test_storing_leaves_the_image_unless_told_where():
    pixels = np.array([[0.4, 5000.0]], np.float32)
    assert Storage(-1024.0, 3071.0).apply(pixels) is not pixels
    np.testing.assert_array_equal(pixels, np.array([[0.4, 5000.0]], np.float32))
    assert Storage(-1024.0, 3071.0).apply(pixels, out=pixels) is pixels
    np.testing.assert_array_equal(pixels, [[0.0, 3071.0]])


def test_residuals_of_repeats_sum_to_nothing():
    scans = make_scans(5)
    np.testing.assert_allclose(scans.residuals.sum(axis=0), 0.0, atol=5e-4)
    np.testing.assert_allclose(scans.residuals + scans.clean, scans.pixels, atol=1e-4)


def test_mean_of_repeats_is_accumulated_in_double():
    pixels = np.full((2000, 2, 2), 3071.1, np.float32)
    scans = RepeatScans("0" * 16, pixels, (1.0, 1.0), 100.0)
    np.testing.assert_array_equal(scans.clean, np.float32(3071.1))
    assert scans.clean.dtype == np.float32


def test_residuals_are_raw():
    pixels = np.array([[[0.0]], [[2.0]]], np.float32)
    scans = RepeatScans("0" * 16, pixels, (1.0, 1.0), None)
    # K = 2: raw mean square 1; a scan's variance is K/(K-1) = 2 times that
    assert float(np.square(scans.residuals).mean()) == 1.0


def test_slices_and_repeats_are_frozen():
    with pytest.raises(FrozenInstanceError):
        make_slice().mas = 3.0
    with pytest.raises(FrozenInstanceError):
        make_scans(2).mas = 3.0


def test_nothing_is_taken_for_granted_about_a_slice():
    made = Slice("0" * 16, np.zeros((2, 2), np.float32), (1.0, 1.0))
    assert (made.label, made.group, made.mas, made.kernel, made.mask, made.storage) == (None,) * 6
    assert made.synthetic is False
    assert dict(made.protocol) == {}


def test_protocols_need_no_inheritance():
    assert isinstance(FakeNoise(), NoiseModel)
    assert isinstance(FakeClassifier(), Classifier)
    assert isinstance(FakeTrainable(), Trainable)
    assert not isinstance(FakeClassifier(), Trainable)
    assert not isinstance(FakeClassifier(), NoiseModel)
