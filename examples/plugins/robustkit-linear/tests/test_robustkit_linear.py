import numpy as np
import pytest
from robustkit_linear import robustkit_load_model

import robustkit
from robustkit import registry
from robustkit.testing import check_classifier, make_slice

SHAPE = (64, 80)


def saved(folder, **changes):
    """Save a model that tells dark inserts from bright ones by the mean of the image."""
    slope = np.stack([np.full(SHAPE, -1e-5), np.full(SHAPE, 1e-5)])
    parts = {"weights": slope, "bias": np.array([-26.0, 26.0]), "classes": np.array(["dark", "bright"])}
    path = folder / "model.npz"
    np.savez(path, **(parts | changes))
    return path


def test_conforms(tmp_path):
    images = [make_slice(insert, shape=SHAPE) for insert in (-300.0, 0.0, 300.0)]
    check_classifier(robustkit_load_model(saved(tmp_path), {}), images=images)


def test_probability_is_the_logistic_of_the_margin(tmp_path):
    image = make_slice(60.0, shape=SHAPE)
    model = robustkit_load_model(saved(tmp_path), {})
    margin = 2e-5 * image.pixels.sum(dtype=np.float64) + 52.0
    bright = model.predict(image.pixels[None], image.pixel_mm)[0, 1]
    np.testing.assert_allclose(bright, 1 / (1 + np.exp(-margin)), rtol=1e-3)


def test_other_archives_are_left_to_others(tmp_path):
    np.savez(tmp_path / "images.npz", pixels=np.zeros((4, 4)))
    assert robustkit_load_model(tmp_path / "images.npz", {}) is None


def test_pickled_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        robustkit_load_model(saved(tmp_path, weights=np.array([object()])), {})


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(robustkit.ModelError, match="64, 80"):
        robustkit_load_model(saved(tmp_path), {}).predict(np.zeros((1, 8, 8), np.float32), (1.0, 1.0))


def test_robustkit_opens_it(tmp_path):
    installed = registry.load()
    assert installed.info("linear").reason == ""
    assert installed.load_model(saved(tmp_path), {}).classes == ("dark", "bright")
