"""Keras networks for tests, on whichever backend Keras runs, written in every form."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from adapters import zoo

from robustkit.adapters.keras_train import need_keras

keras = need_keras()
SIDE = 16


def linear(
    *,
    weight: Any = None,
    layout: str = "nhwc",
    channels: int = 1,
    dtype: str = "float32",
    batch: int | None = None,
    end: str | None = None,
) -> Any:
    """Return y = flatten(x) W of `zoo.weights`, then `end` (an activation): its answer is `zoo.expected`."""
    W = zoo.tiled(zoo.weights() if weight is None else weight, layout, channels)
    sides = (channels, SIDE, SIDE) if layout == "nchw" else (SIDE, SIDE, channels)
    image = keras.Input(batch_shape=(batch, *sides), dtype=dtype, name="image")
    y = keras.layers.Rescaling(1.0)(image) if dtype == "uint8" else image
    dense = keras.layers.Dense(W.shape[1], activation=end, use_bias=False)
    model = keras.Model(image, dense(keras.layers.Flatten()(y)))
    dense.set_weights([W])
    return model


def build(soft: bool = False, channels: int = 1, drop: float = 0.5, seed: int = 0) -> Any:
    """Return conv, batch normalisation, dropout, dense; logits, or probabilities when `soft`."""
    init = lambda i: keras.initializers.GlorotUniform(seed=seed + i)  # noqa: E731
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, channels), name="image"),
            keras.layers.Conv2D(4, 3, strides=2, kernel_initializer=init(1)),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dropout(drop),
            keras.layers.Dense(3, activation="softmax" if soft else None, kernel_initializer=init(2)),
        ]
    )
    rng = np.random.default_rng(seed)
    norm = model.layers[1]
    gamma, beta, _, _ = norm.get_weights()
    norm.set_weights([gamma, beta, rng.uniform(-0.1, 0.1, 4), rng.uniform(0.5, 1.5, 4)])
    return model


def two() -> Any:
    """Return a network with two outputs, logits and their double."""
    image = keras.Input((SIDE, SIDE, 1), name="image")
    logits = build()(image)
    return keras.Model(image, {"logits": logits, "twice": keras.layers.Rescaling(2.0)(logits)})


FORMS = ("keras", "hdf5", "savedmodel") if keras.backend.backend() == "tensorflow" else ("keras", "hdf5")


def write(model: Any, path: Path, form: str) -> Path:
    """Write a network with Keras' own functions in one of `FORMS`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "savedmodel":
            model.export(str(path), verbose=False)
            return path
        target = path.with_suffix(".keras" if form == "keras" else ".h5")
        model.save(str(target))
    return target
