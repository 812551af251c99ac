"""A real Dask scheduler and its workers, each a process of its own, on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = str(Path(__file__).parent)


@contextmanager
def scheduler(folder, workers):
    """Start a scheduler and workers that find the tests' own modules; yield the address and the workers."""
    place = folder / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with ExitStack() as stack:

        def run(what, *arguments):
            command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(place)]
            process = subprocess.Popen([*command, *arguments], start_new_session=True, **quiet)
            stack.callback(process.wait)
            stack.callback(lambda: os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None)
            return process

        run("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory")
        made = [run("worker", *alone, str(folder / f"w{i}")) for i in range(workers)]
        deadline = time.monotonic() + 120
        while not (place.exists() and '"address"' in place.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield re.search(r'"address": "([^"]+)"', place.read_text())[1], made
