"""The page on plugins: its code runs, its hooks, checks and commands exist."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from robustkit import registry, testing

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_code_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = [source for source in blocks("python") if "import pytest" not in source]
    assert len(written) == 8
    namespace = {"__name__": "page"}
    for number, source in enumerate(written):
        exec(compile(source, f"block {number} of {PAGE.name}", "exec", dont_inherit=True), namespace)
    assert namespace["robustkit_noise_models"]() == {"my-noise": namespace["fit"]}


def test_gates_are_collected(pytester):
    (source,) = [source for source in blocks("python") if "import pytest" in source]
    pytester.makepyfile(source)
    known = "robustkit" in {point.name for point in entry_points(group="pytest11")}
    flags = () if known else ("-p", "robustkit.pytest_plugin")
    result = pytester.runpytest_inprocess(*flags, "--strict-markers", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*::test_low_dose", "*::test_by_hand"])
    assert result.ret == 0


def test_package_offers_its_module():
    (source,) = blocks("toml")
    project = tomllib.loads(source)["project"]
    assert project["entry-points"] == {"robustkit": {"my-noise": "robustkit_my_noise"}}


def test_every_hook_has_its_row():
    rows = re.findall(r"^\| `(robustkit_\w+)\(", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == list(registry.HOOKS)


def test_every_check_has_its_row():
    rows = re.findall(r"^\| `(check_\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(n for n in testing.__all__ if n.startswith("check_") and n != "check_plugin")


@pytest.mark.parametrize("name", [name for name in testing.__all__ if name.startswith(("Fake", "make_"))])
def test_every_fake_is_told(name):
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


def test_commands_exist():
    import typer.main

    from robustkit.cli.main import app

    known = typer.main.get_command(app)
    lines = [line for block in blocks("console") for line in block.splitlines() if line.startswith("robustkit ")]
    assert lines
    for line in lines:
        words = line.split()
        assert words[1] in known.commands
        inner = getattr(known.commands[words[1]], "commands", None)
        assert inner is None or words[2] in inner
