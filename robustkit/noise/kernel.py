"""Non-stationary noise from one white field: a filter that changes from place to place, as one blocked loop.

What is computed
----------------
    n(y, x) = g(y, x) sum_{t} K(y, x; t) W(y - t_y, x - t_x),      K(y, x; t) = sum_p w_p(y, x) s_p(t)

W is a white N(0, 1) field shared by all patches, s_p the kernel of patch p, w_p its blending weight (they sum to one)
and g the gain that makes the standard deviation exactly the profile's: g = sigma / sqrt(sum_t K^2). Filtering the white
field once per patch and blending the results (Peng et al. 2023, section 2.2.1) is the same sum in another order, and
two hundred times slower.

How it is arranged
------------------
1. Along x the kernels are blended when the bank is built: `coefficients[p, tile, u, v, x]` holds, for patch row p, the
   weight of tap (v, u) at each of the 64 columns of a tile. Along y a patch row covers N rows with the same
   coefficients, and its rows are added to the image with their trapezoid.
2. The inner loop `_ten_by_ten` takes one column offset u, ten taps in v and ten rows: 19 rows of white and 10 of
   coefficients are loaded once for 100 multiply-adds per column. Each line is one row's dot product. LLVM turns it
   into 100 vector multiply-adds because every array is one-dimensional with strides known when compiling (64 and
   `_STRIDE`), so that aliasing and negative indices can be ruled out. Rows and taps are padded to multiples of ten.
3. White rows are made by counters (`robustkit.philox`) just before they are needed, into a ring of rows for each
   realization; no white field is ever stored. Padding is white too: nothing wraps round the image.
4. Where kernels reach far, most of the reach is left to a coarser grid (`robustkit.noise.pyramid`): a bank of its own,
   with white of its own, whose field of every second pixel is interpolated and added. One level of it makes the
   default as fast as numpy draws white noise, streaks of 24 px included.
5. Within a tile the realizations of a call take turns, so that its coefficients are read from memory once for all of
   them: ask for 8 to 16 at a time. Each realization's sums are the same whatever its neighbours: same bits in any
   batch or order. The loops release the GIL and start no threads; run several in plain threads.

Holds numba code: import it inside functions only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from robustkit.noise.patches import Axis, axis_patches, blend
from robustkit.philox import BLOCK, FASTMATH, fill_row

_ROWS = _TAPS = 10  # the rows and taps of the inner loop, which spells them out
_STRIDE = 144  # columns between rows of the window: a tile and up to 80 column offsets
_OFFSETS = 80
_TOGETHER = 16  # realizations that share the coefficients of a tile
_TAIL = 5e-4  # share of a stationary kernel's power that may be left out
NEXT_FIELD = 1 << 24  # rows of white between those of one level and of the next
_CUBIC = np.array([-1.0, 9.0, 9.0, -1.0]) / 16  # weights of the four points around the middle of the inner two


@dataclass(frozen=True, eq=False)
class FilterBank:
    """Blended kernels of a whole image, ready to run.

    Attributes
    ----------
    coefficients : (Q, tiles, U, V, 64) float32, taps reversed and V padded to tens; dimensionless but for `gain`.
    which : (Py,) int64, the coefficient row that patch row p uses. taps : (V, U) before padding.
    starts : (Py,) int64 first image row of each patch row; weights : (Py, N) float32 along y.
    gain : (H, W) float32, HU per unit of the filter's output; 0 in padding.
    coarser : the bank of every second pixel, whose field is interpolated and added before the gain; or None.
    """

    coefficients: NDArray[np.float32]
    which: NDArray[np.int64]
    taps: tuple[int, int]
    starts: NDArray[np.int64]
    weights: NDArray[np.float32]
    gain: NDArray[np.float32]
    coarser: FilterBank | None = None


def build(
    rows: Axis,
    columns: Axis,
    kernels: NDArray[np.float32],
    sigma: NDArray[np.float32],
    coarser: Sequence[NDArray[np.float32]] = (),
) -> FilterBank:
    """Blend patch kernels (Py, Px, V, U), centred at (V // 2, U // 2), so that the output's sd is `sigma` (H, W) HU.

    coarser : kernels (Py, Px, V, U) on every second pixel, every fourth ..., as `pyramid.fit_kernels` returns them.
    """
    bank, variance = _level(rows, columns, [kernels, *coarser])
    return replace(bank, gain=_gain(sigma, variance))


def _level(
    rows: Axis, columns: Axis, kernels: Sequence[NDArray[np.float32]]
) -> tuple[FilterBank, NDArray[np.floating[Any]]]:
    """Return the bank of `kernels`, finest first, with a gain of 1, and the variance (H, W) of what it makes."""
    coefficients = _blend_columns(kernels[0], columns)
    weights = rows.weights.astype(np.float32)
    which = np.arange(len(rows.starts))
    padded = np.zeros((rows.length, coefficients.shape[1] * BLOCK), dtype=np.float32)
    _filter_variance(padded, coefficients, rows.starts, weights)
    variance: NDArray[np.floating[Any]] = padded[:, : columns.length]
    taps = kernels[0].shape[2], kernels[0].shape[3]
    bank = FilterBank(coefficients, which, taps, rows.starts, weights, np.ones(variance.shape, np.float32))
    if len(kernels) == 1:
        return bank, variance
    (down, near_rows), (across, near_columns) = halved(rows), halved(columns)
    near = [np.ascontiguousarray(k[np.ix_(near_rows, near_columns)]) for k in kernels[1:]]
    coarse, coarse_variance = _level(down, across, near)
    return replace(bank, coarser=coarse), variance + _interpolated_variance(
        coarse_variance, down, across, near, variance.shape
    )


def halved(axis: Axis) -> tuple[Axis, NDArray[np.intp]]:
    """Return an axis of every second pixel, and for each of its patches the nearest fine one."""
    coarse = axis_patches((axis.length + 1) // 2, max(axis.size // 2, 1), axis.overlap // 2)
    centres = 2 * coarse.starts + coarse.size
    return coarse, np.abs(centres[:, None] - (axis.starts + axis.size / 2)).argmin(axis=1)


def interpolation(length: int) -> NDArray[np.float64]:
    """Weights (length, points) by which every second pixel makes all: (-1, 9, 9, -1) / 16, the border continued."""
    points = (length + 1) // 2
    weights = np.zeros((length, points))
    weights[2 * np.arange(points), np.arange(points)] = 1
    for step, weight in zip((-1, 0, 1, 2), _CUBIC, strict=True):
        np.add.at(weights, (np.arange(1, length, 2), np.clip(np.arange(length // 2) + step, 0, points - 1)), weight)
    return weights


def _interpolated_variance(
    variance: NDArray[np.floating[Any]],
    rows: Axis,
    columns: Axis,
    kernels: Sequence[NDArray[np.float32]],
    shape: tuple[int, ...],
) -> NDArray[np.floating[Any]]:
    """Variance (H, W) of a field of `variance` (every second pixel) once interpolated: less between its points.

    sum_ij u_i u_j c(i - j) of a pixel's weights u, with the covariance c of its patch over the first lags.
    """
    from scipy import fft

    from robustkit.noise.pyramid import expected

    lags = fft.irfft2(expected([k.reshape(-1, *k.shape[2:]) for k in kernels], 64), s=(64, 64))
    lags /= np.maximum(lags[:, :1, :1], 1e-20)
    reach = np.arange(-3, 4)
    near = lags[:, reach[:, None], reach[None, :]]
    (down, y), (across, x) = (_kinds(n) for n in shape)
    out = np.empty(shape, np.float32)
    spread = _midway(_midway(variance, shape[0]).T, shape[1]).T
    for i, own in enumerate(down):
        for j, other in enumerate(across):
            kept = blend(rows, columns, np.einsum("bij,i,j->b", near, own, other).reshape(kernels[0].shape[:2]))
            here = np.ix_(y == i, x == j)
            out[here] = (spread * kept.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]])[here]
    return out


def _kinds(length: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Find the different products of weights up to 3 points apart, (kinds, 7), and the kind of each pixel."""
    weights = np.pad(interpolation(length), ((0, 0), (3, 3)))
    inner = weights[:, 3:-3]
    products = np.stack([(inner * weights[:, 3 + d : 3 + d + inner.shape[1]]).sum(axis=1) for d in range(-3, 4)], 1)
    kinds, kind = np.unique(np.round(products, 9), axis=0, return_inverse=True)
    return kinds, kind.ravel()


def _midway(field: NDArray[np.floating[Any]], length: int) -> NDArray[np.floating[Any]]:
    """Lines of every second pixel, and the mean of their neighbours between them."""
    out: NDArray[np.floating[Any]] = np.repeat(field, 2, axis=0)
    out[1:-1:2] = 0.5 * (field[:-1] + field[1:])
    return out[:length]


def build_stationary(kernel: NDArray[np.float32], sigma: NDArray[np.float32]) -> FilterBank:
    """One kernel (V, U) for the whole image, so that the output's sd is `sigma` (H, W) HU."""
    height, width = sigma.shape
    columns = Axis(width, width, 0, np.zeros(1, np.int64), np.ones((1, width)))
    strip = min(4 * _ROWS, height)
    starts = np.append(np.arange(0, height - strip, strip, dtype=np.int64), height - strip)
    weights = np.ones((len(starts), strip), dtype=np.float32)
    if len(starts) > 1:
        weights[-1, : starts[-2] + strip - starts[-1]] = 0.0
    variance = np.full(sigma.shape, np.square(kernel, dtype=np.float64).sum())
    coefficients = _blend_columns(kernel[None, None], columns)
    which = np.zeros(len(starts), dtype=np.int64)
    return FilterBank(coefficients, which, (kernel.shape[0], kernel.shape[1]), starts, weights, _gain(sigma, variance))


def cropped(kernel: NDArray[np.float32], loss: float = _TAIL) -> NDArray[np.float32]:
    """Return the smallest part (V', U') about the centre (V // 2, U // 2) that lacks at most `loss` of the power.

    The outer taps of a smooth spectrum's kernel cost as much as the inner ones and change its noise by nothing.
    """
    power = np.square(kernel, dtype=np.float64)
    y, x = (np.abs(np.arange(n) - n // 2) for n in kernel.shape)
    reach = np.maximum(y[:, None], x[None, :])
    within = np.cumsum(np.bincount(reach.ravel(), power.ravel()))
    keep = int(np.argmax(within >= (1 - loss) * within[-1]))
    return np.ascontiguousarray(kernel[np.ix_(y <= keep, x <= keep)])


def synthesise(bank: FilterBank, words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Return noise (B, H, W) float32 in HU, one realization for each row of `words` (B, 4) (`Draw.words`)."""
    _say_once()
    out = np.empty((len(words), *bank.gain.shape), dtype=np.float32)
    for first in range(0, len(words), _TOGETHER):
        part = slice(first, first + _TOGETHER)
        _fill(out[part], bank, np.ascontiguousarray(words[part], dtype=np.uint32), 0)
    return out


def _fill(out: NDArray[np.float32], bank: FilterBank, words: NDArray[np.uint32], level: int) -> None:
    """Write the field of a bank and of all coarser ones into out (B, H, W); each level has white rows of its own."""
    _synthesise(
        out,
        words,
        level * NEXT_FIELD,
        bank.coefficients,
        bank.which,
        bank.taps[0],
        bank.starts,
        bank.weights,
        bank.gain,
    )
    if bank.coarser is not None:
        coarse = np.empty((len(words), *bank.coarser.gain.shape), dtype=np.float32)
        _fill(coarse, bank.coarser, words, level + 1)
        _add_interpolated(out, coarse, bank.gain)


@cache
def _say_once() -> None:
    """Tell that the first call will take long, unless this machine keeps the kernel compiled already."""
    kept = Path(_synthesise.stats.cache_path or "").glob("kernel._synthesise-*.nbi")
    written = Path(__file__).stat().st_mtime
    if not any(index.stat().st_mtime >= written for index in kept):
        logging.getLogger("robustkit").info("compiling the noise kernel, once per machine: 10 to 20 s")


def _gain(sigma: NDArray[np.floating[Any]], variance: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    root = np.sqrt(variance, dtype=np.float64)
    gain = np.zeros(sigma.shape, dtype=np.float32)
    np.divide(sigma, root, out=gain, where=(root > 0) & (sigma > 0), casting="same_kind")
    return gain


def _blend_columns(kernels: NDArray[np.float32], columns: Axis) -> NDArray[np.float32]:
    patch_rows, _, height, width = kernels.shape
    tiles = -(-columns.length // BLOCK)
    padded = -(-height // _TAPS) * _TAPS
    out = np.zeros((patch_rows, tiles, width, padded, BLOCK), dtype=np.float32)
    reversed_taps = np.ascontiguousarray(kernels[:, :, ::-1, ::-1], dtype=np.float32)
    _add_kernels(out, reversed_taps, columns.starts, columns.weights.astype(np.float32))
    return out


@nb.njit(nogil=True, cache=True)
def _add_kernels(out: Any, kernels: Any, starts: Any, weights: Any) -> None:
    size = weights.shape[1]
    for p in range(out.shape[0]):
        for j in range(len(starts)):
            for tile in range(starts[j] // BLOCK, (starts[j] + size - 1) // BLOCK + 1):
                first = max(starts[j] - tile * BLOCK, 0)
                last = min(starts[j] + size - tile * BLOCK, BLOCK)
                skip = tile * BLOCK - starts[j]
                for u in range(kernels.shape[3]):
                    for v in range(kernels.shape[2]):
                        tap = kernels[p, j, v, u]
                        for x in range(first, last):
                            out[p, tile, u, v, x] += weights[j, x + skip] * tap


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH)
def _filter_variance(out: Any, coefficients: Any, starts: Any, weights: Any) -> None:
    """Write sum_t K(y, x; t)^2 into out (H, 64 tiles); patch rows that share an image row add before squaring."""
    size = weights.shape[1]
    blended = np.empty(BLOCK, np.float32)
    total = np.empty(BLOCK, np.float32)
    for y in range(out.shape[0]):
        first = np.searchsorted(starts, y - size + 1)
        last = np.searchsorted(starts, y + 1)
        for tile in range(coefficients.shape[1]):
            total[:] = 0.0
            for u in range(coefficients.shape[2]):
                for v in range(coefficients.shape[3]):
                    blended[:] = 0.0
                    for p in range(first, last):
                        weight = weights[p, y - starts[p]]
                        line = coefficients[p, tile, u, v]
                        for x in range(BLOCK):
                            blended[x] += weight * line[x]
                    for x in range(BLOCK):
                        total[x] += blended[x] * blended[x]
            out[y, tile * BLOCK : tile * BLOCK + BLOCK] = total


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH)
def _ten_by_ten(acc: Any, k: Any, w: Any) -> None:
    """acc[r, x] += sum_v k[v, x] w[r + v, x] for ten rows r and ten taps v; strides 64, 64 and `_STRIDE`."""
    for x in range(64):
        k0, k1, k2, k3, k4 = k[x], k[64 + x], k[128 + x], k[192 + x], k[256 + x]
        k5, k6, k7, k8, k9 = k[320 + x], k[384 + x], k[448 + x], k[512 + x], k[576 + x]
        w0, w1, w2, w3, w4 = w[x], w[144 + x], w[288 + x], w[432 + x], w[576 + x]
        w5, w6, w7, w8, w9 = w[720 + x], w[864 + x], w[1008 + x], w[1152 + x], w[1296 + x]
        wa, wb, wc, wd, we = w[1440 + x], w[1584 + x], w[1728 + x], w[1872 + x], w[2016 + x]
        wf, wg, wh, wi = w[2160 + x], w[2304 + x], w[2448 + x], w[2592 + x]
        # fmt: off
        a0 = acc[x] + k0*w0 + k1*w1 + k2*w2 + k3*w3 + k4*w4 + k5*w5 + k6*w6 + k7*w7 + k8*w8 + k9*w9
        a1 = acc[64 + x] + k0*w1 + k1*w2 + k2*w3 + k3*w4 + k4*w5 + k5*w6 + k6*w7 + k7*w8 + k8*w9 + k9*wa
        a2 = acc[128 + x] + k0*w2 + k1*w3 + k2*w4 + k3*w5 + k4*w6 + k5*w7 + k6*w8 + k7*w9 + k8*wa + k9*wb
        a3 = acc[192 + x] + k0*w3 + k1*w4 + k2*w5 + k3*w6 + k4*w7 + k5*w8 + k6*w9 + k7*wa + k8*wb + k9*wc
        a4 = acc[256 + x] + k0*w4 + k1*w5 + k2*w6 + k3*w7 + k4*w8 + k5*w9 + k6*wa + k7*wb + k8*wc + k9*wd
        a5 = acc[320 + x] + k0*w5 + k1*w6 + k2*w7 + k3*w8 + k4*w9 + k5*wa + k6*wb + k7*wc + k8*wd + k9*we
        a6 = acc[384 + x] + k0*w6 + k1*w7 + k2*w8 + k3*w9 + k4*wa + k5*wb + k6*wc + k7*wd + k8*we + k9*wf
        a7 = acc[448 + x] + k0*w7 + k1*w8 + k2*w9 + k3*wa + k4*wb + k5*wc + k6*wd + k7*we + k8*wf + k9*wg
        a8 = acc[512 + x] + k0*w8 + k1*w9 + k2*wa + k3*wb + k4*wc + k5*wd + k6*we + k7*wf + k8*wg + k9*wh
        a9 = acc[576 + x] + k0*w9 + k1*wa + k2*wb + k3*wc + k4*wd + k5*we + k6*wf + k7*wg + k8*wh + k9*wi
        # fmt: on
        acc[x], acc[64 + x], acc[128 + x], acc[192 + x], acc[256 + x] = a0, a1, a2, a3, a4
        acc[320 + x], acc[384 + x], acc[448 + x], acc[512 + x], acc[576 + x] = a5, a6, a7, a8, a9


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH)
def _filter_tile(acc: Any, coefficients: Any, window: Any, first: int, offsets: int) -> None:
    """Add the column offsets first .. first + offsets - 1 of one tile to acc (rows x 64), from a window of white."""
    block = _ROWS * BLOCK
    taps = coefficients.shape[1] // BLOCK
    for top in range(acc.shape[0] // block):
        rows = acc[top * block : top * block + block]
        for u in range(offsets):
            line = coefficients[first + u]
            for v in range(0, taps, _TAPS):
                below = (top * _ROWS + v) * _STRIDE + u
                _ten_by_ten(rows, line[v * BLOCK : v * BLOCK + block], window[below:])


@nb.njit(nogil=True, cache=True)
def _load_window(window: Any, ring: Any, row: int, column: int, rows: int, width: int) -> None:
    """Copy `rows` rows of white from `row` on, columns column .. column + width - 1, out of the ring."""
    mask = ring.shape[0] - 1
    for i in range(rows):
        source = ring[(row + i) & mask, column : column + width]
        target = window[i * _STRIDE : i * _STRIDE + width]
        for x in range(width):  # a slice assignment would cost four times as much
            target[x] = source[x]


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH)
def _add_rows(image: Any, acc: Any, gain: Any, weights: Any, fresh: int, left: int) -> None:
    """Add the weighted rows of a tile to its rows of the image; those from `fresh` on are new."""
    width = min(BLOCK, image.shape[1] - left)
    for r in range(weights.shape[0]):
        weight = weights[r]
        source = acc[r * BLOCK : r * BLOCK + width]
        factor = gain[r, left : left + width]
        target = image[r, left : left + width]
        if r >= fresh:
            for x in range(width):
                target[x] = weight * factor[x] * source[x]
        else:
            for x in range(width):
                target[x] += weight * factor[x] * source[x]


@nb.njit(nogil=True, cache=True)
def _synthesise(
    out: Any, words: Any, field: Any, coefficients: Any, which: Any, taps: Any, starts: Any, weights: Any, gain: Any
) -> None:
    """Fill out (B, H, W). `taps` is V before padding; white row `field` + i feeds image rows i - V + 1 .. i."""
    batch = out.shape[0]
    tiles, offsets, padded = coefficients.shape[1], coefficients.shape[2], coefficients.shape[3]
    flat = coefficients.reshape(coefficients.shape[0], tiles, offsets, padded * BLOCK)
    size = weights.shape[1]
    blocks = (size + _ROWS - 1) // _ROWS
    deep = blocks * _ROWS + padded - 1
    depth = 1
    while depth < deep:
        depth *= 2
    across = (tiles * BLOCK + offsets + BLOCK - 1) // BLOCK * BLOCK
    ring = np.zeros((batch, depth, across), np.float32)
    window = np.zeros(deep * _STRIDE + BLOCK, np.float32)
    acc = np.empty(blocks * _ROWS * BLOCK, np.float32)
    made = 0
    fresh = 0
    for p in range(len(starts)):
        top = starts[p]
        for b in range(batch):
            for y in range(made, top + size + taps - 1):
                fill_row(ring[b, y & (depth - 1)], field + y, words[b, 0], words[b, 1], words[b, 2], words[b, 3])
        made = top + size + taps - 1
        for tile in range(tiles):
            lines = flat[which[p], tile]
            for b in range(batch):
                acc[:] = 0.0
                for u in range(0, offsets, _OFFSETS):
                    count = min(_OFFSETS, offsets - u)
                    _load_window(window, ring[b], top, tile * BLOCK + u, deep, BLOCK + count - 1)
                    _filter_tile(acc, lines, window, u, count)
                _add_rows(out[b, top : top + size], acc, gain[top : top + size], weights[p], fresh - top, tile * BLOCK)
        fresh = top + size


@nb.njit(nogil=True, cache=True, fastmath=FASTMATH)
def _add_interpolated(out: Any, coarse: Any, gain: Any) -> None:
    """Add to out (B, H, W) gain times the fields of every second pixel (B, ...), `interpolation` between them."""
    nine, sixteenth = np.float32(9.0), np.float32(1.0 / 16.0)
    height, width = gain.shape
    lines, points = coarse.shape[1], coarse.shape[2]
    line = np.empty(points + 3, np.float32)
    wide = np.empty(2 * points, np.float32)
    inner = line[1 : points + 1]
    for b in range(out.shape[0]):
        for y in range(height):
            j = y >> 1
            second = coarse[b, j]
            if y & 1:
                first, third = coarse[b, max(j - 1, 0)], coarse[b, min(j + 1, lines - 1)]
                fourth = coarse[b, min(j + 2, lines - 1)]
                for x in range(points):
                    inner[x] = (nine * (second[x] + third[x]) - (first[x] + fourth[x])) * sixteenth
            else:
                for x in range(points):
                    inner[x] = second[x]
            line[0], line[points + 1], line[points + 2] = inner[0], inner[points - 1], inner[points - 1]
            for x in range(points):
                wide[2 * x] = inner[x]
                wide[2 * x + 1] = (nine * (line[x + 1] + line[x + 2]) - (line[x] + line[x + 3])) * sixteenth
            target, factor = out[b, y], gain[y]
            for x in range(width):
                target[x] += factor[x] * wide[x]
