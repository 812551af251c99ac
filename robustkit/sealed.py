"""Records that cannot be changed unnoticed: written with their SHA-256 beside them, and checked when read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustkit import files
from robustkit.errors import DataError, UsageError
from robustkit.models import hash_file
from robustkit.plain import Record, plain

SCHEMA = 1


def seal(folder: Path, name: str, record: Mapping[str, Any]) -> Record:
    """Write `name`.json and its SHA-256; return the record as it will be read again."""
    sealed: Record = plain(dict(record))
    files.write_json(folder / f"{name}.json", sealed)
    files.write_text(folder / f"{name}.sha256", f"{hash_file(folder / f'{name}.json')}  {name}.json\n")
    return sealed


def read_sealed(folder: Path, name: str) -> Record:
    """Return lock.json or baseline.json of a folder; DataError when it is not what was hashed when it was written."""
    path = folder / f"{name}.json"
    if not path.exists():
        cure = {"lock": "predict first: --repeats FIT --out DIR", "baseline": "finish it: --hold-out SCANS --out DIR"}
        raise UsageError(f"{folder} holds no {name}.json; {cure[name]}")
    if hash_file(path) != hash_of(folder, name):
        raise DataError(f"{name}.json in {folder} was changed after it was locked; commission again into another --out")
    try:
        found: Record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{name}.json in {folder} cannot be read; commission again into another --out") from error
    if found.get("schema") != SCHEMA:
        schema = found.get("schema")
        raise DataError(
            f"{name}.json in {folder} has schema {schema}, this robustkit reads {SCHEMA}; use the one that made it"
        )
    return found


def hash_of(folder: Path, name: str) -> str:
    """Return the SHA-256 that was written when `name`.json was; DataError without one."""
    try:
        return (folder / f"{name}.sha256").read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError):
        raise DataError(f"{folder} lacks {name}.sha256, so {name}.json proves nothing; commission again") from None


def hashes_of(folder: Path) -> dict[str, str]:
    """Return name and SHA-256 of the images, profiles and results that a record rests on."""
    kept = [*folder.glob("clean/*"), *folder.glob("profiles/*")]
    kept += [folder / part / name for part in ("predicted", "measured") for name in ("summary.json", "results.parquet")]
    return {p.relative_to(folder).as_posix(): hash_file(p) for p in sorted(kept) if p.exists()}


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise DataError for the first file that is missing or not what it was when it was hashed."""
    for name, wanted in hashes.items():
        path = folder / name
        if not path.exists() or hash_file(path) != wanted:
            raise DataError(f"{name} in {folder} is missing or was changed after it was locked; commission again")
