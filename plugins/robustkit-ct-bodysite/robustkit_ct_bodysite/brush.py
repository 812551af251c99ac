"""The compiled loop behind `painter.Scene.paint`; nothing imports it before something is painted.

A row is (x, y, cos, sin, a, b, square, bend, taper, HU, rough, edge, opacity, texture, grain, scale, within, also,
outside).
Noise is interpolated from lattice values kept per cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])
BLOCK = 8


def _jit(function: F) -> F:
    """Compile to machine code, kept on disk."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@_jit
def _lattice(ix: int, iy: int, iz: int, seed: int) -> float:
    """Value in -1..1 of a lattice point: a 32-bit integer hash, the same on every machine."""
    mask = 0xFFFFFFFF
    h = ((ix * 0x8DA6B343) & mask) ^ ((iy * 0xD8163841) & mask) ^ ((iz * 0xCB1AB31F) & mask)
    h = (h + seed) & mask
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & mask
    h = ((h ^ (h >> 15)) * 0x846CA68B) & mask
    h = h ^ (h >> 16)
    return h * (2.0 / 4294967295.0) - 1.0


@_jit
def _noise(x: float, y: float, z: float, seed: int, cell: Array) -> float:
    """Smooth noise in -1..1 with features of unit size; `cell` (6,) keeps the corners of the last cell used."""
    fx, fy = math.floor(x), math.floor(y)
    if cell[0] != fx or cell[1] != fy:
        fz = math.floor(z)
        w = z - fz
        w = w * w * (3.0 - 2.0 * w)
        for k in range(4):
            ix, iy, iz = int(fx) + (k & 1), int(fy) + (k >> 1), int(fz)
            low = _lattice(ix, iy, iz, seed)
            cell[2 + k] = low + w * (_lattice(ix, iy, iz + 1, seed) - low)
        cell[0], cell[1] = fx, fy
    x -= fx
    y -= fy
    x = x * x * (3.0 - 2.0 * x)
    y = y * y * (3.0 - 2.0 * y)
    top = cell[2] + x * (cell[3] - cell[2])
    return float(top + y * (cell[4] + x * (cell[5] - cell[4]) - top))


@_jit
def _depth(row: Array, x: float, y: float) -> float:
    """Distance in mm (to first order) from the outline at (x, y), positive inside."""
    dx, dy = x - row[0], y - row[1]
    u = (dx * row[2] + dy * row[3]) / row[4]
    v = (dy * row[2] - dx * row[3]) / row[5]
    if abs(u) > 3.0 + 20.0 / row[4]:
        return -1e9
    v -= row[7] * (u * u)
    u /= max(1.0 + row[8] * min(max(v, -1.0), 1.0), 0.05)
    s = row[6]
    if s > 0.0 and (abs(u) > 1.0 or abs(v) > 1.0):
        s = 0.0 if (abs(u) > 1.1 or abs(v) > 1.1) else s
    q = u * u + v * v - s * (u * u) * (v * v)
    f = math.sqrt(max(q, 0.0))
    gv = v * (1.0 - s * u * u)
    gu = (u * (1.0 - s * v * v) - 2.0 * row[7] * u * gv) / row[4]
    gv /= row[5]
    slope = math.sqrt(gu * gu + gv * gv)
    if slope * min(row[4], row[5]) < 0.05 * f or f < 1e-9:
        return float((1.0 - f) * min(row[4], row[5]))
    return float(min((1.0 - f) * f / slope, row[4], row[5]))


@_jit
def _cover(row: Array, x: float, y: float, z: float, px: float, seed: int, cell: Array) -> float:
    """Share 0..1 of the pixel at (x, y) that the shape covers."""
    if row[4] <= 0.0 or row[5] <= 0.0:
        return 0.0
    d = _depth(row, x, y)
    rough, blur = row[10], max(px, row[11])
    if d < -rough - blur:
        return 0.0
    if rough > 0.0 and d < rough + blur:
        d += rough * _noise(x * 0.045, y * 0.045, z * 0.03, seed + 77, cell)
    return float(min(max(0.5 + d / blur, 0.0), 1.0))


@_jit
def _shade(row: Array, x: float, y: float, z: float, seed: int, cells: Array) -> float:
    """HU of the shape at (x, y): its own value and its texture."""
    kind, g = int(row[13]), 1.0 / row[15]
    if kind == 0 or row[14] == 0.0:
        return float(row[9])
    n = _noise(x * g, y * g, z * g, seed, cells[0])
    if kind == 1:  # cloud: two octaves
        fine = _noise(x * g * 2.1, y * g * 2.1, z * g * 2.1, seed + 5, cells[1])
        return float(row[9] + row[14] * (n + 0.5 * fine))
    if kind == 4:  # gas: blobs of `grain`
        return float(row[9] + row[14] * min(max(4.0 * n - 0.5, 0.0), 1.0))
    m = _noise(x * g, y * g, z * g, seed + 11, cells[1])
    if kind == 3:  # strands: sheets where n crosses zero
        return float(row[9] + row[14] * max(1.0 - 7.0 * abs(n), 0.0) + 0.15 * row[14] * m)
    fine = _noise(x * g * 4, y * g * 4, z * g * 4, seed + 3, cells[2])
    return float(row[9] + row[14] * max(1.0 - 40.0 * (n * n + m * m), 0.0) + 27.0 * fine)  # tubes where n = m = 0


