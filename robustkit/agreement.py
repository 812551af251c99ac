"""Do two runs agree? A minus B, per level, per column and per entry of the confusion matrix for robustness.

The paper's pooled Z for every entry (Peng et al. 2023, section 2.3), an exact test where counts are small,
one homogeneity test per column, and equivalence within a margin: "not rejected" is not "agrees".
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

from robustkit import stats
from robustkit.errors import DataError, UsageError
from robustkit.metrics import class_order, cmr
from robustkit.plain import Record, plain

if TYPE_CHECKING:
    import pandas as pd

CASE = ["slice", "level", "clean"]
POWER = 0.8
"""Power of the smallest detectable difference."""
EXIT_CODES = {"agree": 0, "equivalent": 0, "disagree": 1, "not shown equivalent": 3}
FOOTNOTE = "0/0: both runs always or never gave this answer, so Z has no value; it is shown as 0, as in the paper"


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    margin: float | None = None,
    alpha: float = 0.05,
    classes: Sequence[str] | None = None,
    paired: bool = False,
) -> Record:
    """Compare two results tables, A minus B, at the levels they share.

    Parameters
    ----------
    a, b : results tables, each of one model and noise in one unit.
    margin : absolute difference of rates within which the runs count as equivalent (two one-sided tests per entry).
    alpha : error rate of the whole comparison: Holm over the columns; equivalence needs every entry, so no correction.
    classes : their order; by default all that occur, sorted.
    paired : rows of equal slice, level and realization saw the same noise (one seed, one noise): adds McNemar's exact
        test of which run flips, and decides by it, because the two-sample tests ignore the pairing.

    Returns
    -------
    dict : JSON-able. levels, only_in_a, only_in_b; entries (z, p, p_holm, difference with its Newcombe interval,
        equivalence, smallest detectable difference); columns (homogeneity); tables (the paper's Z per level, 0/0 shown
        as 0 and footnoted); pairs when paired; verdict, exit_code and sentence.

    Raises
    ------
    DataError : no level or no class in common, or a table that mixes several models or noises.
    UsageError : different units, or a margin outside 0 .. 1.
    """
    if margin is not None and not 0 < margin < 1:
        raise UsageError(f"the margin must lie between 0% and 100%, both excluded, got {margin:g}")
    unit, levels = _common(a, b)
    order = class_order(a, classes)
    order = class_order(b, order)
    cells = _cells(a, b, levels, order)
    columns = _columns(cells, alpha)
    entries = _entries(cells, margin, alpha)
    if not any(entry["n_a"] and entry["n_b"] for entry in entries):
        raise DataError(
            "no class was predicted without noise in both runs; compare runs on images that both models name alike"
        )
    pairs, unpaired = _pairs(a, b, levels, alpha) if paired else ([], "")
    verdict, decided_by = _verdict(pairs or columns, entries, margin, alpha)
    found = {
        "schema": 1,
        "a": _case(a),
        "b": _case(b),
        "unit": unit,
        "classes": order,
        "alpha": alpha,
        "margin": margin,
        "paired": bool(pairs),
        "levels": levels,
        "only_in_a": sorted(set(a["level"]) - set(levels)),
        "only_in_b": sorted(set(b["level"]) - set(levels)),
        "entries": entries,
        "columns": columns,
        "pairs": pairs,
        "tables": [_paper_table(entries, level, order) for level in levels],
        "notes": [unpaired] if unpaired else [],
        "verdict": verdict,
        "exit_code": EXIT_CODES[verdict],
        "sentence": _sentence(verdict, decided_by, entries, margin, unit),
    }
    compared: Record = plain(found)
    return compared


def _common(a: pd.DataFrame, b: pd.DataFrame) -> tuple[str, list[float]]:
    units = sorted({*a["unit"], *b["unit"]})
    if len(units) != 1:
        raise UsageError(
            f"the runs have levels in different units, {' and '.join(units) or 'none'}; compare runs of one unit"
        )
    levels = sorted(set(a["level"]) & set(b["level"]))
    if not levels:
        told = [", ".join(f"{level:g}" for level in sorted(set(t["level"]))) for t in (a, b)]
        raise DataError(
            f"the runs share no level: A has {told[0]} {units[0]}, B has {told[1]} {units[0]}; audit one again at "
            "a level of the other"
        )
    return units[0], levels


def _case(table: pd.DataFrame) -> Record:
    return {name: sorted(set(table[name])) for name in ("run", "model", "noise")}


def _cells(a: pd.DataFrame, b: pd.DataFrame, levels: Sequence[float], order: list[str]) -> list[Record]:
    """Return one record an entry: level, clean, noisy, k and n of both runs."""
    keys = ["level", "clean", "noisy"]
    sides = []
    for table, tag in ((a, "a"), (b, "b")):
        long = cmr(table[table["level"].isin(levels)], classes=order)
        if len(long) != len(levels) * len(order) ** 2:
            raise DataError(f"run {tag.upper()} mixes several models or noises; compare one of each")
        sides.append(long.rename(columns={"count": f"k_{tag}", "n": f"n_{tag}"})[[*keys, f"k_{tag}", f"n_{tag}"]])
    merged = sides[0].merge(sides[1], on=keys)
    return [{str(name): value for name, value in row.items()} for row in merged.to_dict("records")]


def _columns(cells: Sequence[Record], alpha: float) -> list[Record]:
    """One homogeneity test a level and class; a column that one run never predicted has no value and says so."""
    found = []
    for level, name in dict.fromkeys((cell["level"], cell["clean"]) for cell in cells):
        column = [cell for cell in cells if (cell["level"], cell["clean"]) == (level, name)]
        if column[0]["n_a"] == column[0]["n_b"] == 0:
            continue
        test = stats.homogeneity([c["k_a"] for c in column], [c["k_b"] for c in column])
        found.append(
            {"level": level, "class": name, "n_a": column[0]["n_a"], "n_b": column[0]["n_b"]}
            | {
                "statistic": test.statistic,
                "df": test.df,
                "p_chi_square": stats.chi_square_tail(test.statistic, test.df),
            }
            | {"p": test.p, "method": test.method, "reason": test.reason}
        )
    return _with_holm(found, alpha)


def _entries(cells: Sequence[Record], margin: float | None, alpha: float) -> list[Record]:
    found = [_entry(cell, margin, alpha) for cell in cells if cell["n_a"] or cell["n_b"]]
    return _with_holm(found, alpha)


def _entry(cell: Record, margin: float | None, alpha: float) -> Record:
    counts = k_a, n_a, k_b, n_b = cell["k_a"], cell["n_a"], cell["k_b"], cell["n_b"]
    z = stats.two_proportion_z(*counts)
    test = stats.exact_or_z(*counts)
    difference = stats.newcombe(k_a, n_a, k_b, n_b, 1 - alpha)
    entry = dict(cell) | {
        "rate_a": k_a / n_a if n_a else None,
        "rate_b": k_b / n_b if n_b else None,
        "difference": k_a / n_a - k_b / n_b if n_a and n_b else None,
        "low": difference.low,
        "high": difference.high,
        "z": z.statistic,
        "reason": z.reason,
        "p": test.p,
        "method": test.method,
    }
    if not n_a or not n_b:
        return entry | {"equivalence": None, "detectable": None}
    pooled = (k_a + k_b) / (n_a + n_b)
    seen = stats.smallest_detectable_difference(pooled, n_a, n_b, alpha, POWER)
    return entry | {
        "equivalence": None if margin is None else _equivalence(counts, margin, alpha),
        "detectable": {"up": seen.up, "down": seen.down, "power": POWER},
    }


def _equivalence(counts: tuple[int, int, int, int], margin: float, alpha: float) -> Record:
    found = stats.tost(*counts, margin, alpha)
    return {"p": found.p, "low": found.interval.low, "high": found.interval.high, "equivalent": found.equivalent}


def _pairs(a: pd.DataFrame, b: pd.DataFrame, levels: Sequence[float], alpha: float) -> tuple[list[Record], str]:
    """McNemar per level and class: realizations that flip in A alone against those in B alone; or why there is none.

    Flips are enough: a realization with no flip in either run tells nothing. Runs number realizations from 0, so the
    first min(n_a, n_b) of a slice and level were seen by both.
    """
    from robustkit.results import flipped

    sides = [table[table["level"].isin(levels)] for table in (a, b)]
    flips = [rows.loc[flipped(rows), [*CASE, "realization"]] for rows in sides]
    if any((rows["realization"] < 0).any() for rows in flips):
        return [], "not paired: a run keeps counts without the realizations that flipped"
    seen = [rows.groupby(CASE, as_index=False, observed=True)["count"].sum() for rows in sides]
    cases = seen[0].merge(seen[1], on=CASE)
    if cases.empty:
        return [], "not paired: no slice and level has the same answer without noise in both runs"
    cases["n"] = cases[["count_x", "count_y"]].min(axis=1)
    both = flips[0].merge(flips[1], on=[*CASE, "realization"], how="outer", indicator="where").merge(cases, on=CASE)
    both = both[both["realization"] < both["n"]]
    found = []
    for (level, name), part in cases.groupby(["level", "clean"], observed=True):
        where = both.loc[(both["level"] == level) & (both["clean"] == name), "where"]
        only_a, only_b = int((where == "left_only").sum()), int((where == "right_only").sum())
        test = stats.mcnemar(only_a, only_b)
        counts = {"n": int(part["n"].sum()), "both": len(where) - only_a - only_b, "only_a": only_a, "only_b": only_b}
        found.append({"level": level, "class": name} | counts | {"p": test.p, "reason": test.reason})
    return _with_holm(found, alpha), ""


def _with_holm(records: list[Record], alpha: float) -> list[Record]:
    for record, p in zip(records, stats.holm([record["p"] for record in records]), strict=True):
        record["p_holm"] = float(p)
        record["differs"] = bool(p <= alpha)
    return records


def _verdict(
    deciding: Sequence[Record], entries: Sequence[Record], margin: float | None, alpha: float
) -> tuple[str, list[Record]]:
    """Return the verdict and the records that decide it."""
    compared = [entry for entry in entries if entry["n_a"] and entry["n_b"]]
    if margin is not None:
        open_entries = [entry for entry in compared if not entry["equivalence"]["equivalent"]]
        if not open_entries:
            return "equivalent", []
    differing = [record for record in deciding if record["differs"]]
    if differing:
        return "disagree", differing
    return ("agree", []) if margin is None else ("not shown equivalent", open_entries)


def _paper_table(entries: Sequence[Record], level: float, order: Sequence[str]) -> Record:
    """Z as in the paper's Fig. 5: [predicted with noise][predicted without]; entries of no shared column are None."""
    by_place = {(e["noisy"], e["clean"]): e for e in entries if e["level"] == level}
    shown = [[_shown(by_place.get((noisy, clean))) for clean in order] for noisy in order]
    marked = [
        [noisy, clean]
        for noisy in order
        for clean in order
        if by_place.get((noisy, clean), {}).get("reason") == "degenerate"
    ]
    return {"level": level, "z": shown, "footnoted": marked, "footnote": FOOTNOTE if marked else ""}


