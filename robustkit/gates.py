"""The gate: a limit on SAR, and the verdict that the bound, never the point, gives on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import stats
from robustkit.errors import UsageError
from robustkit.slices import distinct
from robustkit.stats.planning import first_true

if TYPE_CHECKING:
    import pandas as pd

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}
LISTED = 5_000
"""Items above which the evidence lists the hardest alone, and `judged` counts all."""


def parse_rate(value: str | float) -> float:
    """Read a rate strictly between 0 and 1 as `2%`, `2 %`, `0.02` or 0.02; UsageError says what is wrong."""
    text = str(value).strip()
    percent = text.endswith("%")
    try:
        rate = float(text.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        raise UsageError(f"a rate is written 2% or 0.02, got {text!r}") from None
    if not 0 < rate < 1:  # also refuses NaN
        hint = f"; did you mean {text}%?" if not percent and 1 <= rate < 100 else ""
        raise UsageError(f"a rate must lie between 0% and 100%, both excluded, got {text}{hint}")
    return rate


@dataclass(frozen=True)
class Gate:
    """A limit on SAR.

    Attributes
    ----------
    max_sar : the limit as a rate (`parse_rate` reads texts). at : the level it holds at, None for every level.
    only_class : the class it holds for, None for every class.
    sequential : the number of realizations was decided by looking at the result (`--until-decided`): each slice and
        level is then judged by the confidence sequence, which allows for the looking.
    """

    max_sar: float
    at: float | None = None
    only_class: str | None = None
    sequential: bool = False

    def __post_init__(self) -> None:
        parse_rate(self.max_sar)


def judge(gate: Gate, items: pd.DataFrame, confidence: float, untested: Sequence[str] = ()) -> dict[str, Any]:
    """Judge every class and level the gate speaks of.

    Parameters
    ----------
    gate : the limit. confidence : of every one-sided bound.
    items : one row an item: class, level, k, n, tied, and slices (how many share the counts).
    untested : classes that no image was called without noise and that have no item.

    Returns
    -------
    dict : max_sar, at, class, confidence, method, verdict, evidence (one record an item), not_tested (classes that no
        image was called without noise), and more_needed and n_needed (realizations a slice) when inconclusive. Of more
        than `LISTED` items the evidence holds the hardest, and `judged` counts all (see the function of that name).

    Notes
    -----
    Pass: every item's upper bound, ties counted as flips, is at most the limit (an intersection-union test, which needs
    no correction). Fail: for some item the rate is above the limit at the Holm-adjusted level, ties not counted.
    """
    chosen = _chosen(gate, items, untested)
    alpha = 1 - confidence
    some = (chosen["n"] > 0).to_numpy()
    tested = chosen if some.all() else chosen[some]
    kinds, which = distinct(tested, ("k", "n", "tied", "slices"))
    rows = [{str(name): value for name, value in row.items()} for row in kinds.to_dict("records")]
    times = np.bincount(which, minlength=len(rows))
    p_fail = stats.holm([_p_above(row, gate) for row in rows], times)
    found = [_evidence(row, gate, alpha, float(p)) for row, p in zip(rows, p_fail, strict=True)]
    missing = [name for name in untested if gate.only_class in (None, name)]
    not_tested = sorted({*chosen["class"].unique(), *missing} - set(tested["class"].unique()))
    verdict = _overall([item["verdict"] for item in found], missing=bool(gate.only_class and not_tested))
    told: dict[str, Any] = {
        "max_sar": gate.max_sar,
        "at": gate.at,
        "class": gate.only_class,
        "confidence": confidence,
        "method": "beta-mixture confidence sequence" if gate.sequential else "one-sided Clopper-Pearson bound",
        "verdict": verdict,
        "evidence": _listed(tested, found, which),
        "not_tested": not_tested,
    }
    if len(tested) > LISTED:
        told["judged"] = _judged(tested, found, which)
    return told | (_missing(found) if verdict == "inconclusive" else {})


def judged(gate: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how much a gate judged, whether its evidence lists all of it or not.

    Returns
    -------
    dict : items (of evidence), images, changed (ties among them), upper (the highest bound); pass, fail, inconclusive
        (items); parts (records of class, level, items, pass, fail, inconclusive).
    """
    return gate["judged"] if "judged" in gate else _counted(gate["evidence"])


