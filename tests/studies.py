"""A recipe small enough for tests: discs whose insert is darker or brighter, with a corner that misleads.

In training the corner is bright or dark with the insert, so a model leans on both; in the cases it is the other way
round. Noise flips such a model there, and one that attacks have taught to read the insert alone it does not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robustkit import Slice, slice_id
from robustkit.testing import FakeTrainable, make_slice

SHAPE = (16, 20)
WHITE = {"sigma": 60.0, "reference_mas": 100.0}
"""Settings of white noise: no repeats are needed."""


def disc(insert: float, corner: float, group: str) -> Slice:
    label = "low" if insert < 0 else "high"
    plain = make_slice(insert, shape=SHAPE, pixel_mm=(4.0, 4.0), label=label, group=group)
    pixels = plain.pixels.copy()
    pixels[:4, :5] += np.float32(corner)
    return replace(plain, id=slice_id(pixels, plain.pixel_mm), pixels=pixels)


def discs(inserts: Sequence[float], corners: Sequence[float], group: str) -> list[Slice]:
    return [disc(x, c, f"{group}-{i}") for i, (x, c) in enumerate(zip(inserts, corners, strict=True))]


@dataclass(frozen=True)
class TinyRecipe:
    """Two classes by the sign of the insert; `mislead` is how far the corner of a case pulls to the other class."""

    name: str = "tiny"
    mislead: float = 40.0
    groups: int = 6

    def build(self, seed: int) -> FakeTrainable:
        return FakeTrainable.untrained(seed)

    def data(self):
        rng = np.random.default_rng(5)
        size = 4 * self.groups
        inserts = rng.uniform(180, 260, size) * np.where(np.arange(size) % 2, 1, -1)
        train = [disc(x, np.sign(x) * 300.0, f"t-{i % self.groups}") for i, x in enumerate(inserts)]
        test = (-330.0, 310.0, -140.0, 150.0, -220.0, 230.0)
        return {
            "train": train,
            "validation": discs((-310.0, 290.0, -190.0, 200.0), (-300.0, 300.0) * 2, "v"),
            "test": discs(test, (-200.0, 200.0) * 3, "x"),
        }

    def cases(self):
        return discs((-220.0, 220.0), (self.mislead, -self.mislead), "case")

    def held_out(self):
        return discs((-225.0, 225.0), (self.mislead, -self.mislead), "held")

    def in_transition(self, item: Slice) -> bool:
        return item.group in ("x-2", "x-3")

    def save(self, model: FakeTrainable, path: Path) -> None:
        with Path(path).open("wb") as stream:
            np.savez(stream, weights=model.weights)

    def load(self, path: Path) -> FakeTrainable:
        with Path(path).open("rb") as stream, np.load(stream) as archive:
            return FakeTrainable(weights=archive["weights"])

    def export(self, model: FakeTrainable, folder: Path, stem: str):
        path = Path(folder) / f"{stem}.npz"
        self.save(model, path)
        return [path]


@dataclass(frozen=True)
class SlowRecipe(TinyRecipe):
    """The same, each model taking a while: a worker can be lost meanwhile."""

    def build(self, seed: int) -> FakeTrainable:
        time.sleep(0.3)
        return super().build(seed)


@dataclass(frozen=True)
class Given:
    """A recipe whose data are given."""

    parts: dict
    name: str = "given"

    def build(self, seed: int) -> FakeTrainable:
        return FakeTrainable.untrained(seed)

    def data(self):
        return self.parts

    def cases(self):
        return TinyRecipe().cases()
