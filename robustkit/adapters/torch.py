"""Torch models: `.pt2`, TorchScript, and weights with `--arch`; predicting, training, saving, exporting to ONNX.

Nothing in a file runs code: archives are vetted before torch opens them, pickles are read by torch's restricted
unpickler, and `unsafe_load` is the one, loud and recorded, way round it.
"""

from __future__ import annotations

import importlib
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters import sniff, vet
from robustkit.adapters.classifier import (
    Forward,
    answer,
    first_line,
    hash_files,
    in_pieces,
    pick,
    probe_input,
    reload,
    settle_answer,
)
from robustkit.adapters.spec import METADATA_KEY, FileFacts, InputSpec, gather, read_flags, settle
from robustkit.adapters.torch_export import duplicate, freeze, onnx_bytes, program_module, thaw, write
from robustkit.adapters.torch_train import (
    hash_weights,
    need_torch,
    one_thread,
    quiet,
    train,
)
from robustkit.adapters.training import Progress, Schedule
from robustkit.errors import MissingExtraError, ModelError, UsageError
from robustkit.patience import bounded
from robustkit.types import Image, PixelSize, Slice

log = logging.getLogger("robustkit")
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights in a checkpoint."""
LAST_OPERATORS = {
    "softmax": "Softmax",
    "_softmax": "Softmax",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid",
    "linear": "Gemm",
    "addmm": "Gemm",
    "matmul": "MatMul",
    "mm": "MatMul",
}


@dataclass(frozen=True, eq=False)
class TorchClassifier:
    """A Torch module as a classifier that can be trained.

    Attributes
    ----------
    module : takes the prepared input (B, ...), returns scores; it is never changed, `fit` trains a copy.
    spec : the settled input spec. source : format, sha256, torch version, `unsafe`, and how it was trained.
    form : torch-export, torchscript or torch-weights. name : for messages.
    fixed : how many images the module takes at a time, where an export fixed it.
    origin : (path, flags) to load it from again; None once it differs from its file.
    """

    module: Any
    spec: InputSpec
    source: Mapping[str, Any]
    form: str = "torch-weights"
    name: str = "torch model"
    fixed: int | None = None
    origin: tuple[str, Mapping[str, Any]] | None = None
    forward: Forward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        forward = in_pieces(_run(self.module, self.spec.output, self.name), self.fixed)
        object.__setattr__(self, "forward", forward)

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
    ) -> TorchClassifier:
        """Return a new model trained on labelled slices with Adam; self stays as it was.

        Parameters are those of `robustkit.adapters.training.Schedule`. An exported program (`.pt2`) is trained as it
        was exported, which is without dropout; ModelError for one whose batch was fixed.
        """
        if self.fixed is not None:
            raise ModelError(f"{self.name} was exported for {self.fixed} images at a time; export it with a free batch")
        module = duplicate(self.module, self.form)
        training = train(module, self.spec, data, Schedule(seed, epochs, lr, batch, loss), progress)
        new = {"sha256": hash_weights(module), "from": self.source.get("sha256"), "training": training}
        return replace(self, module=module, source={**self.source, **new}, origin=None)

    def save(self, path: Path) -> Path:
        """Write the model: `.onnx` as ONNX, else in its own form; with its input spec inside or beside it."""
        if path.suffix == ".onnx":
            return self.to_onnx(path)
        from robustkit.files import atomic_path, write_text

        with atomic_path(path) as temporary:
            write(self, temporary)
        if self.form == "torch-weights":
            write_text(path.with_name(f"{path.stem}.robustkit.toml"), self.spec.to_toml())
        return path

    def to_onnx(self, path: Path) -> Path:
        """Write the model as one ONNX file with its spec in the metadata.

        Raises
        ------
        ModelError
            onnxruntime's probabilities on plain images differ from Torch's by 1e-5 or more; nothing is written then.
        """
        from robustkit.adapters.onnx import write_checked

        return write_checked(path, onnx_bytes(self, probe_input(self.spec)), self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is not None:
            return reload, (*self.origin, self.source["sha256"])
        return _rebuild, (freeze(self), self.form, self.spec, dict(self.source), self.name)


def _rebuild(frozen: Any, form: str, spec: InputSpec, source: Mapping[str, Any], name: str) -> TorchClassifier:
    return TorchClassifier(thaw(frozen, form), spec, source, form, name)


@dataclass(frozen=True)
class _Opened:
    """A file, opened: the module, the form it came in, the TOML it carries, what it says of its input."""

    module: Any
    form: str
    embedded: str | None
    facts: FileFacts
    fixed: int | None = None


def from_module(
    module: Any,
    spec: InputSpec | Mapping[str, Any],
    *,
    name: str = "torch model",
    source: Mapping[str, Any] | None = None,
) -> TorchClassifier:
    """Return a `torch.nn.Module` as a trainable classifier.

    Parameters
    ----------
    module : takes (B, channels, H, W). spec : a settled spec, or flags as `load_model` takes them, from which, and
        from running the module once, the rest is settled. name : for messages. source : what is known of it.
    """
    need_torch()
    module = module.eval()
    told = {"sha256": hash_weights(module), "format": "torch-weights", "unsafe": False, **(source or {})}
    if isinstance(spec, InputSpec):
        return TorchClassifier(module, spec, told, name=name)
    return _settled(_Opened(module, "torch-weights", None, _facts(module)), read_flags(spec), told, name)


def load(path: Path, flags: Mapping[str, Any]) -> TorchClassifier:
    """Return the classifier of a Torch file; `flags` are the input spec's, `arch` and `unsafe_load`.

    Raises
    ------
    ModelError
        A file that is damaged, a pickle, or holds more than tensors and tensor operators. UsageError names what is
        missing: the window, `--arch` for bare weights. MissingExtraError without torch.
    """
    torch = need_torch()
    path = path.absolute()
    kind = sniff.kind_of_file(path)
    unsafe = bool(flags.get("unsafe_load"))
    if unsafe:
        log.warning("--unsafe-load: %s may run any code it holds, here and now", path.name)
    opened = _OPENERS[str(kind)](path, flags, unsafe)
    source = {
        "format": opened.form,
        "sha256": hash_files([path]),
        "producer": f"torch {torch.__version__}",
        "arch": flags.get("arch"),
        "unsafe": unsafe,
    }
    model = _settled(opened, gather(path, flags, opened.embedded), source, path.name)
    return replace(model, origin=(str(path), dict(flags)))


def _settled(opened: _Opened, told: Mapping[str, Any], source: Mapping[str, Any], name: str) -> TorchClassifier:
    if opened.facts.dtype is None:
        told = {"dtype": _weights_dtype(opened.module), **told}
    model = TorchClassifier(opened.module, settle(told, opened.facts, name), source, opened.form, name, opened.fixed)
    spec = settle_answer(model.forward, model.spec, told, name, _last_operator(opened))
    return replace(model, spec=spec)


def _open_export(path: Path, flags: Mapping[str, Any], unsafe: bool) -> _Opened:
    torch = need_torch()
    if not unsafe:
        vet.check_export(path)
    extra = {METADATA_KEY: ""}
    with _opening(path):
        program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
        module = program_module(program)
    facts, fixed = _export_facts(path.name, program)
    return _Opened(module, "torch-export", _as_text(extra[METADATA_KEY]), facts, fixed)


def _open_script(path: Path, flags: Mapping[str, Any], unsafe: bool) -> _Opened:
    torch = need_torch()
    if not unsafe:
        vet.check_script(path)
    extra = {METADATA_KEY: ""}
    with _opening(path):
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    return _Opened(module.eval(), "torchscript", _as_text(extra[METADATA_KEY]), _facts(module))


def _open_weights(path: Path, flags: Mapping[str, Any], unsafe: bool) -> _Opened:
    import pickle

    torch = need_torch()
    try:
        with _opening(path, pickle.UnpicklingError):
            content = torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        raise ModelError(_why_refused(path.name, str(error))) from None
    module = content.eval() if isinstance(content, torch.nn.Module) else _with_arch(path, content, flags)
    return _Opened(module, "torch-weights", None, _facts(module))


def _open_safetensors(path: Path, flags: Mapping[str, Any], unsafe: bool) -> _Opened:
    try:
        from safetensors import safe_open
    except ImportError:
        raise MissingExtraError("a safetensors file", "torch") from None
    with _opening(path), safe_open(path, framework="pt") as archive:
        embedded = (archive.metadata() or {}).get(METADATA_KEY)
        weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (no mapping)
    module = _with_arch(path, weights, flags)
    return _Opened(module, "torch-weights", embedded, _facts(module))


_OPENERS = {
    "torch-export": _open_export,
    "torchscript": _open_script,
    "torch-weights": _open_weights,
    "safetensors": _open_safetensors,
}


@contextmanager
def _opening(path: Path, *passed: type[Exception]) -> Iterator[None]:
    """Turn whatever torch raises on a damaged file into one line; its warnings are about its own future."""
    try:
        with quiet():
            yield
    except passed:
        raise
    except Exception as error:  # torch raises anything from KeyError to RuntimeError here
        raise ModelError(f"{path.name} cannot be opened ({first_line(error)}); copy or export it again") from None


def _why_refused(name: str, reason: str) -> str:
    import re

    found = re.search(r"GLOBAL:?\s+(?:GLOBAL )?([\w.]+)", reason)
    wants = f" that wants {found[1]}" if found else ""
    return (
        f"{name} is a pickle{wants}, and loading one runs code; save it with torch.export.save as .pt2, or its "
        "state_dict() to be loaded with --arch package.module:factory; --unsafe-load only if you trust whoever made it"
    )


def _with_arch(path: Path, content: Any, flags: Mapping[str, Any]) -> Any:
    torch = need_torch()
    weights = next((content[k] for k in WRAPPERS if isinstance(content, Mapping) and k in content), content)
    if not isinstance(weights, Mapping) or not weights or not all(torch.is_tensor(w) for w in weights.values()):
        raise ModelError(f"{path.name} holds no state dict; save model.state_dict(), or the model as .pt2")
    if not flags.get("arch"):
        raise UsageError(
            f"{path.name} holds weights without a network; say which with --arch package.module:factory, a function "
            "without arguments that returns it"
        )
    module = make_arch(str(flags["arch"]))
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise ModelError(f"{path.name} does not fit --arch {flags['arch']}: {told:.300}") from None
    return module.eval()


def make_arch(arch: str) -> Any:
    """Return the network that `package.module:factory` makes; UsageError says what is wrong with the name."""
    place, colon, name = arch.partition(":")
    if not (colon and place and name):
        raise UsageError(f"--arch wants package.module:factory, got {arch!r:.80}")
    try:
        factory = getattr(_import(place), name)
    except ModuleNotFoundError as error:
        raise UsageError(f"--arch {arch}: no module named {error.name}; install it or run where it lies") from None
    except AttributeError:
        raise UsageError(f"--arch {arch}: {place} has no {name}") from None
    try:
        module = factory()
    except Exception as error:  # a stranger's function may raise anything
        raise UsageError(f"--arch {arch} failed when called without arguments: {first_line(error)}") from None
    if not isinstance(module, need_torch().nn.Module):
        raise UsageError(f"--arch {arch} returned {type(module).__name__}, a torch.nn.Module is wanted")
    return module


def _import(place: str) -> Any:
    """Import a module, from the working directory too: a network is often a file beside the work."""
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name != place.partition(".")[0] or "" in sys.path or str(Path.cwd()) in sys.path:
            raise
    sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(place)
    finally:
        sys.path.remove(str(Path.cwd()))


def _facts(module: Any) -> FileFacts:
    channels = next((int(p.shape[1]) for p in module.parameters() if p.ndim == 4 and p.shape[1] in (1, 3)), None)
    return FileFacts((channels, None, None), None, None, "nchw")


def _export_facts(name: str, program: Any) -> tuple[FileFacts, int | None]:
    """Return what an exported program says of its input, and the batch where it is fixed."""
    names = program.graph_signature.user_inputs
    found = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    if len(found) != 1:
        raise ModelError(f"{name} takes {len(found)} inputs; robustkit gives it one image")
    shape = [side if isinstance(side, int) else None for side in found[0].shape]
    if len(shape) != 4:
        raise ModelError(
            f"{name} takes input of {len(shape)} dimensions, no batch of images; wanted are 4, (batch, channels, H, W)"
        )
    dtype = str(found[0].dtype).removeprefix("torch.")
    return FileFacts((shape[1], shape[2], shape[3]), dtype, None, "nchw" if shape[1] in (1, 3) else None), shape[0]


def _weights_dtype(module: Any) -> str:
    found = next((str(p.dtype).removeprefix("torch.") for p in module.parameters()), "float32")
    return found if found in ("float16", "float64") else "float32"


def _last_operator(opened: _Opened) -> str | None:
    """Return the ONNX name of the operator that makes the output, where a graph tells it."""
    module = opened.module
    if opened.form == "torch-export":
        output = next(node for node in module.graph.nodes if node.op == "output")
        nodes = output.all_input_nodes
        target = str(nodes[0].args[0][0].target) if nodes and "unflatten" in str(nodes[0].target) else ""
        return LAST_OPERATORS.get(target.removeprefix("aten.").partition(".")[0])
    if opened.form == "torchscript":
        graph = module.inlined_graph  # held while its nodes are looked at
        return LAST_OPERATORS.get(next(graph.outputs()).node().kind().removeprefix("aten::"))
    return None


def _run(module: Any, output: str | None, name: str) -> Forward:
    torch = need_torch()

    def compute(inputs: NDArray[Any]) -> NDArray[Any]:
        with one_thread(), torch.inference_mode():
            scores = pick(module(torch.from_numpy(inputs)), output, name)
            return np.asarray(scores.numpy())

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        try:
            return bounded(lambda: compute(inputs), name)
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
            size = " x ".join(str(side) for side in inputs.shape[1:])
            raise ModelError(
                f"{name} cannot take images of {size} ({first_line(error)}); give its own --size H,W"
            ) from None

    return run


def _as_text(content: Any) -> str | None:
    text = content.decode("utf-8", errors="replace") if isinstance(content, bytes) else content
    return text or None
