"""Opening and writing Keras models: their own forms, SavedModel, ONNX, and what travels to another process."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit.adapters.classifier import first_line, probe_input
from robustkit.adapters.keras_train import backend_name, need_keras, one_thread, quiet
from robustkit.adapters.spec import METADATA_KEY
from robustkit.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    from robustkit.adapters.keras import KerasClassifier

ENDPOINTS = ("serving_default", "serve")


def open_layers(path: Path, *, unsafe: bool = False) -> Any:
    """Return the network of a `.keras` or `.h5` file that was vetted; its name need not end so."""
    keras = need_keras()
    suffix = ".h5" if path.read_bytes()[:4] == b"\x89HDF" else ".keras"
    with tempfile.TemporaryDirectory() as folder, quiet():
        place = path
        if path.suffix.lower() != suffix:  # Keras goes by the name
            place = Path(folder) / f"model{suffix}"
            shutil.copyfile(path, place)
        return keras.saving.load_model(str(place), compile=False, safe_mode=not unsafe)


def open_saved_model(path: Path) -> Any:
    """Return a SavedModel that was vetted as a network of one layer, which computes its signature."""
    keras = need_keras()
    with quiet():
        import tensorflow as tf

        signatures = tf.saved_model.load(str(path)).signatures
        endpoint = next((name for name in (*ENDPOINTS, *signatures) if name in signatures), None)
        if endpoint is None:
            raise ModelError(f"{path.name} has no signature to call; export it with model.export")
        inputs = signatures[endpoint].structured_input_signature[1]
        if len(inputs) != 1:
            raise ModelError(f"{path.name} takes {len(inputs)} inputs; robustkit gives it one image")
        given = next(iter(inputs.values()))
        layer = keras.layers.TFSMLayer(str(path), call_endpoint=endpoint)
        for variable in layer.variables:  # TensorFlow's names end in ":0", from which Adam makes no names of its own
            variable._path = variable.path.replace(":", "_")
        image = keras.Input(batch_shape=tuple(given.shape), dtype=given.dtype.name, name="image")
        return keras.Model(image, layer(image))


def need_tensorflow(name: str) -> None:
    """Make sure that Keras runs on TensorFlow, which alone opens a SavedModel."""
    import importlib.util

    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError(f"{name}, a SavedModel,", "tensorflow")
    if backend_name() != "tensorflow":
        raise UsageError(f"{name} is a SavedModel and Keras runs on {backend_name()}; set KERAS_BACKEND=tensorflow")


def write(model: KerasClassifier, path: Path, form: str) -> None:
    """Write a model as keras, hdf5 or savedmodel, whole or not at all, with its spec inside or (a folder) beside."""
    from robustkit.files import atomic_path, write_text

    toml = model.spec.to_toml()
    if form == "savedmodel":
        need_tensorflow(path.name)
        _write_folder(model.model, path)
        write_text(path.with_name(f"{path.name}.robustkit.toml"), toml)
        return
    with atomic_path(path) as temporary, quiet():
        if form == "hdf5":
            _write_hdf5(model.model, temporary, toml)
        else:
            temporary.write_bytes(archive_bytes(model.model, toml))


def archive_bytes(network: Any, toml: str | None = None) -> bytes:
    """Return the `.keras` archive of a network; `toml` is kept in its metadata."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        place = Path(folder) / "model.keras"
        network.save(str(place))
        if toml is None:
            return place.read_bytes()
        target = io.BytesIO()
        with zipfile.ZipFile(place) as archive, zipfile.ZipFile(target, "w") as copy:
            for info in archive.infolist():
                content = archive.read(info)
                if info.filename == "metadata.json":
                    content = json.dumps({**json.loads(content), METADATA_KEY: toml}).encode()
                copy.writestr(info, content)
    return target.getvalue()


def onnx_bytes(model: KerasClassifier) -> bytes:
    """Return the ONNX file: by tf2onnx on TensorFlow, by torch's own exporter on torch."""
    backend = backend_name()
    model.forward(probe_input(model.spec))  # Keras exports only what was called
    with tempfile.TemporaryDirectory() as folder, quiet(), one_thread():
        place = Path(folder) / "model.onnx"
        try:
            model.answer.export(str(place), format="onnx", verbose=False)
            import onnx

            return bytes(onnx.load(place).SerializeToString())  # data in a second file come along
        except ImportError:
            raise MissingExtraError("exporting a Keras model to ONNX", backend) from None
        except Exception as error:  # the exporters raise their own kinds for what they lack
            raise ModelError(
                f"{model.name} cannot be exported to ONNX ({first_line(error)}); save it as .keras"
            ) from None


def freeze(model: KerasClassifier) -> bytes:
    """Return a network as bytes: a `.keras` archive, or a zip of the SavedModel."""
    if model.form != "savedmodel":
        return archive_bytes(model.model)
    target = io.BytesIO()
    with exported(model.model) as folder, zipfile.ZipFile(target, "w") as archive:
        for item in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(item, item.relative_to(folder).as_posix())
    return target.getvalue()


def thaw(frozen: bytes, form: str) -> Any:
    """Return the network that `freeze` froze."""
    with tempfile.TemporaryDirectory() as folder:
        if form == "savedmodel":
            with zipfile.ZipFile(io.BytesIO(frozen)) as archive:
                archive.extractall(folder)
            return open_saved_model(Path(folder))
        place = Path(folder) / "model.keras"
        place.write_bytes(frozen)
        return open_layers(place)


def reopen(model: KerasClassifier) -> Any:
    """Return a copy of a SavedModel's network with weights of its own."""
    with exported(model.model) as folder:
        return open_saved_model(folder)


@contextmanager
def exported(network: Any) -> Iterator[Path]:
    """Yield a SavedModel of a network, for the time being."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        place = Path(folder) / "model"
        network.export(str(place), format="tf_saved_model", verbose=False)
        yield place


def embedded(path: Path, kind: str) -> str | None:
    """Return the TOML that a file carries."""
    from robustkit.adapters import keras_vet, sniff

    if kind == "keras":
        metadata = sniff.json_member(path, "metadata.json")
        found = metadata.get(METADATA_KEY) if isinstance(metadata, Mapping) else None
        return found if isinstance(found, str) else None
    if kind == "hdf5":
        return keras_vet.check_hdf5(path.name, path, path.stat().st_size).get(METADATA_KEY)
    return None


def _write_hdf5(network: Any, path: Path, toml: str) -> None:
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.h5"
        network.save(str(place))
        with h5py.File(place, "r+") as archive:
            archive.attrs[METADATA_KEY] = toml
        shutil.copyfile(place, path)


def _write_folder(network: Any, path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path.name} exists; a SavedModel is a folder and replaces none")
    path.parent.mkdir(parents=True, exist_ok=True)
    with exported(network) as folder, tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
        place = Path(beside) / "model"
        shutil.copytree(folder, place)
        os.replace(place, path)
