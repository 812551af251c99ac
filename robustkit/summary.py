"""summary.json: what an audit found, as machines and reports read it, and the verdict in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import slices, stats
from robustkit.errors import UsageError
from robustkit.gates import EXIT_CODES, Gate, judge, passes
from robustkit.metrics import cmr, sar, totals
from robustkit.plain import plain
from robustkit.stats.intervals import METHODS
from robustkit.verdict import MANY_SLICES, at_level, slice_warnings, verdict_sentence, warnings

if TYPE_CHECKING:
    import pandas as pd

    from robustkit.types import Metric

SCHEMA = 1
DEFAULT_LIMIT = 0.05
"""Limit of the lowest passing level where no gate sets one."""
THRESHOLDS = (0.01, 0.05, 0.10, 0.50)
"""Rates for which the level that reaches them is looked up on the dose curve."""
OWN_METRICS = ("sar", "cmr")
BY_SLICE = ["slice", "group", "class", "level", "k", "n", "rate", "low", "high", "tied"]


def build(
    results: pd.DataFrame | Iterable[pd.DataFrame],
    *,
    model: str,
    noise: str,
    unit: str,
    classes: Sequence[str],
    levels: Sequence[float],
    n: int,
    seed: int,
    confidence: float = 0.95,
    gate: Gate | None = None,
    null_audit: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    interval: str = "clopper-pearson",
    simultaneous: bool = False,
    refits: pd.DataFrame | None = None,
    withhold_lowest: str = "",
) -> dict[str, Any]:
    """Build the content of summary.json from the results table of one audited case.

    Parameters
    ----------
    results : the results table, or blocks of it that may be gone through more than once, each of whole slices: what is
        found does not depend on the blocks. Rows of measured scans in a simulated run become `measured`.
    model, noise, unit, classes, levels, n, seed : what was asked. n is realizations a slice and level.
    confidence, interval : of the two-sided intervals ("clopper-pearson", or "wilson" for reading). Bounds of the gate
        and of the lowest passing level are one-sided and exact whatever `interval` is.
    gate : the limit to judge, None for no verdict. null_audit : the numerical floor, passed through.
    metrics : further metrics by name; they are given the whole table. One that raises is recorded as {"error": ...}
        with a warning.
    simultaneous : add Bonferroni intervals over all classes and levels (low_simultaneous, high_simultaneous).
    refits : counts of every leave-one-scan-out refit, columns class, level, k, n: adds total_low and total_high.
    withhold_lowest : the reason why no lowest passing level may be stated (a simulation tied to no measured noise).

    Returns
    -------
    dict : strict JSON, None for what is undefined.

    Raises
    ------
    UsageError : the gate asks for a class or level that was not audited, or the interval has an unknown name.
    """
    import pandas as pd

    check_interval(interval)
    blocks: Iterable[pd.DataFrame] = [results] if isinstance(results, pd.DataFrame) else results
    audited, measured, parts = _reduced(blocks, noise)
    table = sar(audited, confidence=confidence, interval=interval, classes=classes)
    order = list(dict.fromkeys([*classes, *table["class"]]))
    by_slice = slices.joined(parts, order)
    parts.clear()
    limit = gate.max_sar if gate else DEFAULT_LIMIT
    sequential = bool(gate and gate.sequential)
    items, untested = _items(table, by_slice, sequential=sequential)
    extra, problems = _other_metrics(blocks, noise, metrics or {})
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "model": model,
        "noise": noise,
        "unit": unit,
        "classes": order,
        "levels": list(levels),
        "n": n,
        "seed": seed,
        "confidence": confidence,
        "interval": interval,
        "sar": _sar_records(table, confidence, simultaneous, refits),
        "cmr": _matrices(cmr(audited, classes=order), order),
        "metrics": extra,
        "lowest_passing_level": _lowest_levels(items, untested, limit, confidence, unit, sequential, withhold_lowest),
        "thresholds": _thresholds(table, limit, confidence, unit),
        "gate": judge(gate, items, confidence, untested) if gate else None,
        "null_audit": dict(null_audit or {}),
        "ties": int(table["tied"].sum()),
    }
    shared = slices.of_shared_classes(by_slice)
    if len(shared):
        worst = slices.as_told(slices.of_most(shared, MANY_SLICES), confidence, interval)
        found |= {"by_slice": _records(worst[BY_SLICE]), "clusters": slices.clusters(shared, confidence)}
    if len(measured):
        found["measured"] = _records(sar(measured, confidence=confidence, interval=interval, classes=order))
    found["warnings"] = problems + warnings(found) + slice_warnings(found["gate"], unit, shared)
    found["verdict_sentence"] = verdict_sentence(found)
    contract: dict[str, Any] = plain(found)
    return contract


def check_interval(name: str) -> str:
    """Return the name of a two-sided interval; UsageError for one that there is not."""
    if name not in METHODS:
        raise UsageError(f"unknown interval {name!r}; there is: {', '.join(METHODS)}")
    return name


def exit_code(summary: Mapping[str, Any]) -> int:
    """Exit code of a run: 0 pass or no gate asked, 1 gate failed, 3 inconclusive at this n."""
    gate = summary.get("gate")
    return EXIT_CODES[gate["verdict"]] if gate else 0


def _reduced(blocks: Iterable[pd.DataFrame], noise: str) -> tuple[pd.DataFrame, pd.DataFrame, list[pd.DataFrame]]:
    """Return all that is asked of a table, without the table: counts of audited and measured rows, and its slices."""
    import pandas as pd

    kept: tuple[list[pd.DataFrame], list[pd.DataFrame]] = ([], [])
    parts = []
    for block in blocks:
        audited, measured = _split(block, noise)
        for mine, rows in zip(kept, (audited, measured), strict=True):
            mine[:] = [totals(pd.concat([*mine, totals(rows)], ignore_index=True))]
        parts.append(slices.counted(audited))
    return kept[0][0], kept[1][0], parts


def _split(results: pd.DataFrame, noise: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    is_measured = (results["noise"] == "measured") & (noise != "measured")
    return results[~is_measured], results[is_measured]


def _items(table: pd.DataFrame, by_slice: pd.DataFrame, *, sequential: bool) -> tuple[pd.DataFrame, list[str]]:
    """Return what a gate judges, and the classes that have no part in it.

    Judged are class and level; slice by slice where the sample size followed the results.
    """
    if not sequential:
        shared_by = table["class"].map(slices.per_class(by_slice)).fillna(1)
        return table.assign(slices=shared_by.astype("int64")), []
    untested = table.loc[table["n"] == 0, "class"].unique()
    return by_slice.assign(slices=np.int8(1)), [str(name) for name in untested]


def _sar_records(
    table: pd.DataFrame, confidence: float, simultaneous: bool, refits: pd.DataFrame | None
) -> list[dict[str, Any]]:
    shown = table[["class", "level", "k", "n", "rate", "low", "high", "tied"]]
    if simultaneous:
        low, high = stats.simultaneous(shown["k"], shown["n"], confidence)
        shown = shown.assign(low_simultaneous=low, high_simultaneous=high)
    found = _records(shown)
    if refits is not None:
        for row in found:
            mine = refits[(refits["class"] == row["class"]) & (refits["level"] == row["level"])]
            if len(mine) >= 2:
                counts, least = mine[["k", "n"]].to_numpy(), float(mine.get("least_spread", mine["n"] * 0).max())
                ends = stats.total_interval(row["k"], row["n"], counts, confidence, least_spread=least)
                row["total_low"], row["total_high"] = ends
    return found


def _matrices(cells: pd.DataFrame, order: list[str]) -> list[dict[str, Any]]:
    """One matrix a level: [predicted with noise][predicted without noise]; undefined columns have null rates."""
    found = []
    for level, part in cells.groupby("level", sort=True):
        matrix: dict[str, Any] = {"level": level}
        for key, column in (("counts", "count"), ("rates", "rate"), ("low", "low"), ("high", "high")):
            square = part.pivot(index="noisy", columns="clean", values=column).reindex(index=order, columns=order)
            matrix[key] = square.to_numpy().tolist()
        found.append(matrix)
    return found


def _lowest_levels(
    items: pd.DataFrame,
    untested: Sequence[str],
    limit: float,
    confidence: float,
    unit: str,
    sequential: bool,
    withheld: str,
) -> dict[str, dict[str, Any]]:
    """Per class: the noisiest level down to which every level passes, from the quietest on (a fixed sequence)."""
    found: dict[str, dict[str, Any]] = {}
    none = ((name, items.iloc[:0]) for name in untested)
    parts: Iterable[tuple[Any, pd.DataFrame]] = chain(items.groupby("class", sort=False, observed=True), none)
    for name, part in parts:
        told: dict[str, Any] = {"level": None, "limit": limit, "confidence": confidence}
        tested = part[part["n"] > 0]
        if withheld or tested.empty:
            told["reason"] = withheld or f"no image was called {name} without noise"
        else:
            told |= _sequence(tested, limit, 1 - confidence, unit, sequential)
        found[str(name)] = told
    return found


def _sequence(tested: pd.DataFrame, limit: float, alpha: float, unit: str, sequential: bool) -> dict[str, Any]:
    levels = sorted(set(tested["level"]), reverse=not stats.noise_rises(unit))

    def level_passes(level: float) -> bool:
        rows = tested[tested["level"] == level]
        kinds, _ = slices.distinct(rows, ("k", "tied", "n"))
        return all(
            passes(k + tied, n, limit, alpha, sequential=sequential) for k, tied, n in kinds.itertuples(index=False)
        )

    last = stats.fixed_sequence([level_passes(level) for level in levels])
    following = 0 if last is None else last + 1
    stopped = levels[following] if following < len(levels) else None
    if stopped is None:
        reason = "every tested level passes"
    elif last is None:
        reason = f"does not pass at the quietest level tested, {at_level(stopped, unit)}"
    else:
        reason = f"does not pass at {at_level(stopped, unit)}"
    return {"level": None if last is None else levels[last], "stopped_at": stopped, "reason": reason}


def _thresholds(table: pd.DataFrame, limit: float, confidence: float, unit: str) -> list[dict[str, Any]]:
    """Per class and rate: the level at which the dose curve reaches it, and between which levels it surely lies."""
    found = []
    for name, part in table[table["n"] > 0].groupby("class", sort=False, observed=True):
        for rate in sorted({*THRESHOLDS, limit}):
            at = stats.threshold(part["level"], part["k"], part["n"], rate, confidence, unit=unit)
            found.append({"class": name, "rate": rate, "level": at.level, "low": at.low, "high": at.high})
    return found


def _other_metrics(
    blocks: Iterable[pd.DataFrame], noise: str, metrics: Mapping[str, Metric]
) -> tuple[dict[str, Any], list[str]]:
    """Run every further metric on its own copy of the whole table; one that fails is named and stops nothing."""
    import pandas as pd

    found: dict[str, Any] = {}
    problems = []
    asked = {name: metric for name, metric in metrics.items() if name not in OWN_METRICS}
    parts = [_split(block, noise)[0] for block in blocks] if asked else []
    whole = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True) if parts else None
    for name, metric in asked.items():
        assert whole is not None
        try:
            found[name] = _records(metric(whole.copy()))
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            problems.append(f"metric {name!r} failed and was left out: {type(error).__name__}: {error}")
    return found, problems


def _records(table: Any) -> list[dict[str, Any]]:
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"a metric returns a DataFrame, not {type(table).__name__}")
    return [plain(record) for record in table.to_dict("records")]
