"""The audit's core: what is added, what is scored, what it depends on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import norm

from robustkit import Slice, Storage, draws, slice_id
from robustkit.audit import (
    Case,
    decide,
    draws_per_call,
    merge_null_audits,
    null_audit,
    perturb,
    predict_clean,
    score,
    score_realizations,
    tie_limit,
)
from robustkit.errors import ModelError, RobustkitError

SHAPE = (24, 20)


@dataclass(frozen=True)
class Probe:
    """Two classes by the sign of mean(image) - threshold; probability by a logistic of the distance."""

    threshold: float = 0.0
    classes: tuple[str, ...] = ("low", "high")

    def predict(self, batch, pixel_mm):
        z = batch.mean(axis=(1, 2), dtype=np.float64) - self.threshold
        p = 1 / (1 + np.exp(-z))
        return np.stack([1 - p, p], axis=1).astype(np.float32)


@dataclass(frozen=True)
class White:
    """White noise of sd `sigma` at 100 mAs."""

    sigma: float = 10.0
    unit: str = "mAs"

    def sample(self, clean, levels, of):
        fields = np.stack([d.generator().standard_normal(clean.shape, dtype=np.float32) for d in of])
        scale = np.array([self.sigma * np.sqrt(100 / level) for level in levels], dtype=np.float32)
        return fields[:, None] * scale[None, :, None, None]

    def sd(self, clean, levels):
        return np.stack([np.full(clean.shape, self.sigma * np.sqrt(100 / level), np.float32) for level in levels])


def make_case(value=1.0, noise=None, **slice_fields):
    pixels = np.full(SHAPE, value, np.float32)
    made = Slice(slice_id(pixels, (1.0, 1.0)), pixels, (1.0, 1.0), **slice_fields)
    return Case(made, pixels, noise or White())


def test_flip_rate_of_linear_probe_is_the_normal_tail():
    case = make_case(value=1.0)
    levels = [12.5, 25.0, 100.0]
    scores = score_realizations(Probe(), case, levels, range(20_000), seed=3)
    clean = predict_clean(Probe(), case.slice, case.clean, 16).argmax()
    sigma = 10.0 * np.sqrt(100 / np.array(levels)) / np.sqrt(np.prod(SHAPE))
    expected = norm.cdf(-1.0 / sigma)
    # three levels, each inside its 99.9 % interval: false alarm 0.3 % for a fixed seed
    tolerance = norm.ppf(0.9995) * np.sqrt(expected * (1 - expected) / 20_000)
    assert np.all(np.abs((scores.noisy != clean).mean(axis=0) - expected) < tolerance)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_same_scores_whatever_the_batch(batch):
    wanted = score_realizations(Probe(), make_case(), [10.0, 50.0], range(40), seed=1, batch=16)
    found = score_realizations(Probe(), make_case(), [10.0, 50.0], range(40), seed=1, batch=batch)
    assert np.array_equal(found.noisy, wanted.noisy)
    assert np.array_equal(found.margin, wanted.margin)


def test_two_halves_in_reverse_order_equal_the_whole():
    case = make_case()
    whole = score_realizations(Probe(), case, [10.0], range(40), seed=1)
    halves = [score_realizations(Probe(), case, [10.0], part, seed=1) for part in (range(20, 40), range(20))]
    assert np.array_equal(np.concatenate([halves[1].noisy, halves[0].noisy]), whole.noisy)
    assert np.array_equal(np.concatenate([halves[1].margin, halves[0].margin]), whole.margin)


def test_another_level_list_leaves_a_level_as_it_was():
    alone = score_realizations(Probe(), make_case(), [25.0], range(20), seed=1)
    among = score_realizations(Probe(), make_case(), [10.0, 25.0, 90.0], range(20), seed=1)
    assert np.array_equal(alone.margin[:, 0], among.margin[:, 1])


def test_zero_noise_changes_nothing():
    case = make_case(noise=White(sigma=0.0))
    noisy = perturb(case, [10.0, 20.0], draws(0, "audit", case.slice.id, range(3)))
    assert np.array_equal(noisy, np.broadcast_to(case.clean, noisy.shape))


def test_noisy_images_lie_on_the_stored_grid_and_within_limits():
    case = make_case(value=0.0, noise=White(sigma=400.0), storage=Storage(-100.0, 100.0, 4.0))
    noisy = perturb(case, [100.0], draws(0, "audit", case.slice.id, range(4)))
    assert noisy.min() == -100.0
    assert noisy.max() == 100.0
    assert np.array_equal((noisy + 100.0) % 4.0, np.zeros_like(noisy))


def test_noise_that_somebody_keeps_is_not_overwritten():
    kept = []

    class Keeping(White):
        def sample(self, clean, levels, of):
            kept.append(super().sample(clean, levels, of))
            return kept[-1]

    class Viewing(Keeping):
        def sample(self, clean, levels, of):
            return super().sample(clean, levels, of)[:]

    for noise in (Keeping(), Viewing()):
        case = make_case(noise=noise)
        perturb(case, [10.0, 20.0], draws(0, "audit", case.slice.id, [0]))
        fresh = White().sample(case.clean, [10.0, 20.0], draws(0, "audit", case.slice.id, [0]))
        assert np.array_equal(kept[-1], fresh)


@pytest.mark.parametrize("budget", [1, 4 * 24 * 20 * 2, 2**30])
def test_levels_cut_for_memory_change_no_bit(monkeypatch, budget):
    levels = [10.0, 20.0, 30.0, 40.0, 50.0]
    wanted = score_realizations(Probe(), make_case(), levels, range(20), seed=1)
    monkeypatch.setattr("robustkit.audit.levels_per_call", lambda n, shape: max(1, min(n, budget // (4 * 24 * 20))))
    found = score_realizations(Probe(), make_case(), levels, range(20), seed=1)
    assert np.array_equal(found.noisy, wanted.noisy)
    assert np.array_equal(found.margin, wanted.margin)


def test_padding_gets_no_noise():
    mask = np.ones(SHAPE, bool)
    mask[:, :5] = False
    case = make_case(mask=mask)
    noisy = perturb(case, [10.0], draws(0, "audit", case.slice.id, [0]))[0, 0]
    assert np.array_equal(noisy[~mask], case.clean[~mask])
    assert np.all(noisy[mask] != case.clean[mask])


def test_noise_of_a_wrong_shape_is_named():
    class Flat(White):
        def sample(self, clean, levels, of):
            return super().sample(clean, levels, of)[:, 0]

    case = make_case(noise=Flat())
    with pytest.raises(RobustkitError, match=r"Flat returned shape .* where \(1, 2, 24, 20\) was asked"):
        perturb(case, [1.0, 2.0], draws(0, "audit", case.slice.id, [0]))


def test_nan_from_the_model_is_refused():
    class Broken(Probe):
        def predict(self, batch, pixel_mm):
            return np.full((len(batch), 2), np.nan, np.float32)

    with pytest.raises(ModelError, match="NaN"):
        score(Broken(), np.zeros((3, *SHAPE), np.float32), (1.0, 1.0), 2)


def test_wrong_number_of_classes_is_refused_with_the_cure():
    with pytest.raises(ModelError, match="--classes"):
        score(replace(Probe(), classes=("a", "b", "c")), np.zeros((3, *SHAPE), np.float32), (1.0, 1.0), 2)


def test_margin_is_top_two_difference():
    index, margin = decide(np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], np.float32))
    assert index.tolist() == [1, 2]
    assert np.allclose(margin, [0.2, 0.7])


def test_null_audit_of_a_batch_dependent_model_finds_the_floor():
    class Leaky(Probe):
        def predict(self, batch, pixel_mm):
            found = super().predict(batch, pixel_mm)
            return found + np.float32([[1e-4, -1e-4]]) * np.arange(len(batch))[:, None]

    case = make_case()
    null = null_audit(Leaky(), case.slice, case.clean, 9)
    assert null["floor"] == pytest.approx(8e-4, rel=1e-2)
    assert tie_limit(null) == null["floor"]
    assert null_audit(Probe(), case.slice, case.clean, 9) == {"floor": 0.0, "changed": 0, "n": 3}


def test_null_audits_merge_to_the_worst():
    merged = merge_null_audits([{"floor": 1e-7, "changed": 0, "n": 3}, {"floor": 2e-7, "changed": 1, "n": 3}])
    assert merged == {"floor": 2e-7, "changed": 1, "n": 6}
    assert tie_limit(merged) == 1e-6


@pytest.mark.parametrize(
    ("levels", "shape", "batch", "expected"),
    [
        (1, (64, 64), 16, 16),  # one batch
        (16, (512, 512), 16, 1),  # one batch: more would fill no better
        (13, (512, 512), 16, 6),  # 78 of 80 places; 5 or 7 realizations would waste more
        (13, (512, 512), 1, 2),
        (40, (2048, 2048), 16, 1),  # memory allows no more
    ],
)
def test_realizations_of_a_call_fit_memory_and_batches(levels, shape, batch, expected):
    assert draws_per_call(levels, shape, batch=batch) == expected
