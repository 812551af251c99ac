"""From a path to images or repeats: which reader takes a file, what is refused, and in which order images come."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from robustkit import spill
from robustkit.errors import DataError, RobustkitError
from robustkit.scans import npz
from robustkit.scans.labels import NAME as LABELS
from robustkit.scans.labels import apply_labels
from robustkit.scans.records import LOG, Found, tell, with_groups
from robustkit.scans.repeats import group_repeats, join_repeats
from robustkit.types import RepeatScans, Slice

T = TypeVar("T")
ACCEPTED = "DICOM CT (.dcm), .npz with `pixels` in HU and `pixel_mm`, or NIfTI (.nii, .nii.gz)"


def load_images(path: str) -> Sequence[Slice] | None:
    """Read images to audit from a file or a folder (recursive); None when nothing exists at `path`.

    DICOM CT (each slice or frame is an image), `.npz` with `pixels` (H, W) or (N, H, W) in HU and `pixel_mm` (2,),
    and NIfTI with its extra. In a folder each file that is refused is logged with its reason and by its position in
    the sorted listing alone, and the rest goes on. Images of a DICOM series come in the order of their position.

    Raises
    ------
    DataError : for a single file that is refused, a folder of which nothing is left (with the reasons counted), or
        a `labels.csv` that does not fit.
    MissingExtraError : for a single file that needs an extra.
    """
    if not os.path.exists(path):
        return None
    root = Path(path)
    files = listing(root)
    found = _each(root, files, _read_images)
    found = with_groups(_in_order(without_copies(apply_labels(found, files, root), len(files))))
    tell(found)
    return tuple(f.slice for f in found)


def load_repeats(path: str) -> Sequence[RepeatScans] | None:
    """Read repeat scans from a file or a folder (recursive); None when nothing exists at `path`.

    DICOM scans are grouped by position, geometry, kernel and mAs, whatever their folders; a `.npz` holds the repeats
    of one slice, `pixels` (K, H, W) and `pixel_mm`, with `mas`, `id`, `kernel`, `label` where known.

    Raises
    ------
    DataError : for one scan only, repeats of different shapes, copies passed off as scans, or any file that
        `load_images` would refuse.
    """
    if not os.path.exists(path):
        return None
    root = Path(path)
    files = listing(root)
    read = _each(root, files, _read_repeats)
    stacks = [r for r in read if isinstance(r, RepeatScans)]
    single = [r for r in read if isinstance(r, Found)]
    repeats = join_repeats(stacks)
    if single or not repeats:
        single = without_copies(apply_labels(single, files, root), len(files), by_uid=True)
        repeats = [*repeats, *group_repeats(with_groups(single), alone_is_error=not repeats)]
        tell(single)
    return tuple(repeats)


def listing(root: Path) -> list[Path]:
    """Return the regular files under `root`, sorted, without hidden ones, indexes and label tables."""
    if not root.is_dir():
        if not root.is_file():
            raise DataError(f"the path given is neither a file nor a folder; robustkit reads {ACCEPTED}")
        return [root]
    files = []
    for folder, names, entries in os.walk(root, followlinks=False):
        names[:] = sorted(n for n in names if not n.startswith("."))
        files += [Path(folder) / e for e in entries if not e.startswith(".") and e not in (LABELS, "DICOMDIR")]
    return sorted(files)


def _each(root: Path, files: Sequence[Path], read: Callable[[Path], Sequence[T]]) -> list[T]:
    """Read every file; a lone file's refusal is raised, one among many is logged."""
    if not root.is_dir():
        return list(_numbered(read(files[0]), 0))
    if not files:
        raise DataError(f"the folder given holds no files; robustkit reads {ACCEPTED}")
    found: list[T] = []
    reasons: Counter[str] = Counter()
    said: dict[str, Any] = {}
    for number, file in enumerate(files):
        try:
            found += _laid(_numbered(read(file), number), said)
        except RobustkitError as error:
            reasons[str(error)] += 1
            LOG.warning("file %d of %d refused: %s", number + 1, len(files), error)
    if not found:
        told = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
        raise DataError(f"none of the {len(files)} files in the folder can be used: {told}")
    return found


def _laid(found: Sequence[T], said: dict[str, Any]) -> list[T]:
    """Lay images down on disk once they are many; a folder of thousands takes no memory."""
    laid = [_elsewhere(item, said) for item in found]
    spill.forget()
    return laid


def _elsewhere(item: T, said: dict[str, Any]) -> T:
    """Return the same image or repeats with pixels laid down."""
    if isinstance(item, Found):
        kept = replace(item.slice, pixels=spill.laid(item.slice.pixels), mask=spill.laid(item.slice.mask))
        return replace(item, slice=_shared(kept, said))
    return replace(item, pixels=spill.laid(item.pixels)) if isinstance(item, RepeatScans) else item


FACTS = ("pixel_mm", "label", "group", "mas", "kernel", "storage", "protocol")


def _shared(item: Slice, said: dict[str, Any]) -> Slice:
    """Return a slice that shares its facts with those that `said` the same before: neighbours mostly do."""
    values = {name: getattr(item, name) for name in FACTS}
    return replace(item, **{name: said.setdefault(repr(value), value) for name, value in values.items()})


def _numbered(found: Sequence[T], number: int) -> list[T]:
    return [replace(f, file=number) if isinstance(f, Found) else f for f in found]


def _read_images(path: Path) -> Sequence[Found]:
    head = _head(path)
    if npz.is_npz(head):
        return npz.read_npz(path)
    return _read_other(path, head)


def _read_repeats(path: Path) -> Sequence[Found | RepeatScans]:
    head = _head(path)
    if npz.is_npz(head):
        return [npz.read_repeats(path)]
    return _read_other(path, head)


def _read_other(path: Path, head: bytes) -> Sequence[Found]:
    from robustkit.scans import dicom, nifti

    if dicom.is_dicom(head):
        return dicom.read_dicom(path)
    if nifti.is_nifti(head, path):
        return nifti.read_nifti(path)
    if not head:
        raise DataError(f"it is empty; robustkit reads {ACCEPTED}")
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        raise DataError("it is not a whole DICOM file (no DICM marker); export it again")
    raise DataError(f"it is not an image file; robustkit reads {ACCEPTED}")


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise DataError("it is not a regular file; give an ordinary one")
    try:
        with path.open("rb") as stream:
            return stream.read(512)
    except OSError as error:
        raise DataError(f"it cannot be opened ({error.strerror}); check who may read it") from None


def without_copies(found: Sequence[Found], files: int, *, by_uid: bool = False) -> list[Found]:
    """Leave out images that are copies of an earlier one: the very same pixels or, `by_uid`, a reused instance UID."""
    kept: list[Found] = []
    seen: dict[str, int] = {}
    for f in found:
        keys = [f"pixels {f.slice.id}", *([f.uid] if by_uid and f.uid else [])]
        first = next((seen[k] for k in keys if k in seen), None)
        if first is None:
            kept.append(f)
            seen.update(dict.fromkeys(keys, f.file))
        else:
            where = f"file {f.file + 1} of {files}" + (f", image {f.frame + 1}" if f.frame else "")
            LOG.warning("%s left out: the same image as in file %d (a copy, not another scan)", where, first + 1)
    return kept


def _in_order(found: Sequence[Found]) -> list[Found]:
    """Keep the listing's order of series, and put each series in order of position."""
    first: dict[str, int] = {}
    for f in found:
        first.setdefault(f.series or f"file {f.file}", f.file)
    return sorted(found, key=lambda f: (first[f.series or f"file {f.file}"], f.along, f.file, f.frame))
