"""Which single scans are repeats of one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustkit import spill
from robustkit.errors import DataError
from robustkit.scans.npz import joint_mask
from robustkit.scans.records import LOG, Found
from robustkit.types import PixelSize, RepeatScans, slice_id

Shape: TypeAlias = tuple[int, int, float, float]
SAME_POSITION_MM = 0.1
SAME_MAS = 0.03  # tube current modulation moves a repeat's mAs by a percent or two
OTHER_OBJECT_HU, OTHER_OBJECT_SHARE = 150.0, 0.05
"""Another object is shown where more than this share of coarse blocks differs by more than this."""
CURE = "repeats are 2 or more scans of one object, same position, matrix, pixel size, kernel and mAs"


def group_repeats(found: Sequence[Found], *, alone_is_error: bool = True) -> list[RepeatScans]:
    """Group single scans into repeats, by position, geometry, kernel and mAs, whatever their files and folders.

    Sets of one slice at several mAs share their id, the hash of the least noisy mean. A scan without a second one
    is left out and told; DataError when nothing else is there.

    Raises
    ------
    DataError : when scans of one position, kernel and mAs differ in matrix or pixel size, or none has a second.
    """
    slices = [
        [_split(shown, lambda f: f.slice.mas or 0.0, SAME_MAS, relative=True) for shown in _by_object(shaped)]
        for same in _by_settings(found)
        for placed in _split(same, lambda f: f.along, SAME_POSITION_MM, relative=False)
        for shaped in _by_shape(placed)
    ]
    sets = [levels for objects in slices for levels in objects]
    alone = [g[0] for levels in sets for g in levels if len(g) == 1]
    if len(alone) == len(found) and alone_is_error:
        raise DataError(f"one repeat only: {len(alone)} scans, and no two of the same slice and mAs; {CURE}")
    for f in sorted(alone, key=lambda f: (f.file, f.frame)):
        LOG.warning("file %d, image %d left out: no second scan of the same slice; %s", f.file + 1, f.frame + 1, CURE)
    whole = [[g for g in levels if len(g) >= 2] for levels in sets]
    ordered = sorted((levels for levels in whole if levels), key=lambda levels: (levels[0][0].along, levels[0][0].file))
    return [stack for levels in ordered for stack in _stacks(levels)]


def _stacks(levels: Sequence[Sequence[Found]]) -> list[RepeatScans]:
    """Return the repeats of one slice, one entry a mAs, all under one id."""
    stacks = [_stack(g) for g in levels]
    best = max(stacks, key=lambda r: len(r.pixels) * (r.mas or 0.0))
    ident = levels[0][0].subject or best.id
    return [replace(r, id=ident) for r in stacks]


def join_repeats(stacks: Sequence[RepeatScans]) -> list[RepeatScans]:
    """Join stacks of the same id and mAs into one; DataError when their shapes or pixel sizes differ."""
    joined: dict[tuple[str, float | None], list[RepeatScans]] = {}
    for stack in stacks:
        joined.setdefault((stack.id, stack.mas), []).append(stack)
    return [_join(same) for same in joined.values()]


def _join(same: Sequence[RepeatScans]) -> RepeatScans:
    first = same[0]
    _refuse_shapes(Counter(_shape(s.pixels, s.pixel_mm) for s in same))
    pixels = first.pixels if len(same) == 1 else np.concatenate([s.pixels for s in same])
    _refuse_copies(pixels)
    return first if len(same) == 1 else replace(first, pixels=pixels, mask=joint_mask([s.mask for s in same]))


def _refuse_copies(pixels: NDArray[np.float32]) -> None:
    names = [slice_id(p, (1.0, 1.0)) for p in pixels]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        copies = [k + 1 for k, name in enumerate(names) if name == repeated[0]]
        raise DataError(f"scans {', '.join(map(str, copies))} are copies of one another; give each repeat once")


def _by_settings(found: Sequence[Found]) -> list[list[Found]]:
    groups: dict[tuple[object, ...], list[Found]] = {}
    for f in found:
        p = f.slice.protocol
        settings = (p.get("kvp"), p.get("thickness_mm"), p.get("manufacturer"), p.get("filter"))
        groups.setdefault((f.subject, f.place, f.slice.kernel, *settings), []).append(f)
    return list(groups.values())


def _split(
    found: Sequence[Found], key: Callable[[Found], float], tolerance: float, *, relative: bool
) -> list[list[Found]]:
    """Part the scans where `key` moves by more than `tolerance` from the first of its part."""
    groups: list[list[Found]] = []
    for f in sorted(found, key=lambda f: (key(f), f.file, f.frame)):
        start = key(groups[-1][0]) if groups else 0.0
        if groups and key(f) - start <= tolerance * (start if relative else 1.0):
            groups[-1].append(f)
        else:
            groups.append([f])
    return groups


def _by_shape(found: Sequence[Found]) -> list[list[Found]]:
    """Part the scans by matrix and pixel size; one that stands alone at its mAs is an error, not another slice."""
    groups: dict[Shape, list[Found]] = {}
    for f in found:
        groups.setdefault(_shape(f.slice.pixels, f.slice.pixel_mm), []).append(f)
    for dosed in _split(found, lambda f: f.slice.mas or 0.0, SAME_MAS, relative=True):
        counts = Counter(_shape(f.slice.pixels, f.slice.pixel_mm) for f in dosed)
        if 1 in counts.values():
            _refuse_shapes(counts)
    return list(groups.values())


def _shape(pixels: NDArray[np.float32], pixel_mm: PixelSize) -> Shape:
    return pixels.shape[-2], pixels.shape[-1], round(pixel_mm[0], 4), round(pixel_mm[1], 4)


def _refuse_shapes(counts: Mapping[Shape, int]) -> None:
    if len(counts) > 1:
        told = ", ".join(f"{n} x {s[0]} x {s[1]} px of {s[2]:g} x {s[3]:g} mm" for s, n in counts.items())
        raise DataError(f"repeats of different shapes ({told}); reconstruct all on one matrix and field of view")


def _by_object(found: Sequence[Found]) -> list[list[Found]]:
    """Tell apart scans that agree in every setting but show different objects."""
    groups: list[tuple[NDArray[np.float64], list[Found]]] = []
    for f in found:
        coarse = _coarse(f.slice.pixels)
        same = next((members for reference, members in groups if _alike(coarse, reference)), None)
        if same is not None:
            same.append(f)
        else:
            groups.append((coarse, [f]))
    return [members for _, members in groups]


def same_object(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Say whether two images (H, W) show one object: noise or a small shift moves few means of 16 x 16 px by 150 HU."""
    return _alike(_coarse(a), _coarse(b))


