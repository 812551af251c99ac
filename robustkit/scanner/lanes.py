"""Sixteen float32 side by side: sixteen realizations go through the back-projector together.

The weights of a back-projection depend on pixel and view alone, so they are worked out once and applied to sixteen
sinograms that are stored interleaved, [view][detector][lane]. `load`, `store`, `add_lerp` and `add_scaled` are single
vector instructions (or two or four, where vectors are shorter); every lane sees the same sums in the same order, which
makes its bits independent of what the other lanes hold.

Holds numba code: import it inside functions only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FUSED = ("contract",)


class _LanesType(types.Type):
    """The numba type of one vector of lanes."""


_lanes = _LanesType("RobustkitLanes16f")


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return zeros (..., LANES) float32 that start on a cache line: a vector that crosses two costs a quarter more."""
    count = int(np.prod(shape))
    raw = np.zeros(count + LANES, np.float32)
    start = (-raw.ctypes.data // 4) % LANES
    return raw[start : start + count].reshape(shape)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    wide = builder.zext(index, ir.IntType(64)) if index.type.width < 64 else index
    first = builder.mul(wide, ir.Constant(ir.IntType(64), LANES))
    return builder.bitcast(builder.gep(data, [first]), _VECTOR.as_pointer())


def _spread(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, undefined, zeros)


def _load(typingctx: Any, array: Any, index: Any) -> Any:
    """Vector number `index` (unsigned) of a contiguous array (..., LANES)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args), align=4)

    return _lanes(array, index), codegen


def _store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector as number `index` (unsigned) of a contiguous array (..., LANES)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


def _add_lerp(typingctx: Any, total: Any, left: Any, right: Any, weight: Any) -> Any:
    """Total + left + weight (right - left); `weight` is one float32 for all lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, left, right, weight = args
        step = builder.fmul(_spread(builder, weight), builder.fsub(right, left), flags=_FUSED)
        return builder.fadd(total, builder.fadd(left, step, flags=_FUSED))

    return _lanes(total, left, right, types.float32), codegen


def _add_scaled(typingctx: Any, total: Any, value: Any, weight: Any) -> Any:
    """Total + weight value; `weight` is one float32 for all lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, value, weight = args
        return builder.fadd(total, builder.fmul(_spread(builder, weight), value, flags=_FUSED), flags=_FUSED)

    return _lanes(total, value, types.float32), codegen


load: Any = intrinsic(_load)
store: Any = intrinsic(_store)
add_lerp: Any = intrinsic(_add_lerp)
add_scaled: Any = intrinsic(_add_scaled)
