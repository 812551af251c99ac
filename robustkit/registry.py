"""What is installed: the built-ins and every third-party plugin. The only module that knows a PluginManager.

Entry points of group `robustkit` are loaded one by one, in order of name; one that fails is listed with its reason
and does not stop the rest. `ROBUSTKIT_DISABLE_PLUGINS=a,b` blocks plugins by entry-point name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from robustkit import hookspecs
from robustkit.errors import RobustkitError, UsageError
from robustkit.types import Classifier, Fit, Hardener, Metric, Recipe, RepeatScans, Slice

GROUP = "robustkit"
COLLECTED = {
    "noise model": "robustkit_noise_models",
    "metric": "robustkit_metrics",
    "hardener": "robustkit_hardeners",
    "recipe": "robustkit_recipes",
    "model": "robustkit_models",
}


@dataclass(frozen=True)
class PluginInfo:
    """One line of `robustkit plugins list`: `reason` says why a plugin is not in use, empty when it is."""

    name: str
    version: str
    hooks: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class Registry:
    """The hooks of everything loaded. Make one with `load()`; commands share the one of `default()`."""

    manager: pluggy.PluginManager
    plugins: list[PluginInfo] = field(default_factory=list)

    def noise_models(self) -> dict[str, Fit]:
        """Name -> fit of every noise model."""
        return self._collect("robustkit_noise_models")

    def metrics(self) -> dict[str, Metric]:
        """Name -> function of every metric."""
        return self._collect("robustkit_metrics")

    def hardeners(self) -> dict[str, Hardener]:
        """Name -> strategy of every hardener."""
        return self._collect("robustkit_hardeners")

    def recipes(self) -> dict[str, Callable[[], Recipe]]:
        """Name -> factory of every recipe."""
        return self._collect("robustkit_recipes")

    def models(self) -> dict[str, Callable[[], Classifier]]:
        """Name -> loader of every ready-made model."""
        return self._collect("robustkit_models")

    def noise_model(self, name: str) -> Fit:
        """Return one noise model's fit; an unknown name is a UsageError that lists what exists."""
        return _pick("noise model", name, self.noise_models())

    def recipe(self, name: str) -> Recipe:
        """Return one recipe, made; an unknown name is a UsageError that lists what exists."""
        return _pick("recipe", name, self.recipes())()

    def hardener(self, name: str) -> Hardener:
        """Return one hardening strategy; an unknown name is a UsageError that lists what exists."""
        return _pick("hardener", name, self.hardeners())

    def load_model(self, path: Path, spec: Mapping[str, Any]) -> Classifier | None:
        """Offer a model file to every adapter, third parties first."""
        model: Classifier | None = self.manager.hook.robustkit_load_model(path=path, spec=spec)
        return model

    def load_images(self, path: str) -> Sequence[Slice] | None:
        """Offer a path or name of images to every reader, third parties first."""
        images: Sequence[Slice] | None = self.manager.hook.robustkit_load_images(path=path)
        return images

    def load_repeats(self, path: str) -> Sequence[RepeatScans] | None:
        """Offer a path of repeat scans to every reader, third parties first."""
        repeats: Sequence[RepeatScans] | None = self.manager.hook.robustkit_load_repeats(path=path)
        return repeats

    def add_commands(self, app: Any) -> None:
        """Let plugins add their commands to the typer app."""
        self.manager.hook.robustkit_commands(app=app)

    def offers(self, plugin_name: str) -> dict[str, list[str]]:
        """Return what one plugin names, by kind: {"noise model": ["rician"], ...}."""
        plugin = self.manager.get_plugin(plugin_name)
        found: dict[str, list[str]] = {}
        for kind, hook in COLLECTED.items():
            implementation = getattr(plugin, hook, None)
            if implementation is not None:
                found[kind] = sorted(implementation())
        return found

    def _collect(self, hook: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        owner: dict[str, str] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            for name, value in implementation.function().items():
                if name in merged:
                    raise RobustkitError(
                        f"two plugins name {name!r} in {hook}: {owner[name]} and {implementation.plugin_name}; "
                        f"block one with ROBUSTKIT_DISABLE_PLUGINS={implementation.plugin_name}"
                    )
                merged[name] = value
                owner[name] = implementation.plugin_name
        return dict(sorted(merged.items()))


def load(extra: Sequence[tuple[str, Any]] = ()) -> Registry:
    """Load the built-ins, `extra` (name, module) pairs, then every installed plugin that works."""
    from robustkit import builtins

    manager = pluggy.PluginManager("robustkit")
    manager.add_hookspecs(hookspecs)
    registry = Registry(manager)
    _register(registry, "robustkit", builtins, _own_version())
    for name, module in extra:
        _register(registry, name, module, "")
    blocked = {name for name in os.environ.get("ROBUSTKIT_DISABLE_PLUGINS", "").split(",") if name}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        version = point.dist.version if point.dist else ""
        if point.name in blocked:
            registry.plugins.append(
                PluginInfo(point.name, version, reason="blocked by ROBUSTKIT_DISABLE_PLUGINS")
            )
            continue
        _load_entry_point(registry, point, version)
    return registry


_default: list[Registry] = []


def default() -> Registry:
    """Return the registry of this process, loaded on first use."""
    if not _default:
        _default.append(load())
    return _default[0]


def _load_entry_point(registry: Registry, point: EntryPoint, version: str) -> None:
    try:
        module = point.load()
    except (Exception, SystemExit) as error:  # a stranger's import may raise anything
        reason = f"failed to import: {type(error).__name__}: {error}"
        registry.plugins.append(PluginInfo(point.name, version, reason=reason))
        return
    _register(registry, point.name, module, version)


def _register(registry: Registry, name: str, module: Any, version: str) -> None:
    try:
        registry.manager.register(module, name)
        registry.manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        if registry.manager.has_plugin(name):
            registry.manager.unregister(name=name)
        registry.plugins.append(PluginInfo(name, version, reason=f"refused: {error}"))
        return
    callers = registry.manager.get_hookcallers(module) or []
    hooks = tuple(sorted(caller.name for caller in callers))
    registry.plugins.append(PluginInfo(name, version, hooks))


def _pick(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UsageError(f"unknown {kind} {name!r}; there is: {', '.join(known) or 'none'}")
    return known[name]


def _own_version() -> str:
    from robustkit import __version__

    return __version__
