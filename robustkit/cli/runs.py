"""`robustkit replay`, `robustkit compare`, `robustkit plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustkit.cli import options as opt
from robustkit.cli import show


@opt.takes_spec
def replay(
    model: opt.ModelArgument,
    repeats: Annotated[str, typer.Option("--repeats", help="Measured scans to score: DICOM folder or .npz.")],
    clean: opt.CleanOption = None,
    confidence: opt.ConfidenceOption = "95%",
    max_sar: opt.MaxSarOption = None,
    *,
    spec: opt.Flags,
    batch: opt.BatchOption = 16,
    out: opt.OutOption = None,
    json_: opt.JsonOption = False,
) -> None:
    """Score measured scans as realizations: the experimental arm."""
    from robustkit.replay import replay_scans

    outcome = replay_scans(
        model,
        repeats,
        clean=clean,
        spec=spec,
        batch=batch,
        confidence=opt.confidence(confidence),
        max_sar=max_sar,
        out=out,
        command=opt.command_line(sys.argv),
    )
    show.finish(outcome, json_, show.print_summary)


def compare(
    run_a: Annotated[Path, typer.Argument(help="Run directory A.")],
    run_b: Annotated[Path, typer.Argument(help="Run directory B; differences are A minus B.")],
    margin: Annotated[str | None, typer.Option("--margin", help="Equivalence margin, e.g. 5%.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Page to write: .html or .pdf.")] = None,
    json_: opt.JsonOption = False,
) -> None:
    """Compare two runs: Z (paper), exact, Holm, equivalence; exit 1 when they disagree."""
    from robustkit.replay import compare_runs

    found = compare_runs(run_a, run_b, margin=margin)
    if out is not None:
        from robustkit.report import write_as, write_comparison

        write_as(out, lambda path: write_comparison(found, path))
    show.print_agreement(found, json_)
    raise typer.Exit(found["exit_code"])


@opt.takes_spec
def plan(
    max_sar: Annotated[str, typer.Option("--max-sar", help="The claim: SAR at most this, e.g. 1%.")],
    confidence: opt.ConfidenceOption = "95%",
    power: Annotated[str | None, typer.Option("--power", help="Chance wanted to see what is true, e.g. 80%.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Also time this model here.")] = None,
    *,
    spec: opt.Flags,
    json_: opt.JsonOption = False,
) -> None:
    """Say how many realizations a claim needs, and with --model how long they take here."""
    from robustkit.planning import plan_claim, time_model
    from robustkit.run import DEFAULT_MAS

    found = plan_claim(max_sar, opt.confidence(confidence), opt.fraction(power, "--power"))
    if model is not None:
        found["time"] = time_model(model, spec, len(DEFAULT_MAS), 1, found["realizations"])
    show.print_plan(found, json_)


@opt.takes_spec
def verify(
    run_dir: Annotated[Path, typer.Argument(help="A finished run directory.")],
    model: Annotated[str | None, typer.Argument(help="The audited model, to rebuild and re-score rows.")] = None,
    images: opt.ImagesOption = None,
    repeats: opt.RepeatsOption = None,
    profile: opt.ProfileOption = None,
    clean: opt.CleanOption = None,
    *,
    spec: opt.Flags,
    sample: Annotated[int, typer.Option("--sample", help="Rows to rebuild, flips first.")] = 20,
    seed: opt.SeedOption = 0,
    json_: opt.JsonOption = False,
) -> None:
    """Check a run's hashes and, given its inputs, rebuild a sample of its images from their rows alone."""
    from robustkit.verify import verify_run

    found = verify_run(
        run_dir,
        model,
        images=images,
        repeats=repeats,
        profile=profile or [],
        clean=clean,
        spec=spec,
        sample=sample,
        seed=seed,
    )
    show.print_verdict(found, json_)
    raise typer.Exit(0 if found["verdict"] == "verified" else 1)