def _alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return bool(np.mean(np.abs(a - b) > OTHER_OBJECT_HU) <= OTHER_OBJECT_SHARE)


def _coarse(pixels: NDArray[np.float32], block: int = 16) -> NDArray[np.float64]:
    """Means over blocks of 16 x 16 pixels (of the whole image where it is smaller), in which noise is small."""
    height, width = pixels.shape
    rows, columns = max(height // block, 1), max(width // block, 1)
    cut = pixels[: rows * (height // rows), : columns * (width // columns)].astype(np.float64)
    means: NDArray[np.float64] = cut.reshape(rows, height // rows, columns, width // columns).mean(axis=(1, 3))
    return means


def _stack(found: Sequence[Found]) -> RepeatScans:
    ordered = sorted(found, key=lambda f: (f.file, f.frame))
    first = ordered[0].slice
    pixels = spill.laid(np.stack([f.slice.pixels for f in ordered]))
    levels = [f.slice.mas for f in ordered if f.slice.mas is not None]
    storages = [f.slice.storage for f in ordered]
    return RepeatScans(
        id=ordered[0].subject or slice_id(pixels.mean(axis=0, dtype=np.float64), first.pixel_mm),
        pixels=pixels,
        pixel_mm=first.pixel_mm,
        mas=float(np.mean(levels)) if levels else None,
        kernel=first.kernel,
        label=first.label,
        group=first.group,
        mask=joint_mask([f.slice.mask for f in ordered]),
        storage=storages[0] if len(set(storages)) == 1 else None,
        protocol=first.protocol,
        source=ordered[0].source or "measured",
        synthetic=all(f.slice.synthetic for f in ordered),
    )
