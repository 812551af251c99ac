"""Recipes as commands use them: found by name, carried to workers, their data checked, folded and thinned.

A recipe must offer name, build, data and cases (`robustkit.types.Recipe`). It may offer more, and is asked here:

`every(item, training=False) -> int`
    Its models read the pixels [every // 2 :: every] of a slice and no others, on either axis: the thinned slice, its
    spacing times `every`, has the same probabilities. `training` asks for the pixels that training reads.
`in_transition(item) -> bool`
    The slice lies so near a boundary of two classes that its label is a matter of opinion.
`with_backend(name) -> Recipe`
    The same recipe in another framework.
`fine_tuning() -> Mapping`
    Options of `fit` for a round of hardening, such as {"epochs": 4, "rate": 3e-4}.
`attacked()`, `held_out() -> Sequence[Slice]`
    Slices that hardening attacks (else `cases()`), and slices it never attacks and is judged on.
`save(model, path)`, `load(path) -> Trainable`
    Its trained models as files that can be trained further.
`export(model, folder, stem) -> Sequence[Path]`
    A trained model in the forms in which it is passed on.
`make_share(number, of)`
    Makes one of `of` shares of the data and keeps it where `data()` finds it, so that workers may share the work.
`scorer(model) -> Classifier`
    The same model in the form in which it answers fastest.
`signature() -> str`
    What decides its models besides the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import registry
from robustkit.errors import DataError, UsageError
from robustkit.types import Classifier, Recipe, Slice, Trainable

SPLITS = ("train", "validation", "test")
BACKENDS = ("torch", "keras")


@dataclass(frozen=True)
class RecipeRef:
    """A recipe as it travels to a worker: its name and backend, or the object itself."""

    name: str
    backend: str | None = None
    instance: Recipe | None = field(default=None, compare=False)

    def load(self) -> Recipe:
        """Return the recipe, made once a process."""
        return self.instance if self.instance is not None else _made(self.name, self.backend)


def refer(recipe: str | Recipe, backend: str | None = None) -> RecipeRef:
    """Return a reference to a recipe by name or to the object itself.

    Raises UsageError for an unknown name, or a backend that this recipe does not have.
    """
    if isinstance(recipe, str):
        ref = RecipeRef(recipe, backend)
    else:
        ref = RecipeRef(recipe.name, backend, _in_backend(recipe, backend))
    ref.load()
    return ref


@lru_cache(maxsize=4)
def _made(name: str, backend: str | None) -> Recipe:
    return _in_backend(registry.default().recipe(name), backend)


def _in_backend(recipe: Recipe, backend: str | None) -> Recipe:
    if backend is None:
        return recipe
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; there is: {', '.join(BACKENDS)}")
    offered = getattr(recipe, "with_backend", None)
    if offered is None:
        raise UsageError(f"recipe {recipe.name!r} comes in one framework only; leave --backend out")
    found: Recipe = offered(backend)
    return found


def data_of(recipe: Recipe, fold: int | None = None, folds: int = 10) -> dict[str, list[Slice]]:
    """Return the checked splits of a recipe; with `fold`, its training and validation patients dealt anew.

    Groups (patients or objects) of train and validation, in the order in which they appear, are dealt to `folds`
    hands; hand `fold` validates and the others train. No group is ever in two splits.

    Raises
    ------
    DataError
        No data, a single class, labels that are no class of the model, or fewer groups than folds.
    """
    offered = {name: list(recipe.data().get(name) or []) for name in SPLITS}
    classes = recipe.build(0).classes
    for name, part in offered.items():
        check_labels(part, classes, f"the {name} split of recipe {recipe.name!r}", several=name == "train")
    if fold is None:
        return offered
    pool = offered["train"] + offered["validation"]
    groups = list(dict.fromkeys(group_of(item) for item in pool))
    if len(groups) < folds:
        raise DataError(
            f"{folds} folds need as many patients, recipe {recipe.name!r} has {len(groups)}; "
            f"give --folds {len(groups)} or fewer"
        )
    held = set(groups[fold::folds])
    validation = [item for item in pool if group_of(item) in held]
    return {"train": [item for item in pool if group_of(item) not in held], "validation": validation} | {
        "test": offered["test"]
    }


def check_labels(part: Sequence[Slice], classes: Sequence[str], what: str, *, several: bool = False) -> None:
    """Refuse labelled slices that nothing can be learnt from or judged by; `what` names them."""
    if not part:
        raise DataError(f"{what} has no slices; there is nothing to train on or to judge by")
    strange = sorted({str(item.label) for item in part if item.label not in classes})
    if strange:
        raise DataError(f"{what} has labels {', '.join(strange)}; the model's classes are {', '.join(classes)}")
    there = {item.label for item in part}
    if several and len(there) < 2:
        raise DataError(f"{what} holds one class, {there.pop()}; training needs slices of at least two classes")


def group_of(item: Slice) -> str:
    """Return the patient or object of a slice; a slice that does not say stands alone."""
    return item.group or item.id


def in_transition(recipe: Recipe, item: Slice) -> bool:
    """Say whether a slice lies in a transition zone; False where the recipe does not know."""
    asked = getattr(recipe, "in_transition", None)
    return bool(asked(item)) if asked is not None else False


def every(recipe: Recipe | None, item: Slice, *, training: bool = False) -> int:
    """Return which pixels the recipe's models read: 1 is all of them."""
    asked = getattr(recipe, "every", None)
    return int(asked(item, training=training)) if asked is not None else 1


