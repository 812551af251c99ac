"""How a model wants its input: flags, a TOML beside the model, its metadata, and what the file itself says.

Flags beat TOML, TOML beats metadata. What the file says (shape, layout, dtype, number of classes) is read from it
and a contradiction is an error; what nobody said and no file can know, the HU window, is asked for, never guessed.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.errors import ModelError, RobustkitError, UsageError

METADATA_KEY = "robustkit.spec"
"""Key in a model file's own metadata that holds the same TOML."""
INTERPOLATIONS = ("area", "linear", "nearest", "decimate")
LAYOUTS = ("nchw", "nhwc")
KINDS = ("logits", "probabilities")
DTYPES = ("float32", "float16", "float64", "uint8")
LARGEST_SIZE = 4096
SECTIONS: dict[str, dict[str, str]] = {
    "input": {
        name: name for name in ("window", "range", "fov_mm", "size", "interpolation", "layout", "channels", "dtype")
    },
    "output": {"classes": "classes", "kind": "kind", "name": "output"},
}
"""TOML section -> key -> name of the flag's value."""
FLAGS = {
    "window": "--window",
    "range": "--range",
    "fov_mm": "--fov",
    "size": "--size",
    "interpolation": "--interpolation",
    "layout": "--layout",
    "channels": "--channels",
    "dtype": "--dtype",
    "classes": "--classes",
    "kind": "--output-kind",
    "output": "--output",
}
LOADING = ("arch", "unsafe_load", "spec_file")
"""Flags that say how a file is opened; they are never read from a model's own files."""
EXAMPLES = {
    "window": ("--window -1000,1000 (or none, when it takes HU as they are)", "input.window = [-1000, 1000]"),
    "layout": ("--layout nchw (or nhwc)", 'input.layout = "nchw"'),
    "channels": ("--channels 1 (or 3)", "input.channels = 1"),
}


