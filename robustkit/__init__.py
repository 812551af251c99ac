"""robustkit: does a classifier of medical images change its answer when nothing changed but the noise?"""

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
