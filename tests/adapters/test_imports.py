"""What is imported when, and what is said when it is not there."""

import importlib.machinery
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from adapters import zoo

from robustkit.adapters import keras_train, load_model
from robustkit.errors import MissingExtraError

HEAVY = ("onnxruntime", "onnx", "torch", "tensorflow", "keras", "scipy", "pandas", "numba", "h5py", "safetensors")


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('|'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.strip().split("|"))


def test_import_is_light() -> None:
    assert not modules_after("import robustkit.adapters") & set(HEAVY)


def test_onnx_model_needs_onnxruntime_alone(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx")
    loaded = modules_after(
        f"import numpy; from pathlib import Path; from robustkit.adapters import load_model\n"
        f"m = load_model(Path({str(path)!r}), {{'window': '-1000,1000'}})\n"
        "m.predict(numpy.zeros((2, 16, 16), 'float32'), (1.0, 1.0))"
    )
    assert "onnxruntime" in loaded
    assert not loaded & {"onnx", "torch", "tensorflow", "keras", "pandas", "numba"}


@pytest.mark.parametrize(
    ("name", "head", "absent", "extra"),
    [
        ("m.safetensors", b"\x02\0\0\0\0\0\0\0{}", "torch", "torch"),
        ("m.h5", b"\x89HDF\r\n\x1a\n", "keras", "keras"),
    ],
)
def test_missing_extra_names_its_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, head: bytes, absent: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / name).write_bytes(head)
    with pytest.raises(MissingExtraError, match=rf"pip install 'robustkit\[{extra}\]'"):
        load_model(tmp_path / name, zoo.HU)


@pytest.mark.parametrize(
    ("there", "asked", "chosen"),
    [
        ({"keras", "tensorflow", "torch"}, None, "tensorflow"),
        ({"keras", "torch"}, None, "torch"),
        ({"keras", "tensorflow", "torch"}, "torch", "torch"),
        ({"keras"}, None, r"Keras without a backend needs an extra .* 'robustkit\[tensorflow\]'"),
        ({"keras", "tensorflow"}, "torch", r"KERAS_BACKEND=torch needs an extra .* 'robustkit\[torch\]'"),
        (set(), None, r"pip install 'robustkit\[keras\]'"),
    ],
)
def test_keras_runs_on_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, there: set[str], asked: str | None, chosen: str
) -> None:
    class Chosen(types.ModuleType):
        """Stands for Keras: remembers the backend asked for when it was imported."""

    class Importer:
        def find_spec(self, name: str, path: object = None, target: object = None) -> object:
            return importlib.machinery.ModuleSpec(name, self) if name == "keras" else None

        def create_module(self, spec: object) -> types.ModuleType:
            return Chosen("keras")

        def exec_module(self, module: types.ModuleType) -> None:
            module.chosen = os.environ["KERAS_BACKEND"]

    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if asked:
        monkeypatch.setenv("KERAS_BACKEND", asked)
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))  # so that none stays behind where none was
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(sys, "meta_path", [Importer(), *sys.meta_path])
    monkeypatch.setattr(keras_train.importlib.util, "find_spec", lambda name: name if name in there else None)
    if chosen in keras_train.BACKENDS:
        found = keras_train._import_keras()
        monkeypatch.delitem(sys.modules, "keras")
        assert found.chosen == chosen
        assert os.environ.get("KERAS_BACKEND") == asked
    else:
        with pytest.raises(MissingExtraError, match=chosen):
            keras_train._import_keras()
