"""From shards to the table: one row an image, or above the row limit counts with the images whose answer changed.

Read shard by shard: memory holds `results.ROW_LIMIT` rows at most, or counts and the few changed images that are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import audit, results, rundir

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 64
"""Shards held at once."""
LEDGER = "ledger.parquet"
SHOWN_OF = 1000
"""Slices whose changed images may be shown, where the table keeps counts; the ledger holds all of them."""


@dataclass(frozen=True)
class Gathered:
    """A run as tables: rows or counts, the changed images to be shown (quietest first, some a slice), case records."""

    table: pd.DataFrame
    flips: pd.DataFrame
    told: list[dict[str, Any]]
    counts_only: bool


def gather(
    directory: rundir.RunDir, n: int, classes: Sequence[str], *, keep: int = 1, row_limit: int | None = None
) -> Gathered:
    """Return what the shards of realizations 0 .. n - 1 hold, and write ledger.parquet where only counts are kept.

    Parameters
    ----------
    classes : of the model, in output order. keep : changed images of a slice and level that are handed on to be shown.
    row_limit : rows above which counts and the ledger are kept; None is `results.ROW_LIMIT`.
    """
    plan = directory.plan
    told = [rundir.read_case(directory.case_path(case)) for case in plan["cases"]]
    floor = audit.tie_limit(audit.merge_null_audits(record["null"] for record in told))
    limit = results.ROW_LIMIT if row_limit is None else row_limit
    maker = _Maker.of(directory, told, classes)
    if len(told) * len(plan["levels"]) * n > limit:
        return _counted(directory, n, maker, told, floor, keep)
    parts = [
        _Rows.of(number, scores, tied, np.ones_like(tied))
        for number, case in enumerate(plan["cases"])
        for scores, tied in _read(directory, case, n, maker.clean[number], floor)
    ]
    table = maker.table(parts)
    return Gathered(table, _quietest(table[results.flipped(table)], keep), told, counts_only=False)


def _counted(
    directory: rundir.RunDir, n: int, maker: _Maker, told: list[dict[str, Any]], floor: float, keep: int
) -> Gathered:
    """Keep counts; write changed images as they come, and hold those that may be shown."""
    parts, shown, waiting = [], [], []
    with results.writer(directory.path / LEDGER) as write:
        for number, case in enumerate(directory.plan["cases"]):
            clean = maker.clean[number]
            counts = np.zeros((len(maker.levels), len(maker.classes), 2), np.int64)
            for scores, tied in _read(directory, case, n, clean, floor):
                _count(counts, scores, tied)
                changed = _Rows.of(number, scores, tied, (scores.noisy != clean) & ~tied)
                waiting.append(changed)
                if number < SHOWN_OF:
                    shown.append(changed.first(keep))
                if sum(len(rows.level) for rows in waiting) >= results.GROUP:
                    write(maker.table(waiting))
                    waiting = []
            parts.append(_Rows.counted(number, counts, maker.order))
        write(maker.table(waiting))
    return Gathered(maker.table(parts), _quietest(maker.table(shown), keep), told, counts_only=True)


@dataclass(frozen=True)
class _Rows:
    """Rows (N,) of one case as numbers: indices of level and predicted class, realization, margin, tied, count."""

    case: int
    level: NDArray[np.int64]
    realization: NDArray[np.int64]
    noisy: NDArray[np.int64]
    margin: NDArray[np.float32]
    tied: NDArray[np.bool_]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, case: int, scores: audit.Scores, tied: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> _Rows:
        """Return a row for each score (R, L) that is wanted."""
        at, level = np.nonzero(wanted)
        here = at, level
        noisy = scores.noisy[here].astype(np.int64)
        one = np.ones(len(at), np.int64)
        return cls(case, level, scores.realization[at], noisy, scores.margin[here], tied[here], one)

    @classmethod
    def counted(cls, case: int, counts: NDArray[np.int64], order: NDArray[np.int64]) -> _Rows:
        """Return a row for each count (L, C, tied) that is not 0, classes in `order`."""
        level, place, tied = np.nonzero(counts[:, order])
        none = np.full(len(level), -1)
        margin = np.full(len(level), np.nan, np.float32)
        number = counts[:, order][level, place, tied]
        return cls(case, level, none, order[place], margin, tied.astype(bool), number)

    def first(self, most: int) -> _Rows:
        """Return the first `most` rows of each level."""
        order = np.argsort(self.level, kind="stable")
        grouped = self.level[order]
        rank = np.arange(len(order)) - np.searchsorted(grouped, grouped)
        at = order[rank < most]
        return replace(
            self,
            level=self.level[at],
            realization=self.realization[at],
            noisy=self.noisy[at],
            margin=self.margin[at],
            tied=self.tied[at],
            count=self.count[at],
        )


@dataclass(frozen=True)
class _Texts:
    """Texts by number (N,), each kept once: a column of them is made without a Python object a row."""

    kept: NDArray[Any]
    place: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str] | NDArray[Any]) -> _Texts:
        """Return texts as they are numbered."""
        kept, place = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
        return cls(kept, place)

    def column(self, numbers: NDArray[np.int64]) -> Any:
        """Return the texts of these numbers as a column."""
        import pandas as pd

        return pd.Categorical.from_codes(self.place[numbers], categories=pd.Index(self.kept)).astype("str")


@dataclass(frozen=True)
class _Maker:
    """What turns numbers into the table: the texts that all rows, or all rows of a case, share."""

    fixed: Mapping[str, str]
    texts: Mapping[str, _Texts]
    levels: NDArray[np.float64]
    classes: NDArray[Any]
    clean: Sequence[int]

    @classmethod
    def of(cls, directory: rundir.RunDir, told: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> _Maker:
        """Return the maker of a run's rows."""
        plan, names = directory.plan, np.asarray(classes, dtype=object)
        clean = [int(np.argmax(record["probabilities"])) for record in told]
        texts = {name: [case[name] for case in plan["cases"]] for name in ("slice", "group", "label")}
        texts |= {"unit": [record["story"]["unit"] for record in told], "clean": [classes[index] for index in clean]}
        fixed = {"run": directory.id, "model": plan["model"]["name"], "noise": plan["noise"]}
        made = {name: _Texts.of(values) for name, values in texts.items()}
        return cls(fixed, made, np.asarray(plan["levels"], float), names, clean)

    @property
    def order(self) -> NDArray[np.int64]:
        """Return the classes in order of their names, as `results.condense` has them."""
        return np.argsort(self.classes.astype(str), kind="stable")

    def table(self, parts: Sequence[_Rows]) -> pd.DataFrame:
        """Return rows as a table."""
        import pandas as pd

        def joined(name: str) -> NDArray[Any]:
            empty = getattr(_NONE, name)
            return np.concatenate([empty, *(getattr(rows, name) for rows in parts)])

        case = np.repeat(np.array([rows.case for rows in parts], int), [len(rows.level) for rows in parts])
        columns: dict[str, Any] = {name: texts.column(case) for name, texts in self.texts.items()}
        columns |= {name: _Texts.of([text]).column(np.zeros_like(case)) for name, text in self.fixed.items()}
        columns |= {"level": self.levels[joined("level")], "noisy": _Texts.of(self.classes).column(joined("noisy"))}
        columns |= {name: joined(name) for name in ("realization", "margin", "tied", "count")}
        return results.conform(pd.DataFrame(columns, index=range(len(case))))


