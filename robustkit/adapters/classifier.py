"""The classifier that every adapter returns: prepare, run, read the answer. Frameworks live in `forward` alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters.preprocess import AIR, prepare
from robustkit.adapters.spec import InputSpec, classes_of
from robustkit.errors import ModelError, UsageError
from robustkit.types import Image, PixelSize

Forward: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
"""Prepared input (B, ...) -> raw output (B, C), (B,) or (B, C, 1, 1); raises ModelError for what it cannot take."""
SUM_TOLERANCE = {"float16": 5e-3}
"""How far the probabilities of one image may sum from 1; 1e-4 where not said."""
PARITY = 1e-5
"""Largest difference in probability that one model may show between two runtimes."""
PROBE_SIDE = 128
SIGMOIDS = ("Sigmoid", "HardSigmoid")
LINEAR = ("Gemm", "MatMul", "Add", "Conv")


class Exportable(Protocol):
    """A classifier that an ONNX file is held against: its settled spec, its raw output, its name."""

    @property
    def spec(self) -> InputSpec:
        """How its input is prepared, settled."""

    @property
    def forward(self) -> Forward:
        """Its raw output for a prepared input."""

    @property
    def name(self) -> str:
        """How errors call it."""


@dataclass(frozen=True, eq=False)
class FileClassifier:
    """A model file, loaded. Pickles as its path, flags and hash, and is loaded again where it arrives.

    Attributes
    ----------
    path, flags : what `load_model` was given. spec : the settled input spec.
    source : format, sha256, producer and versions where known, and `unsafe` (True when the file could run code).
    forward : the framework's part.
    """

    path: Path
    flags: Mapping[str, Any]
    spec: InputSpec
    source: Mapping[str, Any]
    forward: Forward

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.spec.classes

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return probabilities (B, C) of images (B, H, W) in HU; ModelError for an output that is not finite."""
        return answer(self.forward, batch, pixel_mm, self.spec, self.path.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return reload, (str(self.path), dict(self.flags), self.source["sha256"])


def reload(path: str, flags: Mapping[str, Any], sha256: str) -> Any:
    """Load a model again, in another process or later; ModelError when the file is not the same any more."""
    from robustkit.adapters import load_model

    model = load_model(Path(path), flags)
    found = getattr(model, "source", {}).get("sha256")
    if found != sha256:
        raise ModelError(f"{Path(path).name} changed since it was first loaded; start again with the new file")
    return model


def answer(forward: Forward, batch: Image, pixel_mm: PixelSize, spec: InputSpec, name: str) -> NDArray[np.float32]:
    """Return probabilities (B, C) of images (B, H, W) in HU: prepared, run, read; (0, C) of none, without running."""
    inputs = prepare(batch, pixel_mm, spec)
    if not len(inputs):
        return np.empty((0, len(spec.classes)), dtype=np.float32)
    return probabilities(forward(inputs), spec, name)


def probabilities(raw: NDArray[Any], spec: InputSpec, name: str) -> NDArray[np.float32]:
    """Return probabilities (B, C) of a raw output: the softmax of logits, or the probabilities themselves.

    A single column is the probability (or logit) of the second of two classes.
    """
    scores = columns(raw, name)
    if not np.isfinite(scores).all():
        raise ModelError(f"{name} returned NaN or infinity; check its weights and the --window it is given")
    if spec.kind == "logits":
        scores = _sigmoid(scores) if scores.shape[1] == 1 else _softmax(scores)
    if scores.shape[1] == 1:
        scores = np.concatenate([1.0 - scores, scores], axis=1)
    if scores.shape[1] != len(spec.classes):
        raise ModelError(
            f"{name} returned {scores.shape[1]} columns for {len(spec.classes)} classes; name "
            "each with --classes A,B,..."
        )
    return scores.astype(np.float32)


def columns(raw: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Return a raw output as (B, C) float64; ModelError when it is not one row of scores an image."""
    array = np.asarray(raw)
    if array.dtype.kind not in "fiu":
        raise ModelError(f"{name} returns {array.dtype}, not scores; choose its score output with --output NAME")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim < 2 or sum(side != 1 for side in array.shape[1:]) > 1:
        raise ModelError(
            f"{name} returns shape {array.shape}, a classifier returns (images, classes); choose its score "
            "output with --output NAME"
        )
    return array.reshape(len(array), -1).astype(np.float64, order="C")


def settle_answer(
    forward: Forward, spec: InputSpec, told: Mapping[str, Any], name: str, last_operator: str | None = None
) -> InputSpec:
    """Return the spec with what the output means settled by running the model: columns, logits or probabilities.

    Rows that are >= 0 and sum to 1 are probabilities. `last_operator` is the ONNX name of what makes the output; it
    decides for a single column, where there is no sum to look at.

    Raises
    ------
    ModelError
        The output contradicts `--classes` or `--output-kind`, or is one independent sigmoid a class. UsageError when a
        single column may be either.
    """
    scores = columns(forward(probe_input(spec)), name)
    if not np.isfinite(scores).all():
        raise ModelError(f"{name} returns NaN or infinity on plain images; check its weights and --window")
    classes = classes_of(name, told.get("classes"), scores.shape[1])
    kind = _agreed_kind(name, scores, told.get("kind"), kind_of(scores, spec.dtype, last_operator))
    if last_operator == "Sigmoid" and scores.shape[1] > 1 and "kind" not in told:
        raise ModelError(
            f"{name} ends in one sigmoid a class: any number of them may apply to one image; say --output-kind logits "
            "to audit which is largest"
        )
    return replace(spec, classes=classes, kind=kind)


def pick(scores: Any, output: str | None, name: str) -> Any:
    """Return the one tensor, or of several the one named by key or index."""
    if not isinstance(scores, list | tuple | Mapping):
        return scores
    named = dict(scores) if isinstance(scores, Mapping) else {str(i): value for i, value in enumerate(scores)}
    if output is None and len(named) > 1:
        raise UsageError(f"{name} has {len(named)} outputs; say which with --output NAME: {', '.join(named)}")
    if output is not None and output not in named:
        raise UsageError(f"{name} has no output {output!r}; there is: {', '.join(named)}")
    return named[output] if output is not None else next(iter(named.values()))


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__


def in_pieces(run: Forward, fixed: int | None) -> Forward:
    """Return `run` for any number of inputs, where the model takes exactly `fixed` (None: any) at a time."""
    if fixed is None:
        return run

    def run_in_pieces(inputs: NDArray[Any]) -> NDArray[Any]:
        pieces = [_padded(inputs[i : i + fixed], fixed) for i in range(0, len(inputs), fixed)]
        return np.concatenate([run(piece) for piece in pieces])[: len(inputs)]

    return run_in_pieces


def _padded(piece: NDArray[Any], size: int) -> NDArray[Any]:
    missing = size - len(piece)
    return np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)]) if missing else piece


def kind_of(scores: NDArray[np.float64], dtype: str = "float32", last_operator: str | None = None) -> str | None:
    """Return "probabilities" where rows (B, C) are >= 0 and sum to 1, else "logits"; None: one column may be either."""
    if scores.shape[1] > 1:
        tolerance = SUM_TOLERANCE.get(dtype, 1e-4)
        sums = np.abs(scores.sum(axis=1) - 1.0).max() <= tolerance
        return "probabilities" if sums and scores.min() >= -tolerance else "logits"
    if scores.min() < 0 or scores.max() > 1 or last_operator in LINEAR:
        return "logits"
    return "probabilities" if last_operator in SIGMOIDS else None


def _agreed_kind(name: str, scores: NDArray[np.float64], told: str | None, found: str | None) -> str:
    if told is None and found is None:
        raise UsageError(f"{name} returns one number an image; say --output-kind probabilities or logits")
    if told is None or found is None or told == found:
        return str(told or found)
    if told == "probabilities":
        raise ModelError(
            f"{name} does not return probabilities (the scores of an image sum to {scores.sum(axis=1)[-1]:.4g}); drop "
            "--output-kind, or say --output-kind logits to audit which score is largest"
        )
    raise ModelError(f"{name} returns probabilities, --output-kind says logits; drop it")


def probe_input(spec: InputSpec) -> NDArray[Any]:
    """Return the prepared input of four plain images: air, a ramp, a disc of water, and a coarse random pattern."""
    height, width = spec.size or (PROBE_SIDE, PROBE_SIDE)
    rows, cols = np.mgrid[-1:1:64j, -1:1:64j]
    pattern = np.kron(np.random.default_rng(0).uniform(AIR, 1000.0, (8, 8)), np.ones((8, 8)))
    images = [np.full_like(rows, AIR), 1000.0 * cols, np.where(np.hypot(rows, cols) < 0.7, 0.0, AIR), pattern]
    stretch = np.ix_(np.arange(height) * 64 // height, np.arange(width) * 64 // width)
    stack = np.stack([image.astype(np.float32)[stretch] for image in images])
    return prepare(stack, (1.0, 1.0), replace(spec, fov_mm=None))


def hash_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of one file, or of several by name and content."""
    found = sorted(paths)
    total = hashlib.sha256()
    for path in found:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        if len(found) == 1:
            return digest.hexdigest()
        total.update(path.name.encode() + b"\0" + digest.digest())
    return total.hexdigest()


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    power = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True), dtype=np.float64)


def _sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)), dtype=np.float64)
