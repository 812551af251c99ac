"""Images and repeats in .npz files, read without trusting them: no pickles, sizes checked before they are allocated."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from robustkit import spill
from robustkit.errors import DataError
from robustkit.files import atomic_stream
from robustkit.scans.own import storage_of
from robustkit.scans.records import (
    MAX_BYTES,
    Found,
    check_pixels,
    check_size,
    check_spacing,
    clean_protocol,
    clean_text,
    grid,
    name_groups,
    opaque,
    outside,
    seen_limits,
)
from robustkit.types import RepeatScans, Slice, Storage, slice_id

LARGE = 1 << 26
"""Bytes from which on a stack of images is read one by one onto disk."""
FACTS = 8
"""Values an image, of whatever is no image, from which on an array cannot be meant."""
TEXTS = "US"
KEYS: dict[str, str] = {
    "pixels": "iuf",
    "pixel_mm": "iuf",
    "mas": "iuf",
    "ids": TEXTS,
    "id": TEXTS,
    "labels": TEXTS,
    "label": TEXTS,
    "groups": TEXTS,
    "group": TEXTS,
    "kernel": TEXTS,
    "kernels": TEXTS,
    "source": TEXTS,
    "mask": "biu",
    "storage": "iuf",
    "synthetic": "biu",
    "protocol": TEXTS,
}
WANTED = "`pixels` in HU and `pixel_mm` (row, column)"


def is_npz(head: bytes) -> bool:
    """Return whether a file's first bytes are those of a zip archive."""
    return head.startswith(b"PK\x03\x04")


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of known names; DataError for anything else than plain numbers and texts of honest size."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename[:-4]: m for m in archive.infolist() if m.filename.endswith(".npy")}
            _check_archive(members)
            found: dict[str, NDArray[Any]] = {}
            for name in (name for name in KEYS if name in members):  # pixels come first
                images = len(found["pixels"]) if found and found["pixels"].ndim == 3 else 1
                found[name] = _read_member(archive, members[name], name, images)
            return found
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise whatever broken bytes provoke
        raise DataError(f"the .npz is damaged ({type(error).__name__}); write it again") from error