def _shown(entry: Record | None) -> float | None:
    if entry is None or entry["reason"] == "no data":
        return None
    return 0.0 if entry["reason"] == "degenerate" else float(entry["z"])


def _sentence(
    verdict: str, deciding: Sequence[Record], entries: Sequence[Record], margin: float | None, unit: str
) -> str:
    compared = [entry for entry in entries if entry["n_a"] and entry["n_b"]]
    if verdict == "equivalent":
        every = f"Every one of {len(compared)} entries" if len(compared) > 1 else "The only entry"
        return f"{every} is shown to lie within {percent(margin)} of the other run."
    if verdict == "disagree":
        worst = min(deciding, key=lambda record: record["p_holm"])
        return (
            f"The runs disagree: for class {worst['class']} at {worst['level']:g} {unit} the answers under noise "
            f"differ by more than chance allows ({_p(worst['p_holm'])} after Holm, {len(deciding)} such in all)."
        )
    seen = max(max(_detectable(entry)) for entry in compared)
    if verdict == "agree":
        return (
            f"No difference was found; one of up to {percent(seen)} could have been missed (seen with {POWER:.0%} "
            "power). Not finding one is not agreement: --margin tests for that."
        )
    worst = max(deciding, key=lambda entry: entry["equivalence"]["p"])
    return (
        f"No difference was found, but agreement within {percent(margin)} is not shown for {len(deciding)} of "
        f"{len(compared)} entries (worst: {worst['clean']} called {worst['noisy']} at {worst['level']:g} {unit}, "
        f"difference {worst['difference']:+.1%}); more realizations are needed."
    )


def percent(rate: float | None) -> str:
    """Write a rate as a sentence has it: 5 %, 12.5 %."""
    return "?" if rate is None else f"{100 * rate:.3g} %"


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _detectable(entry: Record) -> tuple[float, float]:
    """Return both detectable differences, 0 for a direction in which no rate is left."""
    up, down = entry["detectable"]["up"], entry["detectable"]["down"]
    return (0.0 if isnan(up) else up, 0.0 if isnan(down) else down)
