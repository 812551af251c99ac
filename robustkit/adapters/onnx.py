"""ONNX files through onnxruntime: one thread, on the CPU, always by path, whatever `onnx` packages are installed."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters import jatic, sniff, wire
from robustkit.adapters.classifier import (
    PARITY,
    Exportable,
    FileClassifier,
    Forward,
    answer,
    hash_files,
    in_pieces,
    probabilities,
    probe_input,
    settle_answer,
)
from robustkit.adapters.spec import METADATA_KEY, FileFacts, InputSpec, gather, settle
from robustkit.adapters.training import Progress, Schedule
from robustkit.errors import ModelError, RobustkitError, UsageError
from robustkit.patience import bounded
from robustkit.types import Image, PixelSize, Slice

INPUT_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
}
PASSES_ON = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")


def load(path: Path, flags: Mapping[str, Any]) -> FileClassifier:
    """Return the classifier of an ONNX file.

    Parameters
    ----------
    path : the file; external data are accepted in its own folder only. flags : the input spec's (see `spec.gather`).

    Raises
    ------
    ModelError
        A file that is damaged, too new, needs operators onnxruntime lacks, reaches outside its folder, or is no
        classifier of images. UsageError names what the file cannot say: the window, the layout, which output.
    """
    path = path.absolute()
    content = read_content(path)
    data_files = check_external(path.resolve(), content.external)
    told = _told(path, flags, content)
    session = open_session(path.resolve(), content)
    try:
        entry = _the_input(path.name, session.get_inputs())
        output = _the_output(path.name, [o.name for o in session.get_outputs()], told.get("output"))
    except UnicodeDecodeError:
        raise ModelError(f"{path.name} is damaged; copy or export it again") from None
    batch, *sides = (side if isinstance(side, int) and side > 0 else None for side in entry.shape)
    facts = FileFacts((sides[0], sides[1], sides[2]), _dtype(path.name, entry.type))
    source = {
        "format": "onnx",
        "sha256": hash_files([path, *data_files]),
        "producer": content.producer,
        "opset": content.opsets.get("", content.opsets.get("ai.onnx")),
        "ir_version": content.ir_version,
        "unsafe": False,
    }
    forward = _forward(session, path.name, entry.name, output, batch)
    spec = settle_answer(forward, settle(told, facts, path.name), told, path.name, last_operator(content, output))
    return OnnxClassifier(path, dict(flags), spec, source, forward)


@dataclass(frozen=True, eq=False)
class OnnxClassifier(FileClassifier):
    """An ONNX file as a classifier; `fit` fine-tunes it where its operators allow that."""

    def fit(self, data: Sequence[Slice], seed: int, **options: Any) -> TrainedOnnx:
        """Return a new model with weights trained further; see `TrainedOnnx.fit`."""
        from robustkit.adapters.onnx_train import self_contained

        content = self_contained(self.path)
        return TrainedOnnx(content, self.spec, self.source, self.path.name).fit(data, seed, **options)

    def save(self, path: Path) -> Path:
        """Write the model as one ONNX file with its spec in the metadata."""
        from robustkit.adapters.onnx_train import self_contained

        return TrainedOnnx(self_contained(self.path), self.spec, self.source, self.path.name).save(path)


@dataclass(frozen=True, eq=False)
class TrainedOnnx:
    """An ONNX model whose weights were trained here.

    Attributes
    ----------
    content : the ONNX file, self-contained. spec : the settled input spec. name : for messages.
    source : format, sha256 of the content, and how it was trained.
    """

    content: bytes
    spec: InputSpec
    source: Mapping[str, Any]
    name: str
    forward: Forward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        session = open_session(Path(self.name), wire.read_onnx(memoryview(self.content)), self.content)
        entry = session.get_inputs()[0]
        output = self.spec.output or session.get_outputs()[0].name
        fixed = entry.shape[0] if isinstance(entry.shape[0], int) else None
        object.__setattr__(self, "forward", _forward(session, self.name, entry.name, output, fixed))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.spec.classes

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return probabilities (B, C) of images (B, H, W) in HU; ModelError for an output that is not finite."""
        return answer(self.forward, batch, pixel_mm, self.spec, self.name)

    def fit(
        self,
        data: Sequence[Slice],
        seed: int,
        *,
        epochs: int = 1,
        lr: float = 1e-4,
        batch: int = 32,
        loss: str = "cross-entropy",
        progress: Progress | None = None,
    ) -> TrainedOnnx:
        """Return a new model trained on labelled slices with Adam; self stays as it was.

        Parameters are those of `robustkit.adapters.training.Schedule`. The file is trained as it was exported: without
        dropout, with batch normalisation fixed.

        Raises
        ------
        ModelError
            Operators that cannot be trained here, by name; or the graph computes in torch, before or after, what
            differs from onnxruntime by 1e-5 or more in probability. MissingExtraError without torch.
        """
        from robustkit.adapters.onnx_train import check_parity, fine_tune

        schedule = Schedule(seed, epochs, lr, batch, loss)
        content, module, training = fine_tune(self, data, schedule, progress)
        sha256 = hashlib.sha256(content).hexdigest()
        source = {**self.source, "sha256": sha256, "from": self.source.get("sha256"), "training": training}
        trained = replace(self, content=content, source=source)
        check_parity(module, trained)
        return trained

    def save(self, path: Path) -> Path:
        """Write the model as one ONNX file with its spec in the metadata."""
        from robustkit.files import atomic_path

        if path.suffix.lower() != ".onnx":
            raise UsageError(f"cannot write an ONNX model as {path.name}; end it in .onnx")
        with atomic_path(path) as temporary:
            temporary.write_bytes(wire.with_metadata(self.content, METADATA_KEY, self.spec.to_toml()))
        return path

    def to_onnx(self, path: Path) -> Path:
        """Write the model as one ONNX file, as `save` does: what every trainable model offers under this name."""
        return self.save(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainedOnnx, (self.content, self.spec, dict(self.source), self.name)


def _told(path: Path, flags: Mapping[str, Any], content: wire.OnnxContent) -> dict[str, Any]:
    """Return what was said about the input: a JATIC_ONNX sidecar below everything else."""
    stated, told = jatic.read(path), gather(path, flags, content.metadata.get(METADATA_KEY))
    if "window" in told and told["window"] is None:
        stated.pop("range", None)
    return {**stated, **told}


def write_checked(path: Path, content: bytes, model: Exportable) -> Path:
    """Write an exported ONNX file with the model's spec in its metadata, whole or not at all.

    Raises
    ------
    ModelError
        onnxruntime's probabilities on plain images differ from the model's own by 1e-5 or more; nothing is written.
    """
    from robustkit.files import atomic_path

    inputs = probe_input(model.spec)
    toml = replace(model.spec, output=None).to_toml()
    with atomic_path(path) as temporary:
        temporary.write_bytes(wire.with_metadata(content, METADATA_KEY, toml))
        exported = load(temporary, {})
        theirs = probabilities(exported.forward(inputs), exported.spec, path.name)
        gap = float(np.abs(theirs - probabilities(model.forward(inputs), model.spec, model.name)).max())
        if not gap < PARITY:
            raise ModelError(f"{path.name} differs from {model.name} by {gap:.2g} in probability; it is not written")
    return path


def read_content(path: Path) -> wire.OnnxContent:
    """Return what the file states; ModelError when it is cut short or no ONNX model."""
    try:
        content = wire.read_onnx(sniff.mapped(path))
    except wire.WireError:
        raise ModelError(f"{path.name} is truncated or damaged; copy or export it again") from None
    if content.graphs != 1:
        raise ModelError(f"{path.name} holds no graph, it is no ONNX model; export it again")
    return content


def check_external(path: Path, external: Sequence[Mapping[str, str]]) -> list[Path]:
    """Return the files of external data, each once.

    Raises
    ------
    ModelError
        One that lies, or leads, outside the model's folder (absolute, `..`, symbolic or hard link), is missing, or is
        shorter than the model says. onnxruntime itself follows hard links.
    """
    folder = path.parent
    cure = "; export the model as one file, or with its data as ordinary files beside it"
    found: dict[str, Path] = {}
    for entry in external:
        location = entry.get("location", "")
        target = folder / location
        _inside(path.name, location, cure)
        if target.resolve() != folder.resolve() / PurePosixPath(location):
            raise ModelError(f"{path.name} keeps data in {location!r}, which is a symbolic link{cure}")
        try:
            status = os.lstat(target)
        except (OSError, ValueError):
            raise ModelError(f"{path.name} needs its data file {location!r} beside it; copy both") from None
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path.name} keeps data in {location!r}, which is no ordinary file{cure}")
        if status.st_nlink > 1:
            raise ModelError(
                f"{path.name} keeps data in {location!r}, a hard link to a file elsewhere; replace it by a copy "
                f"(cp {location} copy && mv copy {location})"
            )
        if _number(entry, "offset") + _number(entry, "length") > status.st_size:
            raise ModelError(f"{path.name} wants more data than {location!r} holds; copy both files again")
        found[location] = target
    return list(found.values())


