"""`robustkit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="One run directory to rebuild, several to overlay.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where an overlay goes (overlay.html).")] = None,
    figures: Annotated[Path | None, typer.Option("--figures", help="Folder for SVG, PDF and PNG figures.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write the page as PDF on A4, beside it.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Rebuild the report of a run (or the page of a commissioning), or overlay several runs on one page."""
    from robustkit import commission
    from robustkit import report as pages
    from robustkit.rundir import read_audit, read_run

    single = len(runs) == 1
    path = commission.rebuild(runs[0]) if single and figures is None else None
    if path is None:
        for run in runs:
            (read_run if single and figures is None else read_audit)(run)
        path = pages.rebuild(runs[0]) if single else pages.write_overlay(runs, out or Path("overlay.html"))
    if figures is not None:
        for run in runs:
            pages.figures(run, figures)
    print(path)
    if pdf:
        print(pages.write_pdf(path, path.with_suffix(".pdf")))
    if open_:
        typer.launch(str(path))
