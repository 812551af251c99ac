"""What the terminal shows: the verdict, sentences, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from robustkit.engine import Progress


class Outcome(Protocol):
    """What a command found: its summary, where it lies, the exit code."""

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json holds."""

    @property
    def run_dir(self) -> Path:
        """Where it lies."""

    @property
    def exit_code(self) -> int:
        """The code of the command."""


def finish(outcome: Outcome, as_json: bool, words: Callable[[Mapping[str, Any], Path], None]) -> NoReturn:
    """Print an outcome, as one JSON object or in `words`, and exit with its code."""
    import typer

    if as_json:
        print_json(outcome.summary)
    else:
        words(outcome.summary, outcome.run_dir)
    raise typer.Exit(outcome.exit_code)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, allow_nan=False))


def print_summary(summary: Mapping[str, Any], run_dir: Path) -> None:
    """Print what was audited, with which noise, the SAR table with its curves, the verdict, and what to beware of."""
    from rich.console import Console
    from rich.text import Text

    from robustkit.cli.sartable import sar_tables

    console = Console(highlight=False)
    asked = f"noise {summary['noise']}, n = {summary['n']:,} a slice and level, seed {summary['seed']}"
    console.print(f"{summary['model']}: {asked}", markup=False)
    _print_first(console, "noise from", summary.get("noise_source", []))
    _print_first(console, "clean image", summary.get("clean_source", []))
    console.print()
    for part in sar_tables(summary, console.width, curves=_draws_blocks(console)):
        console.print(part, markup=False)
    console.print()
    verdict = str(summary.get("verdict_sentence") or "")
    style = _COLOURS.get((summary.get("gate") or {}).get("verdict", ""), "bold")
    console.print(Text(verdict, style))
    for sentence in summary.get("warnings", []):
        console.print(Text.assemble(("note: ", "dim"), str(sentence)))
    console.print(f"report: {run_dir / 'report.html'}", markup=False, soft_wrap=True)


_REASONS = {"degenerate": "every answer of both runs is the same"}
_COLOURS = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}


def _draws_blocks(console: Any) -> bool:
    """Say whether the terminal's encoding has the blocks that curves are made of."""
    try:
        "▁█".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _print_first(console: Any, what: str, sentences: Sequence[str]) -> None:
    for sentence in sentences[:1]:
        more = f" (and {len(sentences) - 1} more like it: noise.json)" if len(sentences) > 1 else ""
        console.print(f"  {what}: {sentence}{more}", markup=False)


