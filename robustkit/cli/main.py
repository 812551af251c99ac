"""The `robustkit` command: collects the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from robustkit import __version__, registry
from robustkit.cli import audit, commission, nps, plugins, report, runs, scan, study
from robustkit.errors import INTERRUPTED, RobustkitError

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


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"robustkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version, nothing else.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


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


def main(asked: Collection[int] = ()) -> int:
    """Run the command line; return 0 pass, 1 gate failed, 2 usage, 3 inconclusive, 4 model or data, 130 stopped.

    `asked` holds the signals to stop that have come: of an interrupt in the middle of an import, say, libraries make
    errors of their own, which are then not what is to be told.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("robustkit").setLevel(logging.INFO)
    try:
        registry.default().add_commands(app)
        app()
    except SystemExit as exit_:
        if exit_.code != INTERRUPTED:  # typer turns Ctrl-C in a command into this
            return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if not asked:
            return _told(error)
    print("interrupted; what a run computed is kept, and goes on with --resume", file=sys.stderr)
    return INTERRUPTED


def _told(error: Exception) -> int:
    """Say in one line what went wrong; return its exit code."""
    if isinstance(error, RobustkitError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    else:
        print(f"error: {_unforeseen(error)}", file=sys.stderr)
    return RobustkitError.exit_code


def _unforeseen(error: Exception) -> str:
    """Say what failed and where, and nothing of what was being read: an error's own text may name a patient."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "robustkit" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"unforeseen {type(error).__name__}{reason} in {where}; {TRACEBACK}=1 shows all of it, paths included"
