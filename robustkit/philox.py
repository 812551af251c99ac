"""A white field of which every pixel is reached at once: Philox4x32-10 counters, Box-Muller normals.

The value at (row, column) of realization r under a 64-bit key is a pure function of those four numbers, so no batch
size, order, thread or image width takes part. One counter (column block and lane, row, r low, r high) gives four
normals: with c = 16 b + l it fills the columns 64 b + l + {0, 16, 32, 48} of its row, so that 16 counters make 64
neighbouring columns and every step below runs on whole vectors.

Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; its constants and rounds.
Holds numba code: import it inside functions only.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

BLOCK = 64
"""Columns made together by 16 counters; rows are filled in multiples of it."""

# Everything but `reassoc`: with a fixed order of sums the bits are the same on every machine that has fused
# multiply-add, whatever the vector length.
FASTMATH = {"contract", "nsz", "arcp", "nnan", "ninf"}

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LANES = 16


def _as_int32(typingctx: Any, value: Any) -> Any:
    """Reinterpret a float32 as int32, in a register."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), codegen


def _as_float32(typingctx: Any, value: Any) -> Any:
    """Reinterpret an int32 as float32, in a register."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


_bits_of: Any = intrinsic(_as_int32)
_float_of: Any = intrinsic(_as_float32)


@nb.njit(nogil=True, cache=True, inline="always")
def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Ten Philox rounds of the counter (c0, c1, c2, c3) under the key (k0, k1): four uint32."""
    for _ in range(10):
        p0 = _M0 * np.uint64(c0)
        p1 = _M1 * np.uint64(c2)
        high0, low0 = np.uint32(p0 >> np.uint64(32)), np.uint32(p0)
        high1, low1 = np.uint32(p1 >> np.uint64(32)), np.uint32(p1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = np.uint32(k0 + _W0)
        k1 = np.uint32(k1 + _W1)
    return c0, c1, c2, c3


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH, inline="always")
def _radius(word: Any) -> Any:
    """sqrt(-2 ln u) of u = (word / 2 + 1/2) / 2**31 in (0, 1]: at most 6.7; relative error below 3e-7."""
    u = (np.float32(np.int32(word >> np.uint32(1))) + np.float32(0.5)) * np.float32(2.0**-31)
    # ln u = e ln 2 + ln m, with sqrt(1/2) <= m < sqrt(2); ln(1 + z) by the minimax polynomial of Cephes logf.
    bits = _bits_of(u) - np.int32(0x3F3504F3)
    exponent = np.float32(bits >> np.int32(23))
    z = _float_of((bits & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)) - np.float32(1.0)
    p = np.float32(7.0376836292e-2)
    p = p * z - np.float32(1.1514610310e-1)
    p = p * z + np.float32(1.1676998740e-1)
    p = p * z - np.float32(1.2420140846e-1)
    p = p * z + np.float32(1.4249322787e-1)
    p = p * z - np.float32(1.6668057665e-1)
    p = p * z + np.float32(2.0000714765e-1)
    p = p * z - np.float32(2.4999993993e-1)
    p = p * z + np.float32(3.3333331174e-1)
    zz = z * z
    ln = z + (p * z * zz - np.float32(0.5) * zz) + exponent * np.float32(0.6931471805599453)
    return np.float32(np.sqrt(np.maximum(np.float32(-2.0) * ln, np.float32(0.0))))


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH, inline="always")
def _cosine_sine(word: Any) -> Any:
    """(cos, sin) of the angle 2 pi word / 2**32: quadrant from the top bits, Cephes sinf/cosf polynomials within."""
    shifted = np.uint32(word + np.uint32(1 << 29))
    quadrant = shifted >> np.uint32(30)
    rest = np.int32(shifted & np.uint32(0x3FFFFFFF)) - np.int32(1 << 29)
    a = np.float32(rest) * np.float32(np.pi / 2 / 2**30)
    aa = a * a
    s = np.float32(-1.9515295891e-4) * aa + np.float32(8.3321608736e-3)
    s = (s * aa - np.float32(1.6666654611e-1)) * aa * a + a
    c = np.float32(2.443315711809948e-5) * aa - np.float32(1.388731625493765e-3)
    c = (c * aa + np.float32(4.166664568298827e-2)) * aa * aa - np.float32(0.5) * aa + np.float32(1.0)
    swap = (quadrant & np.uint32(1)) != 0
    cosine = s if swap else c
    sine = c if swap else s
    cosine = -cosine if (quadrant == 1) | (quadrant == 2) else cosine
    sine = -sine if quadrant >= 2 else sine
    return cosine, sine


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH)
def fill_block(out: Any, block: Any, row: Any, k0: Any, k1: Any, r0: Any, r1: Any) -> None:
    """Write N(0, 1) into out (64,) float32: columns 64 block .. 64 block + 63 of `row`; all numbers uint32."""
    first = np.uint32(block * np.uint32(_LANES))
    for lane in range(_LANES):
        a, b, c, d = philox4x32(first + np.uint32(lane), row, r0, r1, k0, k1)
        radius = _radius(a)
        cosine, sine = _cosine_sine(b)
        out[lane] = radius * cosine
        out[lane + 16] = radius * sine
        radius = _radius(c)
        cosine, sine = _cosine_sine(d)
        out[lane + 32] = radius * cosine
        out[lane + 48] = radius * sine


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH)
def fill_row(out: Any, row: Any, k0: Any, k1: Any, r0: Any, r1: Any) -> None:
    """Write N(0, 1) into out (64 m,) float32: columns 0 .. 64 m - 1 of `row`."""
    for block in range(out.shape[0] // BLOCK):
        fill_block(out[block * BLOCK : block * BLOCK + BLOCK], np.uint32(block), np.uint32(row), k0, k1, r0, r1)


@nb.njit(nogil=True, cache=True)
def _fill_fields(out: Any, words: Any) -> None:
    height, width = out.shape[1], out.shape[2]
    line = np.empty((width + BLOCK - 1) // BLOCK * BLOCK, np.float32)
    for b in range(out.shape[0]):
        for y in range(height):
            fill_row(line, np.uint32(y), words[b, 0], words[b, 1], words[b, 2], words[b, 3])
            out[b, y] = line[:width]


def white_fields(words: NDArray[np.uint32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return white N(0, 1) fields (B, H, W) float32 for `words` (B, 4) uint32, one `Draw.words` a field.

    Pixel (y, x) does not depend on `shape`: a larger field of the same draw holds the smaller one in its corner.
    """
    out = np.empty((len(words), *shape), dtype=np.float32)
    _fill_fields(out, np.ascontiguousarray(words, dtype=np.uint32))
    return out
