"""The `robustkit` command: collects the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import sys

import typer

from robustkit import registry
from robustkit.cli import audit, commission, nps, plugins, report, runs, scan, study
from robustkit.errors import RobustkitError

INTERRUPTED = 130

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
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("robustkit").setLevel(logging.INFO)
    try:
        registry.default().add_commands(app)
        app()
    except RobustkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; what was computed is kept, run again with --resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
