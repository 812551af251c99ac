"""The hardening loop: a strategy proposes a model, the loop judges it, round by round.

Each model is judged on noise it was never trained on, on slices that were never attacked, on measured scans, and on
clean test patients. A round that costs accuracy is refused. The loop stops when the bound of SAR is under the limit at
every level, or when nothing improves; it keeps the best model that was accepted, which may be the first.

A resumed loop runs a strategy through its steps again; trainings and judgements that were made are read back.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit import bank, cases, engine, files, hardening, making, models, recipes, registry, run, rundir, stats
from robustkit.bank import MEASURED, Ask, Stack, Thinned
from robustkit.engine import Progress
from robustkit.errors import RobustkitError, UsageError
from robustkit.fitted import Fitted, Keeper
from robustkit.judge import judge, mean_f1
from robustkit.models import ModelRef
from robustkit.plain import Record, plain
from robustkit.recipes import RecipeRef
from robustkit.study import Outcome, opened
from robustkit.types import Classifier, Recipe, Slice, Trainable

ATTACK_MAS = (12.5, 25.0, 100.0, 200.0)
ATTACKS = 500
"""Realizations a slice and round of attack."""
ROUNDS = 6
PATIENCE = 3
"""Rounds without a better accepted model after which nothing improves."""
ALLOWED_LOSS = 0.002
"""Loss of mean F1 up to which a round is accepted: the lower bound of the change must not fall under minus this."""
LIMIT = 0.01
GUARD = "guard"
JUDGES = ("test", GUARD)
"""Patients whose mean F1 must not fall: those that test, and those that a recipe has besides."""
ATTACKED, HELD_OUT = "attacked", "held out"


@dataclass(frozen=True)
class Plan:
    """All that decides a hardening: what is hardened, how it is attacked, how it is judged, when to stop."""

    recipe: RecipeRef
    model: ModelRef | None
    seed: int
    fold: int | None
    folds: int
    ask: Ask
    attack_levels: tuple[float, ...]
    attack_n: int
    limit: float
    confidence: float
    rounds: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> Record:
        """Return the plan as JSON holds it."""
        what = ["model", self.model.name, self.model.sha256] if self.model else ["seed", self.seed]
        return {
            "study": "harden",
            "recipe": making.signature(self.recipe.load()),
            "hardened": what,
            "fold": [self.fold, self.folds] if self.fold is not None else None,
            **self.ask.told(),
            "attack": {"levels": list(self.attack_levels), "n": self.attack_n, "seed": self.seed},
            "limit": self.limit,
            "confidence": self.confidence,
            "rounds": self.rounds,
            "options": dict(self.options),
        }


@dataclass(frozen=True)
class Run:
    """One strategy to run: its name, the plan, where it writes, and the most images that it may train on."""

    strategy: str
    plan: Plan
    folder: Path
    stacks: tuple[Stack, ...]
    sets: Mapping[str, str]
    budget: int | None = None


def harden(
    recipe: str | Recipe,
    *,
    model: str | Path | Classifier | None = None,
    strategy: str = "adaptive",
    against: Sequence[str] = (),
    backend: str | None = None,
    seed: int = 0,
    fold: int | None = None,
    folds: int = 10,
    noise: str = "nps",
    settings: Mapping[str, Any] | None = None,
    levels: Sequence[float] | None = None,
    realizations: int = 1000,
    measured: Sequence[float] = (25.0, 200.0),
    scans: int = 150,
    centre: str = "low-noise",
    attack_levels: Sequence[float] | None = None,
    attacks: int = ATTACKS,
    limit: float = LIMIT,
    confidence: float = 0.95,
    rounds: int = ROUNDS,
    options: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    trained: Path | None = None,
    shared: Path | None = None,
    made: Sequence[float] | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Harden the model of a recipe and seed (or `model`, with the recipe's data) and judge every round.

    Parameters
    ----------
    strategy : its name. against : strategies compared with it, each trained on as many images.
    levels, realizations, measured, scans, centre : what a round is judged on. attack_levels, attacks : what it is
    attacked with. limit : of SAR; the loop stops when its one-sided bound is under it at every level.
    rounds : at most. options : of the strategy (`--set`).
    trained : folder of models that another study trained and kept. shared, made : folder of noisy images that several
    studies share, and the levels at which they make them.

    Returns
    -------
    Outcome
        Exit code 0 when the best model is under the limit at every level, else 1.

    Raises
    ------
    UsageError : an unknown strategy or option; a limit that so few realizations cannot show.
    ModelError : a model that cannot be trained. DataError : data that nothing can be learnt from.
    """
    ref = recipes.refer(recipe, backend)
    names = list(dict.fromkeys([strategy, *against]))
    for name in names:
        hardening.options_of(registry.default().hardener(name), options or {} if name == strategy else {})
    chosen = tuple(run.check_levels(levels or run.DEFAULT_MAS, realizations, seed, 1))
    attacked_at = tuple(run.check_levels(attack_levels or ATTACK_MAS, attacks, seed, 1))
    _check(limit, confidence, realizations, rounds)
    choice = cases.NoiseChoice(noise, dict(settings or {}))
    ask = Ask(choice, chosen, realizations, tuple(measured), scans, centre, 0, tuple(made) if made else None)
    given = models.refer(model, spec or {}) if model is not None else None
    plan = Plan(
        ref, given, seed, fold, folds, ask, attacked_at, attacks, limit, confidence, rounds, dict(options or {})
    )
    told = plan.told() | {"strategy": strategy}
    stem = f"harden-{given.name if given else ref.name}"
    with opened(stem, told, out=out, resume=resume, command=command) as held:
        work_map = engine.choose(jobs, dask)
        making.hand_on(trained, held.path / "fits")
        stacks, sets = arena(ref.load(), ask, shared or held.directory.shards)
        bank.fill(stacks, work_map)
        first = Run(strategy, plan, held.path, tuple(stacks), sets)
        _report(progress, 0, len(names))
        _do([first], engine.serial)
        found = {strategy: read_rounds(first)}
        _report(progress, 1, len(names))
        budget = max((r["passes"] for r in found[strategy]), default=0)
        rivals = [replace(first, strategy=name, budget=budget) for name in names[1:]] if budget else []
        _do(rivals, work_map)
        found |= {rival.strategy: read_rounds(rival) for rival in rivals}
        _report(progress, len(names), len(names))
        summary = summarise(plan, strategy, found, sets, stacks)
        summary["files"] = _write_best(first, summary["best"])
        from robustkit.report import write_hardening

        return Outcome(held.finish(summary, write_hardening), held.path, 0 if summary["robust"] else 1)


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _check(limit: float, confidence: float, n: int, rounds: int) -> None:
    if not 0 < limit < 1:
        raise UsageError(f"--max-sar must lie between 0% and 100%, both excluded, got {limit:.4g}")
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")
    least = stats.realizations_for(limit, confidence)
    if n < least:
        raise UsageError(f"n = {n} realizations cannot show SAR <= {limit:.3g}; without any flip it takes {least}")


