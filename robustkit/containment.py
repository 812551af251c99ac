"""A stranger's code is run so that it harms nobody else: what it prints stays off stdout, what it changes is put back.

Contained are stdout (a `--json` run prints one object and nothing else), the working directory, numpy's error
handling, and the global random states of numpy and of Python.
"""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

import numpy as np


@contextmanager
def contained() -> Iterator[list[str]]:
    """Yield a list that names, on leaving the block, what the code in it did and what was put back."""
    notes: list[str] = []
    kept = [(name, read(), read, restore) for name, read, restore in _GLOBALS]
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield notes
    finally:
        if printed.getvalue().strip():
            print(printed.getvalue(), end="", file=sys.stderr)
            notes.append("printed on stdout (shown on stderr)")
        for name, before, read, restore in kept:
            if _plain(read()) != _plain(before):
                restore(before)
                notes.append(f"changed {name} (put back)")


def _directory() -> str:
    with suppress(OSError):  # the directory may have been removed
        return os.getcwd()
    return os.path.expanduser("~")


def _random_state() -> Any:
    return np.random.get_state(legacy=False)  # noqa: NPY002 - the global state is what is watched


def _restore_random_state(state: Any) -> None:
    np.random.set_state(state)  # noqa: NPY002 - as above


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tobytes() if isinstance(value, np.ndarray) else value


_GLOBALS: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("the working directory", _directory, os.chdir),
    ("numpy's error handling", np.geterr, lambda kept: np.seterr(**kept)),
    ("numpy's global random state", _random_state, _restore_random_state),
    ("Python's global random state", random.getstate, random.setstate),
)
