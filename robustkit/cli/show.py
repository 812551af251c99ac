"""What the terminal shows: the SAR table, sentences, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustkit.run import Progress


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, allow_nan=False))


def print_summary(summary: Mapping[str, Any], run_dir: Path) -> None:
    """Print what was audited, with which noise, the SAR table and the verdict."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        f"{summary['model']}: noise {summary['noise']}, n = {summary['n']} a slice and level, seed {summary['seed']}"
    )
    for sentence in summary.get("noise_source", []):
        console.print(f"  noise from: {sentence}", markup=False)
    for sentence in summary.get("clean_source", []):
        console.print(f"  clean image: {sentence}", markup=False)
    console.print(sar_table(summary))
    for sentence in (summary.get("verdict_sentence"), *summary.get("warnings", [])):
        if sentence:
            console.print(sentence, markup=False)
    console.print(f"report: {run_dir / 'report.html'}", markup=False)


def sar_table(summary: Mapping[str, Any]) -> Any:
    """Return the rich table of SAR: a row a level, a column a class, k/n with its interval."""
    from rich.table import Table

    table = Table(title=f"SAR, k/n with {summary.get('confidence', 0.95):.0%} interval", title_justify="left")
    table.add_column(summary["unit"], justify="right")
    cells = {(row["class"], row["level"]): row for row in summary["sar"]}
    shown = [name for name in summary["classes"] if any(key[0] == name for key in cells)]
    for name in shown:
        table.add_column(name, justify="right")
    for level in summary["levels"]:
        table.add_row(f"{level:g}", *(_cell(cells.get((name, level))) for name in shown))
    return table


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or not row["n"]:
        return "-"
    tied = f" ({row['tied']} tied)" if row.get("tied") else ""
    return f"{row['k']}/{row['n']}{tied}  {row['low']:.1%}-{row['high']:.1%}"


@contextmanager
def progress(quiet: bool, what: str) -> Iterator[Progress | None]:
    """Show progress on stderr while a terminal looks on; yields the function to tell, or None."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_fit_report(report: Mapping[str, Any], path: Path) -> None:
    """Print the fit report of a noise profile: one line a fact, warnings last."""
    print(f"{path}")
    for name, value in report.items():
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            print(f"  {name.replace('_', ' ')}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
    for warning in report.get("warnings", []):
        print(f"  warning: {warning}")


def print_verdict(found: Mapping[str, Any], as_json: bool) -> None:
    """Print a verdict with its sentence and the evidence behind it."""
    if as_json:
        print_json(found)
        return
    print(f"{found['verdict']}: {found.get('sentence', '')}")
    for row in found.get("evidence", []):
        print("  " + ", ".join(f"{name} {_short(value)}" for name, value in row.items()))
    for warning in found.get("warnings", []):
        print(f"  warning: {warning}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
