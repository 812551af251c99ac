"""`robustkit nps ...`: estimate, look at, compare, check and sample noise power spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustkit.cli import options as opt
from robustkit.cli import show

app = typer.Typer(name="nps", help="Local noise power spectra.", no_args_is_help=True, rich_markup_mode=None)

EXIT_CODES = {"within": 0, "drifted": 1, "holds": 0, "fails": 1, "inconclusive": 3}
ProfileArgument = Annotated[Path, typer.Argument(help="A profile saved by `nps estimate`.")]


@app.command()
def estimate(
    repeats: Annotated[str, typer.Argument(help="Repeat scans of one slice: DICOM folder or .npz.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Profile to write (.npz).")],
    method: Annotated[str | None, typer.Option("--method", help="paper, or a better one.")] = None,
    set_: opt.SetOption = None,
    json_: opt.JsonOption = False,
) -> None:
    """Estimate the local NPS of REPEATS; several slices give one profile each, numbered."""
    from robustkit import noise
    from robustkit.cases import find_repeats

    settings = opt.settings(set_) | ({"method": method} if method else {})
    profiles = [noise.estimate(group, **settings) for group in find_repeats(repeats)]
    paths = [out] if len(profiles) == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(len(profiles))]
    for profile, path in zip(profiles, paths, strict=True):
        noise.save_profile(profile, path)
    if json_:
        show.print_json({"profiles": [dict(p.report, file=str(f)) for p, f in zip(profiles, paths, strict=True)]})
        return
    for profile, path in zip(profiles, paths, strict=True):
        show.print_fit_report(profile.report, str(path))


@app.command("show")
def show_profile(
    profile: ProfileArgument,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Picture to write: .png, .html or .pdf.")] = None,
    json_: opt.JsonOption = False,
) -> None:
    """Show a profile: its fit report, and a picture of sigma map, local spectra and radial curves."""
    from robustkit import noise

    loaded = noise.load_profile(profile)
    if json_:
        show.print_json(loaded.report)
    else:
        show.print_fit_report(loaded.report, f"profile of slice {loaded.id}")  # its file name may hold a patient's
    if out is not None and out.suffix.lower() in (".html", ".htm", ".pdf"):
        from robustkit.report import write_as, write_profile_page

        write_as(out, lambda path: write_profile_page(loaded.report, {"sigma": loaded.sigma}, path))
    elif out is not None:
        noise.plot_profile(loaded, out)


@app.command()
def sample(
    profile: ProfileArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help=".npz (key noise: N, H, W) or a folder of DICOM.")],
    n: Annotated[int, typer.Option("-n", help="Realizations.")] = 1,
    mas: Annotated[float | None, typer.Option("--mas", help="Level; the profile's own without it.")] = None,
    seed: opt.SeedOption = 0,
) -> None:
    """Draw realizations of a profile's noise and keep them."""
    from robustkit.sampling import sample_profile

    print(sample_profile(profile, out, n=n, mas=mas, seed=seed))


@app.command()
def compare(
    old: ProfileArgument,
    new: ProfileArgument,
    json_: opt.JsonOption = False,
) -> None:
    """Test whether NEW is the noise of OLD: exit 0 within tolerance, 1 drifted, 3 inconclusive."""
    from robustkit import noise

    verdict = noise.compare_profiles(noise.load_profile(old), noise.load_profile(new))
    show.print_verdict(verdict, json_)
    raise typer.Exit(EXIT_CODES[verdict.verdict])


@app.command("check-dose")
def check_dose(
    repeats: Annotated[list[str], typer.Argument(help="Repeat scans at two or more mAs.")],
    json_: opt.JsonOption = False,
) -> None:
    """Test whether noise follows the dose law: exit 0 it holds, 1 it fails, 3 inconclusive."""
    from robustkit import noise
    from robustkit.cases import find_repeats

    verdict = noise.check_dose([group for path in repeats for group in find_repeats(path)])
    show.print_verdict(verdict, json_)
    raise typer.Exit(EXIT_CODES[verdict.verdict])
