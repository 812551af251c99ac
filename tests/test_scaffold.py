"""New plugins pass their own tests as written; so do the third-party examples; `plugins check` tells what fails."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustkit import UsageError, registry
from robustkit.cli.plugins import app
from robustkit.scaffold import KINDS, new_plugin
from robustkit.testing import check_plugin

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples" / "plugins").glob("robustkit-*"))
LONGEST = 25


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def install(folder, site):
    """Do what pip does with a pure package: its module and its metadata on the path."""
    told = project(folder)
    info = site / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    points = told["entry-points"]["robustkit"]
    (info / "entry_points.txt").write_text(
        "[robustkit]\n" + "".join(f"{name} = {module}\n" for name, module in points.items())
    )
    for module in points.values():
        (site / f"{module}.py").write_text((folder / f"{module}.py").read_text(encoding="utf-8"))


def own_tests(folders, path, cwd):
    """Run the tests of packages in a process of their own, warnings as errors."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(cwd)]
    command += ["--import-mode=importlib", *map(str, folders)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def code_lines(path):
    """Count the lines of code: neither blank, nor comment, nor docstring."""
    source = path.read_text(encoding="utf-8")
    told = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            told |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(1 for number, line in lines if number not in told and line.strip() and line.strip()[0] != "#")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write one new plugin of every kind; return them and a site folder that holds all of them."""
    above = tmp_path_factory.mktemp("new")
    folders = {kind: new_plugin(f"my-{kind}", kind, above) for kind in KINDS}
    site = tmp_path_factory.mktemp("site")
    for folder in folders.values():
        install(folder, site)
    return folders, site


def test_new_plugins_pass_their_own_tests(written, tmp_path):
    folders, site = written
    done = own_tests(folders.values(), [site, ROOT], tmp_path)
    assert done.returncode == 0, done.stdout
    assert "18 passed" in done.stdout


def test_examples_pass_their_own_tests(tmp_path):
    assert [folder.name for folder in EXAMPLES] == ["robustkit-linear", "robustkit-rician"]
    for folder in EXAMPLES:
        install(folder, tmp_path / "site")
    done = own_tests(EXAMPLES, [tmp_path / "site", ROOT], tmp_path)
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_example_is_short(folder):
    (module,) = folder.glob("*.py")
    assert code_lines(module) <= LONGEST


@pytest.mark.parametrize("kind", KINDS)
def test_new_plugin_is_short(kind, written):
    (module,) = written[0][kind].glob("*.py")
    assert code_lines(module) <= LONGEST


@pytest.mark.parametrize("kind", KINDS)
def test_new_plugin_passes_the_kit(kind, written, monkeypatch):
    monkeypatch.syspath_prepend(str(written[1]))
    reports = check_plugin(registry.load(), f"my-{kind}")
    assert [result for report in reports for result in report.results if not result.passed] == []
    assert len(reports) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_no_placeholder_is_left(kind, written):
    texts = [path.read_text(encoding="utf-8") for path in written[0][kind].rglob("*") if path.is_file()]
    assert len(texts) == 4
    assert all("$" not in text for text in texts)


def test_code_lines_are_counted_right(tmp_path):
    (tmp_path / "x.py").write_text(
        '"""Told\nover two lines."""\n\n# a comment\nx = 1\n\ndef f():\n    """Told."""\n    return x\n'
    )
    assert code_lines(tmp_path / "x.py") == 3


def test_leading_robustkit_is_dropped(tmp_path):
    folder = new_plugin("robustkit-fog", "noise", tmp_path)
    assert folder.name == "robustkit-fog"
    assert project(folder)["entry-points"]["robustkit"] == {"fog": "robustkit_fog"}


@pytest.mark.parametrize("name", ["Fog", "2fog", "fog_noise", "fog noise", "../fog", "", "-fog", "fog-"])
def test_name_that_cannot_be_typed_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="lower-case letters, digits and hyphens"):
        new_plugin(name, "noise", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_kind_lists_the_kinds(tmp_path):
    with pytest.raises(UsageError, match="'noize'; there is: noise, model, metric, hardener, recipe, scans"):
        new_plugin("fog", "noize", tmp_path)


def test_taken_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'fog' is taken"):
        new_plugin("fog", "noise", tmp_path, taken=["fog"])


def test_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "robustkit-fog").mkdir()
    with pytest.raises(UsageError, match="robustkit-fog is already there"):
        new_plugin("fog", "noise", tmp_path)
    assert list((tmp_path / "robustkit-fog").iterdir()) == []


def run(*words, loaded=None, monkeypatch=None):
    if loaded is not None:
        monkeypatch.setattr(registry, "default", lambda: loaded)
    return CliRunner().invoke(app, words)


BROKEN = """
import numpy as np, robustkit

class Noise:
    unit = "mAs"
    def sample(self, clean, levels, draws):
        return np.random.default_rng().normal(size=(len(draws), len(levels), *clean.shape)).astype("f4")
    def sd(self, clean, levels):
        return None

@robustkit.hookimpl
def robustkit_noise_models():
    return {"broken": lambda repeats: Noise()}
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a registry with a plugin whose noise is broken, one that does not import, and a good one."""
    for name, source in (("broken", BROKEN), ("absent", "import not_there_at_all"), ("fine", "")):
        (tmp_path / f"{name}_plugin_module.py").write_text(source)
        info = tmp_path / f"{name}_dist-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[robustkit]\n{name} = {name}_plugin_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return registry.load()


def test_list_names_what_is_there_and_why_not(broken, monkeypatch):
    done = run("list", "--json", loaded=broken, monkeypatch=monkeypatch)
    found = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    assert found["broken"]["offers"] == {"noise model": ["broken"]}
    assert found["broken"]["in_use"] is True
    assert "No module named 'not_there_at_all'" in found["absent"]["reason"]
    assert found["absent"]["package"] == "absent-dist"
    assert "nps" in found["robustkit"]["offers"]["noise model"]


def test_list_is_what_plugins_does_alone(broken, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    alone, listed = (run(*words, loaded=broken, monkeypatch=monkeypatch) for words in ((), ("list",)))
    assert alone.stdout == listed.stdout
    assert "not_there_at_all" in listed.stdout


def test_check_tells_what_failed_and_why(broken, monkeypatch):
    done = run("check", "broken", loaded=broken, monkeypatch=monkeypatch)
    assert done.exit_code == 1
    assert "noise model broken: FAILED" in done.stdout
    assert "x same draw gives same noise: asked for the same noise from the same draws" in done.stdout
    assert "1 of 2 parts fail" in done.stdout


def test_check_of_what_conforms_exits_zero(written, monkeypatch):
    monkeypatch.syspath_prepend(str(written[1]))
    done = run("check", "my-metric", "--json", loaded=registry.load(), monkeypatch=monkeypatch)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["passed"] is True
    assert {part["kind"] for part in found["parts"]} == {"metric", "plugin"}


def test_check_of_an_unknown_plugin_lists_the_known(broken, monkeypatch):
    done = run("check", "nobody", loaded=broken, monkeypatch=monkeypatch)
    assert isinstance(done.exception, UsageError)
    assert "unknown plugin 'nobody'; there is: " in str(done.exception)


def test_check_of_a_plugin_out_of_use_gives_its_reason(broken, monkeypatch):
    done = run("check", "absent", loaded=broken, monkeypatch=monkeypatch)
    assert isinstance(done.exception, UsageError)
    assert "plugin 'absent' is not in use: failed to import" in str(done.exception)


def test_new_writes_where_it_is_told(tmp_path):
    done = run("new", "fog", "--kind", "metric", "--directory", str(tmp_path), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "robustkit-fog")
    assert len(json.loads(done.stdout)["files"]) == 4


def test_new_refuses_the_name_of_an_installed_plugin(broken, monkeypatch, tmp_path):
    words = ("new", "fine", "--kind", "metric", "--directory", str(tmp_path))
    done = run(*words, loaded=broken, monkeypatch=monkeypatch)
    assert "the name 'fine' is taken" in str(done.exception)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_new_plugin_installs_with_pip_and_passes(kind, tmp_path):
    pytest.importorskip("hatchling", reason="building a wheel without the network needs hatchling")
    pytest.importorskip("pip", reason="this environment has no pip")
    folder = new_plugin("fog", kind, tmp_path)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(folder)], check=True)
    done = own_tests([folder / "tests"], [tmp_path / "site", ROOT], tmp_path)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_list_gives_the_pip_line_of_a_missing_extra(broken, monkeypatch):
    from robustkit import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "nibabel" else object())
    done = run("list", loaded=broken, monkeypatch=monkeypatch)
    assert done.stdout.splitlines()[-1] == "not installed: NIfTI volumes: pip install 'robustkit[nifti]'"
    found = json.loads(run("list", "--json", loaded=broken, monkeypatch=monkeypatch).stdout)["extras"]
    missing = {extra["name"]: extra["install"] for extra in found if not extra["installed"]}
    assert missing == {"nifti": "pip install 'robustkit[nifti]'"}
