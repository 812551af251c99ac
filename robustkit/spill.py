"""Images that wait on disk: arrays laid into one unnamed temporary file and mapped back.

Thousands of slices take address space and not memory. The file has no name and is gone when the process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError

T = TypeVar("T", bound=np.generic)
EXTENT = 1 << 28
"""Bytes mapped at once; an array that is larger has a mapping of its own."""
BUDGET = 1 << 25
"""Bytes of images that stay in memory before the rest is laid down."""
ALIGN = 64


@dataclass
class Store:
    """One temporary file of arrays; `put` returns what reads like the array that was given."""

    descriptor: int = -1
    size: int = 0
    room: int = 0
    maps: list[mmap.mmap] = field(default_factory=list)

    def put(self, array: NDArray[T]) -> NDArray[T]:
        """Return the array as it lies on disk: same shape, type and values, read-only."""
        found = self.reserve(array.shape, array.dtype)
        self._write(found, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, 0)
        view: NDArray[T] = found[0]
        return view

    def reserve(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
        """Return an array of zeros on disk and where it begins in the file; `fill` gives it its values."""
        offset = self._place(int(np.prod(shape)) * dtype.itemsize)
        start = offset - self._begins
        return np.ndarray(shape, dtype, self.maps[-1], start), offset  # one object, where a view of a view takes three

    def fill(self, reserved: tuple[NDArray[Any], int], data: Any, at: int) -> None:
        """Write bytes into a reserved array, `at` bytes from its begin."""
        self._write(reserved, data, at)

    def forget(self) -> None:
        """Let go of the pages that were read; they are read again from disk when they are wanted."""
        for mapping in self.maps:
            mapping.madvise(mmap.MADV_DONTNEED)

    def _place(self, wanted: int) -> int:
        at = -(-self.size // ALIGN) * ALIGN
        if not self.maps or at + wanted > self.room:
            if self.descriptor < 0:
                self.descriptor, name = tempfile.mkstemp(prefix="robustkit-")
                os.unlink(name)
            self._begins = at = -(-max(self.size, self.room) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
            length = max(EXTENT, wanted)
            os.truncate(self.descriptor, at + length)
            self.maps.append(mmap.mmap(self.descriptor, length, prot=mmap.PROT_READ, offset=at))
            self.room = at + length
        self.size = at + wanted
        return at

    _begins: int = 0

    def _write(self, reserved: tuple[NDArray[Any], int], data: Any, at: int) -> None:
        view, offset = memoryview(data).cast("B"), reserved[1] + at
        try:
            while len(view):
                written = os.pwrite(self.descriptor, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise DataError(
                f"the images are more than memory should hold and do not fit into {tempfile.gettempdir()} "
                f"({error.strerror}); name a folder with room: TMPDIR=FOLDER"
            ) from None


_store = Store()
_kept = 0


@overload
def laid(array: NDArray[T]) -> NDArray[T]: ...
@overload
def laid(array: None) -> None: ...
def laid(array: NDArray[T] | None) -> NDArray[T] | None:
    """Return the array, on disk when this process holds `BUDGET` bytes of images already."""
    global _kept  # noqa: PLW0603 - one budget for one process
    if array is None or not array.nbytes:
        return array
    _kept += array.nbytes
    return array if _kept <= BUDGET else _store.put(array)


def room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
    """Return an array of zeros on disk, for `fill`."""
    return _store.reserve(shape, dtype)


def fill(reserved: tuple[NDArray[Any], int], data: Any, at: int) -> None:
    """Write bytes into a reserved array, `at` bytes from its begin."""
    _store.fill(reserved, data, at)


def forget() -> None:
    """Let go of the pages of laid-down images that were read."""
    _store.forget()
