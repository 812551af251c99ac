"""Randomness as an argument: what a draw's bits depend on, and on nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from robustkit import Draw, draws
from robustkit.seeding import STREAMS

MASK = 2**64 - 1
fields = st.tuples(
    st.integers(0, 2**70), st.sampled_from(STREAMS), st.text("0123456789abcdef", max_size=16), st.integers(0, 2**63 - 1)
)


def philox4x64(key, counter):
    """Philox-4x64-10 in plain integers (Salmon et al. 2011, section 3.3): four 64-bit words of one counter."""
    words, (k0, k1) = [counter & MASK, counter >> 64, 0, 0], key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * words[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * words[2], 2**64)
        words = [high1 ^ words[1] ^ k0, low1, high0 ^ words[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return words


@given(fields)
def test_key_is_the_hash_of_seed_stream_and_slice(parts):
    seed, stream, slice_id, realization = parts
    digest = hashlib.blake2b(f"{seed}|{stream}|{slice_id}".encode(), digest_size=8, person=b"robustkit").digest()
    assert Draw(seed, stream, slice_id, realization).key == int.from_bytes(digest, "little")


@given(fields)
def test_words_hold_key_and_realization(parts):
    draw = Draw(*parts)
    low_key, high_key, low, high = draw.words
    assert low_key + (high_key << 32) == draw.key
    assert low + (high << 32) == draw.realization
    assert all(0 <= word < 2**32 for word in draw.words)


@given(fields)
def test_generator_is_philox_keyed_by_the_draw(parts):
    draw = Draw(*parts)
    found = draw.generator().bit_generator.random_raw(8).tolist()
    key = (draw.key, draw.realization)
    assert found == philox4x64(key, 1) + philox4x64(key, 2)


def test_recorded_bits_stay_what_they_are():
    # recorded runs are rebuilt from these bits: a change here breaks every one of them
    draw = Draw(0, "audit", "0123456789abcdef", 5)
    assert draw.key == 0xF1B9DF06E2CDF78B
    assert draw.generator().bit_generator.random_raw(2).tolist() == [4139013688174416764, 8259354468401067047]


def test_generator_starts_afresh_whenever_asked():
    draw = Draw(3, "fit", "a", 5)
    first = draw.generator().standard_normal(5)
    np.testing.assert_array_equal(first, draw.generator().standard_normal(5))


def test_every_part_of_the_draw_matters():
    base = (1, "audit", "abc", 7)
    others = [(2, "audit", "abc", 7), (1, "fit", "abc", 7), (1, "audit", "abd", 7), (1, "audit", "abc", 8)]
    fields_ = [Draw(*parts).generator().standard_normal(4).tolist() for parts in [base, *others]]
    assert all(a != b for a, b in combinations(fields_, 2))


def test_streams_never_meet():
    keys = {Draw(seed, stream, "abc", 0).key for seed in range(50) for stream in STREAMS}
    assert len(keys) == 50 * len(STREAMS)


def test_neighbouring_realizations_are_independent():
    numbers = np.stack([draw.generator().standard_normal(400) for draw in draws(0, "audit", "a", range(100))])
    likeness = np.corrcoef(numbers)[np.triu_indices(100, 1)]
    # 4950 correlations with standard error 0.05: beyond 0.3 is 6 of them, false alarm 1e-5
    assert np.abs(likeness).max() < 0.3
    assert kstest(numbers.ravel(), "norm").pvalue > 1e-4  # false alarm 1e-4


def test_global_state_plays_no_part():
    np.random.seed(1)  # noqa: NPY002 - it must not matter
    first = Draw(0, "scan", "a", 0).generator().random(3)
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(first, Draw(0, "scan", "a", 0).generator().random(3))


def test_numpy_integers_are_the_same_draw():
    assert Draw(np.int64(4), "audit", "a", np.uint32(9)) == Draw(4, "audit", "a", 9)
    assert Draw(np.int64(4), "audit", "a", np.uint32(9)).key == Draw(4, "audit", "a", 9).key


@pytest.mark.parametrize("parts", [(1.0, "audit", "a", 0), (1, "audit", "a", 0.5), ("1", "audit", "a", 0)])
def test_what_is_no_integer_is_refused(parts):
    with pytest.raises(TypeError):
        Draw(*parts)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((0, "noise", "a", 0), "unknown stream 'noise'; streams are scan, fit, audit, train"),
        ((0, "audit", "a", -1), "realization must lie in 0"),
        ((0, "audit", "a", 2**63), "realization must lie in 0"),
        ((-1, "audit", "a", 0), "seed must not be negative"),
    ],
)
def test_impossible_draws_are_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        Draw(*parts)


def test_draw_is_frozen_and_hashable():
    draw = Draw(0, "audit", "a", 0)
    with pytest.raises(FrozenInstanceError):
        draw.seed = 1
    assert len({draw, Draw(0, "audit", "a", 0)}) == 1


def test_draws_are_those_of_the_realizations_asked():
    assert draws(2, "train", "b", [3, 1]) == [Draw(2, "train", "b", 3), Draw(2, "train", "b", 1)]
