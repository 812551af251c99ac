from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustkit.philox import philox4x32, white_fields
from robustkit.seeding import Draw, draws


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of the Random123 distribution, philox4x32-10
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    numbers = [np.uint32(int(word, 16)) for word in f"{counter} {key}".split()]
    assert [f"{int(word):08x}" for word in philox4x32(*numbers)] == expected.split()


def _words(n: int, seed: int = 0) -> np.ndarray:
    return np.array([d.words for d in draws(seed, "audit", "ab" * 8, range(n))], dtype=np.uint32)


def test_box_muller_of_the_stream() -> None:
    field = white_fields(_words(1), (3, 64))[0]
    k0, k1, r0, r1 = (np.uint32(w) for w in _words(1)[0])
    for lane in range(16):
        a, b, c, d = (float(v) for v in philox4x32(np.uint32(lane), np.uint32(2), r0, r1, k0, k1))
        for first, word, angle in ((lane, a, b), (lane + 32, c, d)):
            radius = np.sqrt(-2 * np.log((np.floor(word / 2) + 0.5) / 2**31))
            assert field[2, first] == pytest.approx(radius * np.cos(2 * np.pi * angle / 2**32), abs=3e-6)
            assert field[2, first + 16] == pytest.approx(radius * np.sin(2 * np.pi * angle / 2**32), abs=3e-6)


def test_pixel_is_independent_of_shape_and_batch() -> None:
    large = white_fields(_words(5), (40, 200))
    assert np.array_equal(white_fields(_words(5)[3:4], (17, 131))[0], large[3, :17, :131])


def test_standard_normal() -> None:
    # One fixed seed; each bound below is at least 5 standard errors wide.
    values = white_fields(_words(8), (256, 256)).astype(np.float64).ravel()
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / values.size)
    assert abs((values**4).mean() - 3) < 5 * np.sqrt(96 / values.size)
    assert stats.kstest(values[:200_000], "norm").pvalue > 1e-6


def test_white_along_every_lag() -> None:
    field = white_fields(_words(16), (128, 128)).astype(np.float64)
    bound = 5.5 / np.sqrt(field.size)  # per lag; 40 lags: false alarm below 1e-5
    for dy in range(0, 5):
        for dx in (0, 1, 2, 15, 16, 17, 32, 48):
            if (dy, dx) != (0, 0):
                product = field[:, dy:, dx:] * field[:, : 128 - dy, : 128 - dx]
                assert abs(product.mean()) < bound * 128 / (128 - dx)


def test_realizations_streams_and_seeds_differ() -> None:
    named = [
        Draw(0, "audit", "a", 0),
        Draw(0, "audit", "a", 1),
        Draw(0, "audit", "a", 2**32),
        Draw(0, "train", "a", 0),
        Draw(1, "audit", "a", 0),
        Draw(0, "audit", "b", 0),
    ]
    fields = white_fields(np.array([d.words for d in named], np.uint32), (64, 64)).reshape(len(named), -1)
    correlation = np.corrcoef(fields) - np.eye(len(named))
    assert np.abs(correlation).max() < 5.5 / 64
