"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

from robustkit.errors import DataError

DAMAGES = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile, zlib, numpy and json raise for damaged files."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`, on any failure it is removed.

    Raises
    ------
    DataError : the folder cannot be written to: full, read-only, gone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _not_written(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_stream(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream to write `path` to as bytes, whole or not at all (see `atomic_path`)."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def _not_written(path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write {path.name}: {error.strerror or type(error).__name__}; what was written before is whole: make "
        "room or name another folder, then run again (an audit with --resume)"
    )


def clear_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left of `atomic_path` in a folder that nobody else writes to."""
    for item in folder.glob(".*.*"):
        if item.is_file():
            item.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; floats as Python prints them, None is null, NaN is refused (ValueError)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
