"""Small ONNX models made on the spot, for tests of the whole line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SPEC = """[input]
window = "none"
[output]
classes = ["low", "high"]
kind = "logits"
"""


def linear_probe(path: Path, weights: np.ndarray, threshold: float, spec: str | None = SPEC) -> Path:
    """Write an ONNX model of two logits: 0 and sum(weights * image) - threshold; image (N, 1, H, W) HU."""
    height, width = weights.shape
    matrix = np.zeros((height * width, 2), np.float32)
    matrix[:, 1] = weights.ravel()
    bias = np.array([0.0, -threshold], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"]),
        ],
        "probe",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if spec is not None:
        helper.set_model_props(model, {"robustkit.spec": spec})
    onnx.save(model, str(path))
    return path


def mean_probe(path: Path, shape: tuple[int, int], threshold: float, spec: str | None = SPEC) -> Path:
    """Write a linear probe of the image's mean."""
    return linear_probe(path, np.full(shape, 1.0 / (shape[0] * shape[1])), threshold, spec)


def write_image(path: Path, pixels: np.ndarray, mas: float | None = 100.0, mm: float = 1.0) -> Path:
    """Write an `.npz` of one image (H, W) or several (N, H, W) in HU."""
    fields = {"pixels": pixels.astype(np.float32), "pixel_mm": np.array([mm, mm])}
    if mas is not None:
        fields["mas"] = np.array(mas)
    np.savez(path, **fields)
    return path
