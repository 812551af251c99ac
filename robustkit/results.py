"""The one table from which everything else is derived: its columns, their types, and how it is read and written.

One row is one image scored with noise. `count` is 1 while every realization has its own row; runs above the row
limit keep counts per (model, noise, slice, level, clean, noisy) plus the realizations that flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

TEXT = ("run", "model", "noise", "slice", "group", "label", "unit", "clean", "noisy")
COLUMNS: dict[str, str] = {
    "run": "string",  # id of the run directory that made the row
    "model": "string",  # model name or file name without its folder
    "noise": "string",  # noise model name; "measured" for replayed scans
    "slice": "string",  # Slice.id
    "group": "string",  # patient or object, empty when unknown
    "label": "string",  # truth, empty when unknown
    "unit": "string",  # of level: "mAs", "sigma", ...
    "level": "float64",
    "realization": "int64",  # -1 in rows that count several
    "clean": "string",  # predicted without noise
    "noisy": "string",  # predicted with noise
    "margin": "float32",  # top-2 margin in probability of the noisy prediction; NaN in rows that count several
    "tied": "bool",  # label changed, but by less than the numerical floor
    "count": "int64",
}


def flipped(results: pd.DataFrame) -> pd.Series:
    """Return True per row where the answer changed and the change is not a numerical tie."""
    changed: pd.Series = (results["clean"] != results["noisy"]) & ~results["tied"]
    return changed


def conform(results: pd.DataFrame) -> pd.DataFrame:
    """Return the table with exactly the schema's columns, order and types; KeyError names a missing column."""
    missing = [name for name in COLUMNS if name not in results]
    if missing:
        raise KeyError(f"results table lacks {', '.join(missing)}")
    table = results[list(COLUMNS)].copy(deep=False)  # its columns are replaced, never written into
    for name, kind in COLUMNS.items():
        column: Any = table[name]
        if kind == "string" and column.isna().any():
            column = column.astype("object").where(column.notna(), "")
        table[name] = column.astype("str" if kind == "string" else kind)
    return table


ROW_LIMIT = 500_000
"""Rows above which a run keeps counts, and its flips in a ledger of their own."""
GROUP = 25_000
"""Rows gathered before they are written, as one row group."""
COUNTED = ("run", "model", "noise", "slice", "group", "label", "unit", "level", "clean", "noisy", "tied")


def condense(results: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one row per (model, noise, slice, level, clean, noisy): `count` says how many images."""
    counted = results.groupby(list(COUNTED), as_index=False, observed=True, dropna=False)["count"].sum()
    return conform(counted.assign(realization=-1, margin=float("nan")))


def write(results: pd.DataFrame, path: Path) -> None:
    """Write the table as parquet, whole or not at all."""
    from robustkit.files import atomic_path

    with atomic_path(path) as temporary:
        conform(results).to_parquet(temporary, index=False, compression="zstd")


@contextmanager
def writer(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Yield a function that appends rows to a table too large for memory; the file is whole or not there.

    What one call appends is not cut: a row group holds it whole.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from robustkit.files import atomic_path

    waiting: list[pd.DataFrame] = []
    with atomic_path(path) as temporary:
        like = conform(pd.DataFrame({name: [""] if kind == "string" else [0] for name, kind in COLUMNS.items()}))
        schema = pa.Table.from_pandas(like, preserve_index=False).schema
        with pq.ParquetWriter(temporary, schema, compression="zstd") as stream:

            def flush() -> None:
                if waiting:
                    rows = conform(pd.concat(waiting, ignore_index=True))
                    made = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
                    stream.write_table(made, row_group_size=len(rows))
                    waiting.clear()

            def write(rows: pd.DataFrame) -> None:
                if len(rows):
                    waiting.append(rows)
                if sum(map(len, waiting)) >= GROUP:
                    flush()

            yield write
            flush()


@dataclass(frozen=True)
class Blocks:
    """A table on disk as `writer` wrote it, block by block: as often as one likes, one block in memory at a time."""

    path: Path

    def __iter__(self) -> Iterator[pd.DataFrame]:
        with _opened(self.path) as stream:
            if stream.metadata.num_rows == 0:
                yield conform(stream.read().to_pandas())
            for number in range(stream.num_row_groups):
                yield conform(stream.read_row_group(number).to_pandas())


def pieces(path: Path) -> Iterator[pd.DataFrame]:
    """Yield a table piece by piece, at least one, whoever wrote it; DataError as `read` raises it."""
    import pyarrow as pa

    with _opened(path) as stream:
        if stream.metadata.num_rows == 0:
            yield conform(stream.read().to_pandas())
        for batch in stream.iter_batches(batch_size=GROUP):
            yield conform(pa.Table.from_batches([batch]).to_pandas())


def distinct(path: Path, column: str) -> set[str]:
    """Return the texts that a column of a table holds, each once; DataError as `read` raises it."""
    import pyarrow.compute as pc

    found: set[str] = set()
    with _opened(path) as stream:
        for batch in stream.iter_batches(batch_size=GROUP, columns=[column]):
            found.update(pc.unique(batch[column]).to_pylist())
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a table that has the schema's columns; DataError as `read` raises it, whenever it cannot be read."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as stream:
            missing = [name for name in COLUMNS if name not in stream.schema_arrow.names]
            if missing:
                raise KeyError(f"results table lacks {', '.join(missing)}")
            yield stream
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def read(path: Path) -> pd.DataFrame:
    """Read a table written by `write`; DataError when it is missing, damaged or lacks columns."""
    import pandas as pd

    try:
        return conform(pd.read_parquet(path))
    except FileNotFoundError:
        raise DataError(f"there is no {path.name}: the run is unfinished; finish it with --resume") from None
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = error.args[0] if isinstance(error, KeyError) else type(error).__name__
    return DataError(f"the results table {path.name} cannot be read ({reason}); run the audit again with --resume")
