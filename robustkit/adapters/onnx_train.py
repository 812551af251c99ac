"""Fine-tuning an ONNX file: its graph run with torch's operators, its weights trained and written back into it.

A graph with operators other than those of `onnx_operators` is refused by name. The graph must compute in torch what it
computes in onnxruntime, before and after. It is trained as it was exported: without dropout, with batch
normalisation folded in or fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robustkit.adapters.classifier import PARITY, Exportable, first_line, probabilities, probe_input
from robustkit.adapters.onnx_operators import OPERATORS, Node
from robustkit.adapters.torch_train import need_torch, one_thread, train
from robustkit.adapters.training import Progress, Schedule
from robustkit.errors import MissingExtraError, ModelError
from robustkit.types import Slice

WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
}
"""Operator -> which of its inputs are weights to train, where the file holds them; all else stays as it is."""


CURE = "train it in the framework that made it and export it again"


class Tunable(Exportable, Protocol):
    """What is fine-tuned: an ONNX file as bytes, and what it computes in onnxruntime."""

    @property
    def content(self) -> bytes: ...  # noqa: D102


def fine_tune(
    model: Tunable, data: Sequence[Slice], schedule: Schedule, progress: Progress | None = None
) -> tuple[bytes, Any, dict[str, Any]]:
    """Return the ONNX file with trained weights, the same as a torch module, and what was done, ready for JSON.

    Raises
    ------
    ModelError
        Operators that cannot be trained here, by name; or the graph in torch differs from onnxruntime by 1e-5 or more.
    """
    need_torch()
    onnx = _need_onnx()
    proto = onnx.load_model_from_string(model.content)
    module, weights = graph_module(proto, model.spec.output, model.name)
    check_parity(module, model)
    training = train(module, model.spec, data, schedule, progress)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name].detach().numpy(), tensor.name))
    return proto.SerializeToString(), module, training


def graph_module(proto: Any, output: str | None, name: str) -> tuple[Any, dict[str, Any]]:
    """Return a graph as a torch module, and its trainable weights by name; ModelError lists foreign operators."""
    torch = need_torch()
    nodes = nodes_of(proto)
    held = {tensor.name for tensor in proto.graph.initializer}
    given = next(i for i in proto.graph.input if i.name not in held)  # older files list weights as inputs too
    batch = given.type.tensor_type.shape.dim[0].dim_value
    if batch:
        raise ModelError(f"{name} was exported for {batch} images at a time; export it with a free batch")
    foreign = sorted({node.kind for node in nodes} - set(OPERATORS))
    if foreign:
        raise ModelError(
            f"{name} cannot be fine-tuned: robustkit cannot train its operators {', '.join(foreign)}; {CURE}"
        )
    from onnx import numpy_helper

    values = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in proto.graph.initializer}
    wanted = {node.inputs[i] for node in nodes for i in WEIGHTS.get(node.kind, ()) if i < len(node.inputs)}
    weights = {
        key: torch.nn.Parameter(value)
        for key, value in values.items()
        if key in wanted and value.is_floating_point() and value.ndim > 0
    }
    if not weights:
        raise ModelError(f"{name} cannot be fine-tuned: it holds no weights that could be trained; {CURE}")
    wants = output or proto.graph.output[0].name

    class GraphModule(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList(weights.values())

        def forward(self, image: Any) -> Any:
            known = {**values, **weights, given.name: image, "": None}
            for node in nodes:
                found = OPERATORS[node.kind](node, *(known[key] for key in node.inputs))
                known.update(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
            return known[wants]

    return GraphModule(), weights


def self_contained(path: Path) -> bytes:
    """Return an ONNX file as bytes with its external data inside; the caller has checked where they lie."""
    onnx = _need_onnx()
    return bytes(onnx.load(path).SerializeToString())


def _need_onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise MissingExtraError("fine-tuning an ONNX file", "torch") from None
    return onnx


def nodes_of(proto: Any) -> list[Node]:
    """Return the operations of an ONNX file's graph, in order."""
    from onnx import helper

    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)

    def attributes(node: Any) -> dict[str, Any]:
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return {key: value.decode() if isinstance(value, bytes) else value for key, value in found.items()}

    return [
        Node(
            node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}",
            tuple(node.input),
            tuple(node.output),
            attributes(node),
            opset,
        )
        for node in proto.graph.node
    ]


def check_parity(module: Any, model: Tunable) -> None:
    """Refuse a torch module that does not compute what onnxruntime does (ModelError)."""
    torch = need_torch()
    inputs, spec, name = probe_input(model.spec), model.spec, model.name
    theirs = probabilities(model.forward(inputs), spec, name)
    try:
        with torch.no_grad(), one_thread():
            ours = probabilities(module(torch.from_numpy(inputs)).numpy(), spec, name)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{name} cannot be fine-tuned: its graph does not run in torch ({first_line(error)}); {CURE}"
        ) from None
    gap = float(np.abs(ours - theirs).max())
    if not gap < PARITY:
        raise ModelError(f"{name} cannot be fine-tuned: in torch it differs by {gap:.2g} in probability; {CURE}")
