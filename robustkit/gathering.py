"""From shards to the table: one row an image, or above the row limit counts with the images whose answer changed.

Case by case and shard by shard: memory holds a block of the table, and of each case record the few facts a run needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import audit, results, rundir
from robustkit.centre import Centres

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 64
"""Shards held at once."""
LEDGER = "ledger.parquet"
TABLE = "results.parquet"
"""The table while a run goes on, among its shards; with the other results it moves to its place."""
SHOWN_OF = 1000
"""Slices whose changed images may be shown, where the table keeps counts; the ledger holds all of them."""


@dataclass(frozen=True)
class Facts:
    """What a run needs of its case records (N); the stories stay in them.

    Attributes
    ----------
    answers : (N,) classes predicted without noise. units : of each. null : the null audit of all. unanchored : slices
        whose noise is tied to no noise measured in them. sources, cleans : where noise and clean images came from, each
        sentence once. centres : what is to be told of the clean images. single : one of them is no mean of repeats.
    """

    answers: Sequence[int]
    units: Sequence[str]
    null: dict[str, Any]
    unanchored: int
    sources: Sequence[str]
    cleans: Sequence[str]
    centres: Centres
    single: bool

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Facts:
        """Return the facts of case records, of which one is looked at at a time."""
        answers, units, unanchored, single = [], [], 0, False
        null, sources, cleans, centres = audit.merge_null_audits([]), set(), set(), Centres()
        for record in records:
            story = record["story"]
            answers.append(int(np.argmax(record["probabilities"])))
            units.append(sys.intern(story["unit"]))
            null = audit.merge_null_audits([null, record["null"]])
            unanchored += not story.get("anchored", True)
            sources.add(story["source"])
            cleans.add(story["clean"]["from"])
            centres.add(story)
            single = single or story["clean"].get("k") in (None, 1)
        return cls(answers, units, null, unanchored, sorted(sources), sorted(cleans), centres, single)


@dataclass(frozen=True)
class Gathered:
    """A run as a table of rows or counts, the changed images to be shown (quietest first, some a slice), its facts."""

    table: results.Blocks
    flips: pd.DataFrame
    facts: Facts
    counts_only: bool


def case_records(directory: rundir.RunDir) -> Iterator[dict[str, Any]]:
    """Yield the case records of a run, one in memory at a time."""
    return (rundir.read_case(directory.case_path(case)) for case in directory.plan["cases"])


def gather(
    directory: rundir.RunDir, n: int, classes: Sequence[str], *, keep: int = 1, row_limit: int | None = None
) -> Gathered:
    """Write what the shards of realizations 0 .. n - 1 hold as a table, with ledger.parquet where it keeps counts.

    Parameters
    ----------
    classes : of the model, in output order. keep : changed images of a slice and level that are handed on to be shown.
    row_limit : rows above which counts and the ledger are kept; None is `results.ROW_LIMIT`.
    """
    facts = Facts.of(case_records(directory))
    limit = results.ROW_LIMIT if row_limit is None else row_limit
    counts_only = len(directory.plan["cases"]) * len(directory.plan["levels"]) * n > limit
    maker, path = _Maker.of(directory, facts, classes), directory.shards / TABLE
    with results.writer(path) as write:
        flips = (_write_counts if counts_only else _write_rows)(directory, n, maker, keep, write)
    return Gathered(results.Blocks(path), flips, facts, counts_only)


def _blocks(cases: int, rows: int) -> Iterator[range]:
    """Yield the numbers of cases in blocks that make a row group each, one case being so many rows."""
    size = max(1, results.GROUP // max(rows, 1))
    return (range(start, min(start + size, cases)) for start in range(0, cases, size))


def _write_rows(
    directory: rundir.RunDir, n: int, maker: _Maker, keep: int, write: Callable[[pd.DataFrame], None]
) -> pd.DataFrame:
    """Write a row for every image; return the changed ones to be shown."""
    import pandas as pd

    shown = [maker.table([])]
    for block in _blocks(len(maker.cases), n * len(maker.levels)):
        parts = [
            _Rows.of(number, scores, tied, np.ones_like(tied))
            for number in block
            for scores, tied in _read(directory, maker, number, n)
        ]
        table = maker.table(parts)
        write(table)
        shown.append(_quietest(table[results.flipped(table)], keep))
    return _quietest(pd.concat(shown, ignore_index=True), keep)


def _write_counts(
    directory: rundir.RunDir, n: int, maker: _Maker, keep: int, write: Callable[[pd.DataFrame], None]
) -> pd.DataFrame:
    """Write counts, and changed images into the ledger as they come; return those to be shown."""
    shown = []
    with results.writer(directory.path / LEDGER) as note:
        for block in _blocks(len(maker.cases), 2 * len(maker.levels)):
            parts, waiting = [], []
            for number in block:
                counts = np.zeros((len(maker.levels), len(maker.classes), 2), np.int64)
                for scores, tied in _read(directory, maker, number, n):
                    _count(counts, scores, tied)
                    changed = _Rows.of(number, scores, tied, (scores.noisy != maker.clean[number]) & ~tied)
                    waiting.append(changed)
                    if number < SHOWN_OF:
                        shown.append(changed.first(keep))
                    if sum(len(rows.level) for rows in waiting) >= results.GROUP:
                        note(maker.table(waiting))
                        waiting = []
                parts.append(_Rows.counted(number, counts, maker.order))
            note(maker.table(waiting))
            write(maker.table(parts))
    return _quietest(maker.table(shown), keep)


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
    cases: Sequence[Mapping[str, Any]]
    units: Sequence[str]
    levels: NDArray[np.float64]
    classes: NDArray[Any]
    clean: NDArray[np.int64]
    floor: float

    @classmethod
    def of(cls, directory: rundir.RunDir, facts: Facts, classes: Sequence[str]) -> _Maker:
        """Return the maker of a run's rows."""
        plan = directory.plan
        fixed = {"run": directory.id, "model": plan["model"]["name"], "noise": plan["noise"]}
        levels, names = np.asarray(plan["levels"], float), np.asarray(classes, dtype=object)
        clean = np.asarray(facts.answers, np.int64)
        return cls(fixed, plan["cases"], facts.units, levels, names, clean, audit.tie_limit(facts.null))

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
        numbers, place = np.unique(case, return_inverse=True)
        texts = {name: [self.cases[i][name] for i in numbers] for name in ("slice", "group", "label")}
        texts |= {"unit": [self.units[i] for i in numbers], "clean": self.classes[self.clean[numbers]].tolist()}
        columns: dict[str, Any] = {name: _Texts.of(values).column(place) for name, values in texts.items()}
        columns |= {name: _Texts.of([text]).column(np.zeros_like(case)) for name, text in self.fixed.items()}
        columns |= {"level": self.levels[joined("level")], "noisy": _Texts.of(self.classes).column(joined("noisy"))}
        columns |= {name: joined(name) for name in ("realization", "margin", "tied", "count")}
        return results.conform(pd.DataFrame(columns, index=range(len(case))))


