"""Plain values and records: what strict JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Record: TypeAlias = dict[str, Any]
"""What is, or will be, a JSON object."""


def plain(value: Any) -> Any:
    """Return `value` as strict JSON allows it.

    Mappings become dicts with text keys; lists, tuples, sets, arrays and Series become lists; NaN, infinity and
    pandas' missing values become None; numpy scalars become Python's; anything else becomes its text.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray) or hasattr(value, "to_list"):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return _scalar(value.item() if isinstance(value, np.generic) else value)


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return None if str(value) in ("<NA>", "NaT") else str(value)