def arena(recipe: Recipe, ask: Ask, folder: Path) -> tuple[list[Stack], dict[str, str]]:
    """Return the stacks that every round is judged on, and {slice id: "attacked" or "held out"}."""
    sets = {item.id: ATTACKED for item in recipes.attacked(recipe)}
    items = [*recipes.attacked(recipe), *(item for item in recipes.held_out(recipe) if item.id not in sets)]
    found = bank.stacks([(item, recipes.every(recipe, item)) for item in items], ask, folder)
    return found, {item.id: sets.get(item.id, HELD_OUT) for item in items}


def _do(runs: Sequence[Run], work_map: engine.Map) -> None:
    failed = [f"{r.strategy}: {error}" for r, error in work_map(run_strategy, runs) if error is not None]
    if failed:
        raise RobustkitError(f"{len(failed)} strategies failed ({'; '.join(failed)}); run again with --resume")


def run_strategy(asked: Run) -> None:
    """Run one strategy from the first model to its end; every round leaves a record."""
    plan = asked.plan
    recipe = plan.recipe.load()
    data = recipes.data_of(recipe, plan.fold, plan.folds)
    keeper = Keeper(recipe, plan.model)
    start = Fitted(_first_model(asked, data), _root(plan), 0, asked.folder / "fits", keeper)
    data[GUARD] = recipes.guard(recipe)
    records = [_judged(asked, 0, start, data, None)]
    if records[0]["robust"] and asked.budget is None:
        return
    strategy = registry.default().hardener(asked.strategy)
    given = hardening.options_of(strategy, {**_defaults(strategy, recipe), **_mine(asked)})
    yielded = strategy(
        start,
        data["train"],
        AttackCases(recipe, plan.ask),
        levels=plan.attack_levels,
        n=plan.attack_n,
        seed=plan.seed,
        **given,
    )
    for number, model in enumerate(yielded, start=1):
        records.append(_judged(asked, number, model, data, records[0]))
        if _finished(asked, records):
            break
    close = getattr(yielded, "close", None)
    if close is not None:
        close()


