"""Every example runs as it stands and leaves what it promises."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("robustkit_ct_bodysite")
EXAMPLES = Path(__file__).parents[1] / "examples"
LEFT = {
    "audit_keras.py": ("site.keras", "audit/report.html"),
    "calibrate.py": ("noise.npz", "audit/report.html"),
    "compare_scanners.py": ("smooth/summary.json", "sharp/summary.json"),
    "harden.py": ("round-0/summary.json",),
    "notebook.py": ("noise.png", "sar.png", "audit/results.parquet"),
    "training_noise.py": ("copies.npz",),
}
NEEDS = {"audit_keras.py": "tensorflow", "harden.py": "torch", "notebook.py": "matplotlib"}


def test_every_script_has_its_test():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LEFT)


@pytest.mark.parametrize("name", [name for name in LEFT if name not in NEEDS])
def test_script_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert all((tmp_path / left).is_file() for left in LEFT[name])


@pytest.mark.parametrize("name", list(NEEDS))
def test_script_with_an_extra_runs(name, tmp_path):
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    command = [sys.executable, str(EXAMPLES / name), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert all((tmp_path / left).is_file() for left in LEFT[name])


def test_gate_in_a_shell(tmp_path):
    beside = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    command = [str(EXAMPLES / "gate" / "gate.sh"), "ct-bodysite", str(tmp_path / "gate")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode in (0, 1, 3), done.stderr
    assert (tmp_path / "gate" / "junit.xml").is_file()


def test_gate_in_pytest(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, str(EXAMPLES / "gate" / "test_gate.py")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # a model may fail its gate; the test must run
    assert "SAR" in done.stdout or done.returncode == 0
