"""What is shipped: both packages build, hold what they need alone, and run from wheels in an empty environment."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[1]
PROJECTS = {"robustkit": ROOT, "robustkit_ct_bodysite": ROOT / "plugins" / "robustkit-ct-bodysite"}
DATA = {
    "robustkit": {"py.typed", "noise/nps_library.json", "report/templates/report.html"},
    "robustkit_ct_bodysite": {"py.typed", "model.onnx", "model.robustkit.toml"},
}


def run(*command, cwd, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    for project in PROJECTS.values():
        run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=project)
    return folder


def wheel_of(dist, name):
    (found,) = dist.glob(f"{name}-*.whl")
    return found


@pytest.mark.parametrize("name", PROJECTS)
def test_wheel_holds_the_package_and_its_data(dist, name):
    with zipfile.ZipFile(wheel_of(dist, name)) as wheel:
        names = set(wheel.namelist())
        (meta,) = [wheel.read(n).decode() for n in names if n.endswith(".dist-info/METADATA")]
    tops = {n.partition("/")[0].split("-")[0] for n in names}
    assert tops == {name}
    assert {f"{name}/{data}" for data in DATA[name]} <= names
    sources = {p.relative_to(PROJECTS[name]).as_posix() for p in (PROJECTS[name] / name).rglob("*.py")}
    assert sources <= names
    assert not [n for n in names if "/tests/" in n or n.endswith((".pyc", ".npz"))]
    facts = Parser().parsestr(meta)
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts["Requires-Python"] == ">=3.11"
    assert facts.get_payload().strip(), "no long description"


@pytest.mark.parametrize("name", PROJECTS)
def test_source_archive_builds_the_same_wheel(dist, name, tmp_path):
    (archive,) = dist.glob(f"{name}-*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again"), cwd=unpacked)
    with zipfile.ZipFile(wheel_of(dist, name)) as one, zipfile.ZipFile(wheel_of(tmp_path / "again", name)) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}


def test_twine_finds_nothing_wrong(dist):
    if importlib.util.find_spec("twine") is None:
        pytest.skip("needs twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(dist.iterdir())), cwd=dist)


def test_no_licence_of_the_core_is_copyleft():
    code = "import sys; sys.argv = ['footprint']; sys.path.insert(0, '.'); import footprint; sys.exit(footprint.main())"
    told = run(sys.executable, "-c", code, cwd=ROOT / "benchmarks")
    assert "numpy" in told
    assert "not stated" not in told


@pytest.mark.slow
def test_wheels_run_in_an_empty_environment(dist, tmp_path):
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("needs uv")
    run(uv, "venv", "-q", "--python", sys.executable, "empty", cwd=tmp_path)
    wheels = [str(wheel_of(dist, name)) for name in PROJECTS]
    run(uv, "pip", "install", "-q", "--python", "empty/bin/python", *wheels, cwd=tmp_path)
    asked = ("audit", "ct-bodysite", "--noise", "nps", "--images", "phantom/C", "--mas", "25", "-n", "2", "--json")
    told = run("empty/bin/robustkit", *asked, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert json.loads(told)["n"] == 2
