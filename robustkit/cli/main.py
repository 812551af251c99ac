"""The `robustkit` command: collects the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from robustkit import registry
from robustkit.cli import audit, commission, nps, plugins, report, runs, scan, study
from robustkit.errors import RobustkitError
from robustkit.patience import leave

INTERRUPTED = 130
TRACEBACK = "ROBUSTKIT_TRACEBACK"
"""Environment variable that has an unforeseen error show its traceback."""

app = typer.Typer(
    name="robustkit",
    help="Does a classifier of medical images change its answer when nothing changed but the noise?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("audit")(audit.audit)
app.command("replay")(runs.replay)
app.command("compare")(runs.compare)
app.command("plan")(runs.plan)
app.command("verify")(runs.verify)
app.command("report")(report.report)
app.command("commission")(commission.commission)
app.command("scan")(scan.scan)
app.command("train")(study.train)
app.command("variability")(study.variability)
app.command("harden")(study.harden)
app.command("reproduce")(study.reproduce)
app.add_typer(nps.app, name="nps")
app.add_typer(plugins.app, name="plugins")


def main() -> None:
    """Run the command line; exit 0 pass, 1 gate failed, 2 usage, 3 inconclusive, 4 model or data, 130 stopped."""
    try:
        _main()
    except SystemExit as exit_:
        leave(exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None))
        raise


def _main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("robustkit").setLevel(logging.INFO)
    try:
        with _terminated_as_interrupted():
            registry.default().add_commands(app)
            app()
    except RobustkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _tell_interrupted()
        sys.exit(INTERRUPTED)
    except SystemExit as exit_:  # typer turns Ctrl-C in a command into this
        if exit_.code == INTERRUPTED:
            _tell_interrupted()
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"error: {_unforeseen(error)}", file=sys.stderr)
        sys.exit(RobustkitError.exit_code)


def _tell_interrupted() -> None:
    print("interrupted; what was computed is kept, run the same again with --resume", file=sys.stderr)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let a SIGTERM end a run as Ctrl-C does: workers stopped, what was computed kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unforeseen(error: Exception) -> str:
    """Say what failed and where, and nothing of what was being read: an error's own text may name a patient."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "robustkit" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"unforeseen {type(error).__name__}{reason} in {where}; {TRACEBACK}=1 shows all of it, paths included"


if __name__ == "__main__":
    main()
