"""A trained network as an ONNX file that says how it wants its input, written node by node: opset 17, one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import MissingExtraError
from robustkit_ct_bodysite.network import FIELD_MM, SiteNet
from robustkit_ct_bodysite.patient import SITES

OPSET, IR_VERSION = 17, 8
METADATA_KEY = "robustkit.spec"


def input_spec(model: SiteNet) -> str:
    """Return the TOML that tells robustkit how to prepare this model's input."""
    s = model.settings
    return (
        "[input]\n"
        f"window = [{s.window[0]:g}, {s.window[1]:g}]\n"
        "range = [0, 1]\n"
        f"fov_mm = {FIELD_MM:g}\n"
        f"size = [{s.size}, {s.size}]\n"
        'interpolation = "nearest"\n'
        'layout = "nchw"\n'
        "channels = 1\n\n"
        "[output]\n"
        f"classes = {json.dumps(list(SITES))}\n"
        'kind = "probabilities"\n'
    )


def save(model: SiteNet, path: Path) -> None:
    """Write `path` (.onnx) and its `.robustkit.toml`, and the same weights as a torch state dict (.pt), beside it."""
    try:
        import onnx
        import torch
    except ImportError as error:
        raise MissingExtraError("writing an ONNX model", "torch") from error
    onnx.save(to_onnx(model), str(path))
    path.with_suffix(".robustkit.toml").write_text(input_spec(model), encoding="utf-8")
    state = {name: torch.from_numpy(np.array(value)) for name, value in model.weights.items()}
    torch.save(state, path.with_suffix(".pt"))


def to_onnx(model: SiteNet) -> Any:
    """Return the ONNX ModelProto: `image` (N, 1, size, size) float32 -> `probabilities` (N, 4)."""
    from onnx import TensorProto, checker, helper, numpy_helper

    size = model.settings.size
    graph = helper.make_graph(
        _nodes(helper),
        "ct-bodysite",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, size, size])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(SITES)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in model.weights.items()],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="robustkit-ct-bodysite",
    )
    helper.set_model_props(made, {METADATA_KEY: input_spec(model)})
    checker.check_model(made)
    return made


def _nodes(helper: Any) -> list[Any]:
    nodes, x = [], "image"
    for i in (1, 2, 3):
        weights = [f"conv{i}.weight", f"conv{i}.bias"]
        nodes.append(helper.make_node("Conv", [x, *weights], [f"c{i}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        nodes.append(helper.make_node("MaxPool", [f"r{i}"], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]))
        x = f"p{i}"
    nodes.append(helper.make_node("Flatten", [x], ["flat"], axis=1))
    nodes.append(helper.make_node("Gemm", ["flat", "dense1.weight", "dense1.bias"], ["d1"], transB=1))
    nodes.append(helper.make_node("Relu", ["d1"], ["h"]))
    nodes.append(helper.make_node("Gemm", ["h", "dense2.weight", "dense2.bias"], ["logits"], transB=1))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    return nodes
