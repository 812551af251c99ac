"""Optional dependencies: listed with their pip line, and the same ones that pyproject names."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

from robustkit import extras
from robustkit.extras import EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_DEVELOPERS = {"test", "browser", "dev", "docs"}


def test_extras_are_those_of_the_package() -> None:
    assert {extra.name for extra in EXTRAS} == set(PROJECT["optional-dependencies"]) - FOR_DEVELOPERS


def test_missing_extra_carries_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    nifti = next(extra for extra in EXTRAS if extra.name == "nifti")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert not nifti.installed
    assert nifti.install == "pip install 'robustkit[nifti]'"
    monkeypatch.setattr(extras, "find_spec", importlib.util.find_spec)
    assert nifti.installed is (importlib.util.find_spec("nibabel") is not None)