def _mine(asked: Run) -> Mapping[str, Any]:
    """Return the options that were given for this strategy: those of `--set` are for the one that was asked for."""
    return asked.plan.options if asked.budget is None else {}


def _defaults(strategy: Any, recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe says of fine-tuning, as far as this strategy takes it."""
    import inspect

    known = inspect.signature(strategy).parameters
    return {name: value for name, value in recipes.fine_tuning(recipe).items() if name in known}


def _finished(asked: Run, records: Sequence[Record]) -> bool:
    """Say whether a strategy stops: out of budget for a rival; else robust, nothing improves, or rounds are over."""
    last = records[-1]
    if asked.budget is not None:
        return bool(last["passes"] >= asked.budget)
    if last["robust"] and last["accepted"]:
        return True
    best = best_round(records)
    return bool(last["round"] - best["round"] >= PATIENCE or last["round"] >= asked.plan.rounds)


def _root(plan: Plan) -> str:
    return rundir.digest(plan.told()["recipe"], plan.told()["hardened"], plan.told()["fold"])


def _first_model(asked: Run, data: Mapping[str, Sequence[Slice]]) -> Trainable:
    plan, recipe = asked.plan, asked.plan.recipe.load()
    if plan.model is not None:
        model = plan.model.load()
        making.check_trainable(model, plan.model.name)
        for name, part in data.items():
            recipes.check_labels(part, model.classes, f"the {name} split of recipe {recipe.name!r}")
        found: Any = model
        return found  # type: ignore[no-any-return]
    job = making.Job("first", asked.folder / "fits", plan.recipe, plan.seed, plan.fold, plan.folds, keep=True)
    return making.trained(job, data)


@dataclass(frozen=True, eq=False)
class AttackCases(Sequence[hardening.Case]):
    """The slices that are attacked, each with its noise, at the pixels that training reads; made when first asked."""

    recipe: Recipe
    ask: Ask

    @functools.cached_property
    def made(self) -> list[hardening.Case]:
        """Return the cases."""
        found: list[hardening.Case] = []
        for item in recipes.attacked(self.recipe):
            step = recipes.every(self.recipe, item, training=True)
            case = cases.prepare(bank.with_repeats(bank.source_of(item, self.ask), self.ask.choice), self.ask.choice)
            small = recipes.thinned(replace(item, pixels=case.clean), step)
            found.append((small, Thinned(case.noise, case.clean, step)))
        return found

    def __getitem__(self, index: Any) -> Any:
        return self.made[index]

    def __len__(self) -> int:
        return len(self.made)


def _judged(asked: Run, number: int, model: Any, data: Mapping[str, Sequence[Slice]], first: Record | None) -> Record:
    """Judge one round, or read its record back; the model is written with it where the recipe keeps models."""
    path = record_path(asked, number)
    if path.exists():
        return making.read(path)
    recipe = asked.plan.recipe.load()
    inner, passes = (model.inner, model.passes) if isinstance(model, Fitted) else (model, 0)
    scorer = recipes.scorer(recipe, inner) if asked.plan.model is None else inner
    found = judge(
        scorer,
        {name: data[name] for name in JUDGES if data[name]},
        asked.stacks,
        lambda item: recipes.in_transition(recipe, item),
    )
    record = {"strategy": asked.strategy, "round": number, "passes": passes, **found}
    record |= verdict(asked.plan, asked.sets, record, first)
    keeper = Keeper(recipe, asked.plan.model)
    if keeper.able:
        keeper.save(inner, path.with_suffix(keeper.ending))
    files.write_json(path, plain(record))
    return making.read(path)


def record_path(asked: Run, number: int) -> Path:
    """Return where the record of a round belongs; the first model is the same for all strategies."""
    name = "start" if number == 0 else f"{asked.strategy}-{number:02d}"
    return asked.folder / "rounds" / f"{name}.json"


def read_rounds(asked: Run) -> list[Record]:
    """Return the records of a strategy's rounds, the first model included."""
    found = []
    for number in range(asked.plan.rounds * 10 + 1):
        path = record_path(asked, number)
        if not path.exists():
            break
        found.append(making.read(path))
    return found


def verdict(plan: Plan, sets: Mapping[str, str], record: Record, first: Record | None) -> Record:
    """Return what a round is worth: its SAR by set, noise, class and level; robust or not; accepted or refused.

    A model is robust when the bound of SAR is under the limit everywhere in simulation, measured scans do not speak
    against it, and no audited slice is named wrongly without noise: a wrong answer that never changes is no success.
    """
    rows = sar_rows(record, sets, plan.confidence)
    wrong = sorted(
        {f"{s['label']} called {s['clean']}" for s in record["stacks"] if s["label"] not in ("", s["clean"])}
    )
    simulated = [row for row in rows if row["noise"] != MEASURED]
    measured = [row for row in rows if row["noise"] == MEASURED]
    under = all(row["upper"] <= plan.limit for row in simulated)
    above = any(row["lower"] > plan.limit for row in measured)
    guard = _guard(record, first, plan.confidence)
    return {
        "rows": rows,
        "wrong": wrong,
        "worst": max((row["upper"] for row in simulated or rows), default=None),
        "flips": sum(row["k"] + row["tied"] for row in rows),
        "robust": under and not above and not wrong,
        "guard": guard,
        "accepted": guard["accepted"],
        "f1": mean_f1(record),
        "f1_all": mean_f1(record, transition=True),
    }


def sar_rows(record: Record, sets: Mapping[str, str], confidence: float) -> list[Record]:
    """Return SAR per set, noise, class (answer without noise) and level, with exact one-sided bounds; ties count."""
    counts: dict[tuple[str, str, str, float], list[int]] = {}
    for stack in record["stacks"]:
        for level, noisy, tied, count in stack["cells"]:
            cell = counts.setdefault((sets[stack["slice"]], stack["noise"], stack["clean"], float(level)), [0, 0, 0])
            changed = noisy != stack["clean"]
            cell[0] += count if changed and not tied else 0
            cell[1] += count if changed and tied else 0
            cell[2] += count
    return [
        {"set": where, "noise": noise, "class": name, "level": level, "k": k, "tied": tied, "n": n}
        | {
            "upper": float(stats.clopper_pearson(k + tied, n, confidence, "upper").high),
            "lower": float(stats.clopper_pearson(k, n, confidence, "lower").low),
        }
        for (where, noise, name, level), (k, tied, n) in sorted(counts.items())
    ]


def _guard(record: Record, first: Record | None, confidence: float) -> Record:
    """Return whether clean accuracy held: patients drawn anew, the lower bound of the change of mean F1."""
    if first is None:
        return {"accepted": True, "change": 0.0, "lower": 0.0, "groups": 0, "reason": "the model as it was given"}
    before, after = (_by_group(r) for r in (first, record))
    found = stats.f1_change(before, after, confidence)
    bound = found.change if np.isnan(found.lower) else found.lower
    accepted = bool(bound >= -ALLOWED_LOSS)
    reason = "one patient: the change itself is judged" if np.isnan(found.lower) else ""
    return {
        "accepted": accepted,
        "change": found.change,
        "lower": None if np.isnan(found.lower) else found.lower,
        "groups": found.groups,
        "reason": reason,
    }


def _by_group(record: Record) -> NDArray[np.int64]:
    """Return the confusion matrices (G, C, C) of unseen patients outside transition zones, in order of name."""
    found = record["confusion"]
    counted = {name: counts for split in JUDGES if split in found for name, counts in found[split]["clear"].items()}
    return np.array([counted[name] for name in sorted(counted)], dtype=np.int64)


def best_round(records: Sequence[Record]) -> Record:
    """Return the accepted round with the fewest slices named wrongly, then the lowest bound, then the fewest flips."""
    accepted = [record for record in records if record["accepted"]]
    return min(accepted, key=lambda r: (len(r["wrong"]), r["worst"] or 0.0, r["flips"], r["round"]))


def _write_best(asked: Run, number: int) -> list[str]:
    """Write the best model in the forms that the recipe (or the model itself) offers; return their names."""
    keeper = Keeper(asked.plan.recipe.load(), asked.plan.model)
    kept = record_path(asked, number).with_suffix(keeper.ending)
    if not keeper.able or not kept.exists() or number == 0:
        return []
    if asked.plan.model is not None:
        path = asked.folder / f"hardened{keeper.ending}"
        keeper.save(keeper.load(kept), path)
        return [path.name]
    return [p.name for p in recipes.export(keeper.recipe, keeper.load(kept), asked.folder, "hardened")]


def summarise(
    plan: Plan,
    strategy: str,
    found: Mapping[str, Sequence[Record]],
    sets: Mapping[str, str],
    stacks: Sequence[Stack],
) -> Record:
    """Return the content of summary.json: every round, the best, why the loop stopped, and strategies side by side."""
    rounds = list(found[strategy])
    best = best_round(rounds)
    return {
        "schema": 1,
        "study": "harden",
        "strategy": strategy,
        "plan": plan.told(),
        "classes": rounds[0]["classes"],
        "unit": "mAs",
        "limit": plan.limit,
        "confidence": plan.confidence,
        "allowed_loss": ALLOWED_LOSS,
        "slices": {name: sum(1 for where in sets.values() if where == name) for name in (ATTACKED, HELD_OUT)},
        "rounds": {name: [_short(r) for r in records] for name, records in found.items()},
        "best": best["round"],
        "robust": best["robust"],
        "stopped": _why(plan, rounds),
        "sentence": sentence(plan, rounds, best),
        "strategies": [_side(name, records, found[strategy]) for name, records in found.items()],
        "noise_source": sorted({str(s.story()["source"]) for s in stacks}),
        "clean_source": sorted({str(s.story()["clean"]["from"]) for s in stacks}),
    }


def _short(record: Record) -> Record:
    left_out = ("stacks", "confusion", "classes")
    return {name: value for name, value in record.items() if name not in left_out}


def _why(plan: Plan, rounds: Sequence[Record]) -> str:
    last, best = rounds[-1], best_round(rounds)
    if len(rounds) == 1:
        return "already robust" if last["robust"] else "no attack succeeded"
    if last["robust"] and last["accepted"]:
        return "robust"
    if last["round"] - best["round"] >= PATIENCE:
        return "nothing improves"
    return "rounds over" if last["round"] >= plan.rounds else "no attack succeeded"


def sentence(plan: Plan, rounds: Sequence[Record], best: Record) -> str:
    """Return what came of it, in one sentence with its numbers."""
    refused = sum(not r["accepted"] for r in rounds)
    told = {
        "already robust": "The model is under the limit already, so nothing was changed",
        "no attack succeeded": "No attack succeeded"
        + (", so nothing was changed" if len(rounds) == 1 else f" any more after round {rounds[-1]['round']}"),
        "robust": f"After {best['round']} round{'s' * (best['round'] != 1)} the bound of SAR is under the limit "
        f"at every level",
        "nothing improves": f"Nothing improved in {PATIENCE} rounds after round {best['round']}",
        "rounds over": f"After all {plan.rounds} rounds the bound of SAR is not under the limit at every level",
    }[_why(plan, rounds)]
    worst = f"worst bound {100 * best['worst']:.2f} %" if best["worst"] is not None else "no slice"
    told += f": {best['flips']} answers changed in {sum(row['n'] for row in best['rows'])} images, {worst}"
    if best["round"]:
        guard = best["guard"]
        bound = "" if guard["lower"] is None else f" (lower bound {100 * guard['lower']:+.2f})"
        told += f"; mean F1 {100 * guard['change']:+.2f} points{bound}"
    if refused:
        told += f"; {refused} round{'s' * (refused != 1)} refused because clean accuracy fell"
    return told + "."


def _side(name: str, records: Sequence[Record], reference: Sequence[Record]) -> Record:
    """Return one strategy for the table side by side: its last round within the training that the first one had."""
    budget = max(r["passes"] for r in reference)
    within = [r for r in records if r["passes"] <= budget] or list(records[:1])
    last = records[-1] if records[-1]["passes"] <= 1.5 * budget else within[-1]
    shown = best_round(records) if name == reference[-1]["strategy"] else last
    return {"strategy": name, **{k: shown[k] for k in ("round", "passes", "rows", "worst", "flips", "wrong")}} | {
        k: shown[k] for k in ("robust", "accepted", "guard", "f1")
    }