def open_session(path: Path, content: wire.OnnxContent, data: bytes | None = None) -> Any:
    """Return a one-thread CPU session of a file, or of its bytes; ModelError says in one line why there is none."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        # without enable_fallback=0 it prints on stdout and tries the same thing again
        return bounded(
            lambda: ort.InferenceSession(
                data or str(path), sess_options=options, providers=["CPUExecutionProvider"], enable_fallback=0
            ),
            path.name,
        )
    except RobustkitError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ModelError(_why_not_opened(path, content, str(error), ort.__version__)) from None


def last_operator(content: wire.OnnxContent, output: str) -> str | None:
    """Return the type of the node that makes an output of the main graph, seen through casts and reshapes."""
    kind: str | None = "Identity"
    for _ in range(len(content.made_by) + 1):
        if kind not in PASSES_ON:
            break
        kind, output = content.made_by.get(output, (None, ""))
    return kind


def _inside(name: str, location: str, cure: str) -> None:
    windows = PureWindowsPath(location)
    if not location or "\0" in location or PurePosixPath(location).is_absolute() or windows.drive or windows.root:
        raise ModelError(f"{name} keeps data at the absolute place {location!r}{cure}")
    if ".." in windows.parts:
        raise ModelError(f"{name} keeps data outside its folder, at {location!r}{cure}")


def _number(entry: Mapping[str, str], key: str) -> int:
    text = entry.get(key, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 2**63


def _the_input(name: str, inputs: Sequence[Any]) -> Any:
    if len(inputs) != 1:
        raise ModelError(
            f"{name} takes {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); robustkit gives it one image"
        )
    entry = inputs[0]
    if entry.shape is None or len(entry.shape) != 4:
        shape = "unknown" if entry.shape is None else f"({', '.join(str(side) for side in entry.shape)})"
        raise ModelError(
            f"{name} takes input of shape {shape}, no batch of images; wanted are 4 dimensions, (batch, channels, H, "
            "W) or (batch, H, W, channels)"
        )
    return entry


def _the_output(name: str, outputs: Sequence[str], told: str | None) -> str:
    if told is None and len(outputs) == 1:
        return outputs[0]
    if told is None:
        raise UsageError(f"{name} has {len(outputs)} outputs; say which with --output NAME: {', '.join(outputs)}")
    if told not in outputs:
        raise UsageError(f"{name} has no output {told!r}; there is: {', '.join(outputs)}")
    return told


def _dtype(name: str, kind: str) -> str:
    if kind not in INPUT_TYPES:
        raise ModelError(
            f"{name} takes {kind}; robustkit gives it {', '.join(INPUT_TYPES.values())}: export it with one of these"
        )
    return INPUT_TYPES[kind]


def _forward(session: Any, name: str, entry: str, output: str, fixed: int | None) -> Forward:
    import onnxruntime as ort

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        options = ort.RunOptions()
        try:
            return np.asarray(
                bounded(
                    lambda: session.run([output], {entry: inputs}, options)[0],
                    name,
                    stop=lambda: setattr(options, "terminate", True),
                )
            )
        except RobustkitError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            size = " x ".join(str(side) for side in inputs.shape[1:])
            raise ModelError(
                f"{name} cannot take images of {size} ({_reason(str(error))}); give its own --size H,W and --layout"
            ) from None

    return in_pieces(run, fixed)


def _why_not_opened(path: Path, content: wire.OnnxContent, reason: str, version: str) -> str:
    name = path.name
    opset = content.opsets.get("", content.opsets.get("ai.onnx", 0))
    if "IR version" in reason:
        return (
            f"{name} has ONNX IR version {content.ir_version}, newer than onnxruntime {version} reads; upgrade "
            "onnxruntime or export the model with an older one"
        )
    if "guarantees" in reason or "opset" in reason.lower():
        return (
            f"{name} has opset {opset}, newer than onnxruntime {version} knows; upgrade onnxruntime or export the "
            "model with an older opset"
        )
    unknown = re.search(r"Fatal error: (\S*?)\(", reason) or re.search(r"No Op registered for (\S+)", reason)
    if unknown:
        return (
            f"{name} uses the operator {unknown[1]}, which onnxruntime {version} does not have; export the model with "
            "standard operators"
        )
    text = reason.replace(str(path), name).replace(str(path.parent), "its folder")
    return f"{name} cannot be opened: {_reason(text)}"


def _reason(text: str) -> str:
    line = next(iter(text.strip().splitlines()), "no reason given")
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", line)[:300]