@_jit
def _reach(row: Array, px: float) -> tuple[float, float]:
    """Half-size in mm along x and y of the box around a shape."""
    wander = row[10] + max(px, row[11])
    la = row[4] * (1.0 + abs(row[8])) + wander
    lb = row[5] * (1.0 + abs(row[7]) * (1.0 + abs(row[8])) ** 2) + wander
    return abs(row[2]) * la + abs(row[3]) * lb, abs(row[3]) * la + abs(row[2]) * lb


@_jit
def _near(row: Array, x: float, y: float, radius: float, px: float) -> int:
    """0 where the shape misses a disc of `radius` mm about (x, y), 2 where it covers all of it, else 1."""
    if row[4] <= 0.0 or row[5] <= 0.0:
        return 0
    # distances are of first order: off by less than this where a shape is bent, squared or tapered
    margin = 1.3 / max(1.0 - abs(row[8]), 0.25) * (radius + row[10] + max(px, row[11]))
    d = _depth(row, x, y)
    if d < -margin:
        return 0
    return 2 if d > margin else 1


@_jit
def _clips(table: Array, r: int, states: NDArray[np.int64], x: float, y: float, radius: float, px: float) -> bool:
    """Fill states (4,) of the shape and its three clips over a disc; False where nothing is left to paint."""
    states[0] = _near(table[r], x, y, radius, px)
    for k in range(3):
        clip = int(table[r, 16 + k])
        if clip < 0:
            states[1 + k] = 2
        elif states[0] != 0:
            near = _near(table[clip], x, y, radius, px)
            states[1 + k] = 2 - near if k == 2 else near
    return bool(states[0] != 0 and states[1] != 0 and states[2] != 0 and states[3] != 0)


@_jit
def _tile(
    colour: Array,
    left: Array,
    table: Array,
    r: int,
    states: NDArray[np.int64],
    corner: tuple[float, float],
    px: float,
    z: float,
    seed: int,
    cells: Array,
) -> float:
    """Put shape r under what already lies on a tile; return the largest share of a pixel that is still open."""
    row = table[r]
    most = 0.0
    for i in range(left.shape[0]):
        y = corner[1] + i * px
        for j in range(left.shape[1]):
            c = left[i, j]
            if c <= 0.0:
                continue
            x = corner[0] + j * px
            c *= row[12]
            if states[0] != 2:
                c *= _cover(row, x, y, z, px, seed, cells[3])
            for k in range(3):
                if c > 0.0 and states[1 + k] != 2:
                    share = _cover(table[int(row[16 + k])], x, y, z, px, seed, cells[3])
                    c *= 1.0 - share if k == 2 else share
            if c > 0.0:
                colour[i, j] += c * _shade(row, x, y, z, seed, cells)
                left[i, j] -= c
            most = max(most, left[i, j])
    return most


@_jit
def _boxes(table: Array, px: float) -> Array:
    """Return (rows, 4): the least and largest x and y that each shape reaches; nothing for an empty shape."""
    boxes = np.empty((table.shape[0], 4))
    for r in range(table.shape[0]):
        row = table[r]
        ex, ey = _reach(row, px)
        if row[4] <= 0.0 or row[5] <= 0.0 or row[12] <= 0.0:
            ex = ey = -1e9
        boxes[r, 0], boxes[r, 1], boxes[r, 2], boxes[r, 3] = row[0] - ex, row[0] + ex, row[1] - ey, row[1] + ey
    return boxes


@_jit
def paint(
    image: NDArray[np.float32], table: Array, px: float, z: float, seed: int, centre: tuple[float, float]
) -> None:
    """Paint the rows of `table`, last on top, over `image` (N, N): pixels of `px` mm about `centre`, in place.

    Tile by tile and from the top down, so that nothing is painted where something opaque already lies.
    """
    size = image.shape[0]
    boxes = _boxes(table, px)
    cells, states = np.empty((4, 6)), np.zeros(4, dtype=np.int64)
    colour, left = np.empty((BLOCK, BLOCK)), np.empty((BLOCK, BLOCK))
    for i in range(0, size, BLOCK):
        rows = min(BLOCK, size - i)
        y = (i - 0.5 * (size - 1)) * px + centre[1]
        for j in range(0, size, BLOCK):
            columns = min(BLOCK, size - j)
            x = (j - 0.5 * (size - 1)) * px + centre[0]
            dx, dy = 0.5 * (columns - 1) * px, 0.5 * (rows - 1) * px
            colour[:] = 0.0
            left[:] = 1.0
            for r in range(table.shape[0] - 1, -1, -1):
                if x > boxes[r, 1] or x + 2 * dx < boxes[r, 0] or y > boxes[r, 3] or y + 2 * dy < boxes[r, 2]:
                    continue
                if _clips(table, r, states, x + dx, y + dy, math.sqrt(dx * dx + dy * dy), px):
                    cells[:, 0] = 1e300
                    open_ = _tile(
                        colour[:rows, :columns], left[:rows, :columns], table, r, states, (x, y), px, z, seed, cells
                    )
                    if open_ <= 1e-6:
                        break
            for a in range(rows):
                for b in range(columns):
                    image[i + a, j + b] = colour[a, b] + left[a, b] * image[i + a, j + b]
