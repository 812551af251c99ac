"""What the toolkits share, without any of them."""

from pathlib import Path

import numpy as np
import pytest

from robustkit import draws
from robustkit.errors import DataError, ModelError, UsageError
from robustkit.interop import Perturbation, from_predict
from robustkit.interop.noise import channel_axis_of
from robustkit.run import audit_model
from robustkit.testing import FakeClassifier, make_slice

WHITE = {"noise": "white", "settings": {"sigma": 20.0, "reference_mas": 100.0}}


def test_image_is_that_of_the_row_of_an_audit(tmp_path: Path) -> None:
    """An audit and a loop over realizations flip the same ones, bit for bit the same images."""
    item = make_slice()
    path = tmp_path / "image.npz"
    np.savez(path, pixels=item.pixels, pixel_mm=np.array(item.pixel_mm))
    model = FakeClassifier(threshold=float(item.pixels.mean(dtype=np.float64)) - 0.2)
    outcome = audit_model(model, images=str(path), levels=[25.0], n=40, out=tmp_path / "run", **WHITE)
    noisy = np.stack(
        [Perturbation(25.0, realization=r, pixel_mm=item.pixel_mm, **WHITE)(item.pixels) for r in range(40)]
    )
    answers = model.predict(noisy, item.pixel_mm).argmax(axis=1)
    table = outcome.table.sort_values("realization")
    assert [model.classes[i] for i in answers] == table["noisy"].tolist()
    assert 0 < (answers != model.predict(item.pixels[None], item.pixel_mm).argmax()).sum() < 40


def test_scanner_noise_follows_the_dose_law_and_is_paired() -> None:
    item = make_slice()
    low, high = (Perturbation(mas, pixel_mm=item.pixel_mm)(item.pixels) - item.pixels for mas in (25.0, 100.0))
    assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.99
    assert low.std() / high.std() == pytest.approx(2.0, rel=0.1)


def test_window_maps_values_to_hu_and_back() -> None:
    """White noise of 20 HU in a window of 2000 HU is 20 / 2000 of the range."""
    unit = np.full((64, 64), 0.5, np.float32)
    found = Perturbation(100.0, window=(-1000, 1000), **WHITE)(unit)
    assert (found - unit).std() == pytest.approx(0.01, rel=0.05)  # 4096 pixels: 1.1 % standard error
    bytes_ = np.full((64, 64), 128, np.uint8)
    noisy = Perturbation(100.0, window=(-1000, 1000), **WHITE)(bytes_)
    assert noisy.dtype == np.uint8
    assert noisy.astype(float).std() == pytest.approx((2.55**2 + 1 / 12) ** 0.5, rel=0.05)
    assert (bytes_ == 128).all()
    ends = Perturbation(1.0, window=(-1000, 1000), **WHITE)(np.zeros((64, 64), np.float32))
    assert ends.min() == 0.0


def test_channels_get_the_same_noise() -> None:
    image = np.zeros((3, 32, 32), np.int16)
    found = Perturbation(100.0, **WHITE)(image, channel_axis=0)
    assert found.shape == image.shape
    assert found.dtype == np.int16
    assert (found == found[:1]).all()
    last = Perturbation(100.0, **WHITE)(np.moveaxis(image, 0, 2), channel_axis=2)
    assert np.array_equal(np.moveaxis(last, 2, 0), found)


def test_noise_is_that_of_its_draw() -> None:
    pixels = np.zeros((16, 16), np.float32)
    found = Perturbation(100.0, realization=7, seed=3, **WHITE)(pixels)
    other = Perturbation(100.0, realization=8, seed=3, **WHITE)(pixels)
    again = Perturbation(100.0, realization=7, seed=3, **WHITE)(pixels)
    assert np.array_equal(found, again)
    assert not np.array_equal(found, other)
    assert draws(3, "audit", "x", [7])[0].realization == 7


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8), np.uint8), "holds no HU"),
        (np.arange(3 * 64, dtype=np.float32).reshape(3, 8, 8), "channels of the image differ"),
        (np.zeros((2, 2, 8, 8), np.float32), "one image"),
        (np.full((8, 8), np.nan, np.float32), "NaN or infinite"),
    ],
)
def test_images_that_cannot_be_hu_are_refused(image: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Perturbation(25.0, **WHITE)(image, channel_axis=0)


def test_requests_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="positive"):
        Perturbation(0.0)
    with pytest.raises(UsageError, match="give the window"):
        Perturbation(25.0, range=(0, 255))
    with pytest.raises(DataError, match="no plain channel axis"):
        channel_axis_of((3, 8, 3))


def test_function_is_audited_like_the_model_it_computes() -> None:
    weights = np.random.default_rng(0).normal(size=(256, 3))
    model = from_predict(
        lambda x: x.reshape(len(x), -1) @ weights,
        {"window": "-1000,1000", "size": "16,16", "layout": "nhwc", "channels": 1},
    )
    pixels = np.random.default_rng(1).uniform(-900, 900, (5, 16, 16)).astype(np.float32)
    scores = ((pixels.astype(float) + 1000) / 2000).reshape(5, -1) @ weights
    power = np.exp(scores - scores.max(axis=1, keepdims=True))
    with pytest.raises(ModelError, match="predict function failed on input of shape"):
        from_predict(lambda x: x @ weights, {"window": "none", "layout": "nhwc", "channels": 1})
    with pytest.raises(UsageError, match="window"):
        from_predict(lambda x: x, {"layout": "nhwc", "channels": 1})
    assert model.spec.kind == "logits"
    assert model.predict(pixels, (1.0, 1.0)) == pytest.approx(power / power.sum(axis=1, keepdims=True), abs=1e-5)
