"""The same network in Keras on TensorFlow, as in the paper: same weights, same batches, same loss, another framework.

Weights keep the names and shapes of the torch network, so one set of them is a model in either; training sees the same
images in the same order with the same scaling and the same units dropped, and differs by rounding alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit import Image, PixelSize, Slice, UsageError
from robustkit.adapters.keras_train import need_keras, one_thread, quiet
from robustkit_ct_bodysite.network import (
    PREDICT_BATCH,
    Settings,
    SiteNet,
    Weights,
    placed,
    scaled,
    training_images,
    zoomed,
)
from robustkit_ct_bodysite.patient import SITES

EPSILON = 1e-8
"""Adam's epsilon, as torch has it; Keras' own default is 1e-7."""


@dataclass(frozen=True, eq=False)
class KerasNet:
    """A body-site classifier in Keras: settings and weights, nothing else. `fit` returns a new one."""

    settings: Settings
    weights: Weights
    history: tuple[float, ...] = field(default=())

    @property
    def classes(self) -> tuple[str, ...]:
        """BN, C, AP, LF."""
        return SITES

    @cached_property
    def model(self) -> Any:
        """Return the Keras model of these weights: image (B, 1, size, size) -> probabilities (B, 4)."""
        return keras_model(self.settings, self.weights)

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return probabilities (B, 4) of images (B, H, W) in HU with spacing `pixel_mm`."""
        inputs = scaled(placed(batch, pixel_mm, self.settings.size), self.settings.window)[:, None]
        starts = range(0, len(inputs), PREDICT_BATCH)
        with one_thread(), quiet():
            parts = [self._answers(inputs[start : start + PREDICT_BATCH]) for start in starts]
        return np.concatenate(parts) if parts else np.empty((0, len(SITES)), np.float32)

    def _answers(self, inputs: Image) -> NDArray[np.float32]:
        found = need_keras().ops.convert_to_numpy(self.model(inputs, training=False))
        return np.asarray(found, dtype=np.float32)

    def fit(
        self,
        data: Sequence[Slice],
        seed: int,
        *,
        epochs: int | None = None,
        rate: float | None = None,
        progress: Callable[[int, float], None] | None = None,
        **unknown: Any,
    ) -> KerasNet:
        """Return a new network trained on from these weights; parameters and errors are those of `SiteNet.fit`."""
        if unknown:
            raise UsageError(f"fit has no option {', '.join(sorted(unknown))}; there is: epochs, rate, progress")
        images, labels = training_images(data)
        with one_thread(), quiet():
            return self._trained(images, labels, seed, epochs or self.settings.epochs, rate, progress)

    def _trained(
        self,
        images: Image,
        labels: NDArray[np.int64],
        seed: int,
        epochs: int,
        rate: float | None,
        progress: Callable[[int, float], None] | None,
    ) -> KerasNet:
        adam = need_keras().optimizers.Adam(rate or self.settings.rate, epsilon=EPSILON)
        model = keras_model(self.settings, self.weights, training=True)
        model.compile(optimizer=adam, loss=_squared_error, jit_compile=False)
        rng = np.random.Generator(np.random.Philox(key=[seed, 0x7A11]))
        wanted, sampler = np.eye(len(SITES), dtype=np.float32)[labels], SiteNet(self.settings, self.weights)
        data, history = scaled(images, self.settings.window), []
        for epoch in range(epochs):
            total = 0.0
            order, at, keep = sampler.epoch(len(labels), rng)
            for start in range(0, len(labels), self.settings.batch):
                part = slice(start, start + self.settings.batch)
                inputs = zoomed(data, order[part], at[part])[:, None]
                total += _step(model, inputs, keep[part], wanted[order[part]]) * len(inputs)
            history.append(total / len(labels))
            if progress is not None:
                progress(epoch + 1, history[-1])
        return replace(self, weights=weights_of(model), history=tuple(history))

    def __reduce__(self) -> tuple[Any, ...]:
        return KerasNet, (self.settings, dict(self.weights), self.history)


def keras_model(settings: Settings, weights: Weights, *, training: bool = False) -> Any:
    """Return the network as a Keras model; for `training` it takes the mask of kept units (B, hidden) as well."""
    before = random.getstate()  # Keras draws the seeds of initial weights, which are replaced here, from Python's
    try:
        return _built(settings, weights, training)
    finally:
        random.setstate(before)


def _built(settings: Settings, weights: Weights, training: bool) -> Any:
    keras = need_keras()
    layers = keras.layers
    image = keras.Input((1, settings.size, settings.size), name="image")
    x = layers.Permute((2, 3, 1))(image)
    for i, filters in enumerate(settings.filters, start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(layers.Permute((3, 1, 2))(x))
    x = layers.Dense(settings.hidden, activation="relu", name="dense1")(x)
    inputs: Any = image
    if training:
        keep = keras.Input((settings.hidden,), name="keep")
        x, inputs = layers.Multiply()([x, keep]), [image, keep]
    answers = layers.Dense(len(SITES), activation="softmax", name="dense2")(x)
    model = keras.Model(inputs, answers, name="ct_bodysite")
    for name in _layers():
        kernel = np.asarray(weights[f"{name}.weight"])
        model.get_layer(name).set_weights([_to_keras(kernel), np.asarray(weights[f"{name}.bias"])])
    return model


def weights_of(model: Any) -> Mapping[str, NDArray[np.float32]]:
    """Return the weights of a Keras model by the names and shapes of the torch network."""
    found = {}
    for name in _layers():
        kernel, bias = model.get_layer(name).get_weights()
        found[f"{name}.weight"] = np.ascontiguousarray(_from_keras(kernel), dtype=np.float32)
        found[f"{name}.bias"] = np.array(bias, dtype=np.float32)
    return found


def save_keras(model: SiteNet, path: Path) -> Path:
    """Write the weights of a network as a `.keras` file and return its path."""
    with quiet():
        keras_model(model.settings, model.weights).save(path)
    return path


def _step(model: Any, inputs: Image, keep: Image, wanted: Image) -> float:
    return float(np.ravel(model.train_on_batch([inputs, keep], wanted))[0])


def _squared_error(wanted: Any, found: Any) -> Any:
    """Eq. 1 of the paper: the squared distance of each image's probabilities from its label."""
    ops = need_keras().ops
    return ops.sum(ops.square(found - wanted), axis=-1)


def _layers() -> tuple[str, ...]:
    return ("conv1", "conv2", "conv3", "dense1", "dense2")


def _to_keras(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def _from_keras(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
