"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import functools
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from robustkit.errors import UsageError

ModelArgument = Annotated[str, typer.Argument(help="A model file, or the name of a model that a plugin offers.")]
ImagesOption = Annotated[
    str | None,
    typer.Option("--images", help="DICOM file or folder, .npz, .nii.gz, or a name such as phantom/C."),
]
RepeatsOption = Annotated[
    str | None, typer.Option("--repeats", help="Repeat scans the noise is fitted to: DICOM folder or .npz.")
]
CleanOption = Annotated[
    str | None,
    typer.Option("--clean", help="Clean image: slice, mean (of the repeats), or a low-noise reference."),
]
ProfileOption = Annotated[list[str] | None, typer.Option("--profile", help="Noise profile(s) saved by `nps estimate`.")]
NoiseOption = Annotated[str, typer.Option("--noise", help="Noise model; `robustkit plugins list` shows all.")]
RealizationsOption = Annotated[int, typer.Option("-n", "--realizations", help="Realizations a slice and level.")]
MaxSarOption = Annotated[str | None, typer.Option("--max-sar", help="Gate: highest SAR that passes, e.g. 2%.")]
OutOption = Annotated[str | None, typer.Option("--out", help="Run directory to write.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Same seed, same flips.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
BatchOption = Annotated[int, typer.Option("--batch", help="Images a call of the model; changes no answer.")]
ConfidenceOption = Annotated[str, typer.Option("--confidence", help="Of the intervals.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the noise model; repeatable."),
]

Flags: TypeAlias = dict[str, Any]
"""The values of a group of options, named as what is called names them."""
Command: TypeAlias = Callable[..., None]


def _option(kind: Any, name: str, told: str, default: Any = None) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(name, help=told)], default


TEXT, NUMBER, COUNT = str | None, float | None, int | None
INPUT_OPTIONS = {
    "spec_file": _option(TEXT, "--input-spec", "TOML file that says how the model wants its input."),
    "window": _option(TEXT, "--window", "HU window LO,HI of the model's input, or none."),
    "range": _option(TEXT, "--range", "What the window maps to: A,B (default 0,1)."),
    "fov_mm": _option(NUMBER, "--fov", "Field of view in mm the model expects."),
    "size": _option(TEXT, "--size", "Input matrix H,W the model expects."),
    "interpolation": _option(TEXT, "--interpolation", "area, linear, nearest or decimate."),
    "layout": _option(TEXT, "--layout", "nchw or nhwc."),
    "channels": _option(COUNT, "--channels", "1 or 3."),
    "dtype": _option(TEXT, "--dtype", "Number type of the input, where the file leaves it open."),
    "classes": _option(TEXT, "--classes", "Class names A,B,... in output order."),
    "kind": _option(TEXT, "--output-kind", "logits or probabilities."),
    "output": _option(TEXT, "--output", "Name of the score output, of a model that has several."),
    "arch": _option(TEXT, "--arch", "package.module:factory for a bare state dict."),
    "unsafe_load": _option(bool, "--unsafe-load", "Let a model file run code. Recorded, loud.", False),
}
"""How a model wants its input, by the names that the adapters have for it."""
WORKER_OPTIONS = {
    "jobs": _option(COUNT, "--jobs", "Worker processes."),
    "dask": _option(TEXT, "--dask", "Dask scheduler address, or local:N."),
}
"""Who does the work."""
WORK_OPTIONS = WORKER_OPTIONS | {
    "out": _option(TEXT, "--out", "Run directory to write."),
    "resume": _option(bool, "--resume", "Finish the run in --out.", False),
}
"""Where the work is done and where it is kept."""


def takes_spec(command: Command) -> Command:
    """Give a command the options of a model's input; it gets those that were given as its argument `spec`."""
    return _with_options(command, "spec", INPUT_OPTIONS, _given)


def takes_workers(command: Command) -> Command:
    """Give a command the options of who does its work; it gets those that were given as its argument `workers`."""
    return _with_options(command, "workers", WORKER_OPTIONS, _given)


def takes_work(command: Command) -> Command:
    """Give a command the options of long work; it gets them, and the command line as recorded, as `work`."""
    return _with_options(command, "work", WORK_OPTIONS, lambda flags: {**flags, "command": command_line(sys.argv)})


def _given(flags: Flags) -> Flags:
    return {name: value for name, value in flags.items() if value is not None and value is not False}


def _with_options(
    command: Command, name: str, options: Mapping[str, tuple[Any, Any]], settle: Callable[[Flags], Flags]
) -> Command:
    """Return the command with options in the place of its argument `name`, where it gets their settled values."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        own = {flag: values.pop(flag) for flag in options}
        command(**values, **{name: settle(own)})

    hints = get_type_hints(command, include_extras=True)
    found: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == name:
            found += [_keyword(flag, kind, default) for flag, (kind, default) in options.items()]
        else:
            found.append(_keyword(parameter.name, hints[parameter.name], parameter.default))
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in found}
    run.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    return run


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read `--set key=value`: numbers, true, false and null as such, everything else as text."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set wants key=value, got {pair!r}")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found


def noise_settings(pairs: Sequence[str] | None, noise: str, sigmas: str | None) -> dict[str, Any]:
    """Read `--set`; white noise asked for at `--levels` takes them as sigmas."""
    found = settings(pairs)
    return {"unit": "sigma", **found} if noise == "white" and sigmas else found


def levels(text: str | None, name: str = "--mas") -> list[float] | None:
    """Read `12.5,25,...` or `LO:HI:N` (log-spaced)."""
    if text is None:
        return None
    try:
        if ":" in text:
            low, high, count = text.split(":")
            return _log_spaced(float(low), float(high), int(count))
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{name} wants 12.5,25,... or LO:HI:N, got {text!r}") from None


def confidence(text: str) -> float:
    """Read `95%` or `0.95`."""
    value = fraction(text, "--confidence")
    if value is None or not 0.5 <= value < 1.0:
        raise UsageError(f"--confidence must lie in 50% .. 100%, got {text}")
    return value


def fraction(text: str | None, name: str) -> float | None:
    """Read `80%` or `0.8`; None stays None."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        raise UsageError(f"{name} wants 80% or 0.8, got {text!r}") from None


def _log_spaced(low: float, high: float, count: int) -> list[float]:
    if not (0 < low <= high) or count < 1:
        raise ValueError
    if count == 1:
        return [low]
    ratio = math.log(high / low) / (count - 1)
    between = [low * math.exp(ratio * i) for i in range(1, count - 1)]
    for digits in (3, 6):  # levels are read by people: as few digits as tell them apart
        found = [low, *(float(f"{level:.{digits}g}") for level in between), high]
        if len(set(found)) == count:
            return found
    return found


def merged_levels(mas: str | None, other: str | None) -> list[float] | None:
    """Return the levels of `--mas` or `--levels`; both at once are refused."""
    if mas and other:
        raise UsageError("--mas and --levels are the same axis; give one of them")
    return levels(mas) if mas else levels(other, "--levels")


PRIVATE = ("--images", "--repeats", "--hold-out", "--baseline", "--profile", "--clean", "--out", "--input-spec")
"""Options whose value may be a path, and a path may name a patient."""


def command_line(arguments: Sequence[str]) -> list[str]:
    """Return the command as it may be recorded: paths that could name somebody replaced by what they stand for.

    Of a model's path or URL its last part is kept, so that no credentials are.
    """
    told = ["robustkit"]
    hide = ""
    for argument in arguments[1:]:
        name, separator, value = argument.partition("=")
        if hide:
            told.append(_without_path(argument, hide))
            hide = ""
        elif name in PRIVATE and separator:
            told.append(f"{name}={_without_path(value, name)}")
        else:
            told.append(argument if "/" not in argument else argument.rstrip("/").rpartition("/")[2])
            hide = argument if argument in PRIVATE else ""
    return told


def _without_path(value: str, option: str) -> str:
    harmless = value in ("mean", "slice") or value == "phantom" or value.startswith("phantom/")
    return value if harmless else option.removeprefix("--").upper()


def fold_index(fold: int | None, folds: int) -> int | None:
    """Return the index of a fold counted from 1; UsageError outside of 1 .. folds."""
    if fold is None:
        return None
    if not 1 <= fold <= folds:
        raise UsageError(f"--fold must lie in 1 .. {folds}, got {fold}")
    return fold - 1


def recipe_or_model(named: str, recipe: str | None) -> tuple[str, str | None]:
    """Return (recipe, model file or None): a model file needs --recipe, whose data train it and judge it."""
    from pathlib import Path

    is_file = Path(named).exists() or bool(Path(named).suffix)
    if not is_file:
        if recipe is not None:
            raise UsageError(f"{named!r} is no model file, so --recipe has nothing to train; give one recipe")
        return named, None
    if recipe is None:
        raise UsageError(f"{Path(named).name} is a model file: say with --recipe NAME on whose data it is trained on")
    return recipe, named


def rivals(against: str | None, strategy: str) -> list[str]:
    """Read `A,B,...` or `all`: the strategies that one is compared with."""
    if against is None:
        return []
    if against == "all":
        from robustkit import registry

        return [name for name in registry.default().hardeners() if name != strategy]
    return [name.strip() for name in against.split(",") if name.strip() and name.strip() != strategy]
