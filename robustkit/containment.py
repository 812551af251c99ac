"""A stranger's code is run so that it harms nobody else: what it prints stays off stdout, what it changes is put back.

Contained are stdout (a `--json` run prints one object and nothing else), the working directory, numpy's error
handling, and the global random states of numpy and of Python.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
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


TOLD_SECONDS, GIVEN_UP_SECONDS = 5.0, 60.0


@contextmanager
def hurried(what: str, cure: str) -> Iterator[None]:
    """Name on stderr what is still at work after `TOLD_SECONDS`, and give it up after `GIVEN_UP_SECONDS`.

    Raises TimeoutError in the block then; only in the main thread, where a signal can be caught.
    """
    told = threading.Timer(TOLD_SECONDS, lambda: print(f"still waiting for {what}; {cure}", file=sys.stderr))
    told.daemon = True
    told.start()
    try:
        with _alarm(what) if threading.current_thread() is threading.main_thread() else nullcontext():
            yield
    finally:
        told.cancel()


@contextmanager
def _alarm(what: str) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError(f"{what} took more than {GIVEN_UP_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, GIVEN_UP_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
