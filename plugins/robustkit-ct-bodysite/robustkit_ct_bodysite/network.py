"""The network of Peng et al. 2023 (Fig. 1b) and how it is trained, in torch: a `Trainable` of robustkit.

Three convolutions, each with ReLU and max-pooling, flatten, two dense layers with dropout before the last, softmax;
trained by Adam on the squared error of the probabilities (their Eq. 1), images scaled by 80-120 % at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import DataError, Image, MissingExtraError, PixelSize, Slice, UsageError
from robustkit_ct_bodysite.patient import SITES

if TYPE_CHECKING:
    import torch

FIELD_MM = 500.0
AIR = -1000.0
KEPT = 128
"""Training images are kept on a grid of this many pixels; a network's input is picked from it."""
PREDICT_BATCH = 64

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Settings:
    """What a network looks like and how it is trained.

    Attributes
    ----------
    size : pixels of the square input over 500 mm, each the CT pixel at its centre (nearest; nothing is averaged).
    window : HU that map to 0 and 1; outside is clipped. Scaled, because on raw HU softmax saturates at once and the
        squared error then has no gradient left to learn from.
    filters, hidden, dropout : channels of the three 3 x 3 convolutions, units of the first dense layer, share dropped.
    epochs, batch, scaling : as in the paper: 20, 64, 80-120 %.
    rate : Adam's learning rate. The paper's 1e-4 was set for some 540 steps an epoch; a virtual cohort of a tenth of
        the slices makes a tenth of the steps, so a larger one is needed to arrive in 20 epochs.
    """

    size: int = 64
    window: tuple[float, float] = (-160.0, 240.0)
    filters: tuple[int, int, int] = (8, 16, 32)
    hidden: int = 64
    dropout: float = 0.5
    epochs: int = 20
    batch: int = 64
    scaling: tuple[float, float] = (0.8, 1.2)
    rate: float = 1e-3

    @property
    def features(self) -> int:
        """Units of the flatten layer."""
        return self.filters[2] * (self.size // 8) ** 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of every weight."""
        a, b, c = self.filters
        return {
            "conv1.weight": (a, 1, 3, 3),
            "conv1.bias": (a,),
            "conv2.weight": (b, a, 3, 3),
            "conv2.bias": (b,),
            "conv3.weight": (c, b, 3, 3),
            "conv3.bias": (c,),
            "dense1.weight": (self.hidden, self.features),
            "dense1.bias": (self.hidden,),
            "dense2.weight": (len(SITES), self.hidden),
            "dense2.bias": (len(SITES),),
        }


@dataclass(frozen=True, eq=False)
class SiteNet:
    """A body-site classifier: settings and weights, nothing else. `fit` returns a new one.

    `history` is the mean loss of each epoch of the training that made it.
    """

    settings: Settings
    weights: Weights
    history: tuple[float, ...] = field(default=())

    @property
    def classes(self) -> tuple[str, ...]:
        """BN, C, AP, LF."""
        return SITES

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return probabilities (B, 4) of images (B, H, W) in HU with spacing `pixel_mm`."""
        torch = _torch()
        inputs = scaled(placed(batch, pixel_mm, self.settings.size), self.settings.window)
        tensors = {name: _laid_out(torch.from_numpy(np.array(value))) for name, value in self.weights.items()}
        parts = []
        with torch.no_grad(), _one_thread():
            for start in range(0, len(inputs), PREDICT_BATCH):
                part = _one_channel(torch.from_numpy(inputs[start : start + PREDICT_BATCH]))
                parts.append(_forward(tensors, part, self.settings, None).softmax(dim=1).numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(SITES)), np.float32)

    def fit(
        self,
        data: Sequence[Slice],
        seed: int,
        *,
        epochs: int | None = None,
        rate: float | None = None,
        progress: Callable[[int, float], None] | None = None,
        **unknown: Any,
    ) -> SiteNet:
        """Return a new network trained on from these weights; `seed` decides order, scaling and dropout.

        Parameters
        ----------
        data : labelled slices of any matrix and spacing. epochs, rate : instead of the settings' own.
        progress : called with (epochs done, mean loss).

        Raises
        ------
        DataError
            No slices, a label that is no body site, or a single class. UsageError for any other option.
        """
        if unknown:
            raise UsageError(f"fit has no option {', '.join(sorted(unknown))}; there is: epochs, rate, progress")
        model = self
        for model in self.stages(data, seed, epochs=epochs, rate=rate):
            if progress is not None:
                progress(len(model.history), model.history[-1])
        return model

    def stages(
        self, data: Sequence[Slice], seed: int, *, epochs: int | None = None, rate: float | None = None
    ) -> Iterator[SiteNet]:
        """Yield the network after each epoch of `fit`; the last is what `fit` returns. Raises what `fit` raises."""
        images, labels = training_images(data)
        return self._stages(images, labels, seed, epochs or self.settings.epochs, rate or self.settings.rate)

    def _stages(
        self, images: Image, labels: NDArray[np.int64], seed: int, epochs: int, rate: float
    ) -> Iterator[SiteNet]:
        torch, device = _torch(), training_device()
        rng = np.random.Generator(np.random.Philox(key=[seed, 0x7A11]))
        tensors = {
            name: _laid_out(torch.from_numpy(np.array(value))).to(device) for name, value in self.weights.items()
        }
        optimiser = torch.optim.Adam([tensor.requires_grad_() for tensor in tensors.values()], lr=rate)
        data = torch.from_numpy(scaled(images, self.settings.window)).to(device)
        wanted = torch.eye(len(SITES))[torch.from_numpy(labels)].to(device)
        history: list[float] = []
        for _ in range(epochs):
            total = torch.zeros((), dtype=torch.float64, device=device)
            with _one_thread(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                drawn = (torch.from_numpy(part).to(device) for part in self.epoch(len(labels), rng))
                for where, at, keep in zip(*(part.split(self.settings.batch) for part in drawn), strict=True):
                    inputs = _one_channel(zoomed(data, where, at))
                    found = _forward(tensors, inputs, self.settings, keep).softmax(dim=1)
                    loss = (found - wanted[where]).square().sum(dim=1).mean()
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    total += loss.detach().double() * len(where)
            history.append(total.item() / len(labels))
            weights = {name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()}
            yield replace(self, weights=weights, history=tuple(history))

    def epoch(self, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64], Image]:
        """Draw an epoch: order (N,), pixels `zoomed` picks (N, size), and units that dropout keeps (N, hidden).

        Parts of `settings.batch` images, one after the other, are its batches.
        """
        order, share = rng.permutation(count), 1.0 - self.settings.dropout
        at, keep = [], []
        for start in range(0, count, self.settings.batch):
            n = min(self.settings.batch, count - start)
            at.append(zoom_index(rng.uniform(*self.settings.scaling, size=n), self.settings.size))
            keep.append((rng.random((n, self.settings.hidden)) < share).astype(np.float32) / np.float32(share))
        return order, np.concatenate(at), np.concatenate(keep)


def untrained(settings: Settings, seed: int) -> SiteNet:
    """Return a network whose weights depend on `seed` alone: uniform within sqrt(6 / (fan in + out)), biases 0."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x1417]))
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in settings.shapes().items():
        if len(shape) == 1:
            weights[name] = np.zeros(shape, np.float32)
            continue
        area = math.prod(shape[2:])
        limit = math.sqrt(6.0 / ((shape[0] + shape[1]) * area))
        weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return SiteNet(settings, weights)


def placed(images: Image, pixel_mm: PixelSize, size: int) -> Image:
    """Return images (B, size, size) over 500 mm about the image centre: the pixel at a cell's centre, air outside."""
    rows = picked(images.shape[1], pixel_mm[0], size)
    columns = picked(images.shape[2], pixel_mm[1], size)
    found = np.asarray(images[:, rows[:, None], columns[None, :]], dtype=np.float32)
    found[:, rows < 0, :] = AIR
    found[:, :, columns < 0] = AIR
    return found


def zoom_index(zoom: NDArray[np.float64], size: int, count: int = KEPT) -> NDArray[np.int64]:
    """Return (B, size): of `count` pixels across a field those nearest to `size` with the content enlarged by `zoom`.

    -1 where that lies outside the field.
    """
    at = np.floor(0.5 * count + (np.arange(size) + 0.5 - 0.5 * size) * (count / size / zoom[:, None])).astype(np.int64)
    return np.where((at >= 0) & (at < count), at, -1)


def zoomed(images: Any, where: Any, at: Any) -> Any:
    """Return images (B, size, size) of `images` (N, n, n), scaled to 0..1: those at `where` (B,), pixels `at`.

    0, air, outside. Arrays of numpy, or tensors of torch on any device.
    """
    inside = at >= 0
    at = at * inside
    return images[where[:, None, None], at[:, :, None], at[:, None, :]] * (inside[:, :, None] & inside[:, None, :])


def scaled(images: Image, window: tuple[float, float]) -> Image:
    """Return images with `window` mapped to 0..1 and clipped there."""
    low, high = window
    slope = np.float32(1.0 / (high - low))
    mapped: Image = images * slope + np.float32(-low / (high - low))
    return np.clip(mapped, 0.0, 1.0, out=mapped)


def picked(count: int, pixel_mm: float, size: int) -> NDArray[np.intp]:
    """Return which of `count` pixels lie at the centres of `size` cells over 500 mm; -1 outside of the image."""
    field_px = FIELD_MM / pixel_mm
    start, step = 0.5 * (count - field_px), field_px / size
    at = np.floor(start + (np.arange(size) + 0.5) * step + 1e-6).astype(np.intp)
    return np.where((at >= 0) & (at < count), at, -1)


def _laid_out(weights: torch.Tensor) -> torch.Tensor:
    """Return the same tensor; kernels with channels last in memory, for which a processor's convolutions are faster."""
    return weights.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if weights.ndim == 4 else weights


def _one_channel(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, H, W) as (B, 1, H, W) that torch takes for channels last: of one channel it could be either."""
    return images[..., None].permute(0, 3, 1, 2)


def training_images(data: Sequence[Slice]) -> tuple[Image, NDArray[np.int64]]:
    """Return images (N, 128, 128) in HU over 500 mm and the places of their labels among the sites.

    Raises DataError for no slices, a label that is no body site, or a single class.
    """
    labels = [item.label for item in data]
    unknown = sorted({str(label) for label in labels if label not in SITES})
    if unknown:
        raise DataError(f"training labels must be {', '.join(SITES)}; there is: {', '.join(unknown)}")
    if len(set(labels)) < 2:
        raise DataError(f"training needs slices of at least two classes, got {len(labels)} of {len(set(labels))}")
    images = np.concatenate([placed(item.pixels[None], item.pixel_mm, KEPT) for item in data])
    return images, np.array([SITES.index(str(label)) for label in labels], dtype=np.int64)


def _forward(
    w: Mapping[str, torch.Tensor], x: torch.Tensor, settings: Settings, keep: torch.Tensor | None
) -> torch.Tensor:
    """Return logits (B, 4) of inputs (B, 1, size, size); `keep` (B, hidden) is the dropout mask while training."""
    from torch.nn import functional

    for name in ("conv1", "conv2", "conv3"):
        x = functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)
        x = functional.relu(functional.max_pool2d(x, 2))  # as pooling after ReLU, on a quarter of the values
    x = functional.relu(functional.linear(x.flatten(1), w["dense1.weight"], w["dense1.bias"]))
    if keep is not None:
        x = x * keep
    return functional.linear(x, w["dense2.weight"], w["dense2.bias"])


class _one_thread:  # noqa: N801
    """Run torch on one thread, so that the same seed gives the same weights; put the old number back."""

    def __enter__(self) -> None:
        torch = _torch()
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        _torch().set_num_threads(self.before)


def training_device() -> str:
    """Return where torch trains: "cuda" where it finds a GPU, whose weights differ from a processor's by rounding."""
    return "cuda" if _torch().cuda.is_available() else "cpu"


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("training the body-site network", "torch") from error
    return torch
