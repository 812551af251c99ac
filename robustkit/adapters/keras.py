"""Keras 3 models: `.keras`, `.h5` and SavedModel, on TensorFlow or torch; predicting, training, saving, ONNX.

Nothing in a file runs code: files are vetted before Keras opens them (`keras_vet`), and `unsafe_load` is the one,
loud and recorded, way round it. Which backend Keras runs on is decided once a process, see `keras_train.need_keras`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters import keras_vet, sniff
from robustkit.adapters.classifier import (
    Forward,
    answer,
    first_line,
    hash_files,
    in_pieces,
    pick,
    reload,
    settle_answer,
)
from robustkit.adapters.keras_export import (
    embedded,
    freeze,
    need_tensorflow,
    onnx_bytes,
    open_layers,
    open_saved_model,
    reopen,
    thaw,
    write,
)
from robustkit.adapters.keras_train import (
    backend_name,
    duplicate,
    hash_weights,
    need_keras,
    one_thread,
    producer,
    quiet,
    train,
)
from robustkit.adapters.spec import DTYPES, FileFacts, InputSpec, gather, layout_of, read_flags, settle
from robustkit.adapters.training import Progress, Schedule
from robustkit.errors import ModelError, RobustkitError, UsageError
from robustkit.patience import bounded
from robustkit.types import Image, PixelSize, Slice

log = logging.getLogger("robustkit")
FORMS = {".keras": "keras", ".h5": "hdf5", ".hdf5": "hdf5", "": "savedmodel"}
"""File name's end -> the form that `save` writes."""
LAST_OPERATORS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid", "linear": "Gemm"}
LAYOUTS = {"channels_last": "nhwc", "channels_first": "nchw"}


