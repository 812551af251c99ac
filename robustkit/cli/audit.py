"""`robustkit audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from robustkit.cli import options as opt
from robustkit.cli import show


@opt.takes_spec
@opt.takes_work
def audit(
    model: opt.ModelArgument,
    images: opt.ImagesOption = None,
    repeats: opt.RepeatsOption = None,
    profile: opt.ProfileOption = None,
    clean: opt.CleanOption = None,
    noise: opt.NoiseOption = "nps",
    mas: Annotated[str | None, typer.Option("--mas", help="12.5,25,... or LO:HI:N, log-spaced.")] = None,
    levels: Annotated[str | None, typer.Option("--levels", help="Levels of a noise whose unit is not mAs.")] = None,
    image_mas: Annotated[float | None, typer.Option("--image-mas", help="mAs the images were taken at.")] = None,
    n: opt.RealizationsOption = 1000,
    seed: opt.SeedOption = 0,
    confidence: opt.ConfidenceOption = "95%",
    max_sar: opt.MaxSarOption = None,
    at: Annotated[float | None, typer.Option("--at", help="Gate this level only.")] = None,
    only_class: Annotated[str | None, typer.Option("--class", help="Gate this class only.")] = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Draw until the gate is decided, at most -n.")
    ] = False,
    total: Annotated[
        bool, typer.Option("--total", help="Add intervals that hold noise fit and clean image too (refits, slower).")
    ] = False,
    interval: Annotated[
        str, typer.Option("--interval", help="clopper-pearson, or wilson (for reading; gates stay exact).")
    ] = "clopper-pearson",
    simultaneous: Annotated[
        bool, typer.Option("--simultaneous", help="Add intervals that hold for all classes and levels at once.")
    ] = False,
    set_: opt.SetOption = None,
    *,
    spec: opt.Flags,
    batch: opt.BatchOption = 16,
    work: opt.Flags,
    keep_noisy: Annotated[
        int, typer.Option("--keep-noisy", help="Write up to N images whose answer changed as DICOM.")
    ] = 0,
    gallery: Annotated[bool, typer.Option("--gallery", help="Show flips of real images in the report.")] = False,
    quiet: opt.QuietOption = False,
    json_: opt.JsonOption = False,
) -> None:
    """Audit MODEL: which answers change with noise alone, at which dose, how sure.

    Without --images the built-in phantom's slices are audited.
    """
    from robustkit.run import audit_model

    with show.progress(quiet or json_, "auditing") as progress:
        outcome = audit_model(
            model,
            images=images,
            repeats=repeats,
            profile=profile,
            clean=clean,
            noise=noise,
            settings=opt.noise_settings(set_, noise, levels),
            levels=opt.merged_levels(mas, levels),
            image_mas=image_mas,
            n=n,
            seed=seed,
            confidence=opt.confidence(confidence),
            max_sar=max_sar,
            at=at,
            only_class=only_class,
            until_decided=until_decided,
            total=total,
            interval=interval,
            simultaneous=simultaneous,
            spec=spec,
            batch=batch,
            gallery=gallery,
            keep_noisy=keep_noisy,
            progress=progress,
            **work,
        )
    show.finish(outcome, json_, show.print_summary)
