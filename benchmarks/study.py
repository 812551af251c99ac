"""What `robustkit reproduce --scale small` costs: its parts timed in CPU seconds, and the sum for quiet cores.

Run: python benchmarks/study.py [--recipe ct-bodysite] [--cores 2]. CPU time, so that a busy machine does not count; on
one that shares cores between threads of other programs it still reads high. Bodies in the cache cost nothing: they are
scanned here into an empty one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustkit import bank, cases, hardening, recipes, reproduce, rounds
from robustkit.bank import Ask
from robustkit.judge import answers, score_stack
from robustkit.types import Classifier, Slice


def main() -> None:  # noqa: PLR0915 - one line a part
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="ct-bodysite")
    parser.add_argument("--cores", type=int, default=2)
    asked = parser.parse_args()
    scale = reproduce.SCALES["small"]
    recipe: Any = recipes.refer(asked.recipe).load()
    folder = Path(tempfile.mkdtemp())
    rows: list[tuple[str, float, float]] = []

    def timed(name: str, work: Callable[[], float], times: float) -> None:
        """`work` returns how many units it did; `times` is how many the study needs."""
        began = time.process_time()
        done = work()
        rows.append((name, (time.process_time() - began) / done, times))

    slices = scans(recipe)
    timed("scan a body's slices (per slice)", lambda: scan_some(recipe, folder / "cache"), slices)
    data = recipes.data_of(recipe)
    train = data["train"]
    models = scale.folds + scale.retrainings - 1
    some = train[:: max(1, len(train) // 1280)][:1280]
    model = recipe.build(0)
    epochs = model.settings.epochs

    def one_epoch() -> float:
        model.fit(some, 0, epochs=1)
        return len(some)

    model.fit(some[:64], 0, epochs=1)
    timed("train (per image and epoch)", one_epoch, models * epochs * len(train))
    scorer = recipes.scorer(recipe, model)
    everything = len(train) + len(data["validation"]) + len(data["test"])
    labelled = scale.folds * everything + scale.retrainings * len(data["test"])
    timed("answer labelled slices (per slice)", lambda: count(answers(scorer, some)), labelled)

    item = recipe.cases()[0]
    step = recipes.every(recipe, item)
    warm = Ask(levels=scale.levels, n=16, scans=2)
    bank.fill(bank.stacks([(item, step)], warm, folder / "warm"))
    timed("fit the noise of a slice", lambda: fit(item), 4 * 2 + 8 + 8 + 2 * 4 * 2)
    ask = Ask(levels=scale.levels, n=128, scans=0, seed=5)
    stacks = bank.stacks([(item, step)], ask, folder / "bank")
    bank.forget()
    bank.fill([replace(stacks[0], n=1)])
    timed("make noisy images, 13 levels (per realization)", lambda: made(stacks), (4 + 4 + 8 + 8) * scale.n)
    scanned = bank.stacks([(item, step)], Ask(levels=(), scans=64, measured=(25.0,)), folder / "scans")
    timed("scan at the pixels read (per scan)", lambda: made(scanned), (4 + 8 + 8) * 2 * scale.scans)
    per_model = 4 * (2 * scale.n + 2 * scale.scans)
    judged = scale.retrainings * per_model + 2 * 4 * (13 + 2) * scale.n + 8 * 13 * scale.n
    a_round = 8 * (len(scale.harden_levels) * scale.n + 2 * scale.scans)
    strategies = 1 + len(scale.against)
    judged += (1 + 3 * strategies) * a_round
    timed("answer noisy images (per image)", lambda: scored(scorer, stacks), judged)
    attacks = 3 * 4 * len(rounds.ATTACK_MAS) * scale.attacks
    case = rounds.AttackCases(recipe, ask)[0]
    timed("attack (per image)", lambda: attacked(scorer, case), attacks)
    fine = recipes.fine_tuning(recipe).get("epochs", hardening.EPOCHS)
    rows.append(("train in hardening (per image and epoch)", rows[1][1], 3 * strategies * fine * 1.4 * len(train)))

    print("| part | CPU, ms a unit | units | CPU, s |\n|---|---|---|---|")
    for name, each, times in rows:
        print(f"| {name} | {1e3 * each:.3f} | {times:,.0f} | {each * times:.0f} |")
    total = sum(each * times for _, each, times in rows)
    print(f"\nTotal {total:.0f} s of CPU; {total / asked.cores / 60:.1f} minutes on {asked.cores} quiet cores.")
    print("Taken for granted: three rounds of every strategy, no body in the cache, one model trained for both uses.")


def count(found: Sized) -> float:
    return float(len(found))


def scans(recipe: Any) -> float:
    cohort, fold = recipe.recipe.cohort, recipe.recipe.fold
    return float(sum(len({s.scan for s in cohort.shots(split, fold)}) for split in ("train", "validation", "test")))


def scan_some(recipe: Any, cache: Path) -> float:
    from robustkit_ct_bodysite import data

    shots = recipe.recipe.cohort.shots("validation", 0)
    mine = [shot for shot in shots if shot.scan.patient == shots[0].scan.patient]
    kept = os.environ.get("ROBUSTKIT_CACHE")
    os.environ["ROBUSTKIT_CACHE"] = str(cache)
    try:
        data.scanned(mine)
    finally:
        os.environ.pop("ROBUSTKIT_CACHE")
        if kept is not None:
            os.environ["ROBUSTKIT_CACHE"] = kept
    return float(len({shot.scan for shot in mine}))


def fit(item: Slice) -> float:
    choice = cases.NoiseChoice("nps")
    cases.prepare(bank.with_repeats(bank.source_of(item, Ask(choice)), choice), choice)
    return 1.0


def made(stacks: list[bank.Stack]) -> float:
    bank.fill(stacks)
    return float(sum(stack.n for stack in stacks))


def scored(model: Classifier, stacks: list[bank.Stack]) -> float:
    for stack in stacks:
        score_stack(model, stack)
    return float(sum(stack.n * len(stack.levels) for stack in stacks))


def attacked(scorer: Any, case: hardening.Case) -> float:
    hardening.attacks(scorer, case, rounds.ATTACK_MAS, range(64), 0)
    return 64.0 * len(rounds.ATTACK_MAS)


if __name__ == "__main__":
    main()
