"""Model files as classifiers: ONNX, Torch and Keras, told apart by what they hold, not by their names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from robustkit.adapters.classifier import FileClassifier
from robustkit.adapters.spec import InputSpec
from robustkit.types import Classifier

__all__ = ["FileClassifier", "InputSpec", "load_model"]

ADAPTERS = {
    "onnx": "onnx",
    "torch-export": "torch",
    "torchscript": "torch",
    "torch-weights": "torch",
    "safetensors": "torch",
    "keras": "keras",
    "hdf5": "keras",
    "savedmodel": "keras",
}
"""Content -> the module that opens it."""


def load_model(path: Path, spec: Mapping[str, Any] | None = None) -> Classifier | None:
    """Open a model file or folder, or return None for content that no adapter knows.

    Parameters
    ----------
    path : the file, or the folder of a SavedModel.
    spec : flags of the input spec by name (window, range, fov_mm, size, interpolation, layout, channels, dtype,
        classes, kind, output) as texts or values, and arch, unsafe_load, spec_file.

    Returns
    -------
    A classifier with `.spec` (the settled InputSpec) and `.source` (format, sha256, producer, unsafe).

    Raises
    ------
    UsageError
        Flags that are unknown or missing: the HU window is asked for, never guessed.
    ModelError
        A file that is missing, damaged, hostile, or no classifier of images. MissingExtraError for a framework.
    """
    from robustkit.adapters import sniff

    kind = sniff.kind_of_file(Path(path))
    if kind is None:
        return None
    module = import_module(f"robustkit.adapters.{ADAPTERS[kind]}")
    model: Classifier = module.load(Path(path), dict(spec or {}))
    return model
