"""From shards to the table: one row an image, or above the row limit counts with the images whose answer changed.

Read shard by shard: memory holds `results.ROW_LIMIT` rows at most, or counts and the few changed images that are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
    import pandas as pd

    plan = directory.plan
    told = [rundir.read_case(directory.case_path(case)) for case in plan["cases"]]
    floor = audit.tie_limit(audit.merge_null_audits(record["null"] for record in told))
    limit = results.ROW_LIMIT if row_limit is None else row_limit
    counts_only = len(told) * len(plan["levels"]) * n > limit
    frames, flips = [], []
    writer = results.writer(directory.path / LEDGER) if counts_only else nullcontext()
    with writer as write:
        for case, record in zip(plan["cases"], told, strict=True):
            facts = _facts(directory, case, record, classes)
            counts = np.zeros((len(plan["levels"]), len(classes), 2), np.int64)
            shown: list[pd.DataFrame] = []
            for scores in _read(directory, case, n):
                tied = _tied(scores, facts.clean, floor)
                if write is None:
                    frames.append(facts.rows(scores, tied, np.ones(scores.noisy.shape, bool)))
                    continue
                _count(counts, scores, tied)
                changed = facts.rows(scores, tied, (scores.noisy != facts.clean) & ~tied)
                write(changed)
                shown = [_quietest(pd.concat([*shown, changed]), keep)]
            if write is not None:
                frames.append(facts.counted(counts))
                flips += shown if len(frames) <= SHOWN_OF else []
    table = results.conform(pd.concat(frames, ignore_index=True))
    if write is None:
        changed = table[results.flipped(table)]
        flips = [_quietest(part, keep) for _, part in changed.groupby("slice", sort=False)] or [changed]
    return Gathered(table, results.conform(pd.concat(flips, ignore_index=True)), told, counts_only)


@dataclass(frozen=True)
class _Facts:
    """What all rows of one case share."""

    fixed: dict[str, Any]
    levels: NDArray[np.float64]
    classes: NDArray[Any]
    clean: int

    def rows(self, scores: audit.Scores, tied: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> pd.DataFrame:
        """Return one row for each score (R, L) that is wanted."""
        import pandas as pd

        at, level = np.nonzero(wanted)
        return pd.DataFrame(
            self.fixed
            | {
                "level": self.levels[level],
                "realization": scores.realization[at],
                "noisy": self.classes[scores.noisy[at, level]],
                "margin": scores.margin[at, level],
                "tied": tied[at, level],
                "count": 1,
            },
            index=range(len(at)),
        )

    def counted(self, counts: NDArray[np.int64]) -> pd.DataFrame:
        """Return one row for each count (L, C, tied) that is not 0."""
        import pandas as pd

        level, noisy, tied = np.nonzero(counts)
        made = pd.DataFrame(
            self.fixed
            | {
                "level": self.levels[level],
                "realization": -1,
                "noisy": self.classes[noisy],
                "margin": float("nan"),
                "tied": tied.astype(bool),
                "count": counts[level, noisy, tied],
            },
            index=range(len(level)),
        )
        return made.sort_values(["level", "noisy", "tied"], ignore_index=True)


def _facts(
    directory: rundir.RunDir, case: Mapping[str, Any], record: Mapping[str, Any], classes: Sequence[str]
) -> _Facts:
    clean = int(np.argmax(record["probabilities"]))
    fixed = {
        "run": directory.id,
        "model": directory.plan["model"]["name"],
        "noise": directory.plan["noise"],
        "slice": case["slice"],
        "group": case["group"],
        "label": case["label"],
        "unit": record["story"]["unit"],
        "clean": classes[clean],
    }
    return _Facts(fixed, np.asarray(directory.plan["levels"], float), np.asarray(classes, dtype=object), clean)


def _read(directory: rundir.RunDir, case: Mapping[str, Any], n: int) -> Iterator[audit.Scores]:
    ranges = rundir.ranges(n)
    for start in range(0, len(ranges), AT_ONCE):
        parts = [rundir.read_scores(directory.shard_path(case, *part)) for part in ranges[start : start + AT_ONCE]]
        yield audit.Scores(
            np.concatenate([p.realization for p in parts]),
            np.concatenate([p.noisy for p in parts]),
            np.concatenate([p.margin for p in parts]),
        )


def _tied(scores: audit.Scores, clean: int, floor: float) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (scores.noisy != clean) & (scores.margin <= floor)
    return found


def _count(counts: NDArray[np.int64], scores: audit.Scores, tied: NDArray[np.bool_]) -> None:
    """Add scores (R, L) to counts (L, C, tied)."""
    levels, classes, _ = counts.shape
    cell = (np.arange(levels)[None, :] * classes + scores.noisy) * 2 + tied
    counts += np.bincount(cell.ravel(), minlength=counts.size).reshape(counts.shape)


def _quietest(flips: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the first `most` flips of each level of one slice, the highest level first."""
    return flips.sort_values(["level", "realization"], ascending=[False, True]).groupby("level", sort=False).head(most)