@contextmanager
def progress(quiet: bool, what: str) -> Iterator[Progress | None]:
    """Show progress on stderr while a terminal looks on; yields the function to tell, or None."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images a second."""

        def render(self, task: Any) -> Text:
            return Text("" if not task.speed else f"{task.speed:,.0f}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_fit_report(report: Mapping[str, Any], title: str) -> None:
    """Print the fit report of a noise profile: one line a fact, warnings last."""
    print(title)
    for name, value in report.items():
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            print(f"  {name.replace('_', ' ')}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
    for warning in report.get("warnings", []):
        print(f"  warning: {warning}")


def print_verdict(found: Any, as_json: bool) -> None:
    """Print a verdict (a mapping or a dataclass) with its reason and the evidence behind it."""
    from robustkit.plain import plain

    told = plain(asdict(found) if is_dataclass(found) and not isinstance(found, type) else found)
    if as_json:
        print_json(told)
        return
    print(f"{told['verdict']}: {told.get('reason') or told.get('sentence', '')}")
    for row in told.get("evidence") or told.get("changes") or []:
        print("  " + ", ".join(f"{name} {_short(value)}" for name, value in row.items()))
    for warning in told.get("warnings", []):
        print(f"  warning: {warning}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_plan(found: Mapping[str, Any], as_json: bool) -> None:
    """Print what a claim needs."""
    if as_json:
        print_json(found)
        return
    limit, sure = f"{100 * found['max_sar']:.4g}%", f"{found['confidence']:.0%}"
    print(f"To claim SAR <= {limit} ({sure}, one-sided) for one slice and level:")
    for row in found["flips"]:
        print(f"  {row['flips']:>3} {'flip' if row['flips'] == 1 else 'flips'} of {row['realizations']:,}")
    print(f"With --until-decided and no flip: {found['until_decided']:,} draws.")
    if "power" in found:
        chance = f"{found['power']:.0%}"
        print(f"A model at half the limit passes with {chance} chance from n = {found['for_true_rate_half']:,}.")
        print(f"Two runs, n of each for a {chance} chance:")
        print(f"  SAR   to see {limit} between them   to show them equal within {limit}")
        for row in found["comparison"]:
            print(f"  {row['rate']:<4.0%} {row['differ']:>21,} {row['each']:>33,}")
    if "time" in found:
        cost = found["time"]
        print(
            f"Here: {cost['seconds_per_image'] * 1e3:.2f} ms an image, {_duration(cost['seconds'])} for one slice at "
            f"all levels ({cost['images']:,} images), the fit of its noise apart."
        )


def _duration(seconds: float) -> str:
    """Write a time as a person says it: 42 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def print_agreement(found: Mapping[str, Any], as_json: bool) -> None:
    """Print the comparison of two runs: the paper's Z per level, one test per column, the verdict."""
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for paper in found["tables"]:
        console.print(f"Z at {paper['level']:g} {found['unit']}: rows with noise, columns without", markup=False)
        console.print(_z_table(paper, found["classes"]))
        if paper["footnote"]:
            console.print(f"* {paper['footnote']}", markup=False)
    for column in found["columns"]:
        told = (
            f"p = {column['p']:.3g}, Holm {column['p_holm']:.3g}"
            if column["p"] is not None
            else _REASONS.get(column["reason"], column["reason"])
        )
        sizes = f"n = {column['n_a']} and {column['n_b']}"
        console.print(
            f"column {column['class']} at {column['level']:g} {found['unit']}: {told} ({sizes})", markup=False
        )
    differing = [pair for pair in found["pairs"] if pair["only_a"] or pair["only_b"]]
    for pair in differing:
        console.print(
            f"pairs of class {pair['class']} at {pair['level']:g} {found['unit']}: {pair['only_a']} changed in A only, "
            f"{pair['only_b']} in B only, of {pair['n']}; McNemar p = {pair['p']:.3g}, Holm {pair['p_holm']:.3g}",
            markup=False,
        )
    if len(differing) < len(found["pairs"]):
        which = f"the other {len(found['pairs']) - len(differing)}" if differing else f"all {len(found['pairs'])}"
        console.print(f"pairs at {which} classes and levels: no answer differs")
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"{found['verdict']}: {found['sentence']}", markup=False)


def _z_table(paper: Mapping[str, Any], classes: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    for name in classes:
        table.add_column(Text(name), justify="right")
    marked = {tuple(place) for place in paper["footnoted"]}
    for noisy, row in zip(classes, paper["z"], strict=True):
        cells = (_z_cell(z, (noisy, clean) in marked) for clean, z in zip(classes, row, strict=True))
        table.add_row(Text(noisy), *cells)
    return table


def _z_cell(z: float | None, footnoted: bool) -> str:
    return "-" if z is None else "0*" if footnoted else f"{z:.4f}"


def print_lock(lock: Mapping[str, Any], folder: Path) -> None:
    """Print that a prediction is locked, and the hash to write down before any held-out scan is opened."""
    levels = ", ".join(f"{level:g}" for level in lock["asked"]["levels"])
    print(f"SAR predicted at {levels} mAs and locked; write this down before the held-out scans are opened:")
    print(f"  {(folder / 'lock.sha256').read_text(encoding='utf-8').strip()}")


def print_commissioned(record: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Print what a step of commissioning found: a lock, a baseline or a constancy check."""
    if as_json:
        print_json(record)
        return
    if "verdict" not in record:
        print(f"next: robustkit commission {record['model']['name']} --hold-out SCANS --out {folder}")
        return
    print(record["sentence"])
    for row in record["rows"]:
        print(f"  {row['class']} at {row['level']:g} mAs: {row['verdict']}")
    page = "baseline.html" if "lock" in record else "constancy.html"
    print(f"report: {folder / page}")


def print_training(summary: Mapping[str, Any], folder: Path) -> None:
    """Print Table 1: F1 per class, mean and sd over the folds, and which fold goes on."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean and sd over the folds, %", title_justify="left")
    for head in ("data", "measure", *summary["classes"]):
        table.add_column(head)
    for row in summary["table"]:
        cells = [_mean_sd(m, s) for m, s in zip(row["mean"], row["sd"], strict=True)]
        table.add_row(row["data"], row["measure"], *cells)
    Console(highlight=False).print(table)
    best = summary["best"]
    print(f"{best['name']} goes on: mean F1 {100 * best['f1']:.2f} % without transition zones")
    for name in summary.get("files", []):
        print(f"wrote {folder / name}")
    print(f"report: {folder / 'report.html'}")


def _mean_sd(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f}"


def print_variability(summary: Mapping[str, Any], folder: Path) -> None:
    """Print how many models change any answer, per kind of image and level."""
    print(f"{len(summary['models'])} models of {summary['recipe']}; models that change at least one answer:")
    for view in summary["views"]:
        print(f"  {view['noise']} at {view['level']:g} mAs: {_share(view['flipping'])}")
        print(f"    of those with F1 >= {summary['good_f1']:.0%}: {_share(view['flipping_good'])}")
        changed = ", ".join(f"{one['class']} {one['changed']}/{one['images']}" for one in view["sar"])
        print(f"    changed / scored over all models: {changed}")
    print(f"report: {folder / 'report.html'}")


def _share(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return "none to count"
    return f"{found['k']}/{found['n']}  {found['low']:.1%}-{found['high']:.1%}"


def print_hardening(summary: Mapping[str, Any], folder: Path) -> None:
    """Print every round of a hardening with its bounds, then the strategies side by side."""
    print(summary["sentence"])
    for row in summary["rounds"][summary["strategy"]]:
        guard = "accepted" if row["accepted"] else f"REFUSED: mean F1 {100 * row['guard']['change']:+.2f} points"
        print(f"  round {row['round']}: {row['flips']} changed, worst bound {row['worst']:.2%}, {guard}")
    best = next(r for r in summary["rounds"][summary["strategy"]] if r["round"] == summary["best"])
    for row in best["rows"]:
        if row["noise"] == "measured":
            told = f"{row['k'] + row['tied']}/{row['n']}, SAR at most {row['upper']:.1%}"
            print(f"  measured, {row['set']}, {row['class']} at {row['level']:g} mAs: {told}")
    for side in summary["strategies"][1:]:
        told = f"{side['flips']} changed, worst bound {side['worst']:.2%}, mean F1 {side['f1']:.2%}"
        print(f"  against {side['strategy']}: {told}")
    for name in summary.get("files", []):
        print(f"wrote {folder / name}")
    print(f"report: {folder / 'report.html'}")


def print_reproduction(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the sentences of a reproduction: where it agrees with the paper and where it does not."""
    for item in summary["sentences"]:
        print(f"{item['what']}: {item['sentence']}")
    print(f"{summary['wall_seconds'] / 60:.1f} minutes; report: {folder / 'report.html'}")
