"""SAR and CMR from the table: against counting by hand, and against each other."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit import results
from robustkit.metrics import cmr, sar
from robustkit.stats import clopper_pearson, wilson


def rows(*cells, **common):
    """One row a cell: (slice, level, clean, noisy, count), or with tied as a sixth."""
    fixed = {"run": "r", "model": "m", "noise": "nps", "group": "", "label": "", "unit": "mAs"} | common
    records = [
        fixed
        | dict(zip(("slice", "level", "clean", "noisy", "count", "tied"), (*cell, False), strict=False))
        | {"realization": -1, "margin": np.nan}
        for cell in cells
    ]
    return results.conform(pd.DataFrame(records))


PAPER = rows(
    ("s1", 25, "BN", "BN", 815),
    ("s1", 25, "BN", "AP", 180),
    ("s1", 25, "BN", "LF", 5),
    ("s2", 25, "C", "C", 404),
    ("s2", 25, "C", "AP", 596),
    ("s3", 25, "AP", "AP", 1000),
    ("s2", 200, "C", "C", 1000),
)


@st.composite
def tables(draw):
    names = ["A", "B", "C"]
    cell = st.tuples(
        st.sampled_from(["s1", "s2"]),
        st.sampled_from([25.0, 50.0]),
        st.sampled_from(names),
        st.sampled_from(names),
        st.integers(1, 50),
        st.booleans(),
    )
    found = draw(st.lists(cell, min_size=1, max_size=30))
    return rows(*[(*cell[:5], cell[5] and cell[2] != cell[3]) for cell in found])


def test_sar_counts_changed_answers():
    table = sar(PAPER).set_index(["class", "level"])
    assert table.loc[("BN", 25), ["k", "n"]].tolist() == [185, 1000]
    assert table.loc[("C", 25), "rate"] == 0.596
    assert table.loc[("C", 25), ["low", "high"]].tolist() == pytest.approx(clopper_pearson(596, 1000))
    assert table.loc[("AP", 25), "k"] == 0


def test_sar_columns():
    assert list(sar(PAPER)) == [
        "model", "noise", "unit", "class", "level", "k", "n", "rate", "low", "high", "tied",
    ]  # fmt: skip


def test_class_never_predicted_is_undefined_not_zero():
    lost = sar(PAPER, classes=["BN", "C", "AP", "LF"]).query("`class` == 'LF'")
    assert lost["n"].tolist() == [0, 0]
    assert lost[["rate", "low", "high"]].isna().all(axis=None)
    column = cmr(PAPER).query("clean == 'LF'")
    assert column["count"].sum() == 0
    assert column[["rate", "low", "high"]].isna().all(axis=None)


def test_classes_come_in_the_order_asked():
    assert list(dict.fromkeys(sar(PAPER, classes=["LF", "C", "BN", "AP"])["class"])) == ["LF", "C", "BN", "AP"]
    assert list(dict.fromkeys(sar(PAPER)["class"])) == ["AP", "BN", "C", "LF"]


def test_class_that_was_not_named_is_kept():
    assert "AP" in set(sar(PAPER, classes=["C"])["class"])


def test_ties_are_no_flips_but_are_told():
    table = rows(("s", 25, "A", "A", 90), ("s", 25, "A", "B", 6), ("s", 25, "A", "B", 4, True))
    row = sar(table).iloc[0]
    assert (row["k"], row["n"], row["tied"]) == (6, 100, 4)
    diagonal = cmr(table).query("clean == 'A' and noisy == 'A'").iloc[0]
    assert (diagonal["count"], diagonal["tied"]) == (94, 4)


def test_cmr_is_the_papers_column():
    column = cmr(PAPER, classes=["BN", "C", "AP", "LF"]).query("clean == 'BN' and level == 25")
    assert column["noisy"].tolist() == ["BN", "C", "AP", "LF"]
    assert column["count"].tolist() == [815, 0, 180, 5]
    assert column["rate"].tolist() == [0.815, 0, 0.18, 0.005]


@settings(max_examples=25)
@given(tables())
def test_cmr_columns_sum_to_one(table):
    columns = cmr(table).groupby(["level", "clean"])
    assert (columns["count"].sum() == columns["n"].first()).all()
    rates = columns["rate"].sum(min_count=1).dropna()
    assert rates.to_numpy() == pytest.approx(np.ones(len(rates)))


@settings(max_examples=25)
@given(tables())
def test_sar_is_the_off_diagonal_of_cmr(table):
    cells = cmr(table)
    off = cells["count"].where(cells["clean"] != cells["noisy"], 0).groupby([cells["clean"], cells["level"]]).sum()
    attack = sar(table).set_index(["class", "level"])["k"]
    assert attack.sort_index().tolist() == off.sort_index().tolist()


@settings(max_examples=25)
@given(tables())
def test_sar_equals_counting_by_hand(table):
    for row in sar(table).to_dict("records"):
        mine = table[(table["clean"] == row["class"]) & (table["level"] == row["level"])]
        changed = mine[(mine["clean"] != mine["noisy"]) & ~mine["tied"]]
        assert (row["k"], row["n"]) == (changed["count"].sum(), mine["count"].sum())
        assert row["tied"] == mine.loc[mine["tied"], "count"].sum()


@settings(max_examples=25)
@given(tables())
def test_counted_rows_equal_single_rows(table):
    single = table.loc[table.index.repeat(table["count"])].assign(count=1)
    pd.testing.assert_frame_equal(sar(table), sar(single))
    pd.testing.assert_frame_equal(cmr(table), cmr(single))


def test_grouping_by_slice_keeps_slices_apart():
    table = rows(("s1", 25, "A", "B", 3), ("s1", 25, "A", "A", 7), ("s2", 25, "A", "A", 10))
    by_slice = sar(table, by=("slice",)).set_index("slice")
    assert by_slice.loc["s1", ["k", "n"]].tolist() == [3, 10]
    assert by_slice.loc["s2", ["k", "n"]].tolist() == [0, 10]


def test_grouping_by_run_keeps_runs_apart():
    table = pd.concat([rows(("s", 25, "A", "B", 2), run="one"), rows(("s", 25, "A", "A", 2), run="two")])
    assert sar(table, by=("run",))["rate"].tolist() == [1.0, 0.0]
    assert len(cmr(table, by=("run",))) == 8


def test_models_and_noises_are_not_pooled():
    table = pd.concat([rows(("s", 25, "A", "B", 2), noise="white"), rows(("s", 25, "A", "A", 2))])
    assert sar(table, classes=["A"]).query("`class` == 'A'").set_index("noise")["rate"].to_dict() == {
        "white": 1,
        "nps": 0,
    }


def test_interval_and_confidence_are_chosen():
    row = sar(PAPER, interval="wilson", confidence=0.8).query("`class` == 'C' and level == 25").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(wilson(596, 1000, 0.8))


def test_empty_table_gives_empty_tables():
    assert sar(PAPER.iloc[:0]).empty
    assert cmr(PAPER.iloc[:0]).empty
