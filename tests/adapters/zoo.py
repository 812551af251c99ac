"""Tiny models with known answers, written by `onnx.helper`: no framework takes part in the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from robustkit.adapters import load_model
from robustkit.errors import ModelError, RobustkitError
from robustkit.types import Slice, slice_id

SIDE = 16
HU = {"window": "-1000,1000"}
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
}


def weights(classes: int = 3, side: int = SIDE, seed: int = 0) -> NDArray[np.float32]:
    """(side * side, classes): what the linear models below multiply the (single-channel) input with."""
    return np.random.default_rng(seed).normal(size=(side * side, classes)).astype(np.float32) / side


def softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    power = np.exp(scores - scores.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


def tiled(weight: NDArray[np.float32], layout: str, channels: int) -> NDArray[np.float32]:
    """Weights of the flattened input of `channels` equal channels, so that its answer is that of one channel."""
    parts = [weight / channels] * channels
    return np.concatenate(parts) if layout == "nchw" else np.stack(parts, axis=1).reshape(-1, weight.shape[1])


def linear(
    path: Path,
    *,
    weight: NDArray[np.float32] | None = None,
    side: int = SIDE,
    layout: str = "nchw",
    channels: int = 1,
    dtype: str = "float32",
    batch: int | str = "batch",
    end: str | None = None,
    opset: int = 17,
    ir: int = 8,
    metadata: dict[str, str] | None = None,
    shape: list[Any] | None = None,
    extra_output: bool = False,
) -> Path:
    """Write y = flatten(x) W, then `end` (an operator such as Softmax), as ONNX."""
    W = tiled(weights(side=side) if weight is None else weight, layout, channels)
    sides = [channels, side, side] if layout == "nchw" else [side, side, channels]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["scores"]),
    ]
    if end:
        nodes.append(helper.make_node(end, ["scores"], ["answer"]))
    outputs = ["scores", "answer"] if extra_output else ["answer" if end else "scores"]
    return write(
        path,
        nodes,
        [helper.make_tensor_value_info("image", TYPES[dtype], shape or [batch, *sides])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        {"W": W},
        opset=opset,
        ir=ir,
        metadata=metadata,
    )


def write(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    tensors: dict[str, NDArray[Any]],
    *,
    opset: int = 17,
    ir: int = 8,
    metadata: dict[str, str] | None = None,
) -> Path:
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return path


def external(path: Path, location: str, *, side: int = SIDE) -> Path:
    """Write the linear model with its weights in another file, wherever `location` says; the file is not written."""
    linear(path, side=side)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(data))}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def images(n: int = 5, shape: tuple[int, int] = (SIDE, SIDE), seed: int = 1) -> NDArray[np.float32]:
    """(n, H, W) HU that stay inside the window of `HU`."""
    return np.random.default_rng(seed).uniform(-900, 900, (n, *shape)).astype(np.float32)


def slices(n: int = 12) -> list[Slice]:
    """Bright, middle and dark images in turn, so that a few steps learn them."""
    rng = np.random.default_rng(4)
    found = []
    for i in range(n):
        pixels = (rng.normal(0, 30, (16, 16)) + 600 * (i % 3 - 1)).astype(np.float32)
        found.append(Slice(slice_id(pixels, (1.0, 1.0)), pixels, (1.0, 1.0), label=str(i % 3)))
    return found


def refusal(path: Path, flags: Any = None, error: type[RobustkitError] = ModelError) -> str:
    """Return what is said of a file that is refused: one line, which does not tell its folder."""
    with pytest.raises(error) as caught:
        load_model(path, HU if flags is None else flags)
    told = str(caught.value)
    assert "\n" not in told
    assert str(path.parent) not in told
    return told


def expected(pixels: NDArray[Any], weight: NDArray[np.float32] | None = None, *, rounded: bool = False) -> Any:
    """Probabilities of the linear model on native-size images windowed by `HU`; `rounded`: through uint8."""
    scaled = (pixels.astype(np.float64) + 1000.0) / 2000.0
    scaled = np.rint(scaled * 255.0) if rounded else scaled
    return softmax(scaled.reshape(len(pixels), -1) @ (weights() if weight is None else weight).astype(np.float64))
