"""Torch networks that tests name with `--arch adapters.torch_zoo:...` and write in every form."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

SIDE = 16


class Net(nn.Module):
    """Conv, batch normalisation, dropout, two dense layers; logits, or probabilities when `soft`."""

    def __init__(self, soft: bool = False, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(4 * 7 * 7, 3)
        self.drop = nn.Dropout(0.5)
        self.soft = soft

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dense(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))
        return torch.softmax(y, 1) if self.soft else y


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.net(x)
        return {"logits": y, "twice": 2 * y}


def build(soft: bool = False, channels: int = 1, seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net(soft, channels)
        net.norm.running_mean.uniform_(-0.1, 0.1)
        net.norm.running_var.uniform_(0.5, 1.5)
    return net.eval()


def soft() -> Net:
    return build(soft=True)


def rgb() -> Net:
    return build(channels=3)


def wants_arguments(width: int) -> Net:
    return build(channels=width)


def no_network() -> int:
    return 3


_EXPORTED: dict[Any, Any] = {}
"""Exporting costs a second; the networks of `build` differ by `soft` and `channels` alone."""


def _export(net: nn.Module, batch: int | None) -> Any:
    example = torch.zeros(batch or 2, net.conv.in_channels, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = None if batch else ({0: torch.export.Dim("batch", min=1)},)
        return torch.export.export(net, (example,), dynamic_shapes=dynamic)


FORMS = ("pt2", "torchscript", "state_dict", "safetensors")


def write(
    net: nn.Module, path: Path, form: str, *, extra: dict[str, str] | None = None, batch: int | None = None
) -> Path:
    """Write a network in one of `FORMS`; `batch` fixes the batch of a .pt2."""
    if form == "pt2":
        target = path.with_suffix(".pt2")
        key = (net.soft, net.conv.in_channels) if isinstance(net, Net) else None
        if (key, batch) not in _EXPORTED:
            _EXPORTED[key, batch] = _export(net, batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(_EXPORTED[key, batch], target, extra_files=extra)
        return target
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "torchscript":
            torch.jit.save(torch.jit.script(net), str(path.with_suffix(".ts")), _extra_files=extra or {})
            return path.with_suffix(".ts")
        if form == "safetensors":
            from safetensors.torch import save_file

            save_file(net.state_dict(), path.with_suffix(".safetensors"), metadata=extra)
            return path.with_suffix(".safetensors")
        torch.save(net.state_dict(), path.with_suffix(".pt"))
    return path.with_suffix(".pt")