@dataclass(frozen=True)
class InputSpec:
    """What lies between an image in HU and a model's input, and what its output means.

    Attributes
    ----------
    window : (low, high) in HU that maps to `range`, clipped; None hands HU over as they are.
    range : what the window's ends map to.
    fov_mm : side of the square field of view in mm, about the image centre, outside = air; None = the whole image.
    size : (H, W) of the model's input; None = native. interpolation : area, linear, nearest or decimate.
    layout : nchw or nhwc. channels : 1 or 3 (the same image three times). dtype : of the model's input.
    classes : names in output order. kind : logits or probabilities. output : name of the output, of several.
    """

    window: tuple[float, float] | None
    range: tuple[float, float] = (0.0, 1.0)
    fov_mm: float | None = None
    size: tuple[int, int] | None = None
    interpolation: str = "area"
    layout: str = "nchw"
    channels: int = 1
    dtype: str = "float32"
    classes: tuple[str, ...] = ("0", "1")
    kind: str = "logits"
    output: str | None = None

    def __post_init__(self) -> None:
        if self.dtype == "uint8" and not (self.window and min(self.range) >= 0 and max(self.range) <= 255):
            raise UsageError("a uint8 input needs a --window and a --range within 0,255")
        if self.interpolation == "decimate" and self.size is None and self.fov_mm is not None:
            raise UsageError("--interpolation decimate keeps every k-th pixel and needs --size H,W")

    def to_toml(self) -> str:
        """Return the spec as the TOML that `read_toml` reads back to the same values."""
        values: dict[str, Any] = {
            "window": "none" if self.window is None else list(self.window),
            "range": None if self.window is None else list(self.range),
            "fov_mm": self.fov_mm,
            "size": None if self.size is None else list(self.size),
            "interpolation": self.interpolation,
            "layout": self.layout,
            "channels": self.channels,
            "dtype": self.dtype,
            "classes": list(self.classes),
            "kind": self.kind,
            "output": self.output,
        }
        lines = []
        for section, keys in SECTIONS.items():
            lines.append(f"[{section}]")
            # JSON's numbers, strings and lists are TOML's
            lines += [
                f"{key} = {json.dumps(values[name], ensure_ascii=False)}"
                for key, name in keys.items()
                if values[name] is not None
            ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class FileFacts:
    """What a model file says of itself.

    Attributes
    ----------
    dims : the input's dimensions after the batch, three of them; None where the file leaves one open.
    dtype : of its input, None when the file does not say. outputs : columns of its output, None when open.
    layout : the layout of its framework where there is only one.
    """

    dims: tuple[int | None, int | None, int | None] = (None, None, None)
    dtype: str | None = None
    outputs: int | None = None
    layout: str | None = None


def gather(path: Path, flags: Mapping[str, Any], embedded: str | None = None) -> dict[str, Any]:
    """Return what was said about a model's input: metadata, overlaid by TOML, overlaid by flags.

    Parameters
    ----------
    path : the model; `NAME.robustkit.toml` beside it is read, or the file of the flag `spec_file` in its place.
    flags : values by flag name (texts as typed, or values); None counts as not given.
    embedded : the TOML of the model's own metadata.

    Raises
    ------
    UsageError
        A flag, or the file it names, that is unknown or cannot be read. ModelError for the model's own TOML.
    """
    told: dict[str, Any] = {}
    if embedded:
        _overlay(told, read_toml(embedded, f"the metadata of {path.name}", ModelError))
    beside = spec_beside(path)
    if flags.get("spec_file"):
        _overlay(told, read_toml(_text(Path(flags["spec_file"]), UsageError), "--input-spec", UsageError))
    elif beside.is_file():
        _overlay(told, read_toml(_text(beside, ModelError), beside.name, ModelError))
    _overlay(told, read_flags(flags))
    return told


def spec_beside(path: Path) -> Path:
    """Return where the input spec beside a model is looked for."""
    return path.parent / f"{path.stem if path.is_file() else path.name}.robustkit.toml"


def read_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the flags that were given, checked; UsageError for an unknown or unreadable one."""
    unknown = sorted(set(flags) - set(FLAGS) - set(LOADING))
    if unknown:
        raise UsageError(f"unknown input-spec key {', '.join(unknown)}; there is: {', '.join([*FLAGS, *LOADING])}")
    given = {name: flags[name] for name in FLAGS if flags.get(name) is not None}
    return {name: _value(name, value, FLAGS[name], UsageError) for name, value in given.items()}


def read_toml(text: str, where: str, error: type[RobustkitError] = UsageError) -> dict[str, Any]:
    """Return the values of an input-spec TOML, checked; `where` names it in the `error` raised for a bad one."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise error(f"{where} is not TOML: {str(problem) or 'nested too deeply'}") from None
    told: dict[str, Any] = {}
    for section, entries in content.items():
        keys = SECTIONS.get(section)
        if keys is None or not isinstance(entries, dict):
            raise error(f"{where} has {section!r}; its sections are [input] and [output]")
        for key, value in entries.items():
            if key not in keys:
                raise error(f"unknown key {key!r} in [{section}] of {where}; there is: {', '.join(keys)}")
            told[keys[key]] = _value(keys[key], value, f"{section}.{key} in {where}", error)
    return told


def settle(told: Mapping[str, Any], facts: FileFacts, name: str) -> InputSpec:
    """Return the whole spec of model `name` (kind and, with open outputs, classes are preliminary).

    Raises
    ------
    UsageError
        What neither the file nor anyone said, with the flags to type and the TOML to write. ModelError where what was
        said contradicts the file.
    """
    layout = told.get("layout") or facts.layout or layout_of(facts.dims)
    channels, height, width = _by_layout(facts.dims, layout)
    channels = _agree(name, "channels", told.get("channels"), channels)
    _ask(name, {"window": "window" not in told, "layout": layout is None, "channels": channels is None})
    if channels not in (1, 3):
        raise ModelError(f"{name} takes {channels} channels in layout {layout}; robustkit gives it 1 or 3")
    dtype = _agree(name, "dtype", told.get("dtype"), facts.dtype) or "float32"
    return InputSpec(
        window=told["window"],
        range=_range_of(told, dtype),
        fov_mm=told.get("fov_mm"),
        size=_size_of(name, told.get("size"), height, width),
        interpolation=told.get("interpolation", "area"),
        layout=str(layout),
        channels=int(channels),
        dtype=dtype,
        classes=classes_of(name, told.get("classes"), facts.outputs),
        kind=told.get("kind", "logits"),
        output=told.get("output"),
    )


def classes_of(name: str, told: Sequence[str] | None, outputs: int | None) -> tuple[str, ...]:
    """Return class names for `outputs` columns; one column is the probability of the second of two classes."""
    count = 2 if outputs == 1 else outputs
    if told is None:
        return tuple(str(i) for i in range(count or 2))
    if count is not None and len(told) != count:
        raise ModelError(
            f"{name} tells {count} classes apart, --classes names {len(told)} ({','.join(told)}); name them all, in "
            "the order of its output"
        )
    return tuple(told)


def _overlay(told: dict[str, Any], above: Mapping[str, Any]) -> None:
    if "window" in above and above["window"] is None and "range" not in above:
        told.pop("range", None)  # a range said further down belonged to the window that is dropped
    told.update(above)


def _text(path: Path, error: type[RobustkitError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as problem:
        what = "--input-spec" if error is UsageError else path.name
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise error(f"{what} cannot be read: {reason}") from None


def _ask(name: str, missing: Mapping[str, bool]) -> None:
    keys = [key for key, absent in missing.items() if absent]
    if keys:
        flags = " ".join(EXAMPLES[key][0] for key in keys)
        lines = " and ".join(f"`{EXAMPLES[key][1]}`" for key in keys)
        raise UsageError(
            f"{name} does not say how it wants its input; missing: {', '.join(keys)}. Type {flags}, or write {lines} "
            f"into {Path(name).stem}.robustkit.toml beside it"
        )


def layout_of(dims: Sequence[int | None]) -> str | None:
    """Return the layout of three dimensions: channels are the one that is 1 or 3; None where that does not decide."""
    first, last = dims[0] in (1, 3), dims[2] in (1, 3)
    return None if first == last else ("nchw" if first else "nhwc")


def _by_layout(
    dims: tuple[int | None, int | None, int | None], layout: str | None
) -> tuple[int | None, int | None, int | None]:
    if layout is None:
        return None, None, None
    return dims if layout == "nchw" else (dims[2], dims[0], dims[1])


def _agree(name: str, key: str, told: Any, found: Any) -> Any:
    if told is not None and found is not None and told != found:
        raise ModelError(f"{name} takes {key} {found}, {FLAGS[key]} says {told}; drop it")
    return found if told is None else told


def _size_of(name: str, told: tuple[int, int] | None, height: int | None, width: int | None) -> tuple[int, int] | None:
    found = (height, width)
    if any(side is not None and not 1 <= side <= LARGEST_SIZE for side in found):
        raise ModelError(f"{name} takes images of {height} x {width}; robustkit makes them up to {LARGEST_SIZE} a side")
    if told is None:
        if height is None and width is None:
            return None
        if height is None or width is None:
            raise UsageError(f"{name} fixes one side of its input only; give --size H,W")
        return height, width
    if any(have is not None and have != want for have, want in zip(found, told, strict=True)):
        have = ",".join("any" if side is None else str(side) for side in found)
        raise ModelError(f"{name} takes images of {have}, --size says {told[0]},{told[1]}; drop it")
    return told


def _range_of(told: Mapping[str, Any], dtype: str) -> tuple[float, float]:
    if told["window"] is None and "range" in told:
        raise UsageError("--range says what the window maps to; with --window none there is nothing to map")
    full = (0.0, 255.0) if dtype == "uint8" else (0.0, 1.0)
    found: tuple[float, float] = told.get("range", full)
    return found


def _value(name: str, value: Any, where: str, error: type[RobustkitError]) -> Any:
    """Return one checked value from its text or its TOML form."""
    try:
        return _READERS[name](value)
    except ValueError as problem:
        raise error(f"{where} wants {problem}, got {value!r:.60}") from None


def _window(value: Any) -> tuple[float, float] | None:
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    low, high = _numbers(value, "LO,HI in HU with LO < HI, or none")
    if not low < high:
        raise ValueError("LO,HI in HU with LO < HI, or none")
    return low, high


def _range(value: Any) -> tuple[float, float]:
    first, second = _numbers(value, "two different numbers A,B")
    if first == second:
        raise ValueError("two different numbers A,B")
    return first, second


def _size(value: Any) -> tuple[int, int]:
    want = f"H,W in pixels, 1 to {LARGEST_SIZE}"
    height, width = _numbers(value, want)
    if not all(side.is_integer() and 1 <= side <= LARGEST_SIZE for side in (height, width)):
        raise ValueError(want)
    return int(height), int(width)


def _fov(value: Any) -> float:
    found = _number(value, "a field of view in mm above 0")
    if not found > 0:
        raise ValueError("a field of view in mm above 0")
    return found


def _channels(value: Any) -> int:
    found = _number(value, "1 or 3")
    if found not in (1, 3):
        raise ValueError("1 or 3")
    return int(found)


def _classes(value: Any) -> tuple[str, ...]:
    want = "at least two different class names A,B,..."
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and name and name.isprintable() for name in names
    ):
        raise ValueError(want)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(want)
    return tuple(names)


def _output(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("the name of one output")
    return value


def _one_of(choices: Sequence[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value.lower() not in choices:
            raise ValueError(" or ".join(choices))
        return value.lower()

    return read


def _numbers(value: Any, want: str) -> tuple[float, float]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or len(parts) != 2:
        raise ValueError(want)
    return _number(parts[0], want), _number(parts[1], want)


def _number(value: Any, want: str) -> float:
    if isinstance(value, bool):
        raise ValueError(want)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(want) from None
    if not math.isfinite(found):
        raise ValueError(want)
    return found


_READERS: dict[str, Callable[[Any], Any]] = {
    "window": _window,
    "range": _range,
    "fov_mm": _fov,
    "size": _size,
    "interpolation": _one_of(INTERPOLATIONS),
    "layout": _one_of(LAYOUTS),
    "channels": _channels,
    "dtype": _one_of(DTYPES),
    "classes": _classes,
    "kind": _one_of(KINDS),
    "output": _output,
}
