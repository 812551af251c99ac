"""What a metric must do, checked: `check_metric`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Number
from typing import TYPE_CHECKING

from robustkit.testing.core import CheckResult, demand, describe, raise_first, run
from robustkit.testing.fakes import make_results
from robustkit.types import Metric

if TYPE_CHECKING:
    from pandas import DataFrame

KIND = "metric"


@dataclass
class MetricBench:
    """A metric on the bench and the results table it is shown."""

    metric: Metric
    given: DataFrame | None = None

    @cached_property
    def table(self) -> DataFrame:
        """Return the results table."""
        return make_results() if self.given is None else self.given

    @cached_property
    def answer(self) -> DataFrame:
        """Return what the metric makes of it."""
        return self.ask(self.table)

    def ask(self, table: DataFrame) -> DataFrame:
        """Ask the metric once, on a fresh copy."""
        return self.metric(table.copy(deep=True))


def _returns_a_table(bench: MetricBench) -> None:
    import pandas as pd

    demand(
        isinstance(bench.answer, pd.DataFrame) and len(bench.answer) > 0,
        asked="a pandas DataFrame with a row for each number",
        came=describe(bench.answer),
        why="It is written to summary.json as records.",
    )
    names = list(bench.answer.columns)
    demand(
        all(isinstance(name, str) for name in names) and len(set(names)) == len(names),
        asked="columns with different names",
        came=describe(names),
        why="They are the keys of the records.",
    )


def _values_are_plain(bench: MetricBench) -> None:
    for record in bench.answer.to_dict("records"):
        for name, value in record.items():
            demand(
                value is None or isinstance(value, Number | str),
                asked="numbers, texts or nothing in every cell",
                came=f"{describe(value)} in column {name!r}",
                why="It is written to summary.json.",
            )


def _table_is_left_alone(bench: MetricBench) -> None:
    table = bench.table.copy(deep=True)
    bench.metric(table)
    demand(
        table.equals(bench.table) and list(table.columns) == list(bench.table.columns),
        asked="a results table that is only read",
        came="a table changed in place",
        why="Every metric is given the same table.",
    )


def _empty_table_is_no_error(bench: MetricBench) -> None:
    import pandas as pd

    answer = bench.ask(bench.table.iloc[:0])
    demand(
        isinstance(answer, pd.DataFrame),
        asked="a table, empty or not, for results without a row",
        came=describe(answer),
        why="A run may be stopped before its first shard.",
    )


def _order_of_rows_plays_no_part(bench: MetricBench) -> None:
    shuffled = bench.ask(bench.table.sample(frac=1.0, random_state=0).reset_index(drop=True))
    _demand_same(
        bench.answer,
        shuffled,
        asked="the same numbers whatever the order of the rows",
        why="Workers finish in any order.",
    )


def _rows_that_count_several_weigh_so(bench: MetricBench) -> None:
    import pandas as pd

    thrice = pd.concat([bench.table] * 3, ignore_index=True)
    counted = bench.ask(bench.table.assign(count=3))
    _demand_same(
        bench.ask(thrice),
        counted,
        asked="the same numbers from a row with count 3 and from three such rows",
        why="Long runs keep counts instead of rows; sum the column `count`, never count rows.",
    )


def _ties_are_no_flips(bench: MetricBench) -> None:
    table = bench.table
    tied = table["tied"].to_numpy()
    settled = table.assign(noisy=table["noisy"].where(~tied, table["clean"]), tied=False)
    columns = [name for name in bench.answer.columns if "tied" not in name]
    _demand_same(
        bench.answer[columns],
        bench.ask(settled)[columns],
        asked="tied rows counted as unchanged (columns with `tied` in their name may tell them apart)",
        why="A change smaller than the numerical floor is no change; robustkit.results.flipped(table) leaves ties out.",
    )


CHECKS = (
    _returns_a_table,
    _values_are_plain,
    _table_is_left_alone,
    _empty_table_is_no_error,
    _order_of_rows_plays_no_part,
    _rows_that_count_several_weigh_so,
    _ties_are_no_flips,
)


def run_metric(metric: Metric, *, table: DataFrame | None = None) -> list[CheckResult]:
    """Run every check of `check_metric` and return what each found."""
    return run(KIND, CHECKS, MetricBench(metric, table), basic=1)


def check_metric(metric: Metric, *, table: DataFrame | None = None) -> None:
    """Check a metric: a function of the results table alone.

    Parameters
    ----------
    table : results with flips and ties; by default `make_results()`.

    Raises
    ------
    ConformanceError
        Naming the first check that failed: what was asked, what came, and why it matters.
    """
    raise_first(run_metric(metric, table=table))


def _demand_same(one: DataFrame, other: DataFrame, *, asked: str, why: str) -> None:
    import pandas as pd

    try:
        pd.testing.assert_frame_equal(_sorted(one), _sorted(other), rtol=1e-9, check_dtype=False)
        came = ""
    except AssertionError as error:
        came = "; ".join(line for line in str(error).splitlines() if line)[:200]
    demand(not came, asked=asked, came=came, why=why)


def _sorted(table: DataFrame) -> DataFrame:
    """Return the rows in an order of their own: by texts and whole numbers first, which rounding cannot touch."""
    from pandas.api.types import is_float_dtype

    keys = sorted(table.columns, key=lambda name: bool(is_float_dtype(table[name])))
    return table.sort_values(keys).reset_index(drop=True)
