"""Training a Torch module, whatever file it came from: one thread, seeded, repeatable."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from robustkit.adapters.classifier import pick
from robustkit.adapters.spec import InputSpec
from robustkit.adapters.training import Progress, Schedule, training_data
from robustkit.errors import MissingExtraError, ModelError
from robustkit.types import Slice


def need_torch() -> Any:
    """Return torch; MissingExtraError when it is not installed."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("a Torch model", "torch") from None
    return torch


def train(
    module: Any,
    spec: InputSpec,
    data: Sequence[Slice],
    schedule: Schedule,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a module in place on labelled slices with Adam, on one thread; return what was done, ready for JSON."""
    torch = need_torch()
    inputs, labels = training_data(data, spec)
    images, truth = torch.from_numpy(inputs), torch.from_numpy(labels)
    with one_thread(), seeded(schedule.seed):
        optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=schedule.lr)
        _set_mode(module, training=True)
        for epoch in range(1, schedule.epochs + 1):
            mean = _epoch(module, spec, images, truth, optimizer, schedule)
            if not math.isfinite(mean):
                raise ModelError(f"training diverged in epoch {epoch}; lower lr, it is {schedule.lr:g}")
            if progress is not None:
                progress(epoch, schedule.epochs, mean)
        _set_mode(module, training=False)
    return {**asdict(schedule), "images": len(labels)}


def _epoch(module: Any, spec: InputSpec, images: Any, truth: Any, optimizer: Any, schedule: Schedule) -> float:
    """Make one pass over the data in random order and return the mean loss."""
    torch = need_torch()
    total = 0.0
    # parts of equal size: a last batch of one image would break batch normalisation
    for part in torch.tensor_split(torch.randperm(len(truth)), max(1, -(-len(truth) // schedule.batch))):
        optimizer.zero_grad()
        scores = pick(module(images[part]), spec.output, "the model")
        cost = _loss(scores.reshape(len(part), -1), truth[part], spec.kind, schedule.loss)
        cost.backward()
        optimizer.step()
        total += float(cost.detach()) * len(part)
    return total / len(truth)


def _loss(scores: Any, truth: Any, kind: str, loss: str) -> Any:
    """Return the mean loss of scores (B, C) against class indices (B,)."""
    functional = need_torch().nn.functional
    if scores.shape[1] == 1:
        other = 1.0 - scores if kind == "probabilities" else scores * 0.0
        scores = need_torch().cat([other, scores], dim=1)
    if loss == "squared-error":
        given = scores if kind == "probabilities" else functional.softmax(scores, dim=1)
        return functional.mse_loss(given, functional.one_hot(truth, scores.shape[1]).to(given.dtype))
    if kind == "probabilities":
        return functional.nll_loss(scores.clamp_min(1e-7).log(), truth)
    return functional.cross_entropy(scores, truth)


def _set_mode(module: Any, *, training: bool) -> None:
    try:
        module.train(training)
    except NotImplementedError:  # an exported program has the mode it was exported in
        return


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings about its own future, and its exporter's log of packages it does not find, to itself."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread for the time being: the bits of a convolution depend on the number of threads."""
    torch = need_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch for the time being; its global state is put back."""
    torch = need_torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def hash_weights(module: Any) -> str:
    """Return the SHA-256 of a module's weights by name, type, shape and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
