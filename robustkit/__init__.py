"""robustkit: does a classifier of medical images change its answer when nothing changed but the noise?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.errors import DataError, MissingExtraError, ModelError, RobustkitError, UsageError
    from robustkit.hookspecs import hookimpl
    from robustkit.seeding import Draw, draws
    from robustkit.types import (
        Classifier,
        Fit,
        Hardener,
        Image,
        Metric,
        NoiseModel,
        PixelSize,
        Recipe,
        RepeatScans,
        Slice,
        Storage,
        Trainable,
        slice_id,
    )

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "DataError",
    "Draw",
    "Fit",
    "Hardener",
    "Image",
    "Metric",
    "MissingExtraError",
    "ModelError",
    "NoiseModel",
    "PixelSize",
    "Recipe",
    "RepeatScans",
    "RobustkitError",
    "Slice",
    "Storage",
    "Trainable",
    "UsageError",
    "draws",
    "hookimpl",
    "slice_id",
]

_MODULES = {"hookimpl": "hookspecs", "Draw": "seeding", "draws": "seeding"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the pytest plugin is in this package and must cost nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'robustkit' has no attribute {name!r}")
    module = "errors" if name.endswith("Error") else _MODULES.get(name, "types")
    found = globals()[name] = getattr(import_module(f"robustkit.{module}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