def _check_archive(members: Mapping[str, zipfile.ZipInfo]) -> None:
    missing = [k for k in ("pixels", "pixel_mm") if k not in members]
    if missing:
        raise DataError(f"the .npz lacks {' and '.join(f'`{m}`' for m in missing)}; it needs {WANTED}")
    total = sum(members[k].file_size for k in KEYS if k in members)
    if total > MAX_BYTES:
        raise DataError(f"the .npz would expand beyond {MAX_BYTES >> 30} GiB; split it")
    for name in KEYS:
        member = members.get(name)
        if member is None:
            continue
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"`{name}` in the .npz is encrypted or oddly compressed; write it with numpy.savez")
        if member.file_size > max(1 << 26, 400 * member.compress_size):
            raise DataError(f"`{name}` in the .npz expands more than 400-fold; refused as a decompression bomb")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, images: int) -> NDArray[Any]:
    with archive.open(member) as stream:
        shape, fortran, dtype, start = _header(stream)  # type: ignore[arg-type]
    if dtype.hasobject:
        raise DataError(f"`{name}` in the .npz holds Python objects (arrays of different shapes?); store plain numbers")
    if dtype.kind not in KEYS[name]:
        kind = "texts" if KEYS[name] == TEXTS else "numbers"
        raise DataError(f"`{name}` in the .npz is of type {dtype.kind}; it must hold {kind}")
    size = math.prod(shape) * dtype.itemsize
    if len(shape) > 4 or min(shape, default=1) < 0 or start + size != member.file_size:
        raise DataError(f"`{name}` in the .npz does not hold what its header says; write it again")
    if name not in ("pixels", "mask") and math.prod(shape) > FACTS * max(images, 2):
        raise DataError(f"`{name}` in the .npz holds {math.prod(shape)} values for {images} images; write it again")
    with archive.open(member) as stream:
        if size > LARGE and not fortran and len(shape) == 3:
            return _read_large(stream, start, shape, dtype)
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _read_large(stream: IO[bytes], start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read a stack of images one by one onto disk; floats of any kind become float32."""
    stream.read(start)
    kept = dtype if dtype.kind in "iu" else np.dtype(np.float32)
    reserved = spill.room(shape, kept)
    one = math.prod(shape[1:])
    for number in range(shape[0]):
        data = stream.read(one * dtype.itemsize)
        with np.errstate(over="ignore"):
            image = np.frombuffer(data, dtype, one).astype(kept)
        spill.fill(reserved, image.data, number * one * kept.itemsize)
    return reserved[0]


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise DataError("the .npz holds an array of unknown format version; write it with numpy.savez")
    return shape, fortran, dtype, stream.tell()


def read_npz(path: Path) -> list[Found]:
    """Return the images of a .npz: `pixels` (H, W) or (N, H, W), and whatever else it says of them.

    Optional keys: mas (one or N), ids, labels, groups, kernels (one or N texts), mask ((H, W) or like pixels),
    storage (low, high, step), synthetic (0 or 1), protocol (JSON); the last three one or N.

    Raises
    ------
    DataError : for wrong keys, types, shapes, NaN, or sizes beyond the limits.
    """
    arrays = read_arrays(path)
    pixels, pixel_mm = _pixels(arrays)
    stack = pixels if pixels.ndim == 3 else pixels[None]
    count = len(stack)
    synthetic, protocols = _flags(arrays, count), _protocols(arrays, count)
    given = _texts(arrays, ("ids", "id"), count)
    kernels = _texts(arrays, ("kernels", "kernel"), count)
    labels = _texts(arrays, ("labels", "label"), count)
    mas = _mas(arrays, count)
    slices = []
    for i in range(count):
        mask = _mask(arrays, stack, i)
        image = Slice(
            id=slice_id(stack[i], pixel_mm),
            pixels=stack[i],
            pixel_mm=pixel_mm,
            label=labels[i],
            mas=mas[i],
            kernel=kernels[i],
            mask=mask,
            storage=_storage(arrays, stack[i], mask, i),
            protocol=protocols[i],
            synthetic=synthetic[i],
        )
        name = given[i]
        slices.append(image if name is None else replace(image, id=opaque(name)))
    groups = _groups(arrays, [s.id for s in slices], all(synthetic))
    return [
        Found(replace(s, group=g), frame=i, along=float(i)) for i, (s, g) in enumerate(zip(slices, groups, strict=True))
    ]


def read_repeats(path: Path) -> RepeatScans:
    """Return the repeats of a .npz: `pixels` (K, H, W), `pixel_mm`, and mas, id, kernel, label where it has them.

    Raises
    ------
    DataError : for wrong keys, types, shapes, NaN, sizes beyond the limits, or a single scan.
    """
    arrays = read_arrays(path)
    pixels, pixel_mm = _pixels(arrays)
    if pixels.ndim == 2 or len(pixels) < 2:
        raise DataError("one scan only: noise needs at least 2 repeats; stack them as `pixels` (K, H, W)")
    synthetic = _flags(arrays, 1)[0]
    masks = [_mask(arrays, pixels, k) for k in range(len(pixels))]
    mask = joint_mask(masks)
    name = _texts(arrays, ("id", "ids"), 1)[0]
    own_id = slice_id(pixels.mean(axis=0, dtype=np.float64), pixel_mm)
    ident = own_id if name is None else opaque(name)
    return RepeatScans(
        id=ident,
        pixels=pixels,
        pixel_mm=pixel_mm,
        mas=_one_mas(arrays, len(pixels)),
        kernel=_texts(arrays, ("kernel", "kernels"), 1)[0],
        label=_texts(arrays, ("label", "labels"), 1)[0],
        group=_groups(arrays, [ident], synthetic)[0],
        mask=mask,
        storage=_storage(arrays, pixels, None if mask is None else np.broadcast_to(mask, pixels.shape)),
        protocol=_protocols(arrays, 1)[0],
        source=_texts(arrays, ("source",), 1, 400)[0] or "measured",
        synthetic=synthetic,
    )


def joint_mask(masks: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.bool_] | None:
    """Return where every scan has image; None when none of them has padding."""
    kept = [m for m in masks if m is not None]
    return np.logical_and.reduce(kept) if kept else None


def _pixels(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], Any]:
    raw = arrays["pixels"]
    if raw.ndim not in (2, 3):
        raise DataError(f"`pixels` has {raw.ndim} dimensions; it must be (H, W) or (N, H, W) in HU")
    check_size(raw.shape, "`pixels`")
    if raw.ndim == 3 and raw.shape[2] in (3, 4) and raw.shape[0] > 4 and raw.shape[1] > 4:
        raise DataError(f"`pixels` of shape {raw.shape} looks like a colour image; give HU as (H, W) or (N, H, W)")
    with np.errstate(over="ignore"):
        pixels = _as_float(raw)
    check_pixels(pixels, "`pixels`")
    spacing = np.atleast_1d(arrays["pixel_mm"]).astype(float)
    return pixels, check_spacing([float(v) for v in spacing.ravel()], "`pixel_mm`")


def _as_float(raw: NDArray[Any]) -> NDArray[np.float32]:
    if raw.ndim < 3 or raw.nbytes <= LARGE or raw.dtype == np.float32:
        return np.ascontiguousarray(raw, dtype=np.float32)
    reserved = spill.room(raw.shape, np.dtype(np.float32))
    for number, image in enumerate(raw):
        spill.fill(reserved, np.ascontiguousarray(image, dtype=np.float32).data, number * image.size * 4)
    return reserved[0]


def _texts(arrays: Mapping[str, NDArray[Any]], names: Sequence[str], count: int, limit: int = 64) -> list[str | None]:
    name = next((n for n in names if n in arrays), None)
    if name is None:
        return [None] * count
    values = np.atleast_1d(arrays[name])
    if values.ndim != 1 or values.size not in (1, count):
        raise DataError(f"`{name}` holds {values.size} texts for {count} images; give one for each")
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
    cleaned = [clean_text(t, limit) for t in texts]
    if name in ("ids", "id") and count > 1 and len(set(cleaned)) < count:
        raise DataError("`ids` repeat themselves; give each image its own, or leave them out")
    return cleaned * count if len(cleaned) == 1 else cleaned


def _mas(arrays: Mapping[str, NDArray[Any]], count: int) -> list[float | None]:
    if "mas" not in arrays:
        return [None] * count
    values = np.atleast_1d(arrays["mas"]).astype(float)
    if values.ndim != 1 or values.size not in (1, count):
        raise DataError(f"`mas` holds {values.size} values for {count} images; give one, or one for each")
    if np.any(values <= 0) or np.any(np.isinf(values)):
        raise DataError("`mas` must be positive (NaN where unknown)")
    return [None if np.isnan(v) else float(v) for v in np.broadcast_to(values, count)]


def _one_mas(arrays: Mapping[str, NDArray[Any]], count: int) -> float | None:
    values = set(_mas(arrays, count))
    if len(values) > 1:
        raise DataError("the repeats were taken at different mAs; write one .npz for each level")
    return values.pop()


def _flags(arrays: Mapping[str, NDArray[Any]], count: int) -> list[bool]:
    values = np.atleast_1d(arrays.get("synthetic", np.zeros(1))).ravel()
    if values.size not in (1, count):
        raise DataError(f"`synthetic` holds {values.size} values for {count} images; give one, or one for each")
    return [bool(v) for v in np.broadcast_to(values, count)]


def _mask(arrays: Mapping[str, NDArray[Any]], stack: NDArray[np.float32], index: int) -> NDArray[np.bool_] | None:
    tagged = None
    if "mask" in arrays:
        given = arrays["mask"]
        if given.shape not in (stack.shape, stack.shape[1:]):
            raise DataError(f"`mask` has shape {given.shape}; it must be that of one image or of `pixels`")
        tagged = np.asarray(given[index] if given.ndim == 3 else given) == 0
    mask = outside(stack[index], tagged)
    if mask is not None and not mask.any():
        raise DataError("every pixel of an image is padding; leave that image out")
    return mask


def _storage(
    arrays: Mapping[str, NDArray[Any]], pixels: NDArray[np.float32], mask: NDArray[np.bool_] | None, index: int = 0
) -> Storage | None:
    if "storage" in arrays:
        return _given_storage(arrays["storage"], index)
    kind = arrays["pixels"].dtype
    if kind.kind not in "iu":
        return None
    info = np.iinfo(kind)
    return seen_limits(pixels, mask, grid(float(info.min), float(info.max), 1.0))


def _given_storage(given: NDArray[Any], index: int) -> Storage | None:
    rows = np.atleast_2d(given).astype(float)
    if rows.ndim != 2 or rows.shape[1] != 3 or (len(rows) > 1 and index >= len(rows)):
        raise DataError("`storage` must be (low, high, step) in HU, one or one for each image")
    values = rows[index if len(rows) > 1 else 0].tolist()
    if all(np.isnan(values)):
        return None
    storage = storage_of(values)
    if storage is None:
        raise DataError("`storage` must be (low, high, step) in HU with low < high and step > 0")
    return storage


def _protocols(arrays: Mapping[str, NDArray[Any]], count: int) -> list[dict[str, Any]]:
    texts = _texts(arrays, ("protocol",), count, 4096)
    try:
        values = [json.loads(t) if t else {} for t in texts]
    except (ValueError, RecursionError):
        raise DataError("`protocol` must be a JSON object") from None
    return [clean_protocol(v) if isinstance(v, dict) else {} for v in values]


def _groups(arrays: Mapping[str, NDArray[Any]], ids: Sequence[str], synthetic: bool) -> list[str | None]:
    """Return groups as given for phantoms and for our own opaque names; otherwise named by their images' pixels."""
    given = _texts(arrays, ("groups", "group"), len(ids))
    if synthetic or all(g is None or opaque(g) == g for g in given):
        return given
    return name_groups(given, ids)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as a compressed .npz, whole or not at all; None values are left out."""
    kept = {k: np.asarray(v) for k, v in arrays.items() if v is not None}
    with atomic_stream(path) as stream:
        np.savez_compressed(stream, **kept)  # type: ignore[arg-type]
