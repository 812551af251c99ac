"""The command line, run in this process: the same entry point, without paying for an interpreter each time."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass

import pytest

from robustkit.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    returncode: int
    stdout: str
    stderr: str


def robustkit(*arguments, cwd="."):
    """Run a command in the folder `cwd`."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.setattr(sys, "argv", ["robustkit", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    return Done(code, out.getvalue(), err.getvalue())
