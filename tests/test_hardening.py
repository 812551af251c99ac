"""Hardening strategies: the conformance kit for every built-in, and what each adds to the training set."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import TinyRecipe

from robustkit import DataError, Draw, UsageError, audit, draws, registry
from robustkit.hardening import (
    Hit,
    adaptive,
    attacks,
    augment_nps,
    augment_white,
    control,
    evenly,
    options_of,
    perturbed,
)
from robustkit.testing import FakeNoise, FakeTrainable, check_hardener, make_slice

LEVELS = (25.0, 100.0)
NOISE = FakeNoise(60.0)


def trained():
    recipe = TinyRecipe()
    return recipe.build(0).fit(recipe.data()["train"], 0)


def cases():
    return [(item, NOISE) for item in TinyRecipe().cases()]


@pytest.mark.parametrize("name", ["adaptive", "augment-white", "augment-nps", "control"])
def test_every_built_in_keeps_the_contract(name):
    check_hardener(registry.load().hardener(name))


def test_attacks_are_exactly_the_images_that_are_named_wrongly():
    model, (item, noise) = trained(), cases()[0]
    found = set(attacks(model, (item, noise), LEVELS, range(20), seed=3))
    images = audit.perturb(audit.Case(item, item.pixels, noise), LEVELS, draws(3, "train", item.id, range(20)))
    for r in range(20):
        for i, level in enumerate(LEVELS):
            answer = model.classes[int(model.predict(images[r, i][None], item.pixel_mm)[0].argmax())]
            assert ((r, level) in found) == (answer != item.label)
    assert 0 < len(found) < 40


def test_hits_rebuild_their_images_with_the_class_they_should_have():
    both, hits = cases(), [Hit(0, 4, 25.0), Hit(1, 7, 100.0), Hit(0, 5, 25.0)]
    made = {item.id: item for item in perturbed(both, hits, seed=3)}
    assert len(made) == 3
    for hit in hits:
        item, noise = both[hit.case]
        draw = [Draw(3, "train", item.id, hit.realization)]
        expected = audit.perturb(audit.Case(item, item.pixels, noise), [hit.level], draw)[0, 0]
        assert [m.label for m in made.values() if np.array_equal(m.pixels, expected)] == [item.label]


def test_adaptive_ends_at_once_where_no_attack_succeeds():
    quiet = [(item, FakeNoise(0.01)) for item in TinyRecipe(mislead=0.0).cases()]
    assert list(adaptive(trained(), TinyRecipe().data()["train"], quiet, levels=LEVELS, n=5, seed=0)) == []


def test_adaptive_trains_on_with_what_it_found_where_nothing_new_succeeds():
    found = list(islice(adaptive(trained(), TinyRecipe().data()["train"], cases(), levels=LEVELS, n=20, seed=0), 4))
    assert len(found) == 4
    still = [hit for case in cases() for hit in attacks(found[-1], case, LEVELS, range(60, 80), seed=0)]
    assert still == []


def test_adaptive_draws_new_noise_every_round(monkeypatch):
    seen = []
    real = audit.perturb

    def spy(case, levels, of):
        seen.extend(draw.realization for draw in of)
        return real(case, levels, of)

    monkeypatch.setattr(audit, "perturb", spy)
    strategy = adaptive(trained(), TinyRecipe().data()["train"], cases(), levels=(25.0,), n=6, seed=0, epochs=1)
    next(strategy)
    assert max(seen) == 5
    seen.clear()
    next(strategy, None)
    assert {6, 11} <= set(seen)


def test_unlabelled_slices_are_attacked_away_from_their_clean_answer():
    model = trained()
    item = replace(make_slice(220.0, shape=(16, 20), pixel_mm=(4.0, 4.0)), label=None)
    clean = model.classes[int(model.predict(item.pixels[None], item.pixel_mm)[0].argmax())]
    seen = []

    class Spy(FakeTrainable):
        def fit(self, data, seed, **options):
            seen.extend(data)
            return FakeTrainable.fit(self, data, seed, **options)

    spy = Spy(model.classes, model.weights)
    next(adaptive(spy, TinyRecipe().data()["train"], [(item, FakeNoise(900.0))], levels=(25.0,), n=30, seed=0))
    added = seen[len(TinyRecipe().data()["train"]) :]
    assert added
    assert {one.label for one in added} == {clean}


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 40))
def test_as_many_of_each_case_as_there_are_to_be_had(which, most):
    hits = [Hit(case, i, 25.0) for i, case in enumerate(which)]
    kept = evenly(hits, most)
    assert len(kept) == min(len(hits), most)
    assert len(set(kept)) == len(kept)
    counts = {case: sum(k.case == case for k in kept) for case in set(which)}
    full = {case: which.count(case) for case in counts}
    smallest_cut = min((counts[c] for c in counts if counts[c] < full[c]), default=most)
    assert all(counts[c] <= smallest_cut + 1 for c in counts)


def test_white_copies_have_the_noise_of_a_level():
    train = [replace(item, label=item.label) for item in TinyRecipe().data()["train"]]
    seen = []

    class Spy(FakeTrainable):
        def fit(self, data, seed, **options):
            seen.append(list(data))
            return FakeTrainable.fit(self, data, seed, **options)

    model = trained()
    list(islice(augment_white(Spy(model.classes, model.weights), train, cases(), levels=(25.0,), n=1, seed=0), 2))
    assert [len(part) for part in seen[:1]] == [len(train) * 3 // 2]
    clean = {(item.label, item.group): item for item in train}
    copies = seen[0][len(train) :]
    spread = [np.std(copy.pixels - clean_of(copy, train)) for copy in copies]
    assert np.mean(spread) == pytest.approx(120.0, rel=0.05)  # 60 HU at 100 mAs is 120 HU at 25; 12 x 320 values
    assert len(clean) > 0


def clean_of(copy, train):
    """Return the training slice nearest to a noisy copy."""
    return min((item.pixels for item in train), key=lambda pixels: float(np.square(copy.pixels - pixels).sum()))


def test_correlated_noise_belongs_to_one_grid():
    other = [(make_slice(100.0, shape=(20, 20), label="high"), NOISE)]
    with pytest.raises(DataError, match="20 x 20 pixels does not fit training slices of 16 x 20"):
        next(augment_nps(trained(), TinyRecipe().data()["train"], other, levels=LEVELS, n=1, seed=0))


def test_control_adds_nothing():
    train, model = TinyRecipe().data()["train"], trained()
    first = next(control(model, train, cases(), levels=LEVELS, n=1, seed=4, epochs=3))
    np.testing.assert_array_equal(first.weights, model.fit(train, 4, epochs=3).weights)


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(UsageError, match="no option 'rates'; it has: epochs, most, rate"):
        options_of(adaptive, {"rates": 1})


def test_no_training_slices_is_an_error():
    with pytest.raises(DataError, match="training slices"):
        next(control(trained(), [], cases(), levels=LEVELS, n=1, seed=0))
