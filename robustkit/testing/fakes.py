"""Small honest parts with known answers: to test a plugin against, or to test robustkit with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit.seeding import Draw
from robustkit.types import Image, PixelSize, RepeatScans, Slice, Trainable, slice_id

if TYPE_CHECKING:
    from pandas import DataFrame

Spectrum = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Relative noise power at radial frequencies in 1/mm."""
SHAPE = (64, 80)
PIXEL_MM: PixelSize = (0.9, 0.9)


@dataclass(frozen=True)
class FakeNoise:
    """White Gaussian noise of known size: sd = `sigma` * sqrt(`reference` / level), in HU for CT."""

    sigma: float = 10.0
    reference: float = 100.0
    unit: str = "mAs"

    def sample(self, clean: Image, levels: Sequence[float], draws: Sequence[Draw]) -> Image:
        """Return the noise (B, L, H, W)."""
        fields = np.stack([draw.generator().standard_normal(clean.shape, dtype=np.float32) for draw in draws])
        return fields[:, None] * self.sd(clean, levels)

    def sd(self, clean: Image, levels: Sequence[float]) -> Image:
        """Return the standard deviation (L, H, W), exactly true."""
        scale = self.sigma * np.sqrt(self.reference / np.asarray(levels, dtype=np.float64))
        return np.asarray(np.broadcast_to(scale.astype(np.float32)[:, None, None], (len(levels), *clean.shape)))