def _counted(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count evidence; each item stands for `times` of its like, one by default."""
    parts: dict[tuple[Any, Any], dict[str, Any]] = {}
    whole: dict[str, Any] = {"items": 0, "images": 0, "changed": 0, "upper": 0.0, **dict.fromkeys(EXIT_CODES, 0)}
    for item in items:
        times = item.get("times", 1)
        fresh = {"class": item["class"], "level": item["level"], "items": 0, **dict.fromkeys(EXIT_CODES, 0)}
        for count in (whole, parts.setdefault((item["class"], item["level"]), fresh)):
            count["items"] += times
            count[item["verdict"]] += times
        whole["images"] += times * item["n"]
        whole["changed"] += times * (item["k"] + item["tied"])
        whole["upper"] = max(whole["upper"], item["upper"])
    return whole | {"parts": list(parts.values())}


def _judged(tested: pd.DataFrame, found: Sequence[Mapping[str, Any]], which: NDArray[np.int64]) -> dict[str, Any]:
    """Count all that was judged, of which the evidence lists a part."""
    parts, part = distinct(tested, ("class", "level"))
    names = parts.to_dict("records")
    pairs, times = np.unique(part * len(found) + which, return_counts=True)
    told = [
        {**names[pair // len(found)], **found[pair % len(found)], "times": int(number)}
        for pair, number in zip(pairs.tolist(), times, strict=True)
    ]
    return _counted(told)


def _listed(tested: pd.DataFrame, found: Sequence[Mapping[str, Any]], which: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return the evidence: every item, or of more than `LISTED` the hardest, those that failed first."""
    names = [name for name in ("class", "slice", "level") if name in tested]
    if len(tested) > LISTED:
        hardness = [_hardness(item) for item in found]
        order = {value: rank for rank, value in enumerate(sorted(set(hardness)))}
        ranks = np.array([order[value] for value in hardness])
        kept = np.argsort(ranks[which], kind="stable")[:LISTED]
        tested, which = tested.iloc[kept], which[kept]
    rows = tested[names].to_dict("records")
    return [{str(name): row[name] for name in names} | found[kind] for row, kind in zip(rows, which, strict=True)]


def _hardness(item: Mapping[str, Any]) -> tuple[int, float, float]:
    """Return what items are sorted by: failed by their lower bound, undecided by their upper, passed by their rate."""
    if item["verdict"] == "pass":
        return 2, -item["rate"], -item["upper"]
    return (0, -item["lower"], 0.0) if item["verdict"] == "fail" else (1, -item["upper"], 0.0)


def passes(k: int, n: int, limit: float, alpha: float, *, sequential: bool = False) -> bool:
    """Say whether k flips of n (ties among them) keep the rate at or under the limit, one-sided at `alpha`."""
    return upper_bound(k, n, alpha, sequential=sequential) <= limit


def upper_bound(k: int, n: int, alpha: float, *, sequential: bool = False) -> float:
    """One-sided upper bound of a rate: Clopper-Pearson, or the confidence sequence of a run that was watched."""
    if sequential:
        return float(stats.confidence_sequence(k, n, alpha).high)
    return float(stats.clopper_pearson(k, n, 1 - alpha, "upper").high)


def lower_bound(k: int, n: int, alpha: float, *, sequential: bool = False) -> float:
    """One-sided lower bound of a rate, made like `upper_bound`."""
    if sequential:
        return float(stats.confidence_sequence(k, n, alpha).low)
    return float(stats.clopper_pearson(k, n, 1 - alpha, "lower").low)


def _chosen(gate: Gate, items: pd.DataFrame, untested: Sequence[str]) -> pd.DataFrame:
    if gate.only_class is not None:
        known = [*(str(name) for name in items["class"].unique()), *untested]
        if gate.only_class not in known:
            raise UsageError(f"unknown class {gate.only_class!r}; the model's classes: {', '.join(known)}")
        items = items[items["class"] == gate.only_class]
    if gate.at is not None:
        levels = set(items["level"].unique())
        known = [f"{level:g}" for level in sorted(levels)]
        if gate.at not in levels:
            raise UsageError(f"level {gate.at:g} was not audited; the levels: {', '.join(known)}")
        items = items[items["level"] == gate.at]
    return items


def _p_above(row: dict[str, Any], gate: Gate) -> float:
    """P-value of "the rate is at most the limit": exact binomial tail, or one over the evidence of a watched run."""
    from scipy.special import betainc

    k, n, limit = int(row["k"]), int(row["n"]), gate.max_sar
    if k <= limit * n:
        return 1.0
    if gate.sequential:
        return min(1.0, math.exp(-stats.log_evidence(k, n, limit)))
    return float(betainc(k, n - k + 1, limit))


def _evidence(row: dict[str, Any], gate: Gate, alpha: float, p_fail: float) -> dict[str, Any]:
    """Return what is said of k flips of n with so many ties, whichever class, slice and level they are of."""
    k, n, tied = int(row["k"]), int(row["n"]), int(row["tied"])
    upper = upper_bound(k + tied, n, alpha, sequential=gate.sequential)
    passed, failed = upper <= gate.max_sar, p_fail <= alpha
    item: dict[str, Any] = {"k": k, "n": n, "tied": tied, "rate": k / n, "upper": upper}
    item |= {"lower": lower_bound(k, n, alpha, sequential=gate.sequential), "p_above_holm": p_fail}
    item |= {"slices": int(row["slices"])}
    item["verdict"] = "pass" if passed else "fail" if failed else "inconclusive"
    if item["verdict"] == "inconclusive":
        item["more_needed"] = _more(k + tied, n, gate, 1 - alpha)
    return item


def _more(k: int, n: int, gate: Gate, confidence: float) -> int | None:
    if not gate.sequential:
        return stats.more_needed(k, n, gate.max_sar, confidence)
    if k == gate.max_sar * n:
        return None
    rate, alpha = k / n, 1 - confidence
    total = first_true(lambda m: stats.decide(round(rate * m), m, gate.max_sar, alpha) is not None, n + 1)
    return total - n


def _overall(verdicts: Sequence[str], *, missing: bool) -> str:
    if "fail" in verdicts:
        return "fail"
    if missing or not verdicts or "inconclusive" in verdicts:
        return "inconclusive"
    return "pass"


def _missing(evidence: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """Realizations a slice that the hardest undecided item still needs, and the `-n` to ask for; None: unknown."""
    open_items = [item for item in evidence if item["verdict"] == "inconclusive"]
    more = [item["more_needed"] and math.ceil(item["more_needed"] / item["slices"]) for item in open_items]
    if not more or None in more:
        return {"more_needed": None, "n_needed": None}
    totals = [extra + math.ceil(item["n"] / item["slices"]) for extra, item in zip(more, open_items, strict=True)]
    return {"more_needed": max(more), "n_needed": max(totals)}
