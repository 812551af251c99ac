import numpy as np
import pytest
from robustkit_ct_bodysite.network import Settings, SiteNet, placed, scaled, untrained, zoom_index, zoomed
from robustkit_ct_bodysite.patient import SITES

from robustkit import DataError, Slice, UsageError, slice_id

torch = pytest.importorskip("torch")
SMALL = Settings(size=32, filters=(4, 4, 8), hidden=16, epochs=2, batch=8, rate=2e-3)


def toy(count: int = 48) -> list[Slice]:
    """Discs of four sizes: a class each, with noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:128, :128] - 63.5
    made = []
    for i in range(count):
        disc = np.hypot(x, y) < 12 * (1 + i % 4)
        pixels = np.where(disc, 40.0, -1000.0).astype(np.float32) + rng.normal(0, 15, x.shape).astype(np.float32)
        spacing = (500 / 128, 500 / 128)
        made.append(Slice(id=slice_id(pixels, spacing), pixels=pixels, pixel_mm=spacing, label=SITES[i % 4]))
    return made


def test_network_is_the_papers() -> None:
    shapes = Settings().shapes()
    assert [shapes[f"conv{i}.weight"][:2] for i in (1, 2, 3)] == [(8, 1), (16, 8), (32, 16)]
    assert shapes["dense1.weight"] == (64, 32 * 8 * 8)
    assert shapes["dense2.weight"] == (4, 64)
    s = Settings()
    assert (s.epochs, s.batch, s.scaling) == (20, 64, (0.8, 1.2))


def test_probabilities_sum_to_one() -> None:
    found = untrained(Settings(), 3).predict(np.stack([item.pixels for item in toy(5)]), (3.9, 3.9))
    assert found.shape == (5, 4)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)


def test_two_epochs_reduce_the_loss() -> None:
    model = untrained(SMALL, 0).fit(toy(), 0, epochs=12)
    assert model.history[-1] < 0.8 * model.history[0]


def test_same_seed_same_weights_and_another_seed_others() -> None:
    data = toy()
    first, again, other = (untrained(SMALL, seed).fit(data, seed) for seed in (5, 5, 6))
    for name, value in first.weights.items():
        np.testing.assert_array_equal(value, again.weights[name])
    assert any((value != other.weights[name]).any() for name, value in first.weights.items())


def test_fit_returns_a_new_model() -> None:
    start = untrained(SMALL, 0)
    before = {name: value.copy() for name, value in start.weights.items()}
    start.fit(toy(8), 0)
    for name, value in start.weights.items():
        np.testing.assert_array_equal(value, before[name])


def test_training_leaves_torch_as_it_was() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    untrained(SMALL, 0).fit(toy(8), 0)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(3), expected)


def test_predictions_do_not_depend_on_the_batch() -> None:
    model = untrained(Settings(), 2)
    images = np.stack([item.pixels for item in toy(70)])
    whole = model.predict(images, (3.9, 3.9))
    single = np.concatenate([model.predict(image[None], (3.9, 3.9)) for image in images])
    np.testing.assert_allclose(whole, single, atol=1e-6)


def test_any_matrix_can_train() -> None:
    data = toy(8)
    large = np.kron(data[0].pixels, np.ones((4, 4), np.float32))
    data[0] = Slice(id="a", pixels=large, pixel_mm=(500 / 512, 500 / 512), label="BN")
    same = untrained(SMALL, 0).fit(data, 0)
    np.testing.assert_array_equal(
        same.weights["conv1.weight"], untrained(SMALL, 0).fit(toy(8), 0).weights["conv1.weight"]
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "two classes"),
        (toy(1) * 3, "two classes"),
        ([Slice("x", np.zeros((8, 8), np.float32), (1, 1), "head")], "head"),
    ],
    ids=["none", "one class", "unknown label"],
)
def test_unusable_training_sets_are_refused(data, message) -> None:
    with pytest.raises(DataError, match=message):
        untrained(SMALL, 0).fit(data, 0)


def test_unknown_option_is_refused() -> None:
    with pytest.raises(UsageError, match="momentum"):
        untrained(SMALL, 0).fit(toy(4), 0, momentum=0.9)


def test_window_maps_to_zero_and_one() -> None:
    found = scaled(np.array([-2000.0, -160.0, 40.0, 240.0, 3071.0], np.float32), (-160.0, 240.0))
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_placing_respects_millimetres() -> None:
    y, x = np.mgrid[:512, :512] - 255.5
    for spacing in (0.4, 0.977, 1.3):
        disc = np.where(np.hypot(x, y) * spacing < 80.0, 0.0, -1000.0).astype(np.float32)
        small = placed(disc[None], (spacing, spacing), 128)[0]
        area = (small > -500).sum() * (500 / 128) ** 2
        assert area == pytest.approx(np.pi * 80.0**2, rel=0.03)


def test_a_tight_field_is_padded_with_air() -> None:
    small = placed(np.zeros((1, 100, 100), np.float32), (2.0, 2.0), 50)[0]
    assert (small == 0).sum() == 20 * 20
    assert (small[15:35, 15:35] == 0).all()
    assert (small[0] == -1000).all()


def test_zoom_of_one_is_decimation_and_two_doubles() -> None:
    images = np.arange(2 * 64.0 * 64, dtype=np.float32).reshape(2, 64, 64)
    where, at = np.array([1, 1, 0]), zoom_index(np.array([1.0, 2.0, 0.5]), 32, 64)
    for found in (zoomed(images, where, at), zoomed(*map(torch.from_numpy, (images, where, at))).numpy()):
        np.testing.assert_array_equal(found[0], images[1, 1::2, 1::2])
        np.testing.assert_array_equal(found[1], images[1, 16:48, 16:48])
        assert (found[2, :7] == 0).all()
        assert (found[2, 8:24, 8:24] == images[0, 2::4, 2::4]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_trains_the_same_network_but_for_rounding(monkeypatch) -> None:
    data = toy()
    start = untrained(SMALL, 3)
    found, again = (start.fit(data, 5) for _ in range(2))
    monkeypatch.setattr("robustkit_ct_bodysite.network.training_device", lambda: "cpu")
    expected = start.fit(data, 5)
    for name, values in found.weights.items():
        np.testing.assert_array_equal(values, again.weights[name])
    np.testing.assert_allclose(found.history, expected.history, rtol=1e-4)  # Adam enlarges rounding of tiny gradients


def test_onnx_file_gives_what_torch_gives(tmp_path) -> None:
    pytest.importorskip("onnx")
    from robustkit_ct_bodysite.export import save

    from robustkit.adapters import load_model

    model = untrained(Settings(window=(-60.0, 120.0)), 4)
    save(model, tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx", {})
    assert loaded is not None
    assert loaded.classes == SITES
    rng = np.random.default_rng(0)
    for shape, spacing in (((3, 512, 512), (0.9765625, 0.9765625)), ((2, 215, 252), (0.977, 0.977))):
        images = rng.uniform(-400, 400, shape).astype(np.float32)
        np.testing.assert_allclose(loaded.predict(images, spacing), model.predict(images, spacing), atol=1e-5)


def test_state_dict_holds_the_same_weights(tmp_path) -> None:
    pytest.importorskip("onnx")
    from robustkit_ct_bodysite.export import save

    model: SiteNet = untrained(SMALL, 1)
    save(model, tmp_path / "m.onnx")
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    assert set(state) == set(model.weights)
    for name, value in model.weights.items():
        np.testing.assert_array_equal(state[name].numpy(), value)
