"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, TextIO

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
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(_JSON.iterencode(value))
        stream.write("\n")


def write_npz(path: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Write named arrays as `.npz`, whole or not at all.

    The archive is made in memory: of one that a full disk broke, numpy before 2 tells on stderr by itself.
    """
    import io

    import numpy as np

    made = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(made, **arrays)
    with atomic_stream(path) as stream:
        stream.write(made.getbuffer())


def write_json_list(path: Path, values: Iterable[Any]) -> None:
    """Write what `write_json` writes of a list, one item in memory at a time."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        between = "[\n "
        for value in values:
            stream.write(between)
            stream.writelines(text.replace("\n", "\n ") for text in _JSON.iterencode(value))
            between = ",\n "
        stream.write("[]\n" if between.startswith("[") else "\n]\n")


_JSON = json.JSONEncoder(indent=1, allow_nan=False)


def read_json_list(path: Path) -> Iterator[Any]:
    """Yield the items of a JSON list, one in memory at a time; ValueError for anything else, OSError as `open`."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as stream:
        rest = _Ahead(stream)
        rest.take("[")
        if rest.next() == "]":
            return
        while True:
            yield rest.value(decoder)
            if rest.next() == "]":
                break
            rest.take(",")


@dataclass
class _Ahead:
    """The text of a stream from where a reader stands, read on as it is wanted."""

    stream: TextIO
    text: str = ""

    def more(self) -> bool:
        """Read on, twice as much as before: a value that is long is not tried too often. False at the end."""
        found = self.stream.read(max(PIECE, len(self.text)))
        self.text += found
        return bool(found)

    def next(self) -> str:
        """Return the next character that is no space, "" at the end."""
        while not (rest := self.text.lstrip()) and self.more():
            pass
        self.text = rest
        return rest[:1]

    def take(self, wanted: str) -> None:
        """Step over a character; ValueError where another stands."""
        if self.next() != wanted:
            raise ValueError(f"expected {wanted}")
        self.text = self.text[1:]

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Return the next value and step over it; ValueError for what is none."""
        self.next()
        while True:
            try:
                found, end = decoder.raw_decode(self.text)
            except ValueError:
                if not self.more():
                    raise
                continue
            if self.text[end:].lstrip()[:1] not in (",", "]") and self.more():  # a number may go on
                continue
            self.text = self.text[end:]
            return found


PIECE = 1 << 16
"""Characters read at once, at least."""
