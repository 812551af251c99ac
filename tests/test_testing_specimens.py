"""Broken specimens: each breaks one rule, and the kit must name that rule in its own words."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest

from robustkit import Draw, RepeatScans, Storage
from robustkit.testing import (
    ConformanceError,
    FakeClassifier,
    FakeNoise,
    FakeRecipe,
    FakeTrainable,
    check_classifier,
    check_hardener,
    check_metric,
    check_noise_model,
    check_recipe,
    check_scans,
    check_trainable,
    make_scans,
    make_slice,
    make_slices,
)
from robustkit.testing.images import run_opener


def white(shape, draws):
    return np.stack([draw.generator().standard_normal(shape, dtype=np.float32) for draw in draws])


class WithoutSd:
    unit = "mAs"

    def sample(self, clean, levels, draws):
        return white((len(levels), *clean.shape), draws)


class WithoutLevels(FakeNoise):
    def sample(self, clean, levels, draws):
        return white(clean.shape, draws)


class InDouble(FakeNoise):
    def sample(self, clean, levels, draws):
        return super().sample(clean, levels, draws).astype(np.float64)


class WithHoles(FakeNoise):
    def sample(self, clean, levels, draws):
        noise = super().sample(clean, levels, draws)
        noise[..., 0, 0] = np.nan
        return noise


class WritesToImage(FakeNoise):
    def sample(self, clean, levels, draws):
        clean += 1.0
        return super().sample(clean, levels, draws)


class Remembers(FakeNoise):
    stream = np.random.default_rng(0)

    def sample(self, clean, levels, draws):
        field = self.stream.standard_normal((len(draws), 1, *clean.shape), dtype=np.float32)
        return field * self.sd(clean, levels)


class OwnMemory(FakeNoise):
    kept: dict = {}  # noqa: RUF012 - the fault on show

    def sample(self, clean, levels, draws):
        key = (tuple(levels), tuple(draws))
        if key not in self.kept:
            self.kept[key] = super().sample(clean, levels, draws)
        return self.kept[key]


class GlobalState(FakeNoise):
    def sample(self, clean, levels, draws):
        fields = []
        for draw in draws:
            np.random.seed(draw.realization % 2**32)  # noqa: NPY002 - the fault on show
            fields.append(np.random.standard_normal(clean.shape))  # noqa: NPY002
        return (np.stack(fields)[:, None] * self.sd(clean, levels)).astype(np.float32)


class FirstDrawOnly(FakeNoise):
    def sample(self, clean, levels, draws):
        field = draws[0].generator().standard_normal((len(draws), 1, *clean.shape), dtype=np.float32)
        return field * self.sd(clean, levels)


class LevelsInTurn(FakeNoise):
    def sample(self, clean, levels, draws):
        return white((len(levels), *clean.shape), draws) * self.sd(clean, levels)


class KeyedByLevel(FakeNoise):
    def sample(self, clean, levels, draws):
        def keyed(level):
            return [replace(draw, slice_id=f"{draw.slice_id}@{level}") for draw in draws]

        fields = [white(clean.shape, keyed(level)) for level in levels]
        return np.stack(fields, axis=1) * self.sd(clean, levels)


class SameEveryTime(FakeNoise):
    def sample(self, clean, levels, draws):
        return super().sample(clean, levels, [replace(draw, realization=0) for draw in draws])


class DeafToSeed(FakeNoise):
    def sample(self, clean, levels, draws):
        return super().sample(clean, levels, [replace(draw, seed=0) for draw in draws])


class DeafToSlice(FakeNoise):
    def sample(self, clean, levels, draws):
        return super().sample(clean, levels, [replace(draw, slice_id="any") for draw in draws])


class DeafToStream(FakeNoise):
    def sample(self, clean, levels, draws):
        return super().sample(clean, levels, [replace(draw, stream="audit") for draw in draws])


class ShortCounter(FakeNoise):
    def sample(self, clean, levels, draws):
        short = [replace(draw, realization=draw.realization % 2**32) for draw in draws]
        return super().sample(clean, levels, short)


class LouderWithDose(FakeNoise):
    def sd(self, clean, levels):
        return np.stack([np.full(clean.shape, self.sigma * level / 100, np.float32) for level in levels])


class WithFloor(FakeNoise):
    def sd(self, clean, levels):
        sizes = [np.hypot(8.0, self.sigma * (100 / level) ** 0.5) for level in levels]
        return np.stack([np.full(clean.shape, size, np.float32) for size in sizes])


class Shifted(FakeNoise):
    def sample(self, clean, levels, draws):
        return super().sample(clean, levels, draws) * np.float32(1) + np.float32(0.05) * self.sd(clean, levels)


class ShiftedInPlaces(FakeNoise):
    def sample(self, clean, levels, draws):
        ripple = np.where(np.arange(clean.shape[1]) < clean.shape[1] // 2, 0.3, -0.3).astype(np.float32)
        return super().sample(clean, levels, draws) + ripple * self.sd(clean, levels)


class ClaimsTooMuch(FakeNoise):
    def sample(self, clean, levels, draws):
        return np.float32(0.95) * super().sample(clean, levels, draws)


class ClaimsFlat(FakeNoise):
    def sample(self, clean, levels, draws):
        uneven = np.where(np.arange(clean.shape[1]) < clean.shape[1] // 2, 0.6**0.5, 1.4**0.5)
        return super().sample(clean, levels, draws) * uneven.astype(np.float32)


class ClaimsOneNumber(FakeNoise):
    def sample(self, clean, levels, draws):
        return white((1, *clean.shape), draws) * FakeNoise().sd(clean, levels)

    def sd(self, clean, levels):
        return np.float32(self.sigma)


class OddReport(FakeNoise):
    report = {"nps": np.zeros(3)}  # noqa: RUF012


class Chatty(FakeNoise):
    def sample(self, clean, levels, draws):
        print("sampling", len(draws))
        return super().sample(clean, levels, draws)


class Moves(FakeNoise):
    def sample(self, clean, levels, draws):
        os.chdir("/")
        return super().sample(clean, levels, draws)


class Raises(FakeNoise):
    def sample(self, clean, levels, draws):
        raise ZeroDivisionError("no dose today")


class Leaves(FakeNoise):
    def sample(self, clean, levels, draws):
        raise SystemExit(3)


def fit_that_writes(repeats):
    repeats.pixels[:] = 0.0
    return FakeNoise()


def fit_that_rolls_dice(repeats):
    return FakeNoise(sigma=10.0 + np.random.default_rng().uniform())


def fit_without_correction(repeats):
    return FakeNoise(float(np.sqrt(np.square(repeats.residuals).mean())), repeats.mas)


NOISE = [
    (WithoutSd(), "without sd"),
    (WithoutLevels(), r"shape \(draws, levels, H, W\) = \(1, 1, 64, 80\)"),
    (InDouble(), "type float32; got ndarray .* float64"),
    (WithHoles(), "values that are NaN or infinite"),
    (FakeNoise(unit=3), "unit that names the level axis"),
    (WritesToImage(), "clean image changed in place"),
    (Remembers(), "other noise the second time"),
    (OwnMemory(), "other noise the second time"),
    (GlobalState(), "changed numpy's global random state"),
    (FirstDrawOnly(), "draws together and one at a time"),
    (LevelsInTurn(), "whichever other levels are asked"),
    (KeyedByLevel(), "same realization at every level"),
    (SameEveryTime(), "independent noise for another realization"),
    (DeafToSeed(), "independent noise for another seed"),
    (DeafToSlice(), "independent noise for another slice id"),
    (DeafToStream(), "independent noise for another stream"),
    (ShortCounter(), "independent noise for another high realization"),
    (LouderWithDose(), "less noise with every higher mAs"),
    (WithFloor(), "dies away at"),
    (Shifted(), "zero mean at .* over the image"),
    (ShiftedInPlaces(), "zero mean at .* over a block"),
    (ClaimsTooMuch(), r"variance that sd\(\) claims .* over the image"),
    (ClaimsFlat(), r"variance that sd\(\) claims .* over a block"),
    (ClaimsOneNumber(), r"sd\(\) of shape"),
    (OddReport(), "report that is a dict of plain"),
    (Chatty(), "printed on stdout"),
    (Moves(), "changed the working directory"),
    (Raises(), "raised ZeroDivisionError: no dose today"),
    (Leaves(), "raised SystemExit: 3"),
    (fit_that_writes, "repeat scans changed in place"),
    (fit_that_rolls_dice, "second fit"),
]


@pytest.mark.parametrize(("specimen", "words"), NOISE, ids=lambda value: getattr(value, "__name__", None))
def test_broken_noise_is_named(specimen, words, capfd):
    with pytest.raises(ConformanceError, match=words):
        check_noise_model(specimen)
    assert capfd.readouterr().out == ""


def test_forgotten_degree_of_freedom_is_named():
    with pytest.raises(ConformanceError, match=r"K/\(K-1\)"):
        check_noise_model(fit_without_correction, repeats=make_scans(sigma=10.0), sigma=10.0)


def test_replayed_noise_with_an_end_is_not_asked_for_more():
    scans = make_scans(6)

    class Replayed(FakeNoise):
        report = {"effective_n": 6}  # noqa: RUF012

        def sample(self, clean, levels, draws):
            chosen = scans.residuals[[draw.realization for draw in draws]]
            return chosen[:, None] * np.float32((6 / 5) ** 0.5) * self.sd(clean, levels) / np.float32(10.0)

    check_noise_model(Replayed())


class WithoutClasses:
    def predict(self, batch, pixel_mm):
        return np.ones((len(batch), 2), np.float32) / 2


class OneColumn(FakeClassifier):
    def predict(self, batch, pixel_mm):
        return super().predict(batch, pixel_mm)[:, 1]


class Logits(FakeClassifier):
    def predict(self, batch, pixel_mm):
        return np.stack([-self.margin(batch), self.margin(batch)], axis=1).astype(np.float32)


class NotFinite(FakeClassifier):
    def predict(self, batch, pixel_mm):
        return super().predict(batch, pixel_mm) * np.float32(np.nan)


class WindowsInPlace(FakeClassifier):
    def predict(self, batch, pixel_mm):
        np.clip(batch, -100, 100, out=batch)
        return super().predict(batch, pixel_mm)


class WithDropout(FakeClassifier):
    dice = np.random.default_rng(0)

    def predict(self, batch, pixel_mm):
        keep = self.dice.random(batch.shape) < 0.5
        return super().predict(batch * keep, pixel_mm)


class DropoutFromGlobalState(FakeClassifier):
    def predict(self, batch, pixel_mm):
        keep = np.random.random_sample(batch.shape) < 0.5  # noqa: NPY002 - the fault on show
        return super().predict(batch * keep, pixel_mm)


class NormalisesOverBatch(FakeClassifier):
    def predict(self, batch, pixel_mm):
        return super().predict(batch - batch.mean(axis=0), pixel_mm)


class ReadsRawMemory(FakeClassifier):
    def predict(self, batch, pixel_mm):
        start = batch.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        return super().predict(np.ctypeslib.as_array(start, shape=batch.shape), pixel_mm)


class SquarePixelsOnly(FakeClassifier):
    def predict(self, batch, pixel_mm):
        if pixel_mm[0] != pixel_mm[1]:
            raise ValueError("pixels must be square")
        return super().predict(batch, pixel_mm)


class CropsPixels(FakeClassifier):
    fov_mm = 100.0

    def predict(self, batch, pixel_mm):
        middle = batch.shape[1] // 2
        return super().predict(batch[:, middle - 8 : middle + 40, middle - 8 : middle + 8], pixel_mm)


PROBE = {"threshold": -550.0, "sharpness": 0.05}
MODELS = [
    (WithoutClasses(), "without classes"),
    (FakeClassifier(classes=["low", "high"]), "classes as a tuple"),
    (FakeClassifier(classes=("low", "low")), "different names"),
    (FakeClassifier(classes=("low", "")), "different names"),
    (OneColumn(**PROBE), r"shape \(images, classes\) = \(1, 2\)"),
    (Logits(**PROBE), "pass logits through a softmax"),
    (NotFinite(**PROBE), "finite probabilities"),
    (WindowsInPlace(**PROBE), "images changed in place"),
    (WithDropout(**PROBE), "switch dropout"),
    (DropoutFromGlobalState(**PROBE), "changed numpy's global random state"),
    (NormalisesOverBatch(sharpness=0.05), "together and one at a time"),
    (ReadsRawMemory(**PROBE), "not contiguous in memory"),
    (SquarePixelsOnly(**PROBE), "any pixel size is taken: it raised ValueError: pixels must be square"),
    (CropsPixels(**PROBE), "grid twice as fine"),
]


@pytest.mark.parametrize(("specimen", "words"), MODELS, ids=lambda value: type(value).__name__)
def test_broken_model_is_named(specimen, words):
    with pytest.raises(ConformanceError, match=words):
        check_classifier(specimen)


class FitsInPlace:
    def __init__(self):
        self.inner = FakeTrainable.untrained(0)
        self.classes = self.inner.classes

    def predict(self, batch, pixel_mm):
        return self.inner.predict(batch, pixel_mm)

    def fit(self, data, seed):
        self.inner = self.inner.fit(data, seed)
        return self


class FitsInPlaceAndCopies(FitsInPlace):
    def fit(self, data, seed):
        super().fit(data, seed)
        return self.inner


class LearnsNothing(FakeTrainable):
    def fit(self, data, seed):
        return replace(self)


class RollsDice(FakeTrainable):
    def fit(self, data, seed):
        return super().fit(data, int(np.random.default_rng().integers(2**31)))


class Renames(FakeTrainable):
    def fit(self, data, seed):
        return replace(super().fit(data, seed), classes=("a", "b"))


class ScalesData(FakeTrainable):
    def fit(self, data, seed):
        for item in data:
            item.pixels[:] /= 1000
        return super().fit(data, seed)


TRAINABLE = [
    (FitsInPlace(), "a new model from fit.*the same object"),
    (FitsInPlaceAndCopies(), "old model that answers as before"),
    (LearnsNothing(), "learnt something"),
    (RollsDice(), "same model from the same data and seed"),
    (Renames(), "the same classes, low, high; got a, b"),
    (ScalesData(), "slices changed in place"),
]


@pytest.mark.parametrize(("specimen", "words"), TRAINABLE, ids=lambda value: type(value).__name__)
def test_broken_training_is_named(specimen, words):
    with pytest.raises(ConformanceError, match=words):
        check_trainable(specimen)


def flips(results):
    from robustkit.results import flipped

    rows = results.assign(k=results["count"].where(flipped(results), 0))
    return rows.groupby(["clean", "level"], as_index=False)[["k", "count"]].sum()


def a_number(results):
    return 0.5


def writes_to_table(results):
    results["flip"] = results["clean"] != results["noisy"]
    return flips(results)


def needs_a_row(results):
    return flips(results).assign(noise=results["noise"].iloc[0])


def trusts_the_order(results):
    return flips(results).assign(first=results["realization"].iloc[0] if len(results) else 0)


def counts_rows(results):
    return results.groupby("clean", as_index=False).size()


def counts_ties(results):
    changed = results["count"].where(results["clean"] != results["noisy"], 0)
    return results.assign(k=changed).groupby("level", as_index=False)["k"].sum()


def lists_in_cells(results):
    return flips(results).assign(labels=[["a", "b"]] * len(flips(results)))


def same_name_twice(results):
    found = flips(results)
    return found.set_axis(["clean", "k", "k", "count"], axis=1)


METRICS = [
    (a_number, "a pandas DataFrame .*; got float 0.5"),
    (writes_to_table, "table changed in place"),
    (needs_a_row, "empty table is no error: it raised IndexError"),
    (trusts_the_order, "whatever the order of the rows"),
    (counts_rows, "row with count 3 and from three such rows"),
    (counts_ties, "tied rows counted as unchanged"),
    (lists_in_cells, "numbers, texts or nothing in every cell"),
    (same_name_twice, "columns with different names"),
]


@pytest.mark.parametrize(("specimen", "words"), METRICS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_metric_is_named(specimen, words):
    with pytest.raises(ConformanceError, match=words):
        check_metric(specimen)


def test_metric_may_tell_ties_apart_in_a_column_of_their_own():
    def with_ties(results):
        tied = results["count"].where(results["tied"], 0)
        return flips(results.assign(tied_count=tied)).assign(tied_share=tied.sum() / max(1, results["count"].sum()))

    check_metric(with_ties)


def harden(model, train, cases, *, levels, n, seed):
    while True:
        model = model.fit(train, seed)
        yield model


def returns_a_list(model, train, cases, *, levels, n, seed):
    return [model.fit(train, seed)]


def yields_nothing(model, train, cases, *, levels, n, seed):
    yield from ()


def hardens_other_classes(model, train, cases, *, levels, n, seed):
    yield replace(model.fit(train, seed), classes=("a", "b"))


def hardens_in_place(model, train, cases, *, levels, n, seed):
    model.weights[:] = model.fit(train, seed).weights + 1.0
    yield model


def writes_to_cases(model, train, cases, *, levels, n, seed):
    for item, noise in cases:
        drawn = noise.sample(item.pixels, levels, [Draw(seed, "train", item.id, 0)])
        item.pixels[:] += drawn[0, 0]
    yield model.fit(train, seed)


def rolls_dice(model, train, cases, *, levels, n, seed):
    yield model.fit(train, int(np.random.default_rng().integers(2**31)))


HARDENERS = [
    (returns_a_list, "an iterator of models"),
    (yields_nothing, "at least one model"),
    (hardens_other_classes, "the same classes"),
    (hardens_in_place, "given model that answers as before"),
    (writes_to_cases, "slices changed in place"),
    (rolls_dice, "same models from the same seed"),
]


@pytest.mark.parametrize(("specimen", "words"), HARDENERS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_hardener_is_named(specimen, words):
    with pytest.raises(ConformanceError, match=words):
        check_hardener(specimen)


def test_hardener_without_end_is_stopped():
    check_hardener(harden)


class WithoutCases:
    name = "no cases"
    build = FakeRecipe().build
    data = FakeRecipe().data


class WithoutTest(FakeRecipe):
    def data(self):
        return {name: part for name, part in super().data().items() if name != "test"}


class Unlabelled(FakeRecipe):
    def data(self):
        return super().data() | {"validation": [make_slice(group="unlabelled")]}


class SharesPatients(FakeRecipe):
    def data(self):
        found = super().data()
        return {**found, "test": [*found["test"], replace(make_slice(5.0, label="low"), group=found["train"][0].group)]}


class OtherDataEveryTime(FakeRecipe):
    def data(self):
        return super().data() | {"train": make_slices(12, seed=int(np.random.default_rng().integers(2**31)))}


class FileNames(FakeRecipe):
    def cases(self):
        return [replace(item, id="scan-1.dcm") for item in super().cases()]


class JudgedOnTrain(FakeRecipe):
    def cases(self):
        return list(self.data()["train"][:2])


class DeafBuild(FakeRecipe):
    def build(self, seed):
        return FakeTrainable.untrained(0)


class DiceBuild(FakeRecipe):
    def build(self, seed):
        return FakeTrainable.untrained(int(np.random.default_rng().integers(2**31)))


RECIPES = [
    (WithoutCases, "without cases"),
    (WithoutTest(), "splits train, validation and test"),
    (Unlabelled(), "labels among the model's classes, low, high; got None"),
    (SharesPatients(), "no patient or object in both train and test"),
    (OtherDataEveryTime(), "same data and the same cases"),
    (FileNames(), r"robustkit.slice_id\(pixels, pixel_mm\)"),
    (JudgedOnTrain(), "not in train; got 2 cases from train"),
    (DeafBuild(), "other initial weights from another seed"),
    (DiceBuild(), "same initial weights from the same seed"),
]


@pytest.mark.parametrize(("specimen", "words"), RECIPES, ids=lambda value: type(value).__name__)
def test_broken_recipe_is_named(specimen, words):
    with pytest.raises(ConformanceError, match=words):
        check_recipe(specimen)


def test_recipe_whose_model_cannot_be_trained_is_named():
    @dataclass(frozen=True)
    class Untrainable(FakeRecipe):
        def build(self, seed):
            return RollsDice(weights=FakeTrainable.untrained(seed).weights)

    with pytest.raises(ConformanceError, match="same model from the same data and seed"):
        check_recipe(Untrainable(), fit=True)


def changed(**fields):
    return [replace(make_slice(), **fields)]


def repeats(**fields):
    return [replace(make_scans(3), **fields)]


SLICE = make_slice()
SCANS = [
    ([], "robustkit.Slice, or one of robustkit.RepeatScans"),
    ([{"pixels": 1}], "robustkit.Slice, or one of robustkit.RepeatScans, not empty; got dict"),
    ([make_slice(), make_scans(2)], "got RepeatScans, Slice"),
    (changed(pixels=SLICE.pixels.astype(np.float64)), r"shape \(H, W\) and type float32"),
    (repeats(pixels=SLICE.pixels), r"shape \(K, H, W\)"),
    (repeats(pixels=SLICE.pixels[None]), "at least two scans"),
    (changed(pixels=np.full((4, 4), np.inf, np.float32)), "finite pixels"),
    (changed(mask=np.ones((3, 3), bool)), "a mask"),
    (changed(pixel_mm=[0.9, 0.9]), "two positive floats in mm"),
    (changed(mas=0.0), "a positive mAs"),
    (changed(id="patient-7.dcm"), "a file name may name a patient"),
    (repeats(id="patient-7.dcm"), "16 hexadecimal digits"),
    (changed(storage=Storage(-500.0, 3071.0)), "inside the limits of their storage"),
]


@pytest.mark.parametrize(("specimen", "words"), SCANS, ids=[words[:30] for _, words in SCANS])
def test_broken_scans_are_named(specimen, words):
    with pytest.raises(ConformanceError, match=words):
        check_scans(specimen)


def test_reader_that_brings_another_order_is_named():
    found = [make_slice(0.0), make_slice(50.0)]

    def read(path):
        found.reverse()
        return list(found)

    with pytest.raises(ConformanceError, match="same scans in the same order"):
        check_scans(read, path="anything")


def test_reader_of_everything_is_named():
    def raises(path):
        raise OSError("cannot parse")

    for ask, came in ((raises, "got OSError"), (lambda path: [RepeatScans], "got list")):
        failed = [result for result in run_opener(ask) if not result.passed]
        assert len(failed) == 1
        assert "None for a path that is not yours" in failed[0].message
        assert came in failed[0].message
