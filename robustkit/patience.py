"""A call of a model need not end, or takes all memory there is: it is waited for, and given up by name.

The call works in a thread of its own while the caller waits, so Ctrl-C is heard while native code computes. What does
not stop when it is told to is left behind, and `leave` ends the process without it.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from robustkit.errors import ModelError, UsageError

T = TypeVar("T")
SECONDS = 120.0
"""How long one call may take: an audit of 13 levels x 1,000 realizations would take a day a slice."""
VARIABLE = "ROBUSTKIT_MODEL_SECONDS"
"""Environment variable that gives slow models longer."""
LOOK_SECONDS = 0.25
GRACE_SECONDS = 2.0
"""How long a call that was told to stop is waited for."""
LARGE = 1 << 30
"""Bytes that any call may take."""


class _Helper:
    """A thread that makes one call after the other."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="robustkit-model").start()

    def start(self, call: Callable[[], Any]) -> None:
        self._calls.put(call)

    def wait(self, seconds: float) -> tuple[Any, BaseException | None]:
        return self._answers.get(timeout=seconds)

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            answer: tuple[Any, BaseException | None]
            try:
                answer = call(), None
            except BaseException as error:  # handed to who waits
                answer = None, error
            self._answers.put(answer)
            del call, answer


_idle: list[_Helper] = []
_left_behind: list[_Helper] = []
for _helpers in (_idle, _left_behind):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_helpers.clear)


def bounded(call: Callable[[], T], what: str, stop: Callable[[], None] = lambda: None) -> T:
    """Return what `call` returns, or raise what it raises, if that comes in time.

    Parameters
    ----------
    call : works in another thread. what : named in errors. stop : asks a call that is given up to end.

    Raises
    ------
    ModelError
        No answer within `ROBUSTKIT_MODEL_SECONDS` (120), or the call took more memory than it left free.
    """
    seconds, before = limit(), _taken()
    try:
        helper = _idle.pop()
    except IndexError:
        helper = _Helper()
    context = copy_context()
    helper.start(lambda: context.run(call))
    try:
        answer, error = _answer(helper, what, seconds, before)
    except BaseException:
        stop()
        _put_aside(helper)
        raise
    _idle.append(helper)
    if error is not None:
        raise error
    found: T = answer
    return found


def limit() -> float:
    """Return how many seconds a call may take; UsageError for a value that is no such number."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise UsageError(f"{VARIABLE} must be a number of seconds above 0, got {text!r:.40}")
    return seconds


def leave(code: int) -> None:
    """End the process with `code` if a call that was given up still computes: nothing else ends it."""
    if not _left_behind:
        return
    with suppress(Exception):
        atexit._run_exitfuncs()  # temporary folders go, as they would
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _answer(helper: _Helper, what: str, seconds: float, before: int) -> tuple[Any, BaseException | None]:
    began = time.monotonic()
    while True:
        left = seconds - (time.monotonic() - began)
        with suppress(Empty):
            return helper.wait(max(0.001, min(LOOK_SECONDS, left)))
        if left <= LOOK_SECONDS and time.monotonic() - began >= seconds:
            raise ModelError(
                f"{what} gave no answer within {seconds:g} s; it may hold a loop that never ends. Export it without, "
                f"or if it is only slow give it longer ({VARIABLE}={10 * seconds:g}) or fewer images at once (--batch)"
            )
        grown = _taken() - before
        if grown > LARGE and grown > _free():
            raise ModelError(
                f"{what} took {grown / 2**30:.1f} GiB at once and would have taken all memory; its sizes may be wrong. "
                "Export it again, or give it fewer images at once (--batch)"
            )


def _put_aside(helper: _Helper) -> None:
    try:
        helper.wait(GRACE_SECONDS)
    except Empty:
        _left_behind.append(helper)
    else:
        _idle.append(helper)


def _taken() -> int:
    """Return the bytes of memory that this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _free() -> float:
    """Return the bytes that may still be taken, of the machine or of the control group; no end where unknown."""
    found = math.inf
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found = 1024.0 * int(text.split("MemAvailable:")[1].split()[0])
    with suppress(OSError, ValueError):  # "max" where the group has no limit
        group = Path("/sys/fs/cgroup")
        most, now = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        found = min(found, float(most - now))
    return found


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
