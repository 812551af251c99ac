"""What the tests' workers do; a module of its own so that spawned processes can import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from robustkit.errors import DataError


def touch(task):
    Path(task).write_text(str(os.getpid()))


def touch_or_die_once(task):
    path = Path(task)
    if path.name == "2" and not path.with_suffix(".died").exists():
        path.with_suffix(".died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    path.touch()


def touch_or_always_die(task):
    if Path(task).name == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(task).touch()


def hear_ctrl_c(task):
    os.kill(os.getpid(), signal.SIGINT)
    Path(task).touch()


def refuse(task):
    raise DataError("no such thing")


def fail(task):
    raise ValueError(task)


def tasks(folder):
    return [str(folder / str(i)) for i in range(5)]
