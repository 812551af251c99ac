"""What this plugin offers to robustkit; everything heavy is imported inside the hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from robustkit import Classifier, Recipe, Slice, hookimpl

MODEL = Path(__file__).parent / "model.onnx"


@hookimpl
def robustkit_load_images(path: str) -> Sequence[Slice] | None:
    """Open `phantom` (four central slices), `phantom/C` (one of them) and `phantom/AP+40` (40 mm below its middle)."""
    from robustkit_ct_bodysite.names import phantom_images

    return phantom_images(path)


@hookimpl
def robustkit_models() -> Mapping[str, Callable[[], Classifier]]:
    """Offer the trained body-site model."""
    return {"ct-bodysite": shipped_model}


@hookimpl
def robustkit_recipes() -> Mapping[str, Callable[[], Recipe]]:
    """Offer the recipes `ct-bodysite`, `ct-bodysite-stress` and `ct-bodysite-clinic`."""
    return {name: partial(recipe, name) for name in ("ct-bodysite", "ct-bodysite-stress", "ct-bodysite-clinic")}


def recipe(name: str) -> Recipe:
    """Return one of the recipes, as studies take it."""
    from robustkit_ct_bodysite.recipe import RECIPES
    from robustkit_ct_bodysite.study import Study

    return Study(RECIPES[name])


def shipped_model() -> Classifier:
    """Load the model that ships with this plugin."""
    from robustkit.adapters import load_model

    model = load_model(MODEL, {})
    if model is None:  # pragma: no cover
        raise RuntimeError(f"{MODEL.name} was not recognised as an ONNX model")
    return model
