"""MAITE 0.10, image classification: our noise as an Augmentation, our models as a Model, SAR as a Metric; and back.

Images are (channels, H, W) as MAITE has them, in HU unless a window says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from maite.protocols import AugmentationMetadata, DatasetMetadata, DatumMetadata, MetricMetadata, ModelMetadata
from maite.protocols.image_classification import DatumMetadataType, InputType, TargetType
from numpy.typing import NDArray

from robustkit.errors import DataError, UsageError
from robustkit.interop.noise import Perturbation, plane_of
from robustkit.interop.predict import PredictClassifier, from_predict
from robustkit.models import refer
from robustkit.stats.intervals import clopper_pearson
from robustkit.types import Classifier, PixelSize, Slice

Batch = tuple[Sequence[InputType], Sequence[TargetType], Sequence[DatumMetadataType]]


class NoiseAugmentation:
    """The noise of one dose on every image of a batch; targets pass, metadata say which noise it was.

    Parameters are those of `robustkit.interop.Perturbation`. A datum whose metadata have `pixel_mm` is taken at that
    spacing.
    """

    metadata: AugmentationMetadata

    def __init__(self, mas: float = 25.0, **settings: Any) -> None:
        self.noise = Perturbation(mas, **settings)
        self.metadata = AugmentationMetadata(id=f"robustkit-{self.noise.noise}-{mas:g}")

    def __call__(self, batch: Batch, /) -> Batch:
        """Return the batch with noise; what was given stays as it was."""
        inputs, targets, metadata = batch
        noisy = [
            self.noise(np.asarray(image), channel_axis=0, pixel_mm=dict(datum).get("pixel_mm"))
            for image, datum in zip(inputs, metadata, strict=True)
        ]
        told = {"noise": self.noise.noise, "level": self.noise.level, "seed": self.noise.seed}
        told["realization"] = self.noise.realization
        marked: list[Any] = [{**datum, "robustkit": told} for datum in metadata]
        return noisy, targets, marked


class ClassifierModel:
    """A model file, a plugin's model or any robustkit classifier as a MAITE model.

    Parameters
    ----------
    model : what `robustkit audit` takes, or a classifier. spec : the input spec's flags by name.
    pixel_mm : (row, column) spacing of the images it will be given.
    """

    metadata: ModelMetadata

    def __init__(self, model: str | Path | Classifier, *, pixel_mm: PixelSize = (1.0, 1.0), **spec: Any) -> None:
        reference = refer(model, spec)
        self.classifier = reference.load()
        self.pixel_mm = pixel_mm
        labels = dict(enumerate(self.classifier.classes))
        self.metadata = ModelMetadata(id=f"{reference.name}-{reference.sha256[:8]}", index2label=labels)

    def __call__(self, batch: Sequence[InputType], /) -> Sequence[NDArray[np.float32]]:
        """Return probabilities (Cl,) of each image (C, H, W) in HU."""
        planes = [plane_of(np.asarray(image), 0).astype(np.float32) for image in batch]
        return [self.classifier.predict(plane[None], self.pixel_mm)[0] for plane in planes]


class SarMetric:
    """How often predictions differ from their targets: SAR where the targets are the predictions without noise.

    `SliceDataset(slices, model)` has those for targets. With true labels for targets it is the error rate.
    """

    metadata: MetricMetadata

    def __init__(self, confidence: float = 0.95) -> None:
        self.metadata = MetricMetadata(id="robustkit-sar")
        self.confidence = confidence
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self._counts: dict[int, list[int]] = {}

    def update(
        self,
        pred_batch: Sequence[TargetType],
        target_batch: Sequence[TargetType],
        metadata_batch: Sequence[DatumMetadataType],
        /,
    ) -> None:
        """Count one batch: predictions and targets, each (Cl,)."""
        for prediction, target in zip(pred_batch, target_batch, strict=True):
            clean, noisy = int(np.argmax(np.asarray(target))), int(np.argmax(np.asarray(prediction)))
            counts = self._counts.setdefault(clean, [0, 0])
            counts[0] += noisy != clean
            counts[1] += 1

    def compute(self) -> Mapping[str, Any]:
        """Return sar, k, n, low, high (exact interval), and `classes`: the same for each clean class."""
        k, n = (sum(counts[i] for counts in self._counts.values()) for i in (0, 1))
        return {**self._rate(k, n), "classes": {c: self._rate(*kn) for c, kn in sorted(self._counts.items())}}

    def _rate(self, k: int, n: int) -> dict[str, Any]:
        if not n:
            return {"sar": None, "k": 0, "n": 0, "low": None, "high": None}
        interval = clopper_pearson(k, n, self.confidence)
        return {"sar": k / n, "k": k, "n": n, "low": float(interval.low), "high": float(interval.high)}


class SliceDataset:
    """Slices as a MAITE dataset of (1, H, W) images in HU.

    Targets are one-hot: of `model`'s answers without noise where one is given, else of the slices' labels.
    """

    metadata: DatasetMetadata

    def __init__(
        self, slices: Sequence[Slice], model: Classifier | None = None, classes: Sequence[str] | None = None
    ) -> None:
        names = list(classes or (model.classes if model else sorted({str(item.label) for item in slices})))
        if model is None and any(item.label not in names for item in slices):
            raise DataError(f"slices need a label of {', '.join(names)}, or a model that says what they are")
        self.slices = list(slices)
        self.metadata = DatasetMetadata(id="robustkit-slices", index2label=dict(enumerate(names)))
        self.targets = [np.eye(len(names), dtype=np.float32)[_answer(item, model, names)] for item in self.slices]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, ind: int, /) -> tuple[NDArray[np.float32], NDArray[np.float32], DatumMetadata]:
        item = self.slices[ind]
        datum: Any = {"id": item.id, "pixel_mm": item.pixel_mm}
        return item.pixels[None], self.targets[ind], datum


def from_maite(model: Any, spec: Mapping[str, Any]) -> PredictClassifier:
    """Return a MAITE image-classification model as a classifier that robustkit audits.

    Parameters
    ----------
    model : takes a sequence of (C, H, W), returns a sequence of (Cl,). spec : the input spec's flags; the layout is
        MAITE's, class names come from the model's `index2label` where it has one.
    """
    labels = dict(model.metadata.get("index2label") or {})
    classes = tuple(str(labels[i]) for i in sorted(labels)) if len(labels) > 1 else None
    if spec.get("layout") not in (None, "nchw"):
        raise UsageError("a MAITE model takes (channels, H, W); drop layout")
    return from_predict(
        _Batches(model), {"channels": 1, **spec, "layout": "nchw"}, name=str(model.metadata["id"]), classes=classes
    )


class _Batches:
    """A MAITE model as a function of arrays (B, C, H, W)."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.asarray(scores) for scores in self.model(list(inputs))])


def _answer(item: Slice, model: Classifier | None, names: Sequence[str]) -> int:
    if model is None:
        return names.index(str(item.label))
    return int(model.predict(item.pixels[None], item.pixel_mm)[0].argmax())
