"""The JATIC_ONNX v1 sidecar: what a `model-metadata.json` beside an ONNX file says of its input and output.

The interface fixes an input `image` (N, C, H, W) in float32 between 0 and 1, and one output `scores` of probabilities;
the file states channels, size and classes. Which HU 0 and 1 stand for it does not say: the window is still asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustkit.errors import ModelError

SIDECAR = "model-metadata.json"
CHANNELS = {"RGB": 3, "GRAYSCALE": 1}


def read(path: Path) -> dict[str, Any]:
    """Return the values of the input spec that the sidecar of a model gives; empty without one.

    Raises
    ------
    ModelError
        A sidecar of another version or task, or one that is damaged.
    """
    beside = path.parent / SIDECAR
    if not beside.is_file():
        return {}
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ModelError(f"{SIDECAR} beside {path.name} is no JSON; repair or remove it") from None
    interface = _part(content, "interface")
    if interface.get("name") != "JATIC_ONNX":
        return {}  # somebody else's file of that name
    io = _part(content, "io")
    version, task = str(interface.get("version")), str(io.get("interface"))
    if version != "v1":
        raise ModelError(f"{SIDECAR} states JATIC_ONNX {version:.20}; robustkit reads v1, write it as that")
    if task != "IMAGE_CLASSIFICATION":
        raise ModelError(f"{SIDECAR} states the task {task:.40}; robustkit audits IMAGE_CLASSIFICATION")
    given, returned = _part(io, "input"), _part(io, "output")
    told: dict[str, Any] = {"layout": "nchw", "range": (0.0, 1.0), "output": "scores", "kind": "probabilities"}
    channels = str(given.get("channels", "RGB")).upper()
    if channels not in CHANNELS:
        raise ModelError(f"{SIDECAR} states channels {channels:.20}; JATIC_ONNX has {' and '.join(CHANNELS)}")
    told["channels"] = CHANNELS[channels]
    sides = [given.get(side, -1) for side in ("height", "width")]
    if all(isinstance(side, int) and side > 0 for side in sides):
        told["size"] = tuple(sides)
    names = _classes(content.get("index2label"), returned.get("nClasses"))
    return told | ({"classes": names} if names else {})


def _part(content: Any, key: str) -> Mapping[str, Any]:
    part = content.get(key) if isinstance(content, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _classes(labels: Any, count: Any) -> tuple[str, ...] | None:
    """Return the class names in order of their index; None where there are none."""
    if not labels:
        return None
    try:
        named = {int(k): str(v) for k, v in (labels.items() if isinstance(labels, Mapping) else enumerate(labels))}
    except (TypeError, ValueError):
        raise ModelError(f"index2label in {SIDECAR} wants names by index, as {{'0': 'chest'}}") from None
    wanted = count if isinstance(count, int) and count > 0 else len(named)
    if sorted(named) != list(range(wanted)) or len(set(named.values())) < len(named):
        raise ModelError(
            f"index2label in {SIDECAR} names {len(set(named.values()))} of {wanted} classes; name each once"
        )
    return tuple(named[i] for i in range(wanted))
