"""Labels from a `labels.csv`: beside a single image file, or in any folder of a tree of images.

One row an image, with a header line. Column `label` holds the class; `file` the name of the image file relative to
the CSV's folder (with "/"; the ending may be left out where that is unambiguous); `index` the image within that file,
from 0 (frames, slices of a volume, entries of a .npz). Without `file`, `index` counts the files of the folder in
sorted order, or the images of the one file beside it. A row without `index` labels every image of its file. The CSV
nearest to an image that has a row for it decides.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustkit.errors import DataError
from robustkit.scans.records import LOG, Found, clean_text

NAME = "labels.csv"
MAX_LABELS = 64 << 20


@dataclass(frozen=True)
class Row:
    """One line: which file (None: the only one), which image in it (None: all), its class."""

    file: str | None
    index: int | None
    label: str


def apply_labels(found: Sequence[Found], files: Sequence[Path], root: Path) -> list[Found]:
    """Return the images labelled by the CSV files between them and `root` (a folder, or the single file given).

    Raises
    ------
    DataError : for a CSV that cannot be read, two labels for one image, or one of which no row fits any image.
    """
    top = root if root.is_dir() else root.parent
    tables = {folder: read_rows(folder / NAME) for folder in _folders(files, top) if (folder / NAME).is_file()}
    if not tables:
        return list(found)
    used: set[tuple[Path, int]] = set()
    labelled = [_labelled(f, files, tables, top, used) for f in found]
    if not used:
        raise DataError(f"no row of {NAME} fits an image; name files relative to its folder, or count from index 0")
    _tell(labelled, sum(map(len, tables.values())) - len(used) if root.is_dir() else 0)
    return labelled


def read_rows(path: Path) -> list[Row]:
    """Return the rows of one CSV; DataError names the line and what is wrong with it."""
    if path.stat().st_size > MAX_LABELS:
        raise DataError(f"{NAME} is larger than {MAX_LABELS >> 20} MiB; split it")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            cells = list(csv.reader(stream))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{NAME} cannot be read ({type(error).__name__}); write it as UTF-8 CSV") from None
    names = [n.strip().lower() for n in cells[0]] if cells else []
    if "label" not in names or not {"file", "index"} & set(names):
        raise DataError(f"{NAME} needs a header line with `label` and `file` or `index`")
    return [row for line, r in enumerate(cells[1:], 2) if (row := _row(dict(zip(names, r, strict=False)), line))]


def _row(line: dict[str, str], number: int) -> Row | None:
    if not any(v.strip() for v in line.values()):
        return None
    label = clean_text(line.get("label"))
    if label is None:
        raise DataError(f"line {number} of {NAME} has no label; give one, or leave the line out")
    file, index = (line.get("file") or "").strip() or None, (line.get("index") or "").strip()
    if file is None and not index:
        raise DataError(f"line {number} of {NAME} names neither a file nor an index; give one of them")
    if index and not (index.isascii() and index.isdigit() and len(index) < 10):
        raise DataError(f"the index in line {number} of {NAME} is not a whole number from 0; count images from 0")
    return Row(file, int(index) if index else None, label)


def _folders(files: Sequence[Path], top: Path) -> list[Path]:
    folders = {top}
    for file in files:
        folder = file.parent
        while folder not in folders and top in folder.parents:
            folders.add(folder)
            folder = folder.parent
    return sorted(folders)


def _labelled(
    found: Found,
    files: Sequence[Path],
    tables: dict[Path, list[Row]],
    top: Path,
    used: set[tuple[Path, int]],
) -> Found:
    file = files[found.file]
    for folder in (file.parent, *file.parents):
        if folder in tables:
            hits = [n for n, row in enumerate(tables[folder]) if _fits(row, found, file, files, folder)]
            labels = {tables[folder][n].label for n in hits}
            if len(labels) > 1:
                raise DataError(f"{NAME} gives one image {len(labels)} different labels; keep one")
            if labels:
                used.update((folder, n) for n in hits)
                return replace(found, slice=replace(found.slice, label=labels.pop()))
        if folder == top:
            break
    return found


def _fits(row: Row, found: Found, file: Path, files: Sequence[Path], folder: Path) -> bool:
    if row.file is None:
        inside = [n for n, f in enumerate(files) if folder in f.parents]
        return row.index == (found.frame if len(inside) == 1 else inside.index(found.file))
    relative = file.relative_to(folder)
    named = row.file.replace("\\", "/").removeprefix("./")
    if named not in (relative.as_posix(), relative.with_suffix("").as_posix()):
        return False
    return row.index is None or row.index == found.frame


def _tell(labelled: Sequence[Found], unused: int) -> None:
    without = sum(f.slice.label is None for f in labelled)
    if unused:
        LOG.warning("%s: %d rows fit no image that could be read", NAME, unused)
    if without:
        LOG.warning("%s: %d of %d images have no label", NAME, without, len(labelled))
