"""Training a Torch module, whatever file it came from: one thread, seeded, repeatable."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters.preprocess import prepare
from robustkit.adapters.spec import InputSpec
from robustkit.errors import DataError, MissingExtraError, ModelError, UsageError
from robustkit.types import Slice

Progress = Callable[[int, int, float], None]
"""Told (epoch, epochs, mean loss) after each epoch."""
LOSSES = ("cross-entropy", "squared-error")


@dataclass(frozen=True)
class Schedule:
    """How to train: passes over the data, Adam's learning rate, images a step, the loss, the seed of order and dropout.

    `loss` is cross-entropy, or squared-error between probabilities and the one-hot label (Peng et al. 2023).
    """

    seed: int
    epochs: int = 1
    lr: float = 1e-4
    batch: int = 32
    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UsageError(f"unknown loss {self.loss!r}; there is: {', '.join(LOSSES)}")
        if self.epochs < 0 or self.batch < 1 or not (math.isfinite(self.lr) and self.lr > 0):
            given = f"{self.epochs}, {self.batch} and {self.lr:g}"
            raise UsageError(f"training wants epochs >= 0, batch >= 1 and lr > 0; got {given}")


def need_torch() -> Any:
    """Return torch; MissingExtraError when it is not installed."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("a Torch model", "torch") from None
    return torch


def training_data(data: Sequence[Slice], spec: InputSpec) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return prepared inputs (N, ...) and class indices (N,); DataError for labels that are no class or mixed sizes."""
    unknown = sum(item.label not in spec.classes for item in data)
    if not data or unknown:
        raise DataError(
            f"training wants slices labelled {', '.join(spec.classes)}; {unknown} of {len(data)} slices have another "
            "label or none"
        )
    labels = np.array([spec.classes.index(str(item.label)) for item in data], dtype=np.int64)
    stack = [prepare(item.pixels[None], item.pixel_mm, spec) for item in data]
    if len({item.shape for item in stack}) > 1:
        raise DataError("training images come in several sizes and the model has none of its own; give --size H,W")
    return np.concatenate(stack), labels


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


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
