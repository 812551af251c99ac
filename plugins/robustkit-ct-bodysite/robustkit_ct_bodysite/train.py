"""Train a body-site model: `python -m robustkit_ct_bodysite.train --seed S --out model.onnx`.

Scans the cohort (once; kept in the user's cache), trains, prints F1 on bodies never seen, and writes the model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustkit.stats import Accuracy
from robustkit_ct_bodysite.evaluate import testing
from robustkit_ct_bodysite.network import SiteNet
from robustkit_ct_bodysite.patient import SITES
from robustkit_ct_bodysite.recipe import RECIPES, SiteRecipe, slices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="robustkit_ct_bodysite.train", description=__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="ct-bodysite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fold", type=int, default=0, choices=range(10))
    parser.add_argument("--out", type=Path, default=Path("model.onnx"))
    asked = parser.parse_args(arguments)
    recipe = replace(RECIPES[asked.recipe], fold=asked.fold)
    for split in ("train", "test"):
        recipe.images(split, lambda done, total: _say(f"scanned {done} of {total} slices"))
    model = train(recipe, asked.seed)
    for name, result in zip(
        ("every image", "without transition zones"), testing(model, recipe.images("test")), strict=True
    ):
        print(_line(name, result))
    from robustkit_ct_bodysite.export import save

    save(model, asked.out)
    print(f"wrote {asked.out}")
    return 0


def train(recipe: SiteRecipe, seed: int) -> SiteNet:
    """Return the network of `recipe` trained with `seed`: the same weights every time on one machine."""
    *_, last = stages(recipe, seed)
    return last


def stages(recipe: SiteRecipe, seed: int, epochs: int | None = None) -> Iterator[SiteNet]:
    """Yield the network of `recipe` after each epoch (its own number, or `epochs`); say on stderr how it goes."""
    began = time.perf_counter()
    for model in recipe.build(seed).stages(slices(recipe.cohort, "train", recipe.fold), seed, epochs=epochs):
        _say(f"epoch {len(model.history)}: loss {model.history[-1]:.4f}, {time.perf_counter() - began:.0f} s")
        yield model


def _line(name: str, result: Accuracy) -> str:
    each = ", ".join(f"{site} {100 * f1:.2f}" for site, f1 in zip(SITES, np.asarray(result.f1), strict=True))
    return f"F1 in %, {name}: {each}; mean {100 * result.mean_f1:.2f} ({result.n} images)"


def _say(text: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
