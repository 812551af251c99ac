"""PNG images as data URIs, by zlib alone: 8-bit grey and 8-bit palette, small enough to sit inside a page."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]

# Nine anchors of matplotlib's viridis (CC0), which keeps its order in grey and for every common colour deficiency.
_VIRIDIS = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)
NOT_A_NUMBER = 255
"""Palette index of pixels without a value; transparent in the image."""


def palette() -> list[Rgb]:
    """Return 255 colours from dark to bright, for the palette indices 0 .. 254."""
    anchors = np.array(_VIRIDIS, dtype=float)
    where = np.linspace(0, len(anchors) - 1, 255)
    channels = [np.interp(where, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return [(int(r), int(g), int(b)) for r, g, b in np.rint(np.stack(channels, axis=1))]


def encode(pixels: NDArray[np.uint8], colours: Sequence[Rgb] | None = None) -> bytes:
    """Return the PNG file of (H, W) uint8 pixels: grey levels, or indices into `colours` (index 255 transparent)."""
    height, width = pixels.shape
    raw = np.zeros((height, width + 1), dtype=np.uint8)
    raw[:, 1:] = pixels
    kind = 0 if colours is None else 3
    parts = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if colours is not None:
        parts.append(_chunk(b"PLTE", bytes(c for rgb in [*colours, (0, 0, 0)] for c in rgb)))
        parts.append(_chunk(b"tRNS", b"\xff" * len(colours) + b"\0"))
    parts += [_chunk(b"IDAT", zlib.compress(raw.tobytes(), 9)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def data_uri(png: bytes) -> str:
    """Return the `data:` address of a PNG file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def grey(image: NDArray[Any], low: float, high: float, shades: int = 256) -> str:
    """Return (H, W) values as a grey picture, `low` black and `high` white; fewer `shades` make a smaller file."""
    span = max(float(high) - float(low), 1e-12)
    unit = np.clip((np.asarray(image, dtype=np.float32) - low) / span, 0.0, 1.0)
    steps = np.rint(np.nan_to_num(unit) * (shades - 1)) * (255 / (shades - 1))
    return data_uri(encode(np.rint(steps).astype(np.uint8)))


def coloured(image: NDArray[Any], low: float, high: float) -> str:
    """Return (H, W) values as a colour map from `low` to `high`; values that are not finite are transparent."""
    values = np.asarray(image, dtype=np.float32)
    span = max(float(high) - float(low), 1e-12)
    unit = np.clip((np.where(np.isfinite(values), values, low) - low) / span, 0.0, 1.0)
    index = np.rint(unit * 254).astype(np.uint8)
    index[~np.isfinite(values)] = NOT_A_NUMBER
    return data_uri(encode(index, palette()))


def colour_bar() -> str:
    """Return the scale of `coloured` as a picture one pixel high, low values at the left."""
    return data_uri(encode(np.arange(255, dtype=np.uint8)[None, :], palette()))


def shrink(image: NDArray[Any], limit: int) -> NDArray[np.float32]:
    """Return (H, W) values averaged over whole blocks of pixels until no side exceeds `limit`."""
    values = np.asarray(image, dtype=np.float32)
    step = -(-max(values.shape) // limit)
    if step <= 1:
        return values
    height, width = (side // step * step for side in values.shape)
    blocks = values[:height, :width].reshape(height // step, step, width // step, step)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