@dataclass(frozen=True, eq=False)
class KerasClassifier:
    """A Keras network as a classifier that can be trained.

    Attributes
    ----------
    model : a functional or sequential model; it is never changed, `fit` trains a copy.
    spec : the settled input spec. source : format, sha256, versions, `unsafe`, and how it was trained.
    form : keras, hdf5 or savedmodel. name : for messages.
    origin : (path, flags) to load it from again; None once it differs from its file.
    answer : the same network with the one output that `spec.output` names.
    """

    model: Any
    spec: InputSpec
    source: Mapping[str, Any]
    form: str = "keras"
    name: str = "keras model"
    origin: tuple[str, Mapping[str, Any]] | None = None
    answer: Any = field(init=False, repr=False)
    forward: Forward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        answer = one_output(self.model, self.spec.output, self.name)
        object.__setattr__(self, "answer", answer)
        object.__setattr__(self, "forward", in_pieces(_run(answer, self.name), self.fixed))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.spec.classes

    @property
    def fixed(self) -> int | None:
        """How many images the network takes at a time, where that was fixed when it was made."""
        size = self.model.inputs[0].shape[0]
        return None if size is None else int(size)

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return probabilities (B, C) of images (B, H, W) in HU; ModelError for an output that is not finite."""
        return answer(self.forward, batch, pixel_mm, self.spec, self.name)

    def fit(
        self,
        data: Sequence[Slice],
        seed: int,
        *,
        epochs: int = 1,
        lr: float = 1e-4,
        batch: int = 32,
        loss: str = "cross-entropy",
        progress: Progress | None = None,
    ) -> KerasClassifier:
        """Return a new model trained on labelled slices with Adam; self stays as it was.

        Parameters are those of `robustkit.adapters.training.Schedule`. A SavedModel is trained as it was exported,
        which is without dropout; ModelError for a network whose batch was fixed.
        """
        if self.fixed is not None:
            raise ModelError(f"{self.name} was made for {self.fixed} images at a time; make it with a free batch")
        schedule = Schedule(seed, epochs, lr, batch, loss)
        model = reopen(self) if self.form == "savedmodel" else duplicate(self.model, seed)
        training = train(one_output(model, self.spec.output, self.name), self.spec, data, schedule, progress)
        new = {"sha256": hash_weights(model), "from": self.source.get("sha256"), "training": training}
        return replace(self, model=model, source={**self.source, **new}, origin=None)

    def save(self, path: Path) -> Path:
        """Write the model by the end of its name: `.keras`, `.h5`, none for a SavedModel, `.onnx`; its spec with it.

        Raises
        ------
        UsageError
            Another end, or a SavedModel to be written as layers, which it has none of any more. MissingExtraError.
        """
        suffix = path.suffix.lower()
        if suffix == ".onnx":
            return self.to_onnx(path)
        if suffix not in FORMS:
            raise UsageError(f"cannot write a Keras model as {path.name}; end it in .keras, .h5, .onnx or not at all")
        form = FORMS[suffix]
        if self.form == "savedmodel" != form:
            raise UsageError(f"{self.name} is a SavedModel and holds no layers; save it as a folder or as .onnx")
        write(self, path, form)
        return path

    def to_onnx(self, path: Path) -> Path:
        """Write the model as one ONNX file with its spec in the metadata.

        Raises
        ------
        ModelError
            onnxruntime's probabilities on plain images differ from Keras' by 1e-5 or more; nothing is written then.
        """
        from robustkit.adapters.onnx import write_checked

        return write_checked(path, onnx_bytes(self), self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is not None:
            return reload, (*self.origin, self.source["sha256"])
        return _rebuild, (freeze(self), self.form, self.spec, dict(self.source), self.name)


def _rebuild(frozen: bytes, form: str, spec: InputSpec, source: Mapping[str, Any], name: str) -> KerasClassifier:
    return KerasClassifier(thaw(frozen, form), spec, source, form, name)


def from_model(
    model: Any,
    spec: InputSpec | Mapping[str, Any],
    *,
    name: str = "keras model",
    source: Mapping[str, Any] | None = None,
) -> KerasClassifier:
    """Return a functional or sequential `keras.Model` as a trainable classifier.

    Parameters
    ----------
    model : takes one image input of four dimensions. spec : a settled spec, or flags as `load_model` takes them, from
        which, and from running the model once, the rest is settled. name : for messages. source : what is known of it.
    """
    told = {"sha256": hash_weights(model), "format": "keras", "producer": producer(), "unsafe": False, **(source or {})}
    if isinstance(spec, InputSpec):
        return KerasClassifier(model, spec, told, name=name)
    return _settled(model, "keras", read_flags(spec), told, name, _last_operator(model))


def load(path: Path, flags: Mapping[str, Any]) -> KerasClassifier:
    """Return the classifier of a Keras file or SavedModel folder; `flags` are the input spec's and `unsafe_load`.

    Raises
    ------
    ModelError
        A file that is damaged, or holds more than standard layers, tensor operators and weights. UsageError names what
        is missing: the window, which output. MissingExtraError without Keras, or without the backend it needs.
    """
    need_keras()
    path = path.absolute()
    kind = str(sniff.kind_of_file(path))
    if kind == "savedmodel":
        need_tensorflow(path.name)
    unsafe = bool(flags.get("unsafe_load"))
    if unsafe:
        log.warning("--unsafe-load: %s may run any code it holds, here and now", path.name)
    else:
        _CHECKS[kind](path)
    with _opening(path):
        model = open_saved_model(path) if kind == "savedmodel" else open_layers(path, unsafe=unsafe)
    source = {
        "format": kind,
        "sha256": hash_files(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else hash_files([path]),
        "producer": producer(),
        "unsafe": unsafe,
    }
    last = keras_vet.last_graph_operator(path) if kind == "savedmodel" else _last_operator(model)
    found = _settled(model, kind, gather(path, flags, embedded(path, kind)), source, path.name, last)
    return replace(found, origin=(str(path), dict(flags)))


_CHECKS = {
    "keras": keras_vet.check_archive,
    "hdf5": keras_vet.check_hdf5_model,
    "savedmodel": keras_vet.check_saved_model,
}


def one_output(model: Any, output: str | None, name: str) -> Any:
    """Return the network with one output: its only one, or of several the one named by layer or key."""
    keras = need_keras()
    given = model.output if hasattr(model, "output_names") else model.outputs  # a sequential model has no names
    if isinstance(given, Mapping):
        tensors = dict(given)
    else:
        names = getattr(model, "output_names", ["output"])
        names = names if len(set(names)) == len(model.outputs) else [str(i) for i in range(len(model.outputs))]
        tensors = dict(zip(names, model.outputs, strict=True))
    with quiet():
        return keras.Model(model.inputs, pick(tensors, output, name))


def _settled(
    model: Any, form: str, told: Mapping[str, Any], source: Mapping[str, Any], name: str, last: str | None
) -> KerasClassifier:
    spec = settle(told, _facts(model, name), name)
    found = KerasClassifier(model, spec, source, form, name)
    return replace(found, spec=settle_answer(found.forward, spec, told, name, last))


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Turn whatever Keras and TensorFlow raise on a damaged file into one line."""
    try:
        yield
    except RobustkitError:
        raise
    except Exception as error:  # they raise anything from KeyError to RuntimeError here
        told = first_line(error).replace(str(path), path.name)
        raise ModelError(f"{path.name} cannot be opened ({told}); copy or save it again") from None


