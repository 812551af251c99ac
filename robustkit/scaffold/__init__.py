"""A new plugin, written: a package that installs and passes its own tests at once."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from string import Template

from robustkit.errors import UsageError

KINDS = {
    "noise": "noise model",
    "model": "ready-made model",
    "metric": "metric",
    "hardener": "hardening strategy",
    "recipe": "recipe",
    "scans": "reader of images",
}
PREFIX = "robustkit-"


def new_plugin(name: str, kind: str, directory: str | Path = ".", *, taken: Collection[str] = ()) -> Path:
    """Write a plugin package and return its folder, `directory`/robustkit-`name`.

    Parameters
    ----------
    name : what users will type: lower-case letters, digits and hyphens; a leading "robustkit-" is dropped.
    kind : a key of `KINDS`. taken : names that other plugins have.

    Raises
    ------
    UsageError
        For a name that cannot be used, an unknown kind, or a folder that is already there.
    """
    short = name.removeprefix(PREFIX)
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", short):
        raise UsageError(f"a plugin's name has lower-case letters, digits and hyphens, as my-noise; got {name!r}")
    if kind not in KINDS:
        raise UsageError(f"unknown kind of plugin {kind!r}; there is: {', '.join(KINDS)}")
    if short in taken or short == "robustkit":
        raise UsageError(f"the name {short!r} is taken; `robustkit plugins` lists what is there, choose another")
    folder = Path(directory) / f"{PREFIX}{short}"
    if folder.exists():
        raise UsageError(f"{folder.name} is already there; remove it, or choose another name or --directory")
    words = {"name": short, "package": folder.name, "module": folder.name.replace("-", "_"), "what": KINDS[kind]}
    (folder / "tests").mkdir(parents=True)
    written = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{kind}.py": f"{words['module']}.py",
        f"test_{kind}.py": f"tests/test_{words['module']}.py",
    }
    for template, target in written.items():
        (folder / target).write_text(_template(template).substitute(words), encoding="utf-8")
    return folder


def _template(name: str) -> Template:
    return Template(files(__name__).joinpath("templates", f"{name}.txt").read_text(encoding="utf-8"))
