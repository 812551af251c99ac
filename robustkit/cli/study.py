"""`robustkit train`, `robustkit variability`, `robustkit harden`."""

from __future__ import annotations

from typing import Annotated

import typer

from robustkit.cli import options as opt
from robustkit.cli import show

RecipeArgument = Annotated[str, typer.Argument(help="A recipe that a plugin offers, such as ct-bodysite.")]
BackendOption = Annotated[str | None, typer.Option("--backend", help="keras or torch, where a recipe has both.")]
FoldsOption = Annotated[int, typer.Option("--folds", help="Cross-validation by patient.")]
FoldOption = Annotated[
    int | None, typer.Option("--fold", help="Which fold validates, from 1; the recipe's own split without it.")
]
ScansOption = Annotated[int, typer.Option("--scans", help="Measured scans a slice and level; 0 leaves them out.")]
CentreOption = Annotated[
    str, typer.Option("--centre", help="Clean image: low-noise (20 scans at 200 mAs) or paper (20 at 25 mAs).")
]


@opt.takes_work
def train(
    recipe: RecipeArgument,
    backend: BackendOption = None,
    folds: FoldsOption = 10,
    seed: opt.SeedOption = 0,
    *,
    work: opt.Flags,
    quiet: opt.QuietOption = False,
    json_: opt.JsonOption = False,
) -> None:
    """Train RECIPE by cross-validation; the fold with the highest mean F1 goes on.

    Precision, recall and F1 are told with and without transition zones.
    """
    from robustkit.training import train_recipe

    with show.progress(quiet or json_, "training") as progress:
        outcome = train_recipe(
            recipe,
            backend=backend,
            folds=folds,
            seed=seed,
            progress=progress,
            **work,
        )
    show.finish(outcome, json_, show.print_training)


@opt.takes_spec
@opt.takes_work
def variability(
    recipe: Annotated[str, typer.Argument(help="A recipe, or a folder of model files.")],
    n: Annotated[int, typer.Option("-n", "--models", help="Models, with seeds S, S+1, ...")] = 10,
    backend: BackendOption = None,
    seed: opt.SeedOption = 0,
    fold: FoldOption = None,
    folds: FoldsOption = 10,
    noise: opt.NoiseOption = "nps",
    set_: opt.SetOption = None,
    mas: Annotated[str | None, typer.Option("--mas", help="Levels, simulated and measured: 25,200.")] = None,
    realizations: Annotated[int, typer.Option("--realizations", help="Simulated images a slice and level.")] = 1000,
    scans: ScansOption = 150,
    centre: CentreOption = "low-noise",
    confidence: opt.ConfidenceOption = "95%",
    keep_models: Annotated[bool, typer.Option("--keep-models/--drop-models", help="Write the trained models.")] = False,
    *,
    spec: opt.Flags,
    work: opt.Flags,
    quiet: opt.QuietOption = False,
    json_: opt.JsonOption = False,
) -> None:
    """Train n models that differ by seed alone and audit each on the same simulated and measured images."""
    from robustkit.variability import study

    with show.progress(quiet or json_, "models") as progress:
        outcome = study(
            recipe,
            n=n,
            backend=backend,
            seed=seed,
            fold=opt.fold_index(fold, folds),
            folds=folds,
            noise=noise,
            settings=opt.settings(set_),
            levels=opt.levels(mas),
            realizations=realizations,
            scans=scans,
            centre=centre,
            confidence=opt.confidence(confidence),
            spec=spec,
            keep=keep_models,
            progress=progress,
            **work,
        )
    show.finish(outcome, json_, show.print_variability)


@opt.takes_spec
@opt.takes_work
def harden(
    recipe: Annotated[str, typer.Argument(help="A recipe, or a trainable model file together with --recipe.")],
    strategy: Annotated[str, typer.Option("--strategy", help="`robustkit plugins list` shows all.")] = "adaptive",
    against: Annotated[
        str | None, typer.Option("--against", help="Strategies to compare with: A,B,... or all.")
    ] = None,
    of_recipe: Annotated[
        str | None, typer.Option("--recipe", help="Recipe whose data train and judge a model file.")
    ] = None,
    backend: BackendOption = None,
    seed: opt.SeedOption = 0,
    fold: FoldOption = None,
    folds: FoldsOption = 10,
    noise: opt.NoiseOption = "nps",
    mas: Annotated[str | None, typer.Option("--mas", help="Levels a round is judged at.")] = None,
    realizations: Annotated[int, typer.Option("--realizations", help="Judged a slice and level.")] = 1000,
    scans: ScansOption = 150,
    centre: CentreOption = "low-noise",
    attack_mas: Annotated[str | None, typer.Option("--attack-mas", help="Levels of the attacks.")] = None,
    attacks: Annotated[int, typer.Option("--attacks", help="Attacks a slice, level and round.")] = 500,
    max_sar: Annotated[str, typer.Option("--max-sar", help="Limit under which the bound of SAR must come.")] = "1%",
    rounds: Annotated[int, typer.Option("--rounds", help="At most.")] = 6,
    confidence: opt.ConfidenceOption = "95%",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the strategy; repeatable.")
    ] = None,
    *,
    spec: opt.Flags,
    work: opt.Flags,
    quiet: opt.QuietOption = False,
    json_: opt.JsonOption = False,
) -> None:
    """Harden the model of RECIPE and --seed (or a model file) round by round; exit 1 when the limit is not reached.

    A round that costs accuracy is refused; the best accepted model is kept.
    """
    from robustkit.gates import parse_rate
    from robustkit.rounds import harden as run

    name, model = opt.recipe_or_model(recipe, of_recipe)
    with show.progress(quiet or json_, "strategies") as progress:
        outcome = run(
            name,
            model=model,
            strategy=strategy,
            against=opt.rivals(against, strategy),
            backend=backend,
            seed=seed,
            fold=opt.fold_index(fold, folds),
            folds=folds,
            noise=noise,
            levels=opt.levels(mas),
            realizations=realizations,
            scans=scans,
            centre=centre,
            attack_levels=opt.levels(attack_mas, "--attack-mas"),
            attacks=attacks,
            limit=parse_rate(max_sar),
            rounds=rounds,
            confidence=opt.confidence(confidence),
            options=opt.settings(set_),
            spec=spec,
            progress=progress,
            **work,
        )
    show.finish(outcome, json_, show.print_hardening)


@opt.takes_work
def reproduce(
    scale: Annotated[str, typer.Option("--scale", help="small (minutes) or paper (the paper's numbers).")] = "small",
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="What is trained: ct-bodysite at scale paper, ct-bodysite-stress at scale small."
        ),
    ] = None,
    backend: BackendOption = None,
    seed: opt.SeedOption = 0,
    centre: CentreOption = "low-noise",
    *,
    work: opt.Flags,
    quiet: opt.QuietOption = False,
    json_: opt.JsonOption = False,
) -> None:
    """Reproduce Peng et al. 2023 end to end on the virtual scanner, beside the paper's own values.

    Every core works on it unless --jobs says how many.
    """
    from robustkit.reproduce import reproduce as run

    with show.progress(quiet or json_, "stages") as progress:
        outcome = run(
            scale,
            recipe=recipe,
            backend=backend,
            seed=seed,
            centre=centre,
            progress=progress,
            **work,
        )
    show.finish(outcome, json_, show.print_reproduction)
