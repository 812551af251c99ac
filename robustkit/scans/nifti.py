"""Axial slices of a CT volume in NIfTI, through the extra `nifti` (nibabel)."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.errors import DataError, MissingExtraError
from robustkit.scans.records import (
    MAX_BYTES,
    Found,
    check_pixels,
    check_size,
    check_spacing,
    grid,
    outside,
    quiet,
    seen_limits,
)
from robustkit.types import Slice, slice_id

HEADER = 348
NOTE = "NIfTI does not say that values are HU, nor the mAs; both are taken on trust"


def is_nifti(head: bytes, path: Path) -> bool:
    """Return whether a file is NIfTI-1 or -2 in one file, gzipped or not, by its content."""
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 4096)
        except zlib.error:
            return False
        if len(head) < HEADER:
            return path.name.lower().endswith(".nii.gz")
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def read_nifti(path: Path) -> list[Found]:
    """Return the axial slices of a volume, from feet to head, rows from anterior to posterior as in DICOM.

    Raises
    ------
    MissingExtraError : without nibabel.
    DataError : for a damaged file, colour, time series, NaN, or a volume without a single negative value.
    """
    volume, zooms, step = _volume(path)
    pixel_mm = check_spacing((float(zooms[1]), float(zooms[0])), "the volume")
    stack = np.ascontiguousarray(volume[::-1, ::-1, :].transpose(2, 1, 0), dtype=np.float32)
    check_pixels(stack, "the volume")
    if float(stack.min()) >= 0:
        raise DataError("the volume has no negative value, so it is not in HU; convert it, or give HU as .npz")
    found = []
    for frame, pixels in enumerate(stack):
        mask = outside(pixels, None)
        storage = None if step is None else seen_limits(pixels, mask, grid(-32768 * step, 32767 * step, step))
        image = Slice(slice_id(pixels, pixel_mm), pixels, pixel_mm, mask=mask, storage=storage, group=None, protocol={})
        along = frame * float(zooms[2])
        found.append(Found(image, owner="volume", frame=frame, along=along, notes=(NOTE,)))
    return found


def _volume(path: Path) -> tuple[Any, Any, float | None]:
    """Return the values (i to the right, j to the front, k to the head), their spacing, and the stored step."""
    try:
        import nibabel
    except ImportError:
        raise MissingExtraError("reading NIfTI", "nifti") from None
    data = _bytes(path)
    try:
        with quiet():
            kind = nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image
            header = kind.header_class.from_fileobj(BytesIO(data))  # type: ignore[no-untyped-call]
            _check_header(header, len(data))
            image = nibabel.as_closest_canonical(kind.from_bytes(data))  # type: ignore[no-untyped-call]
            volume = np.asarray(image.dataobj)
    except DataError:
        raise
    except Exception as error:  # nibabel raises whatever broken bytes provoke
        raise DataError(f"the volume is damaged ({type(error).__name__}); write it again") from error
    slope = float(header["scl_slope"])
    slope = slope if np.isfinite(slope) and slope > 0 else 1.0
    return (
        volume.reshape(volume.shape[:3]),
        image.header.get_zooms()[:3],
        slope if header.get_data_dtype().kind in "iu" else None,
    )


def _check_header(header: Any, size: int) -> None:
    shape = header.get_data_shape()
    dtype = header.get_data_dtype()
    if not 3 <= len(shape) <= 4 or any(s < 1 for s in shape) or (len(shape) == 4 and shape[3] != 1):
        raise DataError("the volume is not three-dimensional; give one volume of one time")
    if dtype.kind not in "iuf":
        raise DataError("the volume holds colours or complex numbers, not HU")
    check_size(shape[:2], "the volume")
    need = int(np.prod([int(s) for s in shape])) * dtype.itemsize
    if need > size:
        raise DataError(f"the volume is cut short ({size} of {need} bytes); write it again")


def _bytes(path: Path) -> bytes:
    """Return the file's bytes, decompressed up to the limit."""
    data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    if not data.startswith(b"\x1f\x8b"):
        return data
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    limit = min(MAX_BYTES, max(1 << 26, 200 * len(data)))
    try:
        whole = inflate.decompress(data, limit)
    except zlib.error:
        raise DataError("the compressed volume is damaged; write it again") from None
    if not inflate.eof:
        raise DataError("the compressed volume is cut short, or expands beyond any volume; write it again")
    return whole
