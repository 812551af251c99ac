import json

import numpy as np
import pytest
from nrtk.impls.perturb_factory import PerturberStepFactory
from nrtk.interfaces import PerturbImage
from nrtk.interop import MAITEImageClassificationAugmentation
from smqtk_core.configuration import configuration_test_helper

from robustkit.errors import DataError
from robustkit.interop import Perturbation
from robustkit.interop.nrtk import CtNoisePerturber
from robustkit.testing import make_slice

WHITE = {"noise": "white", "settings": {"sigma": 20.0, "reference_mas": 100.0}}


def test_perturber_is_discovered() -> None:
    assert CtNoisePerturber in PerturbImage.get_impls()
    assert CtNoisePerturber.get_type_string() == "robustkit.interop.nrtk.CtNoisePerturber"


def test_swept_in_mas_by_nrtks_own_factory() -> None:
    """Ten HU more noise variance at each halving of the dose, on one realization: sd goes with 1 / sqrt(mAs)."""
    image = make_slice().pixels
    factory = PerturberStepFactory(
        perturber=CtNoisePerturber, theta_key="mas", start=25.0, stop=101.0, step=25.0, perturber_kwargs=WHITE
    )
    assert list(factory.thetas) == [25.0, 50.0, 75.0, 100.0]
    noise = [perturber(image=image)[0] - image for perturber in factory]
    for mas, found in zip(factory.thetas, noise, strict=True):
        assert found.std() == pytest.approx(20.0 * (100.0 / mas) ** 0.5, rel=0.05)
        assert np.corrcoef(found.ravel(), noise[0].ravel())[0, 1] > 0.999
    assert np.array_equal(noise[0] + image, Perturbation(25.0, **WHITE)(image))


def test_configuration_travels_as_json() -> None:
    given = CtNoisePerturber(mas=50.0, seed=3, pixel_mm=(0.5, 0.5), window=(-1000, 1000), **WHITE)
    for found in configuration_test_helper(given):
        again = CtNoisePerturber.from_config(json.loads(json.dumps(found.get_config())))
        assert again.get_config() == given.get_config()
        image = np.full((16, 16), 0.4, np.float32)
        assert np.array_equal(again(image=image)[0], given(image=image)[0])


def test_bytes_with_channels_keep_their_form_and_boxes() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    boxes = [("box", {"a": 1.0})]
    found, kept = CtNoisePerturber(mas=25.0, window=(-1000, 1000), **WHITE)(image=image, boxes=boxes)
    assert (found.shape, found.dtype) == (image.shape, image.dtype)
    assert kept == boxes
    assert (image == 100).all()
    assert found.std() > 1
    with pytest.raises(DataError, match="holds no HU"):
        CtNoisePerturber(**WHITE)(image=image)


def test_nrtks_maite_wrapper_takes_it() -> None:
    wrapped = MAITEImageClassificationAugmentation(augment=CtNoisePerturber(mas=25.0, **WHITE), augment_id="ct")
    image = np.zeros((1, 16, 16), np.float32)
    noisy, _, metadata = wrapped(([image], [np.eye(2)[0]], [{"id": 0}]))
    assert noisy[0].std() == pytest.approx(40.0, rel=0.2)
    assert metadata[0]["nrtk_perturber_config"][0]["mas"] == 25.0
