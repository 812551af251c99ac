"""Keras itself: which backend it runs on, and training on one thread, seeded, repeatable."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np

from robustkit.adapters.spec import InputSpec
from robustkit.adapters.training import Progress, Schedule, training_data
from robustkit.errors import MissingExtraError, ModelError, UsageError
from robustkit.types import Slice

log = logging.getLogger("robustkit")
BACKENDS = {"tensorflow": "tensorflow", "torch": "torch"}
"""Backend of Keras -> the extra that installs it."""


def need_keras() -> Any:
    """Return keras on the backend asked for with KERAS_BACKEND, else on the one installed, TensorFlow before torch.

    Raises
    ------
    MissingExtraError
        Keras, or every backend, is missing. UsageError for a backend that is not supported.
    """
    keras: Any = sys.modules.get("keras") or _import_keras()
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise UsageError(f"Keras runs on {backend} here; set KERAS_BACKEND to {' or '.join(BACKENDS)}")
    if backend == "tensorflow":
        _one_tensorflow_thread()
    return keras


def backend_name() -> str:
    """Return tensorflow or torch."""
    return str(need_keras().backend.backend())


def producer() -> str:
    """Return the versions of Keras and of its backend, as text."""
    keras = need_keras()
    backend = backend_name()
    return f"keras {keras.__version__}, {backend} {sys.modules[backend].__version__}"


def train(
    model: Any, spec: InputSpec, data: Sequence[Slice], schedule: Schedule, progress: Progress | None = None
) -> dict[str, Any]:
    """Train a model of one output in place on labelled slices with Adam; return what was done, ready for JSON."""
    keras = need_keras()
    images, labels = training_data(data, spec)
    order = np.random.default_rng(schedule.seed)
    parts = max(1, -(-len(labels) // schedule.batch))
    with one_thread(), quiet(), seeded(schedule.seed):
        model.compile(keras.optimizers.Adam(schedule.lr), _loss(spec.kind, schedule.loss), jit_compile=False)
        for epoch in range(1, schedule.epochs + 1):
            total = 0.0
            # parts of equal size: a last batch of one image would break batch normalisation
            for part in np.array_split(order.permutation(len(labels)), parts):
                total += float(np.ravel(model.train_on_batch(images[part], labels[part]))[0]) * len(part)
            if not math.isfinite(total):
                raise ModelError(f"training diverged in epoch {epoch}; lower lr, it is {schedule.lr:g}")
            if progress is not None:
                progress(epoch, schedule.epochs, total / len(labels))
    return {**asdict(schedule), "images": len(labels)}


def duplicate(model: Any, seed: int) -> Any:
    """Return a copy of a network of Keras layers with weights of its own, its dropout seeded."""
    keras = need_keras()
    before = random.getstate()
    random.seed(seed)  # Keras draws the seeds of dropout layers that have none from here
    try:
        with quiet():
            copy = keras.models.clone_model(model)
            copy.set_weights(model.get_weights())
    finally:
        random.setstate(before)
    return copy


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the frameworks' warnings and logs to themselves, and what Keras draws from Python's global generator."""
    drawn = random.getstate()  # layers that may drop out draw a seed when they are made
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow", "tf2onnx", "torch.onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(drawn)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def one_thread() -> Any:
    """Return a context in which the backend runs on one thread; TensorFlow's number is set once, at its start."""
    if backend_name() == "torch":
        from robustkit.adapters.torch_train import one_thread as torch_thread

        return torch_thread()
    return nullcontext()


def seeded(seed: int) -> Any:
    """Return a context in which torch, which draws dropout from its global generator, is seeded; it is put back."""
    if backend_name() == "torch":
        from robustkit.adapters.torch_train import seeded as torch_seeded

        return torch_seeded(seed)
    return nullcontext()  # on TensorFlow each dropout layer holds its seed, see `duplicate`


def hash_weights(model: Any) -> str:
    """Return the SHA-256 of a model's weights in order, by type, shape and bytes."""
    total = hashlib.sha256()
    with quiet():
        weights = model.get_weights()
    for array in weights:
        total.update(f"{array.dtype}|{array.shape}|".encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _import_keras() -> Any:
    if importlib.util.find_spec("keras") is None:
        raise MissingExtraError("a Keras model", "keras")
    asked = os.environ.get("KERAS_BACKEND")
    found = [name for name in BACKENDS if importlib.util.find_spec(name) is not None]
    if asked in BACKENDS and asked not in found:
        raise MissingExtraError(f"KERAS_BACKEND={asked}", BACKENDS[asked])
    if not asked and not found:
        raise MissingExtraError("Keras without a backend", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        os.environ["KERAS_BACKEND"] = asked or found[0]
        with quiet(), _no_greeting():
            import keras
    except ImportError as error:
        raise ModelError(f"Keras cannot be imported ({error}); see pip install 'robustkit[tensorflow]'") from None
    finally:
        if asked is None:
            del os.environ["KERAS_BACKEND"]
    return keras


@contextmanager
def _no_greeting() -> Iterator[None]:
    """Keep from stderr what TensorFlow's native code writes there when it is loaded, whatever its log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _one_tensorflow_thread() -> None:
    """Have TensorFlow start on one thread and on the CPU; say so when somebody started it otherwise."""
    import tensorflow as tf

    threading = tf.config.threading
    if threading.get_intra_op_parallelism_threads() == 1:
        return
    try:
        threading.set_intra_op_parallelism_threads(1)
        threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        log.warning("TensorFlow was started before robustkit, on several threads; its results may not repeat exactly")


def _loss(kind: str, loss: str) -> Any:
    """Return the loss of class indices (B,) and scores (B, C), or (B, 1) for two classes."""
    ops = need_keras().ops

    def cost(truth: Any, scores: Any) -> Any:
        scores = ops.reshape(scores, (ops.shape(scores)[0], -1))
        truth = ops.cast(ops.reshape(truth, (-1,)), "int32")
        if scores.shape[1] == 1:
            other = 1.0 - scores if kind == "probabilities" else scores * 0.0
            scores = ops.concatenate([other, scores], axis=1)
        if loss == "squared-error":
            given = scores if kind == "probabilities" else ops.softmax(scores, axis=1)
            return ops.mean(ops.square(given - ops.one_hot(truth, scores.shape[1], dtype=given.dtype)), axis=1)
        if kind == "probabilities":
            chosen = ops.one_hot(truth, scores.shape[1], dtype=scores.dtype)
            return -ops.log(ops.maximum(ops.sum(scores * chosen, axis=1), 1e-7))
        return ops.sparse_categorical_crossentropy(truth, scores, from_logits=True)

    return cost