_NO_INDEX = np.zeros(0, np.int64)
_NONE = _Rows(0, _NO_INDEX, _NO_INDEX, _NO_INDEX, np.zeros(0, np.float32), np.zeros(0, bool), _NO_INDEX)


def _read(
    directory: rundir.RunDir, maker: _Maker, number: int, n: int
) -> Iterator[tuple[audit.Scores, NDArray[np.bool_]]]:
    """Yield the scores of a case, some shards at once, and which of them are ties."""
    ranges, case = rundir.ranges(n), maker.cases[number]
    for start in range(0, len(ranges), AT_ONCE):
        parts = [rundir.read_scores(directory.shard_path(case, *part)) for part in ranges[start : start + AT_ONCE]]
        scores = audit.Scores(
            np.concatenate([p.realization for p in parts]),
            np.concatenate([p.noisy for p in parts]),
            np.concatenate([p.margin for p in parts]),
        )
        yield scores, (scores.noisy != maker.clean[number]) & (scores.margin <= maker.floor)


def _count(counts: NDArray[np.int64], scores: audit.Scores, tied: NDArray[np.bool_]) -> None:
    """Add scores (R, L) to counts (L, C, tied)."""
    levels, classes, _ = counts.shape
    cell = (np.arange(levels)[None, :] * classes + scores.noisy) * 2 + tied
    counts += np.bincount(cell.ravel(), minlength=counts.size).reshape(counts.shape)


def _quietest(flips: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the first `most` flips of each slice and level, the highest level first."""
    ordered = flips.sort_values(["level", "realization"], ascending=[False, True])
    return ordered.groupby(["slice", "level"], sort=False).head(most)
