"""Train a recipe with many seeds and choose a model worth auditing: `python -m robustkit_ct_bodysite.choose --out DIR`.

A model after 20 to 30 epochs of a seed's training is a candidate: the paper's 20 made six times as many steps. It
qualifies when its mean F1 on patients it never saw is at least 97 %, with and without the transition zones, when it
names the phantom's four central slices rightly, and when at 25 mAs it changes its answer in 5 to 60 % of realizations
on at least one of them. Chosen is, of the first seed that has any, the one that flips most. `candidates.json` tells
of every candidate (one whose F1 does not suffice is not audited), and the chosen one's weights are written as
`model.onnx`, `model.pt` and `model.keras`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustkit_ct_bodysite.evaluate import testing
from robustkit_ct_bodysite.export import save
from robustkit_ct_bodysite.network import SiteNet
from robustkit_ct_bodysite.phantom import central_slices
from robustkit_ct_bodysite.recipe import RECIPES, SiteRecipe
from robustkit_ct_bodysite.study import Study
from robustkit_ct_bodysite.train import stages

MAS, REALIZATIONS = 25.0, 200
LEAST_F1 = 0.97
EPOCHS = range(20, 31)
FLIPS = (0.05, 0.60)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 when a model was chosen, 1 when none of them flips."""
    parser = argparse.ArgumentParser(prog="robustkit_ct_bodysite.choose", description=__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="ct-bodysite-clinic")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("candidates"))
    asked = parser.parse_args(arguments)
    recipe = RECIPES[asked.recipe]
    asked.out.mkdir(parents=True, exist_ok=True)
    seeds = range(asked.first, asked.first + asked.count)
    records = [record for seed in seeds for record in candidates(recipe, seed, asked.out)]
    found = chosen(records)
    (asked.out / "candidates.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(map(qualifies, records))} of {len(records)} models qualify")
    if found is None:
        print("none was chosen")
        return 1
    written = ship(recipe, found, asked.out)
    print(f"chosen: {name(found['seed'], found['epochs'])}; written as {', '.join(path.name for path in written)}")
    return 0


def candidates(recipe: SiteRecipe, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train with `seed` unless `folder` has its records already; return them, the longest training first."""
    path = folder / f"seed-{seed}.json"
    if not path.exists():
        trained = stages(recipe, seed, EPOCHS[-1])
        found = [measured(recipe, seed, model, folder) for model in trained if len(model.history) in EPOCHS]
        path.write_text(json.dumps(found[::-1]), encoding="utf-8")
    return list(json.loads(path.read_text(encoding="utf-8")))


def measured(recipe: SiteRecipe, seed: int, model: SiteNet, folder: Path) -> dict[str, Any]:
    """Save a candidate and return its record: F1 in shares of 1, flips as k of n."""
    path = folder / f"{name(seed, len(model.history))}.onnx"
    save(model, path)
    every, clear = testing(model, recipe.images("test"))
    good = min(every.mean_f1, clear.mean_f1) >= LEAST_F1
    record = {
        "recipe": recipe.name,
        "seed": seed,
        "epochs": len(model.history),
        "f1": [round(float(f1), 5) for f1 in every.f1],
        "f1_without_transitions": [round(float(f1), 5) for f1 in clear.f1],
        "tested": [every.n, clear.n],
        "flips": flips(path, path.with_suffix("")) if good else None,
    }
    print(json.dumps(record), flush=True)
    return record


def ship(recipe: SiteRecipe, record: dict[str, Any], folder: Path) -> Sequence[Path]:
    """Write a candidate's weights in every form as model.* and return the paths."""
    import torch

    path = folder / f"{name(record['seed'], record['epochs'])}.pt"
    weights = {key: value.numpy() for key, value in torch.load(path, weights_only=True).items()}
    return Study(recipe).export(SiteNet(recipe.settings, weights), folder, "model")


def name(seed: int, epochs: int) -> str:
    """Return what the files of a candidate are called."""
    return f"seed-{seed}-epochs-{epochs}"


def flips(model: Path, run: Path) -> dict[str, dict[str, Any]]:
    """Return site -> what the model answers on its central slice, and how many of n realizations change that."""
    from robustkit.run import audit_model

    outcome = audit_model(model, levels=[MAS], n=REALIZATIONS, out=run, resume=run.exists())
    table, found = outcome.table, {}
    for item in central_slices():
        rows = table[table["slice"] == item.id]
        answer = str(rows["clean"].iloc[0])
        changed = int(rows.loc[(rows["noisy"] != rows["clean"]) & ~rows["tied"], "count"].sum())
        found[str(item.label)] = {"answer": answer, "k": changed, "n": int(rows["count"].sum())}
    return found


def chosen(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the record of the model that the rule above chooses; None when no candidate qualifies."""
    fit = [record for record in records if qualifies(record)]
    return max(
        (record for record in fit if record["seed"] == fit[0]["seed"]), key=lambda r: max(rates(r)), default=None
    )


def qualifies(record: dict[str, Any]) -> bool:
    """Return whether a candidate was good enough to be audited, is right, and is worth auditing (the rule above)."""
    if record["flips"] is None:
        return False
    right = all(found["answer"] == site for site, found in record["flips"].items())
    return right and any(FLIPS[0] <= rate <= FLIPS[1] for rate in rates(record))


def rates(record: dict[str, Any]) -> list[float]:
    """Return the SAR of each central slice at 25 mAs, of an audited candidate."""
    return [found["k"] / found["n"] for found in record["flips"].values()]


if __name__ == "__main__":
    sys.exit(main())
