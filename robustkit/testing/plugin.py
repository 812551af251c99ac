"""The conformance kit run over all that an installed plugin offers: what `robustkit plugins check NAME` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit.errors import UsageError
from robustkit.registry import BUILT_IN
from robustkit.testing.core import CheckResult
from robustkit.testing.fakes import make_scans
from robustkit.testing.images import run_opener, run_scans
from robustkit.testing.metrics import run_metric
from robustkit.testing.models import run_classifier, run_trainable
from robustkit.testing.noise import run_noise_model
from robustkit.testing.training import run_hardener, run_recipe

if TYPE_CHECKING:
    from robustkit.registry import Registry
    from robustkit.types import Slice

RUNNERS: dict[str, Callable[..., list[CheckResult]]] = {
    "noise model": run_noise_model,
    "model": run_classifier,
    "trainable model": run_trainable,
    "metric": run_metric,
    "hardener": run_hardener,
    "recipe": run_recipe,
    "scans": run_scans,
}


@dataclass(frozen=True)
class PartReport:
    """What the kit found out about one part of a plugin: its kind, its name, and one result a check."""

    kind: str
    name: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Return True when no check failed."""
        return all(result.passed for result in self.results)


def run_checks(kind: str, part: Any, **options: Any) -> list[CheckResult]:
    """Run all checks of a kind on one part and return what each found.

    Parameters
    ----------
    kind : "noise model", "model", "trainable model", "metric", "hardener", "recipe" or "scans".
    part : what `check_noise_model` and its like take; `options` are theirs too.

    Raises
    ------
    UsageError
        For an unknown kind.
    """
    if kind not in RUNNERS:
        raise UsageError(f"unknown kind {kind!r}; there is: {', '.join(RUNNERS)}")
    return RUNNERS[kind](part, **options)


def check_plugin(
    registry: Registry,
    name: str,
    *,
    images: Sequence[Slice] | None = None,
    levels: Sequence[float] | None = None,
) -> list[PartReport]:
    """Run the kit over all that a plugin offers.

    Parameters
    ----------
    images : slices that its noise and its models are made for; by default discs of water in air.
    levels : for its noise models, in their unit.

    Raises
    ------
    UsageError
        For a plugin that is not installed, or is not in use (with the reason).
    """
    info = registry.info(name)
    if info.reason:
        raise UsageError(f"plugin {name!r} is not in use: {info.reason}")
    reports = [
        PartReport(kind, part, tuple(run_checks(kind, value, **_material(kind, images, levels))))
        for kind, parts in registry.offers(name).items()
        for part, value in parts.items()
    ]
    openers = {} if name == BUILT_IN else registry.openers(name)  # the built-in readers are asked last
    reports += [
        PartReport(kind, hook.__name__, tuple(run_opener(_asking(kind, hook)))) for kind, hook in openers.items()
    ]
    reports += _plugin_itself(registry, name)
    return reports


def _material(kind: str, images: Sequence[Slice] | None, levels: Sequence[float] | None) -> dict[str, Any]:
    """Return what the runner of a kind is given beside the part."""
    if kind == "model" and images:
        return {"images": images}
    if kind != "noise model":
        return {}
    made_for = {"repeats": make_scans(of=images[0]), "clean": images[0].pixels} if images else {}
    return {"levels": levels, **made_for}


def _asking(kind: str, hook: Callable[..., Any]) -> Callable[[str], Any]:
    """Return a function of the path alone."""
    if kind == "model format":
        return lambda path: hook(Path(path), {})
    return hook


def _plugin_itself(registry: Registry, name: str) -> list[PartReport]:
    """Return what the registry had to contain or refuse, import and naming included."""
    info = registry.info(name)
    results = [CheckResult("plugin", "imports and names its parts", not info.reason, info.reason)]
    results += [
        CheckResult("plugin", "leaves the process alone", False, f"its import or its hooks {warning}")
        for warning in info.warnings
    ]
    return [PartReport("plugin", name, tuple(results))]
