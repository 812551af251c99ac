"""The recipes as studies take them: thinning that changes no answer, models kept, the same network in Keras."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from robustkit_ct_bodysite.cohort import Cohort
from robustkit_ct_bodysite.network import Settings, SiteNet, untrained
from robustkit_ct_bodysite.patient import SITES
from robustkit_ct_bodysite.phantom import phantom_slice
from robustkit_ct_bodysite.recipe import RECIPES, SiteRecipe
from robustkit_ct_bodysite.study import Study, _step

from robustkit import DataError, Slice, UsageError, slice_id
from robustkit.recipes import thinned
from robustkit.testing import check_trainable

pytest.importorskip("torch")
SMALL = Settings(size=32, filters=(4, 4, 8), hidden=16, epochs=2, batch=8, rate=2e-3)
STUDY = Study(RECIPES["ct-bodysite"])


def toy(count: int = 32) -> list[Slice]:
    """Discs of four sizes: a class each, with noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:128, :128] - 63.5
    made = []
    for i in range(count):
        disc = np.hypot(x, y) < 12 * (1 + i % 4)
        pixels = np.where(disc, 40.0, -1000.0).astype(np.float32) + rng.normal(0, 15, x.shape).astype(np.float32)
        spacing = (500 / 128, 500 / 128)
        made.append(Slice(slice_id(pixels, spacing), pixels, spacing, label=SITES[i % 4], group=f"g{i % 8}"))
    return made


def noisy_phantom() -> Slice:
    item = phantom_slice("C")
    pixels = item.pixels + np.random.default_rng(0).normal(0, 30, item.pixels.shape).astype(np.float32)
    return replace(item, pixels=pixels)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_thinned_slices_have_the_same_probabilities(size):
    study = Study(SiteRecipe("s", replace(SMALL, size=size), Cohort((0,), (1,))))
    model, item = study.build(3), noisy_phantom()
    step = study.every(item)
    assert step == 512 // size
    small = thinned(item, step)
    assert small.pixels.shape == (size, size)
    whole, thin = (model.predict(one.pixels[None], one.pixel_mm) for one in (item, small))
    np.testing.assert_array_equal(whole, thin)


def test_training_reads_what_thinning_for_training_keeps():
    study = Study(SiteRecipe("s", SMALL, Cohort((0,), (1,))))
    item = replace(noisy_phantom(), label="C")
    small = thinned(item, study.every(item, training=True))
    assert small.pixels.shape == (128, 128)
    others = toy(8)
    one, other = (untrained(SMALL, 0).fit([*others, x], 0).weights for x in (item, small))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_slices_of_odd_fields_are_not_thinned():
    item = Slice("x", np.zeros((215, 252), np.float32), (0.977, 0.977))
    assert STUDY.every(item) == 1
    assert _step(np.array([-1, 3, 7]), 10) == 1
    assert _step(np.array([1, 3, 5]), 6) == 2


def test_the_scorer_gives_the_models_answers():
    pytest.importorskip("onnx")
    model, item = untrained(SMALL, 2), noisy_phantom()
    both = [m.predict(item.pixels[None], item.pixel_mm) for m in (model, STUDY.scorer(model))]
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


def test_models_are_kept_and_read_back(tmp_path):
    model = untrained(SMALL, 4).fit(toy(8), 0, epochs=1)
    STUDY.save(model, tmp_path / "m.model")
    again = STUDY.load(tmp_path / "m.model")
    assert (again.settings, again.history) == (model.settings, model.history)
    for name, value in model.weights.items():
        np.testing.assert_array_equal(value, again.weights[name])
    with np.load(tmp_path / "m.model") as archive:
        kept = dict(archive)
    np.savez(tmp_path / "other.npz", **kept | {"settings": np.array('{"depth": 3}')})
    (tmp_path / "m.model").write_bytes(b"no")
    for name in ("m.model", "other.npz"):
        with pytest.raises(DataError, match=rf"{name} holds no body-site network"):
            STUDY.load(tmp_path / name)


def test_held_out_slices_are_never_attacked_and_show_their_site():
    attacked, held = STUDY.attacked(), STUDY.held_out()
    assert not {item.id for item in attacked} & {item.id for item in held}
    assert [item.label for item in held] == list(SITES)


def test_torch_network_is_trainable_as_the_kit_asks():
    check_trainable(untrained(SMALL, 0), data=toy(16), epochs=2)


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="torch and keras, not in 'jax'"):
        STUDY.with_backend("jax")


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow")
    pytest.importorskip("keras")
    from robustkit_ct_bodysite import keras_network

    return keras_network


def test_keras_network_gives_what_torch_gives(keras):
    net = untrained(Settings(), 5)
    images = np.stack([item.pixels for item in toy(6)])
    twin = keras.KerasNet(net.settings, net.weights)
    np.testing.assert_allclose(twin.predict(images, (3.9, 3.9)), net.predict(images, (3.9, 3.9)), atol=2e-6)


def test_keras_trains_as_torch_does(keras):
    net = untrained(SMALL, 5)
    torch_net = net.fit(toy(24), 1)
    keras_net = keras.KerasNet(net.settings, net.weights).fit(toy(24), 1)
    np.testing.assert_allclose(keras_net.history, torch_net.history, rtol=1e-4)
    images = np.stack([item.pixels for item in toy(8)])
    both = [n.predict(images, (3.9, 3.9)) for n in (keras_net, torch_net)]
    np.testing.assert_allclose(*both, atol=2e-3)  # Adam turns rounding of tiny gradients into whole steps


def test_keras_network_is_trainable_as_the_kit_asks(keras):
    net = untrained(SMALL, 0)
    check_trainable(keras.KerasNet(net.settings, net.weights), data=toy(16), epochs=1)


def test_keras_refuses_what_torch_refuses(keras):
    twin = keras.KerasNet(SMALL, untrained(SMALL, 0).weights)
    with pytest.raises(DataError, match="two classes"):
        twin.fit(toy(1), 0)
    with pytest.raises(UsageError, match="momentum"):
        twin.fit(toy(4), 0, momentum=0.9)


def test_keras_network_pickles_without_its_framework(keras):
    twin = keras.KerasNet(SMALL, untrained(SMALL, 0).weights)
    before = twin.predict(toy(1)[0].pixels[None], (3.9, 3.9))
    again = pickle.loads(pickle.dumps(twin))
    np.testing.assert_array_equal(again.predict(toy(1)[0].pixels[None], (3.9, 3.9)), before)


def test_one_set_of_weights_in_three_files(keras, tmp_path):
    pytest.importorskip("onnx")
    from robustkit.adapters import load_model

    model: SiteNet = untrained(SMALL, 6)
    written = STUDY.export(model, tmp_path, "model")
    assert [path.name for path in written] == ["model.onnx", "model.pt", "model.keras"]
    item = noisy_phantom()
    expected = model.predict(item.pixels[None], item.pixel_mm)
    for path in (written[0], written[2]):
        loaded = load_model(path, {})
        assert loaded is not None
        np.testing.assert_allclose(loaded.predict(item.pixels[None], item.pixel_mm), expected, atol=1e-5)
