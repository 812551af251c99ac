"""Every public name is documented, and every documented name exists."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import robustkit

ROOT = Path(__file__).parents[1]
PACKAGE = Path(robustkit.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_CODE = {"robustkit.spec", "robustkit.toml"}
"""Dotted words that are no modules: a metadata key, the end of a file name."""
INTERNAL = {"robustkit.report"}
"""Packages with a list of names for the rest of the project, not for users."""


def directives():
    """Return the names that the API pages show."""
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    return [
        name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def resolve(dotted):
    """Return what a dotted name stands for; AttributeError or ImportError where it is nothing."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if cut == 1 or not str(error.name).startswith(parts[0]):
                raise
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise ImportError(dotted)


def listed():
    """Return every name that a package of robustkit lists in __all__, dotted."""
    found = []
    for path in sorted(PACKAGE.rglob("__init__.py")):
        module = importlib.import_module(".".join(path.parent.relative_to(PACKAGE.parent).parts))
        found += [f"{module.__name__}.{name}" for name in getattr(module, "__all__", ())]
    return found


@pytest.mark.parametrize("name", directives())
def test_what_the_reference_shows_exists_and_is_public(name):
    assert resolve(name) is not None
    assert not any(part.startswith("_") for part in name.split("."))


def test_every_package_with_a_public_list_is_in_the_reference():
    packages = {name.rsplit(".", 1)[0] for name in listed()} - INTERNAL
    assert packages <= set(directives())


@pytest.mark.parametrize("name", listed())
def test_every_public_name_says_what_it_is(name):
    thing = resolve(name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert (inspect.getdoc(thing) or "").strip(), f"{name} has no docstring"
        if inspect.isclass(thing) and issubclass(thing, tuple | Exception):
            return
        assert thing.__doc__ is not None
        assert not thing.__doc__.startswith(f"{thing.__name__}("), f"{name} has only the docstring of a dataclass"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_name_a_page_speaks_of_exists(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`(robustkit(?:\.\w+)+)(?:\(\))?`", text):
        if name not in NOT_CODE:
            resolve(name)


def test_the_map_names_every_module_and_folder():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)/?`", text.partition("## Folders")[2].partition("## Decisions")[0]))
    there = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__", PACKAGE.name} == named & there
    assert named - there <= {"tests", "docs", "benchmarks", "examples"}
