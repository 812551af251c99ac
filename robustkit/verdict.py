"""What an audit found, in words: the verdict in one sentence that needs no statistics, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustkit import slices, stats
from robustkit.gates import judged, upper_bound

if TYPE_CHECKING:
    import pandas as pd

MANY_SLICES = 1000
"""Slices above which a summary holds those alone whose answers changed most."""
NAMED_SLICES = 100
"""Slices and levels that are named as above the limit."""


def verdict_sentence(summary: Mapping[str, Any]) -> str:
    """Say in one sentence, without statistics' own words, what a run found."""
    tested = [row for row in summary["sar"] if row["n"]]
    if not tested:
        return "Nothing was scored: the table holds no image."
    gate = summary["gate"]
    if gate:
        return _SENTENCES[gate["verdict"]](gate, summary["unit"])
    worst = max(tested, key=lambda row: (row["rate"], row["n"]))
    total = sum(row["n"] for row in tested)
    if worst["k"] == 0:
        allowed = max(upper_bound(r["k"] + r["tied"], r["n"], 1 - summary["confidence"]) for r in tested)
        return (
            f"Noise alone changed none of {total:,} answers; for each class and level this still allows up to "
            f"{_at_most(allowed)} ({_percent(summary['confidence'])} sure)."
        )
    most = _told(worst, summary["unit"])
    return f"Noise alone changed the answer most often in {most}.{_lowest_sentence(summary)}"


def warnings(found: Mapping[str, Any]) -> list[str]:
    """Return what a reader must be told beside the numbers of a summary."""
    told = []
    undefined = sorted({row["class"] for row in found["sar"]} - {row["class"] for row in found["sar"] if row["n"]})
    if undefined:
        told.append(f"no image was called {' or '.join(undefined)} without noise: nothing is known of these classes")
    if found["ties"]:
        told.append(f"{found['ties']:,} changes were numerical ties: no flips in SAR, but flips for a pass")
    if found["interval"] == "wilson":
        told.append("Wilson intervals are for reading; the verdict and the lowest passing level use exact bounds")
    if found.get("clusters"):
        told.append(
            "several slices share a class: intervals of k/n speak of these slices, `clusters` of others like them"
        )
    return told


def slice_warnings(gate: Mapping[str, Any] | None, unit: str, shared: pd.DataFrame) -> list[str]:
    """Return what must be told of slices that share a class, from their rows (slice, class, level, k, n).

    Named are those that are surely above the limit in a class that passes as a whole.
    """
    count = shared["slice"].nunique()
    told = []
    if count > MANY_SLICES:
        told.append(
            f"{count:,} slices share classes: `by_slice` holds the {MANY_SLICES:,} whose answers changed most, "
            "results.parquet all of them"
        )
    if gate and "judged" in gate:
        told.append(
            f"the gate judged {gate['judged']['items']:,} slices and levels: `evidence` lists the "
            f"{len(gate['evidence']):,} hardest, `judged` counts them all"
        )
    if not gate or shared.empty:
        return told
    passed = {(part["class"], part["level"]) for part in judged(gate)["parts"] if part["pass"]}
    over = slices.surely_above(slices.of_pairs(shared, passed), gate["max_sar"], gate["confidence"])
    told += [
        f"class {row['class']} passes at {at_level(row['level'], unit)} as a whole, but its slice "
        f"{row['slice']} alone is above the limit ({row['k']}/{row['n']})"
        for row in over.head(NAMED_SLICES).to_dict("records")
    ]
    if len(over) > NAMED_SLICES:
        told.append(f"so are {len(over) - NAMED_SLICES:,} more slices and levels in classes that pass as a whole")
    return told


def at_level(level: float, unit: str) -> str:
    """Write a level with its unit: 25 mAs, but sigma 25."""
    return f"{unit} {level:g}" if stats.noise_rises(unit) else f"{level:g} {unit}"


def _passed(gate: Mapping[str, Any], unit: str) -> str:
    evidence, whole = gate["evidence"], judged(gate)
    sure = f"({_percent(gate['confidence'])} sure), within the limit of {_percent(gate['max_sar'])}"
    where, whom = _where(gate, unit), _whom(gate)
    if not whole["changed"]:
        return (
            f"Pass: {where}, noise alone changed none of {whole['images']:,} answers; it changes at most "
            f"{_at_most(whole['upper'])} of the answers {whom} {sure}."
        )
    most = max(evidence, key=lambda item: (item["rate"], item["upper"]))
    return (
        f"Pass: {where}, noise alone changes at most {_at_most(whole['upper'])} of the answers {whom} {sure}. "
        f"It changed most in {_told(most, unit)}."
    )


