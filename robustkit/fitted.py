"""A model whose trainings are counted, and read back where they were made before: what makes hardening resumable.

A strategy is a generator and cannot be stopped half way and picked up later. It can be run again: every training is
written down by what decides it (the model before, the data, the seed, the options), so the second time it costs
nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit import recipes, registry, rundir
from robustkit.models import ModelRef
from robustkit.types import Image, PixelSize, Recipe, Slice


@dataclass(frozen=True)
class Keeper:
    """How models of this hardening are written and read: as the recipe does it, or in the given model's own form."""

    recipe: Recipe
    model: ModelRef | None

    @property
    def able(self) -> bool:
        """Return whether models can be kept; without it, a resumed run trains again, to the same models."""
        if self.model is None:
            return recipes.keeps_models(self.recipe)
        return self.model.path is not None and hasattr(self.model.load(), "save")

    @property
    def ending(self) -> str:
        """Return the ending of their files."""
        return ".model" if self.model is None else Path(self.model.path or "").suffix

    def save(self, model: Any, path: Path) -> None:
        """Write a model."""
        if self.model is None:
            recipes.save(self.recipe, model, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            model.save(path)

    def load(self, path: Path) -> Any:
        """Read a model."""
        if self.model is None:
            return recipes.load(self.recipe, path)
        return registry.default().load_model(path, self.model.spec)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model that counts on how many images it was trained, and whose trainings are read back where they were kept.

    `key` names how it came to be; `passes` is images times epochs since the start. `folder` holds the trainings.
    """

    inner: Any
    key: str
    passes: int
    folder: Path
    keeper: Keeper
    fit: Callable[..., Fitted] = field(init=False)

    def __post_init__(self) -> None:
        def fit(data: Sequence[Slice], seed: int, **options: Any) -> Fitted:
            return self._fit(data, seed, **options)

        # wrapped, so that a strategy that looks sees the options of the model's own fit
        object.__setattr__(self, "fit", functools.wraps(self.inner.fit)(fit))

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's classes."""
        return tuple(self.inner.classes)

    @functools.cached_property
    def scorer(self) -> Any:
        """Return the model in the form in which it answers fastest."""
        return recipes.scorer(self.keeper.recipe, self.inner) if self.keeper.model is None else self.inner

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return the model's probabilities (B, C)."""
        found: NDArray[np.float32] = self.scorer.predict(batch, pixel_mm)
        return found

    def _fit(self, data: Sequence[Slice], seed: int, **options: Any) -> Fitted:
        told = [[item.id, item.label] for item in data]
        key = rundir.digest(self.key, told, seed, {name: str(value) for name, value in options.items()})
        kept = self.folder / f"{key}{self.keeper.ending}"
        if self.keeper.able and kept.exists():
            model = self.keeper.load(kept)
        else:
            model = self.inner.fit(data, seed, **options)
            if self.keeper.able:
                self.keeper.save(model, kept)
        return Fitted(model, key, self.passes + len(data) * int(options.get("epochs") or 1), self.folder, self.keeper)
