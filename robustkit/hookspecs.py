"""Every hook a plugin can implement, on one screen. Mark an implementation with `robustkit.hookimpl`.

Keep a plugin's module light: import frameworks inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import typer

    from robustkit.types import Classifier, Fit, Hardener, Metric, Recipe, RepeatScans, Slice

hookspec = pluggy.HookspecMarker("robustkit")
hookimpl = pluggy.HookimplMarker("robustkit")


@hookspec
def robustkit_noise_models() -> Mapping[str, Fit]:
    """Name noise models: what `--noise NAME` fits to repeat scans."""
    raise NotImplementedError


@hookspec
def robustkit_metrics() -> Mapping[str, Metric]:
    """Name metrics: each is run on every audit's table and lands in summary.json."""
    raise NotImplementedError


@hookspec
def robustkit_hardeners() -> Mapping[str, Hardener]:
    """Name hardening strategies: what `robustkit harden --strategy NAME` runs."""
    raise NotImplementedError


@hookspec
def robustkit_recipes() -> Mapping[str, Callable[[], Recipe]]:
    """Name recipes: what `robustkit train NAME` trains."""
    raise NotImplementedError


@hookspec
def robustkit_models() -> Mapping[str, Callable[[], Classifier]]:
    """Name ready-made models: what `robustkit audit NAME` loads."""
    raise NotImplementedError


@hookspec(firstresult=True)
def robustkit_load_model(path: Path, spec: Mapping[str, Any]) -> Classifier | None:
    """Open a model file, or return None for one that is not yours; `spec` holds the input spec's flags."""
    raise NotImplementedError


@hookspec(firstresult=True)
def robustkit_load_images(path: str) -> Sequence[Slice] | None:
    """Read images to audit from a path or a name (such as `phantom`), or return None."""
    raise NotImplementedError


@hookspec(firstresult=True)
def robustkit_load_repeats(path: str) -> Sequence[RepeatScans] | None:
    """Read repeat scans, one entry a slice and mAs, or return None."""
    raise NotImplementedError


@hookspec
def robustkit_commands(app: typer.Typer) -> None:
    """Add commands to the command line: `app.add_typer(sub, name=...)` or `@app.command`."""
    raise NotImplementedError
