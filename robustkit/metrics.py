"""SAR and CMR, the two measures of Peng et al. 2023 (section 2.3), from the results table alone.

The class of an image is what the model said without noise. A tied change (smaller than the numerical floor)
counts as no change: it is in n, on the diagonal of the CMR, and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustkit.stats.intervals import METHODS

if TYPE_CHECKING:
    import pandas as pd

CASE = ("model", "noise", "unit")
"""What separates one audited case from another in a table that holds several."""


def sar(
    results: pd.DataFrame,
    *,
    confidence: float = 0.95,
    interval: str = "clopper-pearson",
    classes: Sequence[str] | None = None,
    by: Sequence[str] = (),
) -> pd.DataFrame:
    """Successful attack rate: the share of noisy images of a class whose answer changed.

    Parameters
    ----------
    results : the results table (`robustkit.results.COLUMNS`).
    confidence, interval : two-sided interval; "clopper-pearson" or "wilson" (for reading only).
    classes : their order; by default all predicted ones, sorted. A class never predicted without noise has n = 0 and
        NaN for rate, low and high.
    by : further columns to group by, such as ("run",) or ("slice", "group").

    Returns
    -------
    DataFrame : model, noise, unit, *by, class, level, k, n, rate, low, high, tied; one row per class and level. With
        `by`, only the classes that occur.
    """
    order = class_order(results, classes)
    table = flip_counts(results, by)
    if not by:
        table = _fill(table, {"class": order})
    table = with_interval(table, "k", confidence, interval)
    table = _ordered(table, {"class": order}, [*CASE, *by, "class", "level"])
    return table[[*CASE, *by, "class", "level", "k", "n", "rate", "low", "high", "tied"]]


def flip_counts(results: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return what `sar` makes rates of: k, n and tied per case, `by`, class and level that occur, sorted by these."""
    cells = count_cells(results, by)
    changed = cells["clean"] != cells["noisy"]
    keys = [*CASE, *by, "clean", "level"]
    cells = cells.assign(k=cells["count"].where(changed, 0), n=cells["count"])
    table: pd.DataFrame = cells.groupby(keys, sort=True, as_index=False, observed=True)[["k", "n", "tied"]].sum()
    return table.rename(columns={"clean": "class"})


def totals(results: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return counts per case, `by`, level, clean, noisy and tied: all that `sar` and `cmr` need of a table.

    The totals of the joined totals of a table's parts are the totals of the table.
    """
    keys = [*CASE, *by, "level", "clean", "noisy", "tied"]
    counts: Any = results.groupby(keys, sort=False, as_index=False, observed=True)["count"].sum()
    table: pd.DataFrame = counts
    return table


def cmr(
    results: pd.DataFrame,
    *,
    confidence: float = 0.95,
    interval: str = "clopper-pearson",
    classes: Sequence[str] | None = None,
    by: Sequence[str] = (),
) -> pd.DataFrame:
    """Confusion matrix for robustness, long: of the images called `clean` without noise, how many `noisy` with.

    Parameters are those of `sar`. For each case and level every pair of classes is there; the rates of one
    `clean` (a column of the matrix) add up to 1, and off the diagonal to the SAR of that class. A `clean`
    that never occurs at that level has n = 0 and NaN for rate, low and high.

    Returns
    -------
    DataFrame : model, noise, unit, *by, level, clean, noisy, count, n, rate, low, high, tied.
    """
    order = class_order(results, classes)
    keys = [*CASE, *by, "level", "clean", "noisy"]
    cells = count_cells(results, by)
    table = cells.groupby(keys, sort=True, as_index=False, observed=True)[["count", "tied"]].sum()
    table = _fill(table, {"clean": order, "noisy": order})
    table["n"] = table.groupby(keys[:-1], observed=True)["count"].transform("sum")
    table = with_interval(table, "count", confidence, interval)
    table = _ordered(table, {"clean": order, "noisy": order}, keys)
    return table[[*keys, "count", "n", "rate", "low", "high", "tied"]]


def count_cells(results: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Reduce the table to counts per case, `by`, level, clean and noisy, tied changes on the diagonal.

    `tied` holds how many of the cell's count were such ties.
    """
    import pandas as pd

    cells = totals(results, by)
    was_tied = cells["tied"].astype(bool)
    noisy = cells["noisy"].where(~was_tied, cells["clean"])
    tied = pd.Series(cells["count"].where(was_tied, 0), dtype="int64")
    counted: pd.DataFrame = cells.assign(noisy=noisy, tied=tied)
    return counted


def class_order(results: pd.DataFrame, classes: Sequence[str] | None = None) -> list[str]:
    """`classes` as given, then whatever else the table names, sorted."""
    named = [str(name) for name in classes or ()]
    found = set(results["clean"].unique()) | set(results["noisy"].unique())
    return named + sorted(str(name) for name in found - set(named))


def _fill(table: pd.DataFrame, axes: dict[str, list[str]]) -> pd.DataFrame:
    """Add the missing combinations of `axes` with zero counts, for every case and level that occurs."""
    import pandas as pd

    counted = [name for name in ("k", "n", "count", "tied") if name in table]
    full = table[[name for name in table if name not in (*axes, *counted)]].drop_duplicates()
    for name, values in axes.items():
        full = full.merge(pd.DataFrame({name: pd.Series(values, dtype=table[name].dtype)}), how="cross")
    full = full.merge(table, how="left", on=list(full.columns))
    full[counted] = full[counted].fillna(0).astype("int64")
    return full


def with_interval(table: pd.DataFrame, successes: str, confidence: float, interval: str) -> pd.DataFrame:
    """Return a table of counts with rate, low and high of `successes` in n; NaN where n is 0."""
    k, n = table[successes].to_numpy(), table["n"].to_numpy()
    low, high = METHODS[interval](k, n, confidence)
    table = table.assign(rate=k / table["n"].where(n > 0), low=low, high=high)
    table.loc[n == 0, ["low", "high"]] = float("nan")
    return table


def _ordered(table: pd.DataFrame, axes: dict[str, list[str]], keys: list[str]) -> pd.DataFrame:
    """Sort by `keys`, classes in their given order."""

    def rank(column: pd.Series) -> pd.Series:
        order = axes.get(str(column.name))
        return column if order is None else column.map({name: i for i, name in enumerate(order)})

    return table.sort_values(keys, key=rank, kind="stable", ignore_index=True)
