"""What is installed: the built-ins and every third-party plugin. The only module that knows a PluginManager.

Entry points of group `robustkit` are loaded one by one, in order of name; one that fails, on import or when it is
asked for its names, is listed with its reason and does not stop the rest. What a plugin prints stays off stdout; the
working directory and numpy's global state are put back after it, and the change is named.
`ROBUSTKIT_DISABLE_PLUGINS=a,b` blocks plugins by entry-point name.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from robustkit import hookspecs
from robustkit.containment import contained, hurried
from robustkit.errors import ModelError, RobustkitError, UsageError
from robustkit.types import Classifier, Fit, Hardener, Metric, Recipe, RepeatScans, Slice

GROUP = "robustkit"
API = 1
"""Version of the hooks. A plugin may state the one it was written for: `ROBUSTKIT_API = 1`."""
BUILT_IN = "robustkit"
COLLECTED = {
    "noise model": "robustkit_noise_models",
    "metric": "robustkit_metrics",
    "hardener": "robustkit_hardeners",
    "recipe": "robustkit_recipes",
    "model": "robustkit_models",
}
OPENERS = {
    "model format": "robustkit_load_model",
    "images": "robustkit_load_images",
    "repeats": "robustkit_load_repeats",
}
HOOKS = tuple(sorted(name for name, spec in vars(hookspecs).items() if hasattr(spec, "robustkit_spec")))


@dataclass(frozen=True)
class PluginInfo:
    """One line of `robustkit plugins list`.

    Attributes
    ----------
    name, version, package : of its entry point, and the distribution that brought it.
    hooks : what it implements.
    reason : why it is not in use, empty when it is.
    warnings : what it did that a plugin should not, and that was contained.
    """

    name: str
    version: str
    hooks: tuple[str, ...] = ()
    reason: str = ""
    package: str = ""
    warnings: tuple[str, ...] = ()


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
        fit: Fit = self._pick("noise model", name, self.noise_models())
        return fit

    def recipe(self, name: str) -> Recipe:
        """Return one recipe, made; an unknown name is a UsageError that lists what exists."""
        recipe: Recipe = self._pick("recipe", name, self.recipes())()
        return recipe

    def hardener(self, name: str) -> Hardener:
        """Return one hardening strategy; an unknown name is a UsageError that lists what exists."""
        hardener: Hardener = self._pick("hardener", name, self.hardeners())
        return hardener

    def load_model(self, path: Path, spec: Mapping[str, Any]) -> Classifier | None:
        """Offer a model file to every adapter, third parties first."""
        model: Classifier | None = self._first("robustkit_load_model", path=path, spec=spec)
        return model

    def load_images(self, path: str) -> Sequence[Slice] | None:
        """Offer a path or name of images to every reader, third parties first."""
        images: Sequence[Slice] | None = self._first("robustkit_load_images", path=path)
        return images

    def load_repeats(self, path: str) -> Sequence[RepeatScans] | None:
        """Offer a path of repeat scans to every reader, third parties first."""
        repeats: Sequence[RepeatScans] | None = self._first("robustkit_load_repeats", path=path)
        return repeats

    def add_commands(self, app: Any) -> None:
        """Let plugins add their commands to the typer app; one that fails is listed, the others' commands stay."""
        for implementation in self._implementations("robustkit_commands"):
            try:
                with contained() as notes:
                    implementation.function(*(app for _ in implementation.argnames))
            except (Exception, SystemExit) as error:
                self._out_of_use(implementation.plugin_name, f"robustkit_commands failed: {_told(error)}")
            else:
                self._warn(implementation.plugin_name, notes)

    def info(self, plugin_name: str) -> PluginInfo:
        """Return what is known of one plugin; an unknown name is a UsageError that lists what exists."""
        found = {plugin.name: plugin for plugin in reversed(self.plugins)}
        info: PluginInfo = self._pick("plugin", plugin_name, found)
        return info

    def offers(self, plugin_name: str) -> dict[str, dict[str, Any]]:
        """Return what one plugin names, by kind: {"noise model": {"rician": fit}, ...}; empty when out of use."""
        self.info(plugin_name)
        found: dict[str, dict[str, Any]] = {}
        for kind, hook in COLLECTED.items():
            for implementation in self._implementations(hook):
                if implementation.plugin_name == plugin_name:
                    found[kind] = dict(sorted(self._names(hook, implementation).items()))
        return found

    def openers(self, plugin_name: str) -> dict[str, Callable[..., Any]]:
        """Return one plugin's readers, by what they open: {"model format": function, ...}."""
        self.info(plugin_name)
        return {
            kind: implementation.function
            for kind, hook in OPENERS.items()
            for implementation in self._implementations(hook)
            if implementation.plugin_name == plugin_name
        }

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        return list(caller.get_hookimpls())

    def _collect(self, hook: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        owner: dict[str, str] = {}
        for implementation in self._implementations(hook):
            for name, value in self._names(hook, implementation).items():
                if name in merged:
                    pair = (owner[name], implementation.plugin_name)
                    blocked = next(plugin for plugin in reversed(pair) if plugin != BUILT_IN)
                    raise RobustkitError(
                        f"two plugins name {name!r} in {hook}: {pair[0]} and {pair[1]}; "
                        f"block one with ROBUSTKIT_DISABLE_PLUGINS={blocked}"
                    )
                merged[name] = value
                owner[name] = implementation.plugin_name
        return dict(sorted(merged.items()))

    def _names(self, hook: str, implementation: pluggy.HookImpl) -> dict[str, Any]:
        """Ask one plugin for its names; a stranger's failure puts it out of use, ours is raised."""
        name = implementation.plugin_name
        if name == BUILT_IN:
            ours: Any = implementation.function()
            return dict(ours)
        try:
            with contained() as notes:
                found: Any = implementation.function()
            _refuse_odd_mapping(found)
        except (Exception, SystemExit) as error:
            self._out_of_use(name, f"{hook} failed: {_told(error)}")
            return {}
        self._warn(name, notes)
        return dict(found)

    def _first(self, hook: str, **offered: Any) -> Any:
        """Return the first answer that is not None; a reader that fails is named only when no other can read it."""
        failed: list[str] = []
        for implementation in reversed(self._implementations(hook)):
            arguments = [offered[name] for name in implementation.argnames]
            try:
                with contained() as notes:
                    found = implementation.function(*arguments)
            except RobustkitError:
                raise
            except (Exception, SystemExit) as error:
                if implementation.plugin_name == BUILT_IN:
                    raise
                failed.append(f"plugin {implementation.plugin_name} failed in {hook} ({_nameless(hook, error)})")
                continue
            self._warn(implementation.plugin_name, notes)
            if found is not None:
                return found
        if failed:
            raise ModelError(f"{'; '.join(failed)}; nothing else could open it. `robustkit plugins` lists them")
        return None

    def _pick(self, kind: str, name: str, known: Mapping[str, Any]) -> Any:
        if name in known:
            return known[name]
        broken = "; ".join(f"{plugin.name} ({plugin.reason})" for plugin in self.plugins if plugin.reason)
        idle = f"; not in use: {broken}" if broken else ""
        raise UsageError(f"unknown {kind} {name!r}; there is: {', '.join(known) or 'none'}{idle}")

    def _out_of_use(self, name: str, reason: str) -> None:
        self.plugins[:] = [replace(p, reason=reason) if p.name == name and not p.reason else p for p in self.plugins]

    def _warn(self, name: str, notes: Sequence[str]) -> None:
        if notes:
            self.plugins[:] = [
                replace(p, warnings=tuple(dict.fromkeys((*p.warnings, *notes)))) if p.name == name else p
                for p in self.plugins
            ]


def load(extra: Sequence[tuple[str, Any]] = ()) -> Registry:
    """Load the built-ins, `extra` (name, module) pairs, then every installed plugin that works."""
    from robustkit import __version__, builtins

    manager = pluggy.PluginManager("robustkit")
    manager.add_hookspecs(hookspecs)
    registry = Registry(manager)
    _register(registry, PluginInfo(BUILT_IN, __version__, package="robustkit"), builtins)
    for name, module in extra:
        _register(registry, PluginInfo(name, ""), module)
    blocked = {name.strip() for name in os.environ.get("ROBUSTKIT_DISABLE_PLUGINS", "").split(",")}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        info = PluginInfo(
            point.name, point.dist.version if point.dist else "", package=point.dist.name if point.dist else ""
        )
        if point.name in blocked:
            registry.plugins.append(replace(info, reason="blocked by ROBUSTKIT_DISABLE_PLUGINS"))
        else:
            _load_entry_point(registry, point, info)
    return registry


_default: list[Registry] = []


def default() -> Registry:
    """Return the registry of this process, loaded on first use."""
    if not _default:
        _default.append(load())
    return _default[0]


def _load_entry_point(registry: Registry, point: EntryPoint, info: PluginInfo) -> None:
    try:
        cure = f"block it with ROBUSTKIT_DISABLE_PLUGINS={info.name}"
        with contained() as notes, hurried(f"plugin {info.name} to be imported", cure):
            module = point.load()
    except ModuleNotFoundError as error:
        cure = f"; pip install --upgrade {info.package}" if info.package else ""
        registry.plugins.append(replace(info, reason=f"failed to import: {_told(error)}{cure}"))
    except (Exception, SystemExit) as error:  # a stranger's import may raise anything
        registry.plugins.append(replace(info, reason=f"failed to import: {_told(error)}"))
    else:
        _register(registry, replace(info, warnings=tuple(notes)), module)


def _register(registry: Registry, info: PluginInfo, module: Any) -> None:
    reason = _why_refused(registry, info, module)
    if not reason:
        try:
            registry.manager.register(module, info.name)
        except (pluggy.PluginValidationError, ValueError) as error:
            reason = str(error).splitlines()[-1]
            if registry.manager.get_plugin(info.name) is module:
                registry.manager.unregister(name=info.name)
    if reason:
        registry.plugins.append(replace(info, reason=f"refused: {reason}"))
        return
    callers = registry.manager.get_hookcallers(module) or []
    registry.plugins.append(replace(info, hooks=tuple(sorted(caller.name for caller in callers))))


def _why_refused(registry: Registry, info: PluginInfo, module: Any) -> str:
    """Return why a plugin must not be registered: its name is taken, another API, hooks that do not exist."""
    if registry.manager.has_plugin(info.name):
        other = next(p for p in registry.plugins if p.name == info.name)
        return (
            f"the name {info.name!r} is taken by {other.package or 'another plugin'}; "
            f"uninstall {info.package or 'one of them'}"
        )
    stated = getattr(module, "ROBUSTKIT_API", API)
    if stated != API:
        return (
            f"it is written for API {stated} of the hooks, this robustkit has API {API}; install its matching version"
        )
    unknown = [f"unknown hook {name}{_meant(name)}" for name in _unknown_hooks(registry.manager, module)]
    unmarked = [f"{name} lacks @robustkit.hookimpl" for name in _unmarked_hooks(registry.manager, module)]
    return "; ".join(unknown + unmarked)


def _unknown_hooks(manager: pluggy.PluginManager, module: Any) -> list[str]:
    found = []
    for attribute in dir(module):
        marks = manager.parse_hookimpl_opts(module, attribute)
        if marks and not marks.get("optionalhook") and (marks.get("specname") or attribute) not in HOOKS:
            found.append(marks.get("specname") or attribute)
    return found


def _unmarked_hooks(manager: pluggy.PluginManager, module: Any) -> list[str]:
    return [
        name
        for name in dir(module)
        if name in HOOKS
        and inspect.isroutine(getattr(module, name))
        and manager.parse_hookimpl_opts(module, name) is None
    ]


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, HOOKS, n=1)
    return f", did you mean {close[0]}?" if close else f"; hooks are {', '.join(HOOKS)}"


def _refuse_odd_mapping(found: Any) -> None:
    if not isinstance(found, Mapping):
        raise TypeError(f"it returned {type(found).__name__}, a mapping of names to functions is wanted")
    for name, value in found.items():
        if not isinstance(name, str) or not name or name != name.strip():
            raise TypeError(f"{name!r} is no name that can be typed")
        if not callable(value):
            raise TypeError(f"{name!r} stands for a {type(value).__name__}, a function is wanted")


def _told(error: BaseException) -> str:
    if isinstance(error, RobustkitError):
        return str(error)
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _nameless(hook: str, error: BaseException) -> str:
    """Tell an error; of a reader of images only its kind, because its text may name a file or a patient."""
    return _told(error) if hook == "robustkit_load_model" else type(error).__name__