def _facts(model: Any, name: str) -> FileFacts:
    """Return what a network says of its input."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ModelError(f"{name} is no functional or sequential model with a known input; give it a keras.Input")
    if len(inputs) != 1:
        raise ModelError(f"{name} takes {len(inputs)} inputs; robustkit gives it one image")
    shape = inputs[0].shape
    if len(shape) != 4:
        raise ModelError(
            f"{name} takes input of {len(shape)} dimensions, no batch of images; wanted are 4, (batch, H, W, channels)"
        )
    dims = (shape[1], shape[2], shape[3])
    formats = {str(getattr(layer, "data_format", None)) for layer in _layers(model)} & set(LAYOUTS)
    layout = LAYOUTS[formats.pop()] if layout_of(dims) is None and len(formats) == 1 else None
    dtype = str(inputs[0].dtype)
    return FileFacts(dims, dtype if dtype in DTYPES else "float32", None, layout)


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _last_operator(model: Any) -> str | None:
    """Return the ONNX name of the operator that makes the output, where the last layer tells it."""
    layers = getattr(model, "layers", None)
    if not layers:
        return None
    last = layers[-1]
    if type(last).__name__ == "Softmax":
        return "Softmax"
    return LAST_OPERATORS.get(getattr(getattr(last, "activation", None), "__name__", ""))


def _run(model: Any, name: str) -> Forward:
    answer = _compiled(model)

    def compute(inputs: NDArray[Any]) -> NDArray[Any]:
        with one_thread(), quiet():
            return np.asarray(answer(inputs))

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        try:
            return bounded(lambda: compute(inputs), name)
        except RobustkitError:
            raise
        except Exception as error:  # both backends raise their own kinds
            size = " x ".join(str(side) for side in inputs.shape[1:])
            raise ModelError(
                f"{name} cannot take images of {size} ({first_line(error)}); give its own --size H,W"
            ) from None

    return run


def _compiled(model: Any) -> Callable[[NDArray[Any]], Any]:
    """Return the network as a function of arrays in inference mode; half precision comes out as float32."""
    keras = need_keras()

    def widened(scores: Any) -> Any:
        return keras.ops.cast(scores, "float32") if str(scores.dtype).endswith("bfloat16") else scores

    if backend_name() == "torch":

        def run(inputs: NDArray[Any]) -> Any:
            import torch

            with torch.inference_mode(), keras.device("cpu:0"):
                return keras.ops.convert_to_numpy(widened(model(torch.from_numpy(inputs), training=False)))

        return run
    import tensorflow as tf

    image = model.inputs[0]
    signature = [tf.TensorSpec(image.shape, image.dtype)]
    compiled: Callable[[NDArray[Any]], Any] = tf.function(
        lambda x: widened(model(x, training=False)), signature, autograph=False, jit_compile=False
    )
    return compiled
