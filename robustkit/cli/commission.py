"""`robustkit commission`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from robustkit.cli import options as opt
from robustkit.cli import show
from robustkit.errors import UsageError


@opt.takes_spec
def commission(
    model: opt.ModelArgument,
    repeats: Annotated[
        str | None, typer.Option("--repeats", help="Scans the noise is fitted to; with --baseline, this month's.")
    ] = None,
    hold_out: Annotated[
        str | None, typer.Option("--hold-out", help="Scans at another dose, opened once the prediction is locked.")
    ] = None,
    baseline: Annotated[str | None, typer.Option("--baseline", help="A commissioned folder to check against.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder of the commissioning.")] = None,
    mas: Annotated[str | None, typer.Option("--mas", help="Dose(s) at which scans are held out.")] = None,
    margin: Annotated[str, typer.Option("--margin", help="Difference of SAR that is still agreement.")] = "5%",
    max_sar: Annotated[str | None, typer.Option("--max-sar", help="Gate on the predicted SAR, e.g. 2%.")] = None,
    noise: opt.NoiseOption = "nps",
    n: opt.RealizationsOption = 1000,
    seed: opt.SeedOption = 0,
    confidence: opt.ConfidenceOption = "95%",
    total: Annotated[bool, typer.Option("--total/--no-total", help="Predict with total or plain intervals.")] = True,
    set_: opt.SetOption = None,
    *,
    spec: opt.Flags,
    batch: opt.BatchOption = 16,
    quiet: opt.QuietOption = False,
    json_: opt.JsonOption = False,
) -> None:
    """Commission MODEL on a scanner: predict at one dose, lock, compare at another, sign; then check monthly.

    --repeats FIT --out DIR predicts and locks; --hold-out SCANS --out DIR compares (both at once do both);
    --baseline DIR --repeats NEW checks constancy.
    """
    from robustkit import commission as steps

    _refuse_contradictions(repeats, hold_out, baseline, out)
    recorded = opt.command_line(sys.argv)
    with show.progress(quiet or json_, "commissioning") as progress:
        if baseline is not None:
            done = steps.constancy(model, str(repeats), baseline, spec=spec, command=recorded, progress=progress)
        else:
            folder = str(out)
            if repeats is not None:
                done = steps.predict(
                    model,
                    repeats,
                    folder,
                    levels=opt.levels(mas),
                    margin=margin,
                    max_sar=max_sar,
                    noise=noise,
                    settings=opt.settings(set_),
                    n=n,
                    seed=seed,
                    confidence=opt.confidence(confidence),
                    total=total,
                    spec=spec,
                    batch=batch,
                    command=recorded,
                    progress=progress,
                )
                if not json_:
                    show.print_lock(done.record, done.folder)
            if hold_out is not None:
                done = steps.hold_out(model, hold_out, folder, spec=spec, command=recorded)
    show.print_commissioned(done.record, done.folder, json_)
    raise typer.Exit(done.exit_code)


def _refuse_contradictions(repeats: str | None, hold_out: str | None, baseline: str | None, out: str | None) -> None:
    if baseline is not None:
        if repeats is None or hold_out is not None or out is not None:
            raise UsageError("--baseline DIR checks new scans: give them with --repeats, without --hold-out and --out")
    elif out is None:
        raise UsageError("say where the commissioning is kept: --out DIR (or --baseline DIR for a monthly check)")
    elif repeats is None and hold_out is None:
        raise UsageError(
            "give --repeats FIT to predict and lock, or --hold-out SCANS to compare with a locked prediction"
        )
