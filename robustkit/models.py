"""Models by path, by the name a plugin gives them, or as objects; loaded once a process, named by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from robustkit import registry, remote
from robustkit.errors import ModelError, UsageError
from robustkit.types import Classifier


@dataclass(frozen=True)
class ModelRef:
    """A model as it travels to a worker: a path or a plugin's name with its input spec, or the object itself."""

    name: str
    sha256: str
    path: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    instance: Classifier | None = None

    def load(self) -> Classifier:
        """Return the classifier, loaded once a process."""
        if self.instance is not None:
            return self.instance
        beside = _text_beside(Path(self.path)) if self.path else ""
        flags = json.dumps(dict(self.spec), sort_keys=True, default=list)
        return _load_once(self.path or self.name, flags, self.sha256, beside)


def refer(model: str | Path | Classifier, spec: Mapping[str, Any]) -> ModelRef:
    """Return a reference to a model by path, by the name a plugin gives it, or to the object itself."""
    if not isinstance(model, str | Path):
        source = getattr(model, "source", None) or {}
        return ModelRef(type(model).__name__, str(source.get("sha256", "")), instance=model)
    name = str(model)
    offered = registry.default().models()
    if name in offered:
        if spec:
            raise UsageError(f"{name!r} is a plugin's model and brings its own input spec; drop the spec flags")
        source = getattr(offered[name](), "source", None) or {}
        return ModelRef(name, str(source.get("sha256", "")))
    path = remote.fetch_model(name) if remote.is_url(name) else Path(name)
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise ModelError(f"no such model file: {name}")
        raise UsageError(f"unknown model {name!r}: no such file, and plugins offer: {', '.join(offered) or 'none'}")
    return ModelRef(path.name, _hash_model(path), str(path.resolve()), dict(spec))


def files_of(path: Path) -> list[Path]:
    """Return all files that a model by path is opened from: its own, an input spec beside it, ONNX external data."""
    from robustkit.adapters.spec import spec_beside

    own = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path, *_external_data(path)]
    beside = spec_beside(path)
    return [*own, beside] if beside.is_file() else own


def _external_data(path: Path) -> list[Path]:
    from robustkit.adapters import sniff

    if sniff.kind_of_file(path) != "onnx":
        return []
    from robustkit.adapters.onnx import check_external, read_content

    return check_external(path.resolve(), read_content(path).external)


def _hash_model(path: Path) -> str:
    """Return the SHA-256 of a model; of one that keeps weights beside it, the hash of all their hashes."""
    data = [] if path.is_dir() else _external_data(path)
    if not data:
        return hash_file(path)
    return hashlib.sha256("".join(map(hash_file, [path, *data])).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their relative names."""
    total = hashlib.sha256()
    for item in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            total.update(str(item.relative_to(path)).encode())
        with item.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _text_beside(path: Path) -> str:
    from robustkit.adapters.spec import spec_beside

    beside = spec_beside(path)
    return beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""


@lru_cache(maxsize=2)
def _load_once(name: str, spec: str, sha256: str, beside: str) -> Classifier:
    """Load a model; its content is named so that one which changed on disk is not taken for the one loaded before."""
    offered = registry.default().models()
    if name in offered:
        return offered[name]()
    model = registry.default().load_model(Path(name), json.loads(spec))
    if model is None:
        raise ModelError(
            f"{Path(name).name} is no model that robustkit or a plugin can open; it opens .onnx, .pt2, TorchScript, "
            "state dict with --arch, .keras, .h5 and SavedModel"
        )
    return model
