"""Accuracy from counts: worked numbers, identities, and the patient bootstrap in cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robustkit.stats import accuracy, f1_change

COUNTS = arrays(np.int64, (3, 3), elements=st.integers(0, 50))


def test_worked_numbers():
    found = accuracy([[8, 2], [1, 9]])
    np.testing.assert_allclose(found.precision, [8 / 9, 9 / 11])
    np.testing.assert_allclose(found.recall, [0.8, 0.9])
    np.testing.assert_allclose(found.f1, [16 / 19, 18 / 21])
    assert found.mean_f1 == pytest.approx((16 / 19 + 18 / 21) / 2)
    assert found.n == 20


def test_a_class_that_never_occurs_is_left_out_of_the_mean():
    found = accuracy([[5, 0, 0], [0, 7, 0], [0, 0, 0]])
    assert np.isnan(found.f1[2])
    assert found.mean_f1 == 1.0


@given(COUNTS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(counts):
    found = accuracy(counts)
    both = ~np.isnan(found.precision) & ~np.isnan(found.recall) & (found.precision + found.recall > 0)
    expected = 2 * found.precision[both] * found.recall[both] / (found.precision[both] + found.recall[both])
    np.testing.assert_allclose(found.f1[both], expected)


@given(COUNTS, st.permutations([0, 1, 2]))
def test_names_of_classes_do_not_matter(counts, order):
    renamed = counts[np.ix_(order, order)]
    np.testing.assert_allclose(accuracy(counts).mean_f1, accuracy(renamed).mean_f1, equal_nan=True)


def test_the_same_answers_have_a_bound_of_exactly_zero():
    counts = np.random.default_rng(0).integers(1, 9, (5, 2, 2))
    assert f1_change(counts, counts) == (0.0, 0.0, 5)


def test_one_bad_patient_of_many_widens_the_bound_more_than_the_change():
    good = np.array([[[20, 0], [0, 20]]] * 10)
    worse = good.copy()
    worse[3] = [[10, 10], [0, 20]]
    found = f1_change(good, worse)
    assert -0.05 < found.change < -0.02
    assert found.lower < 1.5 * found.change


def test_the_same_loss_in_every_patient_leaves_no_doubt():
    before = np.array([[[20, 0], [0, 20]]] * 8)
    after = np.array([[[19, 1], [0, 20]]] * 8)
    found = f1_change(before, after)
    assert found.lower == pytest.approx(found.change)


def test_the_bound_holds_as_often_as_it_says():
    # 400 studies of 12 patients whose true change is 0: 95 % one-sided, false alarm under 1e-4 at 15 %
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(400):
        wrong = rng.binomial(20, 0.1, (2, 12))
        a, b = (np.array([[[20 - w, w], [0, 20]] for w in side]) for side in wrong)
        misses += f1_change(a, b, resamples=299).lower > 0
    assert misses / 400 < 0.10


def test_one_patient_has_no_bound():
    assert np.isnan(f1_change([[[5, 0], [0, 5]]], [[[4, 1], [0, 5]]]).lower)


def test_other_patients_are_refused():
    with pytest.raises(ValueError, match="same patients"):
        f1_change(np.ones((3, 2, 2)), np.ones((2, 2, 2)))
