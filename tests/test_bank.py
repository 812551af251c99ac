"""Noisy images made once: the same bits as an audit's, thinned, kept, and scored to the same counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from studies import WHITE, TinyRecipe

from robustkit import DataError, Storage, audit, bank, cases, draws
from robustkit.bank import Ask
from robustkit.judge import score_stack, table
from robustkit.recipes import thin, thinned
from robustkit.results import flipped
from robustkit.testing import make_slice

CT = Storage(-1024.0, 3071.0)
LEVELS = (25.0, 100.0)


def ask(**more):
    return Ask(cases.NoiseChoice("white", WHITE), **{"levels": LEVELS, "n": 70, "scans": 0, **more})


def stored_slice(storage=CT):
    item = TinyRecipe().cases()[0]
    return replace(item, storage=storage)


@pytest.mark.parametrize("storage", [CT, None, Storage(-1000.5, 900.0, 0.5)], ids=["whole HU", "floats", "half HU"])
def test_parts_are_the_images_of_an_audit_thinned(tmp_path, storage):
    item = stored_slice(storage)
    (stack,) = bank.stacks([(item, 2)], ask(), tmp_path)
    bank.fill([stack])
    case = cases.prepare(cases.Source(item, clean_from="simulate"), stack.choice)
    expected = thin(audit.perturb(case, LEVELS, draws(0, "audit", item.id, range(70))), 2)
    found = np.concatenate([np.asarray(images, np.float32) for _, images in stack.parts()])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(stack.clean(), thin(case.clean, 2))


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    stacks = bank.stacks([(stored_slice(), 1)], ask(), tmp_path)
    bank.fill(stacks)
    monkeypatch.setattr(bank, "make", lambda task: pytest.fail("made again"))
    bank.fill(stacks)
    with pytest.raises(pytest.fail.Exception):
        bank.fill(bank.stacks([(stored_slice(), 1)], ask(seed=1), tmp_path))


def test_a_part_cut_short_is_made_whole_by_a_larger_n(tmp_path):
    bank.fill(bank.stacks([(stored_slice(), 1)], ask(n=65), tmp_path))
    (longer,) = bank.stacks([(stored_slice(), 1)], ask(n=70), tmp_path)
    assert longer.missing() == [(64, 70)]


def test_counts_are_those_of_an_audit(tmp_path):
    item, recipe = stored_slice(), TinyRecipe()
    model = recipe.build(0).fit(recipe.data()["train"], 0)
    (stack,) = bank.stacks([(item, 1)], ask(), tmp_path)
    bank.fill([stack])
    record = score_stack(model, stack)
    case = cases.prepare(cases.Source(item, clean_from="simulate"), stack.choice)
    scores = audit.score_realizations(model, case, LEVELS, range(70), seed=0)
    for i, level in enumerate(LEVELS):
        for j, name in enumerate(model.classes):
            told = sum(count for at, noisy, _, count in record["cells"] if (at, noisy) == (level, name))
            assert told == int((scores.noisy[:, i] == j).sum())
    rows = table({"m": {"stacks": [record]}}, "run")
    assert rows["count"].sum() == 140
    assert rows.loc[flipped(rows), "count"].sum() == int((scores.noisy != scores.noisy.dtype.type(0)).sum())


def test_scans_are_the_virtual_scanners_own_thinned(tmp_path):
    from robustkit.scanner import VirtualScanner

    item = replace(make_slice(60.0, shape=(32, 32), pixel_mm=(4.0, 4.0), label="high"), storage=CT)
    found = bank.stacks([(item, 2)], ask(n=0, measured=(50.0,), scans=5), tmp_path)
    assert [(s.noise, s.levels, s.n) for s in found] == [("measured", (50.0,), 5)]
    bank.fill(found)
    expected = VirtualScanner().repeats(item, 50.0, 5, stream="scan").pixels[:, 1::2, 1::2]
    ((_, images),) = found[0].parts()
    np.testing.assert_array_equal(np.asarray(images, np.float32)[:, 0], expected)


def test_the_papers_centre_is_the_mean_of_the_scans_the_noise_is_fitted_to():
    item = replace(make_slice(60.0, shape=(32, 32), pixel_mm=(4.0, 4.0), label="high"), storage=CT)
    choice = cases.NoiseChoice("patch-nps")
    centres = {}
    for name in bank.CENTRES:
        source = bank.with_repeats(bank.source_of(item, Ask(choice, centre=name)), choice)
        clean, told = cases.clean_image(source)
        centres[name] = (told["mas"], told["k"])
        fitted = cases.fit_set(source.repeats)
        assert fitted.mas == 25.0
        if name == "paper":
            np.testing.assert_allclose(clean, fitted.clean, atol=0.5)
    assert centres == {"low-noise": (200.0, 20), "paper": (25.0, 20)}


def test_real_patients_are_not_scanned(tmp_path):
    item = replace(stored_slice(), synthetic=False)
    found = bank.stacks([(item, 1)], ask(scans=5), tmp_path)
    assert [stack.noise for stack in found] == ["white"]


def test_a_damaged_part_is_named_with_its_cure(tmp_path):
    (stack,) = bank.stacks([(stored_slice(), 1)], ask(), tmp_path)
    bank.fill([stack])
    stack.part_path(64, 70).write_bytes(b"gone")
    with pytest.raises(DataError, match=r"cannot be read .*delete it and run again with --resume"):
        list(stack.parts())


def test_thinned_slices_keep_their_id():
    item = stored_slice()
    small = thinned(item, 4)
    assert small.id == item.id
    assert small.pixels.shape == (4, 5)
    assert small.pixel_mm == (16.0, 16.0)
    np.testing.assert_array_equal(small.pixels, item.pixels[2::4, 2::4])


def test_correlated_noise_is_thinned_before_it_is_scaled_to_the_same_bits(tmp_path):
    item = replace(make_slice(60.0, shape=(64, 64), pixel_mm=(4.0, 4.0), label="high"), storage=CT)
    asked = Ask(cases.NoiseChoice("nps"), levels=LEVELS, n=20, scans=0)
    (stack,) = bank.stacks([(item, 4)], asked, tmp_path)
    bank.fill([stack])
    case = cases.prepare(bank.with_repeats(stack.source, stack.choice), stack.choice)
    expected = thin(audit.perturb(case, LEVELS, draws(0, "audit", item.id, range(20))), 4)
    ((_, images),) = stack.parts()
    np.testing.assert_array_equal(np.asarray(images, np.float32), expected)


def test_asks_share_what_is_made_at_the_same_levels(tmp_path):
    wide = bank.stacks([(stored_slice(), 1)], ask(levels=(12.5, 25.0, 100.0)), tmp_path)
    bank.fill(wide)
    (narrow,) = bank.stacks([(stored_slice(), 1)], ask(levels=(100.0,), made=(12.5, 25.0, 100.0)), tmp_path)
    assert narrow.missing() == []
    for (_, whole), (_, part) in zip(wide[0].parts(), narrow.parts(), strict=True):
        np.testing.assert_array_equal(whole[:, 2:], part)