def _whom(gate: Mapping[str, Any]) -> str:
    """Name the classes that a pass speaks of: those with an image, by name where some have none."""
    if gate["class"]:
        return f"in class {gate['class']}"
    if not gate["not_tested"]:
        return "in any class"
    tested = list(dict.fromkeys(str(part["class"]) for part in judged(gate)["parts"]))
    return f"in class {tested[0]}" if len(tested) == 1 else f"in any of {', '.join(tested[:-1])} and {tested[-1]}"


def _failed(gate: Mapping[str, Any], unit: str) -> str:
    over = [item for item in gate["evidence"] if item["verdict"] == "fail"]
    worst = max(over, key=lambda item: item["lower"])
    return (
        f"Fail: noise alone changed the answer in {_told(worst, unit)}, above the limit of {_percent(gate['max_sar'])} "
        f"({_percent(gate['confidence'])} sure).{_others(gate, judged(gate)['fail'] - 1, 'slice' in worst)}"
    )


def _others(gate: Mapping[str, Any], over: int, slices: bool) -> str:
    """Say how many more of what a gate judged exceed its limit; empty when none does."""
    one, many = ("slice", "slices") if slices else ("class", "classes")
    if gate["at"] is None:
        one, many = f"combination of {one} and level", f"combinations of {one} and level"
    others = judged(gate)["items"] - 1
    if not over:
        return ""
    if over == others:
        return f" The other {one} exceeds it too." if others == 1 else f" All {others} other {many} exceed it too."
    return f" {over} of the {others} other {many} {'exceeds' if over == 1 else 'exceed'} it too."


def _undecided(gate: Mapping[str, Any], unit: str) -> str:
    open_items = [item for item in gate["evidence"] if item["verdict"] == "inconclusive"]
    if not open_items:
        return f"Undecided: no image was called {' or '.join(gate['not_tested'])} without noise, so nothing was tested."
    worst = max(open_items, key=lambda item: item["upper"])
    more = gate["more_needed"]
    cure = (
        f"about {more:,} more realizations a slice would decide it if changes go on at this rate"
        if more
        else "the rate is so close to the limit that more realizations may not decide it"
    )
    return (
        f"Undecided: noise alone changed the answer in {_told(worst, unit)}; the true share may lie on either side "
        f"of the limit of {_percent(gate['max_sar'])}, and {cure}."
    )


_SENTENCES = {"pass": _passed, "fail": _failed, "inconclusive": _undecided}


def _lowest_sentence(summary: Mapping[str, Any]) -> str:
    told = [entry for entry in summary["lowest_passing_level"].values() if "stopped_at" in entry]
    if not told:
        return ""
    limit = _percent(told[0]["limit"])
    if any(entry["level"] is None for entry in told):
        return f" Not every class stays within {limit} at the quietest level tested."
    rises = stats.noise_rises(summary["unit"])
    level = (min if rises else max)(entry["level"] for entry in told)
    span = f"{'up' if rises else 'down'} to {at_level(level, summary['unit'])}"
    return f" At every tested level {span} each class stays within {limit} ({_percent(summary['confidence'])} sure)."


def _told(item: Mapping[str, Any], unit: str) -> str:
    tied = f", numerical ties: {item['tied']}" if item["tied"] else ""
    return (
        f"{item['k']:,} of {item['n']:,} images of class {item['class']} at {at_level(item['level'], unit)} "
        f"({_percent(item['rate'])}{tied})"
    )


def _where(gate: Mapping[str, Any], unit: str) -> str:
    return f"at {at_level(gate['at'], unit)}" if gate["at"] is not None else "at every level tested"


def _percent(rate: float) -> str:
    """Write a rate with two significant digits, and never a nonzero one as 0 %."""
    value = 100 * rate
    return f"{value:.3g} %" if value >= 10 else f"{value:.2g} %"


def _at_most(bound: float) -> str:
    """Write an upper bound with two significant digits, rounded up so that what is said stays true."""
    value = 100 * bound
    digits = 1 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:.6g} %"