@dataclass(frozen=True, eq=False)
class FakeClassifier:
    """A linear probe of two classes: the second one wins where sum(weights * image) > threshold.

    Parameters
    ----------
    weights : (H, W) per HU; None takes the mean of the image, of any size.
    threshold : in the unit of the weighted sum. sharpness : slope of the probability in that unit.
    """

    weights: NDArray[np.float64] | None = None
    threshold: float = 0.0
    sharpness: float = 1.0
    classes: tuple[str, ...] = ("low", "high")

    def margin(self, images: Image) -> NDArray[np.float64]:
        """Return the distance (...,) of images (..., H, W) from the threshold."""
        if self.weights is None:
            return np.asarray(images.mean(axis=(-2, -1), dtype=np.float64) - self.threshold)
        return np.asarray(np.tensordot(images.astype(np.float64), self.weights, axes=2) - self.threshold)

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return the probabilities (B, 2); the pixel size plays no part in a probe."""
        high = 0.5 * (1.0 + np.tanh(0.5 * self.sharpness * np.array([self.margin(image) for image in batch])))
        return np.stack([1.0 - high, high], axis=1).astype(np.float32)

    def flip_probability(
        self,
        clean: Image,
        sd: float | Image | None = None,
        *,
        nps: NDArray[np.float64] | None = None,
        pixel_mm: PixelSize = PIXEL_MM,
    ) -> float:
        """Return the exact probability that Gaussian noise changes the answer to `clean`: Phi(-|margin| / sigma).

        Parameters
        ----------
        clean : (H, W). sd : of uncorrelated noise, a number or (H, W). nps : (H, W) in HU^2 mm^2 in the order of
            `numpy.fft.fft2`, of stationary noise that is periodic over the image (see `make_scans`).

        Notes
        -----
        sigma^2 = sum (w sd)^2, or sum |W(f)|^2 NPS(f) / (H W dx dy) with W the Fourier transform of the weights.
        """
        weights = np.full(clean.shape, 1.0 / clean.size) if self.weights is None else self.weights
        if nps is not None:
            power = np.abs(np.fft.fft2(weights)) ** 2 * nps
            variance = float(power.sum()) / (clean.size * pixel_mm[0] * pixel_mm[1])
        else:
            variance = float(((weights * np.asarray(sd, dtype=np.float64)) ** 2).sum())
        return 0.5 * math.erfc(abs(float(self.margin(clean))) / math.sqrt(2.0 * variance))


@dataclass(frozen=True, eq=False)
class FakeTrainable:
    """Softmax regression on the 4 x 4 block means of an image (in units of 100 HU); trains in milliseconds."""

    classes: tuple[str, ...] = ("low", "high")
    weights: NDArray[np.float64] | None = None

    @classmethod
    def untrained(cls, seed: int, classes: tuple[str, ...] = ("low", "high")) -> FakeTrainable:
        """Return a model whose weights (17, C) depend on the seed alone."""
        return cls(classes, 0.01 * np.random.default_rng(seed).standard_normal((17, len(classes))))

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return the probabilities (B, C)."""
        return self._softmax(np.stack([_blocks(image) for image in batch])).astype(np.float32)

    def fit(self, data: Sequence[Slice], seed: int, *, epochs: int = 10, **_: Any) -> FakeTrainable:
        """Return a new model after `epochs` Newton steps on the cross-entropy, each on a resampling of the data."""
        features = np.stack([_blocks(item.pixels) for item in data])
        target = np.eye(len(self.classes))[[self.classes.index(str(item.label)) for item in data]]
        order, model = np.random.default_rng(seed), self
        for _epoch in range(epochs):
            part = order.integers(len(data), size=len(data))
            x, miss = features[part], model._softmax(features[part]) - target[part]
            step = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ miss)  # at most twice the true curvature
            model = replace(model, weights=model._table() - step)
        return model

    def _table(self) -> NDArray[np.float64]:
        return np.zeros((17, len(self.classes))) if self.weights is None else self.weights

    def _softmax(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        # a sum of products, not a matrix product: its bits must not depend on the size of the batch
        logits = (features[:, :, None] * self._table()[None]).sum(axis=1)
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(power / power.sum(axis=1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class FakeRecipe:
    """A recipe of `FakeTrainable` on discs whose insert is darker or brighter: 12, 6 and 6 slices, one a group."""

    name: str = "fake"

    def build(self, seed: int) -> Trainable:
        """Return an untrained model."""
        return FakeTrainable.untrained(seed)

    def data(self) -> Mapping[str, Sequence[Slice]]:
        """Return the splits, disjoint by group."""
        sizes = {"train": 12, "validation": 6, "test": 6}
        return {name: make_slices(n, seed=i, group=name) for i, (name, n) in enumerate(sizes.items())}

    def cases(self) -> Sequence[Slice]:
        """Return the slices on which robustness is judged."""
        return make_slices(2, seed=9, group="case")


def make_slice(
    insert: float = 60.0,
    *,
    shape: tuple[int, int] = SHAPE,
    pixel_mm: PixelSize = PIXEL_MM,
    label: str | None = None,
    group: str | None = None,
    mas: float | None = 100.0,
) -> Slice:
    """Return a water disc in air with an off-centre insert of `insert` HU; every pixel is known."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    y = (rows - (shape[0] - 1) / 2) * pixel_mm[0]
    x = (columns - (shape[1] - 1) / 2) * pixel_mm[1]
    radius = 0.42 * min(shape[0] * pixel_mm[0], shape[1] * pixel_mm[1])
    pixels = np.where(np.hypot(y, x) < radius, 0.0, -1000.0)
    pixels[np.hypot(y - 0.3 * radius, x + 0.2 * radius) < 0.4 * radius] = insert
    image = pixels.astype(np.float32)
    return Slice(slice_id(image, pixel_mm), image, pixel_mm, label=label, group=group, mas=mas, synthetic=True)


def make_slices(
    n: int, *, seed: int = 0, group: str = "object", classes: Sequence[str] = ("low", "high")
) -> list[Slice]:
    """Return `n` slices of all classes in turn, told apart by their insert (-300 HU and up, 300 HU a class)."""
    jitter = np.random.default_rng(seed).uniform(-20.0, 20.0, n)
    return [
        make_slice(
            -300.0 + 300.0 * (i % len(classes)) + jitter[i],
            label=classes[i % len(classes)],
            group=f"{group}-{seed}-{i}",
        )
        for i in range(n)
    ]


def known_nps(shape: tuple[int, int], pixel_mm: PixelSize, sigma: float, spectrum: Spectrum) -> NDArray[np.float64]:
    """Return the noise power spectrum (H, W) in HU^2 mm^2, FFT order, of noise of sd `sigma` HU.

    Its integral over frequency is sigma^2: mean(NPS) = sigma^2 dx dy.
    """
    v, u = np.fft.fftfreq(shape[0], pixel_mm[0]), np.fft.fftfreq(shape[1], pixel_mm[1])
    relative = np.asarray(spectrum(np.hypot(v[:, None], u[None, :])), dtype=np.float64)
    return np.asarray(sigma**2 * pixel_mm[0] * pixel_mm[1] * relative / relative.mean(), dtype=np.float64)


def make_scans(
    k: int = 20,
    *,
    sigma: float = 10.0,
    mas: float = 100.0,
    spectrum: Spectrum | None = None,
    of: Slice | None = None,
    seed: int = 0,
) -> RepeatScans:
    """Return `k` repeats of one slice with noise of known sd and spectrum.

    Parameters
    ----------
    k : number of scans. sigma : sd in HU at `mas`. seed : of their noise.
    spectrum : relative power at radial frequency in 1/mm, None for white; the noise is stationary and periodic over
        the image, so that `known_nps` gives its spectrum exactly. of : the slice scanned, `make_slice()` by default.
    """
    scanned = make_slice(mas=mas) if of is None else of
    shape = (scanned.pixels.shape[0], scanned.pixels.shape[1])
    noise = np.random.default_rng(seed).standard_normal((k, *shape))
    if spectrum is not None:
        gain = np.sqrt(known_nps(shape, scanned.pixel_mm, 1.0, spectrum) / np.prod(scanned.pixel_mm))
        noise = np.fft.ifft2(np.fft.fft2(noise) * gain).real
    pixels = (scanned.pixels + sigma * noise).astype(np.float32)
    return RepeatScans(
        scanned.id,
        pixels,
        scanned.pixel_mm,
        mas,
        label=scanned.label,
        group=scanned.group,
        source="made with known noise",
        synthetic=True,
    )


def make_results(n: int = 40, *, seed: int = 0) -> DataFrame:
    """Return a results table of two classes, two slices, two levels and `n` realizations, with flips and ties."""
    import pandas as pd

    from robustkit.results import conform

    rng = np.random.default_rng(seed)
    rows = [
        {"run": "made", "model": "probe", "noise": "white", "slice": f"{i:016x}", "group": f"object-{i}"}
        | {"label": clean, "unit": "mAs", "level": level, "realization": r, "clean": clean, "count": 1}
        for i, clean in enumerate(("low", "high"))
        for level in (25.0, 100.0)
        for r in range(n)
    ]
    table = pd.DataFrame(rows)
    flips = rng.random(len(table)) < np.where(table["level"] < 50.0, 0.3, 0.1)
    table["noisy"] = np.where(flips, np.where(table["clean"] == "low", "high", "low"), table["clean"])
    table["tied"] = flips & (rng.random(len(table)) < 0.2)
    table["margin"] = np.where(table["tied"], 1e-8, rng.uniform(0.01, 1.0, len(table))).astype(np.float32)
    return conform(table)


def _blocks(image: Image) -> NDArray[np.float64]:
    parts = [block for rows in np.array_split(image, 4, axis=0) for block in np.array_split(rows, 4, axis=1)]
    return np.array([*(part.mean(dtype=np.float64) / 100.0 for part in parts), 1.0])
