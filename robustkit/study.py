"""A study of many models from plan to page: the folder it holds alone, what it leaves there, what it returns."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit import files, run, rundir
from robustkit.plain import Record, plain


@dataclass(frozen=True)
class Outcome:
    """What a study found, as JSON holds it, where it lies, and the exit code."""

    summary: Record
    run_dir: Path
    exit_code: int = 0


@dataclass(frozen=True)
class Opened:
    """A study's directory, held alone since `began` (monotonic seconds)."""

    directory: rundir.RunDir
    began: float

    @property
    def path(self) -> Path:
        """Return the directory."""
        return self.directory.path

    def finish(self, summary: Record, page: Callable[[Record, Path], object]) -> Record:
        """Write summary.json, with the time it took where it says none, and its page; drop what was work in progress.

        Returns the summary as JSON holds it; `page` takes it and the path of report.html.
        """
        taken = round(time.monotonic() - self.began, 1)
        settled: Record = plain({**summary, "wall_seconds": summary.get("wall_seconds", taken)})
        files.write_json(self.path / "summary.json", settled)
        page(settled, self.path / "report.html")
        shutil.rmtree(self.directory.shards, ignore_errors=True)
        return settled


@contextmanager
def opened(
    stem: str, plan: Mapping[str, Any], *, out: str | Path | None, resume: bool, command: Sequence[str]
) -> Iterator[Opened]:
    """Hold a study's directory alone: `out`, else a new one named by `stem` and the plan.

    Its run.json holds the plan; a resume with another plan is refused (UsageError).
    """
    path = Path(out) if out else run.fresh_path(stem, plan)
    with rundir.locked(path):
        settled = json.loads(json.dumps(dict(plan), default=str))
        directory = rundir.start(path, settled, resume=resume)
        told = {"version": rundir.VERSION, "run": directory.id, "plan": settled, "command": list(command)}
        files.write_json(path / "run.json", {**told, "finished": False})
        yield Opened(directory, time.monotonic())
        files.write_json(path / "run.json", {**told, "finished": True})
