"""Settings come from Python or from `--set key=value`, so numbers may arrive as text."""

from __future__ import annotations

import math
from typing import Any

from robustkit.errors import UsageError


def number(name: str, value: Any, *, above: float = 0.0) -> float:
    """Return `value` as a finite float greater than `above`; UsageError names the setting otherwise."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not (math.isfinite(result) and result > above):
        raise UsageError(f"setting {name} must be a number above {above:g}, got {value!r}")
    return result


def optional(name: str, value: Any, *, above: float = 0.0) -> float | None:
    """Return `number(...)`, or None for None."""
    return None if value is None else number(name, value, above=above)


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of `known`; UsageError lists them otherwise."""
    if value not in known:
        raise UsageError(f"setting {name}={value!r} is unknown; there is: {', '.join(known)}")
    return str(value)
