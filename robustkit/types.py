"""The nouns of robustkit and the protocols a plugin fulfils. Imports numpy and nothing else; inherits nothing.

Shapes: H rows, W columns, K repeats, B draws or images, L levels, C classes. Pixels are Hounsfield units (HU)
for CT, or the modality's own unit; lengths are millimetres.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pandas import DataFrame

    from robustkit.seeding import Draw

Image: TypeAlias = NDArray[np.float32]
"""(H, W) or a stack of such, in HU for CT."""
PixelSize: TypeAlias = tuple[float, float]
"""Row spacing and column spacing in mm, in this order (as DICOM's PixelSpacing)."""


def slice_id(pixels: NDArray[Any], pixel_mm: PixelSize) -> str:
    """16 hex digits: the hash of the pixels (as float32 HU) and of the spacing. Names nobody."""
    array = np.asarray(pixels, dtype="<f4") + np.float32(0.0)  # -0.0 and 0.0 are one pixel value
    head = f"{array.shape}|{pixel_mm[0]:.6f}|{pixel_mm[1]:.6f}|".encode()
    return hashlib.blake2b(head + array.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Storage:
    """How a scanner stores this image: pixels lie in [low, high] HU on a grid of `step` HU above `low`."""

    low: float
    high: float
    step: float = 1.0

    def apply(self, pixels: Image, *, out: Image | None = None) -> Image:
        """Round to the stored grid and clip to its limits (shape kept, HU)."""
        result = np.empty_like(pixels) if out is None else out
        np.subtract(pixels, np.float32(self.low), out=result)
        if self.step != 1.0:
            result /= np.float32(self.step)
        np.rint(result, out=result)
        if self.step != 1.0:
            result *= np.float32(self.step)
        result += np.float32(self.low)
        return np.clip(result, self.low, self.high, out=result)


@dataclass(frozen=True, eq=False)
class Slice:
    """One axial image and what is known about it.

    Attributes
    ----------
    id : hash of pixels and spacing (`slice_id`); nothing of a file name or a patient.
    pixels : (H, W) float32, HU.
    pixel_mm : (row, column) spacing in mm.
    label : true class where known. group : patient or object, as an opaque name, for clustering.
    mas : tube-current-time product of this image in mAs, where sane. kernel : reconstruction kernel name.
    mask : (H, W) bool, True where a pixel is image and not padding; None means all of it.
    storage : the grid and limits of the stored integers; None means unlimited floats.
    protocol : allow-listed acquisition facts (kvp, thickness_mm, fov_mm, manufacturer, ctdivol, ...).
    synthetic : True for images that show nobody (phantoms); they may be drawn in reports without asking.
    """

    id: str
    pixels: Image
    pixel_mm: PixelSize
    label: str | None = None
    group: str | None = None
    mas: float | None = None
    kernel: str | None = None
    mask: NDArray[np.bool_] | None = None
    storage: Storage | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    synthetic: bool = False


@dataclass(frozen=True, eq=False)
class RepeatScans:
    """K repeated scans of one slice, of one object that did not move, at one mAs.

    Attributes
    ----------
    id : the slice these repeats belong to (a `Slice.id` when simulated for it, else the hash of their mean).
    pixels : (K >= 2, H, W) float32, HU. pixel_mm : (row, column) mm. mas : mAs of each scan, None when unknown.
    source : one sentence fragment saying where they come from ("measured", "simulated for this slice ...").
    anchored : False for simulated scans whose noise was tied to no measurement: no dose may be claimed from them.
    """

    id: str
    pixels: Image
    pixel_mm: PixelSize
    mas: float | None
    kernel: str | None = None
    label: str | None = None
    group: str | None = None
    mask: NDArray[np.bool_] | None = None
    storage: Storage | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    source: str = "measured"
    synthetic: bool = False
    anchored: bool = True

    @property
    def clean(self) -> Image:
        """(H, W) ensemble mean in HU, accumulated in float64."""
        return np.asarray(self.pixels.mean(axis=0, dtype=np.float64), dtype=np.float32)

    @property
    def residuals(self) -> Image:
        """(K, H, W) scan minus ensemble mean in HU, raw: whoever forms a second moment applies K/(K-1), once."""
        return self.pixels - self.clean


@runtime_checkable
class NoiseModel(Protocol):
    """A frozen, fitted source of noise. `unit` names the level axis: "mAs" for CT."""

    @property
    def unit(self) -> str: ...  # noqa: D102

    def sample(self, clean: Image, levels: Sequence[float], draws: Sequence[Draw]) -> Image:
        """Return what to add to `clean` (H, W): (B, L, H, W) float32, one realization a draw, same at every level."""
        ...

    def sd(self, clean: Image, levels: Sequence[float]) -> Image | None:
        """Return the standard deviation it claims, (L, H, W); None claims nothing."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """A model that names the class of an image; it owns resampling, window, layout and batching of its input."""

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Probabilities (B, C) of images (B, H, W) in HU with spacing `pixel_mm`."""
        ...


@runtime_checkable
class Trainable(Classifier, Protocol):
    """A classifier that can be trained further."""

    def fit(self, data: Sequence[Slice], seed: int, **options: Any) -> Trainable:
        """Return a new model trained on labelled slices; self stays as it was."""
        ...


class Metric(Protocol):
    """A number or table computed from the results table alone."""

    def __call__(self, results: DataFrame) -> DataFrame: ...  # noqa: D102


class Hardener(Protocol):
    """A strategy that yields ever more robust models; the caller judges each and stops it."""

    def __call__(  # noqa: D102
        self,
        model: Trainable,
        train: Sequence[Slice],
        cases: Sequence[tuple[Slice, NoiseModel]],
        *,
        levels: Sequence[float],
        n: int,
        seed: int,
    ) -> Iterator[Trainable]: ...


Fit: TypeAlias = Callable[..., NoiseModel]
"""`fit(repeats: RepeatScans, **settings) -> NoiseModel`; keyword settings come from `--set key=value`.

A fit that can also start from a saved profile carries a callable attribute `from_profile(profile, **settings)`; one
that needs no repeats carries `needs_repeats = False` and is called with None where there are none.
"""


class Recipe(Protocol):
    """How a model is made: what `train`, `variability` and `harden` take."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def build(self, seed: int) -> Trainable:
        """Return an untrained model whose initial weights depend on `seed` alone."""
        ...

    def data(self) -> Mapping[str, Sequence[Slice]]:
        """Return the labelled splits, "train", "validation" and "test", disjoint by group."""
        ...

    def cases(self) -> Sequence[Slice]:
        """Return the slices on which robustness is judged, fixed before any model is trained."""
        ...
