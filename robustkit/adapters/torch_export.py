"""Writing Torch models: their own forms, ONNX, and what travels to another process."""

from __future__ import annotations

import copy
import inspect
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters.classifier import first_line, pick, probe_input
from robustkit.adapters.spec import METADATA_KEY
from robustkit.adapters.torch_train import need_torch, one_thread, quiet
from robustkit.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from robustkit.adapters.torch import TorchClassifier


def write(model: TorchClassifier, path: Path) -> None:
    """Write a model in the form it came in (weights as safetensors where `path` says so), its spec inside."""
    torch = need_torch()
    extra = {METADATA_KEY: model.spec.to_toml()}
    with quiet():
        if model.form == "torchscript":
            torch.jit.save(model.module, str(path), _extra_files=extra)
        elif model.form == "torch-export":
            buffer = io.BytesIO()
            torch.export.save(_exported(model), buffer, extra_files=extra)
            path.write_bytes(buffer.getvalue())
        elif path.suffix == ".safetensors":
            from safetensors.torch import save_file

            weights = {name: tensor.contiguous() for name, tensor in model.module.state_dict().items()}
            save_file(weights, path, metadata=extra)
        else:
            torch.save(model.module.state_dict(), path)


def _exported(model: TorchClassifier) -> Any:
    torch = need_torch()
    inputs = probe_input(model.spec)
    if model.fixed is not None:
        inputs = np.resize(inputs, (model.fixed, *inputs.shape[1:]))
    shapes = None if model.fixed else ({0: torch.export.Dim("batch", min=1)},)
    return torch.export.export(model.module, (torch.from_numpy(inputs),), dynamic_shapes=shapes)


def onnx_bytes(model: TorchClassifier, inputs: NDArray[Any]) -> bytes:
    """Return the ONNX file: by the tracing exporter, which needs no further package; `.pt2` by the newer one."""
    torch = need_torch()
    target = io.BytesIO()
    names = {"input_names": ["image"], "output_names": [model.spec.kind]}
    with quiet(), one_thread():
        try:
            if model.form == "torch-export":
                program = torch.onnx.export(_exported(model), dynamo=True, external_data=False, verbose=False, **names)
                program.save(target, external_data=False)
            else:
                axes = {"image": {0: "batch"}, model.spec.kind: {0: "batch"}}
                torch.onnx.export(
                    _single(model),
                    (torch.from_numpy(inputs),),
                    target,
                    dynamo=False,
                    opset_version=17,
                    dynamic_axes=axes,
                    **names,
                )
        except ImportError:
            raise MissingExtraError("exporting to ONNX", "torch") from None
        except Exception as error:  # the exporter raises its own kinds for an operator it lacks
            raise ModelError(
                f"{model.name} cannot be exported to ONNX ({first_line(error)}); save it as .pt2"
            ) from None
    return target.getvalue()


def _single(model: TorchClassifier) -> Any:
    """Return the module, or one that returns only the output the spec names."""
    if model.spec.output is None:
        return model.module
    torch = need_torch()

    class Single(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.module

        def forward(self, image: Any) -> Any:
            return pick(self.inner(image), model.spec.output, model.name)

    return Single().eval()


def freeze(model: TorchClassifier) -> Any:
    """Return a module in a form that pickles: archives for compiled forms, the module itself otherwise."""
    if model.form == "torch-weights":
        return model.module
    buffer = io.BytesIO()
    torch = need_torch()
    with quiet():
        if model.form == "torchscript":
            torch.jit.save(model.module, buffer)
        else:
            torch.export.save(_exported(model), buffer)
    return buffer.getvalue()


def thaw(frozen: Any, form: str) -> Any:
    """Return the module that `freeze` froze."""
    with quiet():
        if form == "torchscript":
            return need_torch().jit.load(io.BytesIO(frozen), map_location="cpu").eval()
        if form == "torch-export":
            return program_module(need_torch().export.load(io.BytesIO(frozen)))
    return frozen


def duplicate(module: Any, form: str) -> Any:
    """Return a copy of a module with weights of its own that can be trained."""
    with quiet():
        if form != "torchscript":
            return copy.deepcopy(module)
        buffer = io.BytesIO()  # a deep copy of a script has weights that are no leaves
        need_torch().jit.save(module, buffer)
    return thaw(buffer.getvalue(), form)


def program_module(program: Any) -> Any:
    """Return the module of an exported program without its guards: those are text that torch would compile and run."""
    known = inspect.signature(program.module).parameters
    return program.module(**({"check_guards": False} if "check_guards" in known else {}))
