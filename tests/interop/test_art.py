from pathlib import Path

import numpy as np
import pytest
from art.attacks import EvasionAttack
from art.estimators.classification import BlackBoxClassifier, SklearnClassifier
from sklearn.linear_model import LogisticRegression

from robustkit.errors import UsageError
from robustkit.interop import Perturbation
from robustkit.interop.art import NoiseAttack, from_estimator
from robustkit.run import audit_model
from robustkit.testing import FakeClassifier, make_slice

WHITE = {"noise": "white", "settings": {"sigma": 20.0, "reference_mas": 100.0}}


@pytest.fixture
def probe() -> FakeClassifier:
    return FakeClassifier(threshold=float(make_slice().pixels.mean(dtype=np.float64)) - 0.2)


def black_box(probe: FakeClassifier, side: tuple[int, int], layout: str = "nchw") -> BlackBoxClassifier:
    def scores(x: np.ndarray) -> np.ndarray:
        return probe.predict(x[:, 0] if layout == "nchw" else x[..., 0], (1.0, 1.0))

    return BlackBoxClassifier(scores, (1, *side) if layout == "nchw" else (*side, 1), 2, clip_values=(-1024.0, 3071.0))


def test_noise_is_an_evasion_attack(probe: FakeClassifier) -> None:
    item = make_slice()
    attack = NoiseAttack(black_box(probe, item.pixels.shape), mas=25.0, **WHITE)
    assert isinstance(attack, EvasionAttack)
    found = attack.generate(item.pixels[None, None])
    assert np.array_equal(found[0, 0], Perturbation(25.0, **WHITE)(item.pixels))
    last = NoiseAttack(mas=25.0, **WHITE).generate(item.pixels[None, :, :, None])
    assert np.array_equal(last[0, :, :, 0], found[0, 0])
    assert np.array_equal(NoiseAttack(mas=25.0, **WHITE).generate(item.pixels[None])[0], found[0, 0])
    attack.set_params(mas=400.0)
    assert (attack.generate(item.pixels[None, None]) - item.pixels).std() == pytest.approx(10.0, rel=0.1)


def test_more_tries_stop_at_the_first_realization_that_flips(probe: FakeClassifier) -> None:
    item = make_slice()
    estimator = black_box(probe, item.pixels.shape)
    clean = probe.predict(item.pixels[None], (1.0, 1.0)).argmax()
    noisy = [Perturbation(25.0, realization=r, **WHITE)(item.pixels) for r in range(60)]
    answers = probe.predict(np.stack(noisy), (1.0, 1.0)).argmax(axis=1)
    first = int(np.flatnonzero(answers != clean)[0])
    assert first > 0
    found = NoiseAttack(estimator, mas=25.0, tries=60, **WHITE).generate(item.pixels[None, None])
    assert np.array_equal(found[0, 0], noisy[first])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_black_box_estimator_is_audited(tmp_path: Path, probe: FakeClassifier, layout: str) -> None:
    item = make_slice()
    np.savez(tmp_path / "image.npz", pixels=item.pixels, pixel_mm=np.array(item.pixel_mm))
    model = from_estimator(black_box(probe, item.pixels.shape, layout), {"window": "none", "kind": "probabilities"})
    assert model.spec.layout == layout
    ran = [
        audit_model(m, images=str(tmp_path / "image.npz"), levels=[25.0], n=50, out=tmp_path / name, **WHITE)
        for name, m in (("theirs", model), ("ours", probe))
    ]
    theirs, ours = ([r["k"] for r in outcome.summary["sar"] if r["n"]] for outcome in ran)
    assert theirs == ours
    assert 0 < theirs[0] < 50


@pytest.mark.parametrize("wrapped", [True, False])
def test_scikit_learn_estimators_are_audited(wrapped: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 64)) + np.repeat(np.arange(3), 30)[:, None]
    estimator = LogisticRegression().fit(x, np.repeat(np.arange(3), 30))
    spec = {"window": "-1000,1000", "range": "-2,4", "size": "8,8", "layout": "nchw", "channels": 1}
    model = from_estimator(SklearnClassifier(estimator) if wrapped else estimator, spec)
    pixels = rng.uniform(-900, 900, (5, 8, 8)).astype(np.float32)
    inputs = ((pixels + 1000.0) / 2000.0 * 6.0 - 2.0).reshape(5, -1)
    assert model.predict(pixels, (1.0, 1.0)) == pytest.approx(estimator.predict_proba(inputs), abs=1e-4)
    assert model.spec.kind == "probabilities"


def test_clip_values_are_the_range(probe: FakeClassifier) -> None:
    model = from_estimator(black_box(probe, (64, 64)), {"window": "-1000,1000", "kind": "probabilities"})
    assert model.spec.range == (-1024.0, 3071.0)
    assert model.spec.size == (64, 64)


def test_tries_without_an_estimator_are_refused() -> None:
    with pytest.raises(UsageError, match="needs an estimator"):
        NoiseAttack(mas=25.0, tries=3)
