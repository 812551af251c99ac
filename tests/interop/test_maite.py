from importlib.metadata import entry_points
from pathlib import Path

import maite.protocols.image_classification as ic
import numpy as np
import pytest
from maite import tasks
from maite.spotcheck import spotcheck_component

from robustkit.errors import DataError, UsageError
from robustkit.interop.maite import ClassifierModel, NoiseAugmentation, SarMetric, SliceDataset, from_maite
from robustkit.run import audit_model
from robustkit.stats.intervals import clopper_pearson
from robustkit.testing import FakeClassifier, make_slice, make_slices

WHITE = {"noise": "white", "settings": {"sigma": 20.0, "reference_mas": 100.0}}


class Linear:
    """A third party's MAITE model: the mean over a weight map, as a softmax of two."""

    metadata = {"id": "linear", "index2label": {0: "low", 1: "high"}}  # noqa: RUF012

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, batch):
        margins = [float(np.asarray(image, np.float64).mean()) - self.threshold for image in batch]
        return [np.array([0.0, m], np.float32) for m in margins]


def test_components_pass_maites_own_spotcheck() -> None:
    slices = make_slices(3)
    model = FakeClassifier(threshold=float(slices[0].pixels.mean(dtype=np.float64)))
    dataset = spotcheck_component(ic.Dataset)(SliceDataset(slices, model))
    augmentation = spotcheck_component(ic.Augmentation)(NoiseAugmentation(25.0, **WHITE))
    wrapped = spotcheck_component(ic.Model)(ClassifierModel(model))
    metric = spotcheck_component(ic.Metric)(SarMetric())
    found, _, _ = tasks.evaluate(model=wrapped, dataset=dataset, augmentation=augmentation, metric=metric, batch_size=2)
    assert found["n"] == 3
    assert isinstance(wrapped, ic.Model) or hasattr(wrapped, "metadata")


def test_evaluate_finds_the_sar_of_an_audit(tmp_path: Path) -> None:
    """MAITE's own loop over 30 realizations counts what audit_model counts."""
    item = make_slice()
    model = FakeClassifier(threshold=float(item.pixels.mean(dtype=np.float64)) - 0.2)
    np.savez(tmp_path / "image.npz", pixels=item.pixels, pixel_mm=np.array(item.pixel_mm))
    outcome = audit_model(model, images=str(tmp_path / "image.npz"), levels=[25.0], n=30, out=tmp_path / "run", **WHITE)
    dataset, metric = SliceDataset([item], model), SarMetric()
    for realization in range(30):
        noise = NoiseAugmentation(25.0, realization=realization, **WHITE)
        predictions, _ = tasks.predict(
            model=ClassifierModel(model, pixel_mm=item.pixel_mm), dataset=dataset, augmentation=noise
        )
        for part in predictions:
            metric.update(part, [dataset.targets[0]], [{"id": item.id}])
    found = metric.compute()
    row = next(r for r in outcome.summary["sar"] if r["n"])
    assert (found["k"], found["n"]) == (row["k"], row["n"])
    assert 0 < found["k"] < 30
    interval = clopper_pearson(row["k"], 30)
    assert (found["low"], found["high"]) == pytest.approx((float(interval.low), float(interval.high)))


def test_components_are_found_by_entry_point() -> None:
    for protocol, cls in (("Augmentation", NoiseAugmentation), ("Model", ClassifierModel), ("Metric", SarMetric)):
        found = [
            p
            for p in entry_points(group=f"maite.protocols.image_classification.{protocol}")
            if p.dist.name == "robustkit"
        ]
        assert [point.load() for point in found] == [cls]
        assert [point.name for point in found] == [f"robustkit_{cls.__name__}"]


def test_maite_model_is_audited(tmp_path: Path) -> None:
    item = make_slice()
    probe = FakeClassifier(threshold=float(item.pixels.mean(dtype=np.float64)) - 0.2)
    np.savez(tmp_path / "image.npz", pixels=item.pixels, pixel_mm=np.array(item.pixel_mm))
    model = from_maite(Linear(probe.threshold), {"window": "none"})
    assert model.classes == ("low", "high")
    outcome = audit_model(
        model, images=str(tmp_path / "image.npz"), levels=[25.0], n=400, out=tmp_path / "run", **WHITE
    )
    row = next(r for r in outcome.summary["sar"] if r["n"])
    p = probe.flip_probability(item.pixels, 40.0)  # 20 HU at 100 mAs are 40 HU at 25
    assert abs(row["k"] - 400 * p) < 4 * (400 * p * (1 - p)) ** 0.5  # four standard errors: one false alarm in 16,000


def test_augmentation_says_what_it_did_and_leaves_its_input_alone() -> None:
    image = np.zeros((1, 16, 16), np.float32)
    noisy, targets, metadata = NoiseAugmentation(50.0, seed=2, **WHITE)(([image], [np.eye(2)[0]], [{"id": "a"}]))
    assert not image.any()
    assert noisy[0].shape == image.shape
    assert (targets[0] == [1.0, 0.0]).all()
    assert metadata == [{"id": "a", "robustkit": {"noise": "white", "level": 50.0, "seed": 2, "realization": 0}}]


def test_metric_tells_classes_apart_and_forgets() -> None:
    metric = SarMetric()
    metric.update([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [[1, 0], [1, 0], [0, 1]], [{"id": i} for i in range(3)])
    found = metric.compute()
    assert (found["k"], found["n"]) == (1, 3)
    assert [(c, row["k"], row["n"]) for c, row in found["classes"].items()] == [(0, 1, 2), (1, 0, 1)]
    metric.reset()
    assert metric.compute()["sar"] is None


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="drop layout"):
        from_maite(Linear(0.0), {"window": "none", "layout": "nhwc"})
    with pytest.raises(DataError, match="need a label"):
        SliceDataset([make_slice()], classes=["a", "b"])
