"""The ONNX operators that can be trained through, each computed with torch: (node, inputs ...) -> output or outputs.

Each is as the ONNX standard defines it (https://onnx.ai/onnx/operators/), with the defaults of the node's own opset;
what torch cannot do raises NotImplementedError with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.adapters.torch_train import need_torch


@dataclass(frozen=True)
class Node:
    """One operation: its operator, names of inputs ("" for one left out) and outputs, attributes, the opset."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the standard's default."""
        return self.attributes.get(name, default)


def _functional() -> Any:
    return need_torch().nn.functional


def _ints(tensor: Any) -> list[int]:
    return [int(value) for value in tensor.tolist()]


def _axes(node: Node, given: Any = None) -> list[int] | None:
    """Return axes, an attribute in older opsets and an input in newer ones."""
    return _ints(given) if given is not None else node.get("axes")


def _pads(node: Node, shape: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return (begins, ends) of the spatial dimensions, explicit or by `auto_pad`."""
    rank = len(kernel)
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        pads = node.get("pads", [0] * 2 * rank) if auto == "NOTSET" else [0] * 2 * rank
        return list(pads[:rank]), list(pads[rank:])
    strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, s, k, d in zip(shape, strides, kernel, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def _padded(x: Any, pads: tuple[list[int], list[int]], value: float = 0.0) -> Any:
    if not any((*pads[0], *pads[1])):
        return x
    flat = [side for pair in zip(reversed(pads[0]), reversed(pads[1]), strict=True) for side in pair]
    return _functional().pad(x, flat, value=value)


def _conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    rank = weight.ndim - 2
    x = _padded(x, _pads(node, x.shape[2:], weight.shape[2:]))
    convolve = getattr(_functional(), f"conv{rank}d")
    ones = [1] * rank
    return convolve(x, weight, bias, node.get("strides", ones), 0, node.get("dilations", ones), node.get("group", 1))


def _conv_transpose(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    rank = weight.ndim - 2
    pads = node.get("pads", [0] * 2 * rank)
    if node.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes or pads[:rank] != pads[rank:]:
        raise NotImplementedError("ConvTranspose with other than symmetric pads")
    ones, zeros = [1] * rank, [0] * rank
    convolve = getattr(_functional(), f"conv_transpose{rank}d")
    extra = node.get("output_padding", zeros)
    return convolve(
        x,
        weight,
        bias,
        node.get("strides", ones),
        pads[:rank],
        extra,
        node.get("group", 1),
        node.get("dilations", ones),
    )


def _max_pool(node: Node, x: Any) -> Any:
    kernel = node.get("kernel_shape")
    x = _padded(x, _pads(node, x.shape[2:], kernel), float("-inf"))
    pool = getattr(_functional(), f"max_pool{len(kernel)}d")
    ones = [1] * len(kernel)
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    return pool(x, kernel, strides, 0, dilations, bool(node.get("ceil_mode", 0)))


def _average_pool(node: Node, x: Any) -> Any:
    kernel = node.get("kernel_shape")
    if node.get("ceil_mode", 0) or any(d != 1 for d in node.get("dilations", [])):
        raise NotImplementedError("AveragePool with ceil_mode or dilations")
    pads = _pads(node, x.shape[2:], kernel)
    pool = getattr(_functional(), f"avg_pool{len(kernel)}d")
    strides = node.get("strides", [1] * len(kernel))
    mean = pool(_padded(x, pads), kernel, strides)
    if node.get("count_include_pad", 0) or not any((*pads[0], *pads[1])):
        return mean
    return mean / pool(_padded(x[:1, :1] * 0 + 1, pads), kernel, strides)


def _global_pool(node: Node, x: Any) -> Any:
    axes = tuple(range(2, x.ndim))
    return x.mean(axes, keepdim=True) if node.kind == "GlobalAveragePool" else x.amax(axes, keepdim=True)


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    a, b = a.T if node.get("transA", 0) else a, b.T if node.get("transB", 0) else b
    product = node.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + node.get("beta", 1.0) * c


def _batch_norm(node: Node, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    if node.get("training_mode", 0):
        raise NotImplementedError("BatchNormalization in training mode")
    return _functional().batch_norm(x, mean, var, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


def _instance_norm(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    return _functional().instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Any, scale: Any, bias: Any = None) -> Any:
    axis = node.get("axis", -1) % x.ndim
    return _functional().layer_norm(x, x.shape[axis:], scale, bias, node.get("epsilon", 1e-5))


def _softmax(node: Node, x: Any) -> Any:
    apply = need_torch().log_softmax if node.kind == "LogSoftmax" else need_torch().softmax
    if node.opset >= 13:
        return apply(x, node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim
    return apply(x.flatten(axis), axis).reshape(x.shape)


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    low, high = node.get("min", low), node.get("max", high)
    return x if low is None and high is None else need_torch().clamp(x, low, high)


def _reshape(node: Node, x: Any, shape: Any) -> Any:
    sides = _ints(shape)
    if not node.get("allowzero", 0):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


def _flatten(node: Node, x: Any) -> Any:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def _transpose(node: Node, x: Any) -> Any:
    return x.permute(node.get("perm", list(reversed(range(x.ndim)))))


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    chosen = _axes(node, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    chosen = _axes(node, axes) or []
    rank = x.ndim + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = x.unsqueeze(axis)
    return x


def _concat(node: Node, *parts: Any) -> Any:
    return need_torch().cat(parts, node.get("axis"))


def _shape(node: Node, x: Any) -> Any:
    return need_torch().tensor(list(x.shape)[node.get("start", 0) : node.get("end")], dtype=need_torch().int64)


def _gather(node: Node, x: Any, index: Any) -> Any:
    axis = node.get("axis", 0)
    chosen = x.index_select(axis, index.reshape(-1) % x.shape[axis])
    axis %= x.ndim
    return chosen.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _slice(node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    begin, end = (_ints(starts), _ints(ends)) if starts is not None else (node.get("starts"), node.get("ends"))
    along = _axes(node, axes) or list(range(len(begin)))
    by = _ints(steps) if steps is not None else [1] * len(begin)
    if any(step < 1 for step in by):
        raise NotImplementedError("Slice backwards")
    index = [slice(None)] * x.ndim
    for axis, first, last, step in zip(along, begin, end, by, strict=True):
        index[axis % x.ndim] = slice(first, last, step)
    return x[tuple(index)]


def _cast(node: Node, x: Any) -> Any:
    from onnx import helper

    dtype = getattr(need_torch(), str(np.dtype(helper.tensor_dtype_to_np_dtype(node.get("to")))), None)
    if dtype is None:
        raise NotImplementedError("Cast to a type that torch lacks")
    return x.to(dtype)


def _constant(node: Node) -> Any:
    from onnx import numpy_helper

    torch = need_torch()
    if "value" in node.attributes:
        return torch.from_numpy(np.array(numpy_helper.to_array(node.get("value"))))
    key, value = next(iter(node.attributes.items()))
    return torch.tensor(value, dtype=torch.float32 if "float" in key else torch.int64)


def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    if axes is not None or node.get("mode", "constant") != "constant":
        raise NotImplementedError("Pad with other than a constant on every axis")
    sides = _ints(pads) if pads is not None else node.get("pads")
    fill = node.get("value", 0.0) if value is None else float(value)
    return _padded(x, (sides[: x.ndim], sides[x.ndim :]), fill)


def _reduce(node: Node, x: Any, axes: Any = None) -> Any:
    chosen = _axes(node, axes)
    if chosen is None and node.get("noop_with_empty_axes", 0):
        return x
    along, keep = tuple(range(x.ndim)) if chosen is None else tuple(chosen), bool(node.get("keepdims", 1))
    name = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin"}.get(node.kind, "prod")
    if node.kind == "ReduceProd":  # over shapes, in the main
        for axis in sorted((a % x.ndim for a in along), reverse=True):
            x = x.prod(axis, keepdim=keep)
        return x
    return getattr(x, name)(along, keepdim=keep)


def _gelu(node: Node, x: Any) -> Any:
    return _functional().gelu(x, approximate=node.get("approximate", "none"))


def _hard_sigmoid(node: Node, x: Any) -> Any:
    return need_torch().clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0)


def _elu(node: Node, x: Any) -> Any:
    return _functional().elu(x, node.get("alpha", 1.0))


def _leaky_relu(node: Node, x: Any) -> Any:
    return _functional().leaky_relu(x, node.get("alpha", 0.01))


def _prelu(_: Node, x: Any, slope: Any) -> Any:
    return need_torch().where(x < 0, slope * x, x)


def _divide(_: Node, a: Any, b: Any) -> Any:
    return a / b if a.is_floating_point() else need_torch().div(a, b, rounding_mode="trunc")


def _expand(_: Node, x: Any, shape: Any) -> Any:
    return need_torch().broadcast_tensors(x, x.new_empty(_ints(shape)))[0]


def _plain(name: str) -> Callable[..., Any]:
    return lambda _, *inputs: getattr(need_torch(), name)(*inputs)


OPERATORS: dict[str, Callable[..., Any]] = {
    **{kind: _plain(kind.lower()) for kind in ("Abs", "Sqrt", "Exp", "Log", "Neg", "Erf", "Relu", "Sigmoid", "Tanh")},
    **{
        "Add": _plain("add"),
        "Sub": _plain("sub"),
        "Mul": _plain("mul"),
        "MatMul": _plain("matmul"),
        "Pow": _plain("pow"),
    },
    **{
        "Identity": lambda _, x: x,
        "Dropout": lambda _, x, *rest: x,
        "Softplus": lambda _, x: _functional().softplus(x),
    },
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"), _reduce),
    **{"Max": _plain("maximum"), "Min": _plain("minimum")},
    "Reciprocal": _plain("reciprocal"),
    "Selu": lambda _, x: _functional().selu(x),
    "HardSwish": lambda _, x: _functional().hardswish(x),
    "Mish": lambda _, x: _functional().mish(x),
    "Div": _divide,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Cast": _cast,
    "Constant": _constant,
    "Pad": _pad,
    "Expand": _expand,
}
"""ONNX operator -> what it computes, with torch."""
