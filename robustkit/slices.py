"""What single slices say: one row a slice, class and level, as numbers, so that a hospital's worth fits into memory.

A block of the results table holds whole slices. Each is counted by itself; names, groups, classes and levels become
codes, some twenty bytes a row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import stats
from robustkit.metrics import flip_counts, with_interval

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("slice", "group", "class", "level")
COUNTS = ("k", "n", "tied")
_SMALL = np.iinfo(np.int32).max


def counted(block: pd.DataFrame) -> pd.DataFrame:
    """Return flips of the slices of a block of the results table: categories `NAMES`, numbers `COUNTS`."""
    import pandas as pd

    table = flip_counts(block, ("slice", "group"))
    columns: dict[str, Any] = {name: pd.Categorical(table[name]) for name in NAMES}
    return pd.DataFrame(columns | {name: _small(table[name].to_numpy()) for name in COUNTS})


def _small(numbers: NDArray[np.int64]) -> NDArray[Any]:
    return numbers.astype(np.int32) if numbers.max(initial=0) <= _SMALL else numbers


def joined(parts: Sequence[pd.DataFrame], classes: Sequence[str]) -> pd.DataFrame:
    """Return the slices of all blocks, in order of slice, group, class (as `classes` are) and level."""
    import pandas as pd
    from pandas.api.types import union_categoricals

    columns: dict[str, Any] = {
        name: union_categoricals([part[name] for part in parts], sort_categories=True) for name in NAMES
    }
    columns["class"] = columns["class"].set_categories(list(classes))
    columns |= {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in COUNTS}
    order = np.lexsort([columns[name].codes for name in reversed(NAMES)])
    for name in columns:  # one after the other: two of each would be the most that is held
        columns[name] = columns[name][order]
    return pd.DataFrame(columns)


def per_class(slices: pd.DataFrame) -> pd.Series:
    """Return how many slices each class has."""
    codes = slices["class"].cat.codes.to_numpy(), slices["slice"].cat.codes.to_numpy()
    first = np.ones(len(slices), bool)
    first[1:] = (codes[0][1:] != codes[0][:-1]) | (codes[1][1:] != codes[1][:-1])
    pairs = slices.loc[first, ["class", "slice"]].drop_duplicates()
    found: pd.Series = pairs["class"].astype("str").value_counts(sort=False)
    return found


def of_shared_classes(slices: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of classes that several slices share."""
    many = per_class(slices) > 1
    shared: pd.DataFrame = slices if many.all() else slices[slices["class"].isin(many.index[many])]
    return shared


def of_most(shared: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the rows of the slices, `most` at most, whose answers changed most at any level."""
    rate = shared["k"] / shared["n"]
    worst = rate.groupby(shared["slice"], sort=False, observed=True).max().nlargest(most).index
    found: pd.DataFrame = shared[shared["slice"].isin(worst)]
    return found


def as_told(slices: pd.DataFrame, confidence: float, interval: str) -> pd.DataFrame:
    """Return rows with texts, rates and intervals, as `sar` with `by` has them."""
    plain = slices.astype({"slice": "str", "group": "str", "class": "str", "level": "float64"})
    whole = plain.astype(dict.fromkeys(COUNTS, "int64"))
    return with_interval(whole, "k", confidence, interval)


def clusters(shared: pd.DataFrame, confidence: float) -> list[dict[str, Any]]:
    """Return for each class and level the interval over patients or slices, in the order in which they first appear."""
    classes, levels = shared["class"].cat, shared["level"].cat
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for i, name in enumerate(classes.categories):
        mine = shared[(classes.codes == i).to_numpy()]
        for j in mine["level"].cat.codes.unique():
            part = mine[(mine["level"].cat.codes == j).to_numpy()]
            found[i, j] = {"class": name, "level": levels.categories[j]} | _cluster(part, confidence)
    pairs = classes.codes.astype("int64") * len(levels.categories) + levels.codes
    return [found[divmod(int(pair), len(levels.categories))] for pair in pairs.unique()]


def _cluster(part: pd.DataFrame, confidence: float) -> dict[str, Any]:
    """Interval over patients or objects where every slice names its own, else over slices."""
    named = bool((part["group"] != "").all())
    counts = part.groupby("group" if named else "slice", observed=True)[["k", "n"]].sum()
    result = stats.cluster_bootstrap(counts["k"], counts["n"], confidence)
    return {
        "unit": "group" if named else "slice",
        "clusters": result.clusters,
        "rate": result.rate,
        "low": result.interval.low,
        "high": result.interval.high,
        "excluded_share": result.excluded_share,
        "reason": result.reason,
    }


def surely_above(rows: pd.DataFrame, limit: float, confidence: float) -> pd.DataFrame:
    """Return the rows whose rate is above `limit` by bounds that hold for all rows together (Bonferroni)."""
    family = max(int((rows["n"] > 0).sum()), 1)
    kinds, which = distinct(rows, ("k", "n"))
    low = stats.clopper_pearson(kinds["k"], kinds["n"], 1 - (1 - confidence) / family, "lower").low
    found: pd.DataFrame = rows[np.asarray(low > limit, bool)[which]]
    return found


def distinct(rows: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, NDArray[Any]]:
    """Return the different values that rows have in some columns, as they first appear, and which of them each has."""
    import pandas as pd

    which = np.zeros(len(rows), np.int64)
    for name in names:
        column = rows[name]
        own, values = pd.factorize(column.cat.codes if column.dtype == "category" else column)
        which = pd.factorize(which * len(values) + own)[0]
    first = np.full(which.max(initial=-1) + 1, len(rows))
    np.minimum.at(first, which, np.arange(len(rows)))
    return rows.iloc[first][list(names)], which


def of_pairs(slices: pd.DataFrame, pairs: Collection[tuple[str, float]]) -> pd.DataFrame:
    """Return the rows of these classes and levels."""
    classes, levels = slices["class"].cat, slices["level"].cat
    wanted = np.zeros((len(classes.categories), len(levels.categories)), bool)
    for i, name in enumerate(classes.categories):
        wanted[i] = [(name, level) in pairs for level in levels.categories]
    found: pd.DataFrame = slices[wanted[classes.codes, levels.codes]]
    return found