def thinned(item: Slice, step: int) -> Slice:
    """Return a slice with the pixels [step // 2 :: step] of either axis; it keeps its id, which names its noise."""
    if step == 1:
        return item
    mask = None if item.mask is None else thin(item.mask, step)
    mm = (item.pixel_mm[0] * step, item.pixel_mm[1] * step)
    return replace(item, pixels=thin(item.pixels, step), pixel_mm=mm, mask=mask)


def thin(images: Any, step: int) -> Any:
    """Return images (..., H, W) with the pixels [step // 2 :: step] of either axis alone, contiguous."""
    return images if step == 1 else np.ascontiguousarray(images[..., step // 2 :: step, step // 2 :: step])


def attacked(recipe: Recipe) -> list[Slice]:
    """Return the slices that hardening attacks."""
    offered = getattr(recipe, "attacked", None)
    return list(offered() if offered is not None else recipe.cases())


def held_out(recipe: Recipe) -> list[Slice]:
    """Return the slices that hardening never sees and is judged on: the recipe's own, else one a class of its test."""
    offered = getattr(recipe, "held_out", None)
    if offered is not None:
        return list(offered())
    first: dict[str, Slice] = {}
    for item in recipe.data()["test"]:
        first.setdefault(str(item.label), item)
    return list(first.values())


def guard(recipe: Recipe) -> list[Slice]:
    """Return labelled slices of patients besides those that test, by whom a loss of accuracy shows; none is fine."""
    offered = getattr(recipe, "guard", None)
    found = list(offered()) if offered is not None else []
    if found:
        check_labels(found, recipe.build(0).classes, f"the guard of recipe {recipe.name!r}")
    return found


def fine_tuning(recipe: Recipe | None) -> dict[str, Any]:
    """Return the options of `fit` in a round of hardening."""
    offered = getattr(recipe, "fine_tuning", None)
    return dict(offered()) if offered is not None else {}


def scorer(recipe: Recipe | None, model: Classifier) -> Classifier:
    """Return the same model in the form in which it answers fastest."""
    offered = getattr(recipe, "scorer", None)
    found: Classifier = offered(model) if offered is not None else model
    return found


def keeps_models(recipe: Recipe | None) -> bool:
    """Say whether the recipe can write and read its trained models."""
    return hasattr(recipe, "save") and hasattr(recipe, "load")


def save(recipe: Recipe, model: Trainable, path: Path) -> None:
    """Write a trained model, whole or not at all; only where `keeps_models`."""
    from robustkit.files import atomic_path

    with atomic_path(path) as temporary:
        recipe.save(model, temporary)  # type: ignore[attr-defined]


def export(recipe: Recipe, model: Trainable, folder: Path, stem: str) -> list[Path]:
    """Write a trained model in every form that the recipe (or the model itself) offers; none is an empty list."""
    offered = getattr(recipe, "export", None)
    if offered is not None:
        return [Path(path) for path in offered(model, folder, stem)]
    if hasattr(model, "to_onnx"):
        return [Path(model.to_onnx(folder / f"{stem}.onnx"))]
    return []


def load(recipe: Recipe, path: Path) -> Trainable:
    """Read a trained model that `save` wrote."""
    model: Trainable = recipe.load(path)  # type: ignore[attr-defined]
    return model