_NO_INDEX = np.zeros(0, np.int64)
_NONE = _Rows(0, _NO_INDEX, _NO_INDEX, _NO_INDEX, np.zeros(0, np.float32), np.zeros(0, bool), _NO_INDEX)


def _read(
    directory: rundir.RunDir, case: Mapping[str, Any], n: int, clean: int, floor: float
) -> Iterator[tuple[audit.Scores, NDArray[np.bool_]]]:
    """Yield the scores of a case, some shards at once, and which of them are ties."""
    ranges = rundir.ranges(n)
    for start in range(0, len(ranges), AT_ONCE):
        parts = [rundir.read_scores(directory.shard_path(case, *part)) for part in ranges[start : start + AT_ONCE]]
        scores = audit.Scores(
            np.concatenate([p.realization for p in parts]),
            np.concatenate([p.noisy for p in parts]),
            np.concatenate([p.margin for p in parts]),
        )
        yield scores, (scores.noisy != clean) & (scores.margin <= floor)


def _count(counts: NDArray[np.int64], scores: audit.Scores, tied: NDArray[np.bool_]) -> None:
    """Add scores (R, L) to counts (L, C, tied)."""
    levels, classes, _ = counts.shape
    cell = (np.arange(levels)[None, :] * classes + scores.noisy) * 2 + tied
    counts += np.bincount(cell.ravel(), minlength=counts.size).reshape(counts.shape)


def _quietest(flips: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the first `most` flips of each slice and level, the highest level first."""
    ordered = flips.sort_values(["level", "realization"], ascending=[False, True])
    return ordered.groupby(["slice", "level"], sort=False).head(most)
