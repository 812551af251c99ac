"""The one table, and files that are whole or not there."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit import DataError, files, results
from robustkit.testing import make_results


def test_conform_puts_columns_in_order_and_drops_others():
    table = make_results(3)
    shuffled = table[list(table.columns)[::-1]].assign(extra=1)
    pd.testing.assert_frame_equal(results.conform(shuffled), table)


def test_conform_names_the_missing_columns():
    with pytest.raises(KeyError, match="lacks level, tied"):
        results.conform(make_results(3).drop(columns=["level", "tied"]))


@pytest.mark.parametrize("unknown", [None, np.nan, pd.NA])
def test_unknown_text_becomes_empty(unknown):
    table = make_results(3).astype({"label": "object"})
    table["label"] = unknown
    assert set(results.conform(table)["label"]) == {""}


def test_partly_unknown_text_keeps_the_rest():
    table = make_results(3).astype({"group": "object"})
    table.loc[0, "group"] = None
    found = results.conform(table)["group"]
    assert found[0] == ""
    assert set(found[1:]) == {"object-0", "object-1"}


def test_conform_leaves_its_input():
    table = make_results(3)
    table["level"] = table["level"].astype("int64")
    results.conform(table)
    assert table["level"].dtype == "int64"


def test_types_are_those_of_the_schema():
    table = results.conform(make_results(3).astype({"count": "int32", "level": "float32"}))
    for name, kind in results.COLUMNS.items():
        assert kind == "string" or table[name].dtype == kind


def test_flipped_leaves_ties_out():
    table = make_results(1).iloc[:3].assign(clean=["a", "a", "a"], noisy=["a", "b", "b"], tied=[False, False, True])
    assert results.flipped(table).tolist() == [False, True, False]


def test_table_comes_back_from_disk(tmp_path):
    table = make_results(5)
    results.write(table, tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(results.read(tmp_path / "results.parquet"), table)


def test_empty_table_comes_back_from_disk(tmp_path):
    table = make_results(5).iloc[:0]
    results.write(table, tmp_path / "results.parquet")
    assert len(results.read(tmp_path / "results.parquet")) == 0


def test_damaged_table_is_an_error_with_a_cure(tmp_path):
    path = tmp_path / "results.parquet"
    results.write(make_results(5), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"results.parquet cannot be read .*--resume"):
        results.read(path)


def test_missing_table_is_an_error_with_a_cure(tmp_path):
    with pytest.raises(DataError, match=r"there is no results\.parquet"):
        results.read(tmp_path / "results.parquet")


def test_table_of_other_columns_is_an_error(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "results.parquet")
    with pytest.raises(DataError, match="lacks run, model"):
        results.read(tmp_path / "results.parquet")


def test_file_is_whole_or_not_there(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:  # noqa: PT012 - the crash comes midway
        temporary.write_text("half")
        raise RuntimeError("crash")
    assert list(target.parent.iterdir()) == []


def test_crash_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:  # noqa: PT012 - as above
        temporary.write_text("half")
        raise RuntimeError("crash")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_temporary_file_is_beside_its_place(tmp_path):
    with files.atomic_path(tmp_path / "table.parquet") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".parquet"
        temporary.write_bytes(b"x")
    assert (tmp_path / "table.parquet").read_bytes() == b"x"


def test_file_may_be_read_by_others(tmp_path):
    files.write_text(tmp_path / "file.txt", "told")
    assert os.stat(tmp_path / "file.txt").st_mode & 0o777 == 0o644


def test_json_refuses_what_json_has_not(tmp_path):
    files.write_json(tmp_path / "a.json", {"rate": 0.1, "none": None})
    assert (tmp_path / "a.json").read_text() == '{\n "rate": 0.1,\n "none": null\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "b.json", {"rate": float("nan")})
    assert not (tmp_path / "b.json").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.lists(VALUES, max_size=6), st.sampled_from([1, 3, 50]), st.sampled_from([None, 1]))
def test_a_json_list_is_written_and_read_item_by_item(tmp_path_factory, values, piece, indent):
    path = tmp_path_factory.mktemp("json") / "list.json"
    files.write_json_list(path, iter(values))
    assert path.read_text(encoding="utf-8") == json.dumps(values, indent=1) + "\n"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE", piece)
        assert list(files.read_json_list(path)) == values


@pytest.mark.parametrize("text", ["", "{}", "[", "[1", "[1,", "[1 2]", "[,]", '["a', "nothing"])
def test_what_is_no_whole_json_list_is_a_value_error(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ValueError, match=r".*"):
        list(files.read_json_list(tmp_path / "list.json"))


def test_blocks_hold_what_was_appended_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "GROUP", 4)
    table = make_results(10)
    with results.writer(tmp_path / "t.parquet") as write:
        for start in range(0, len(table), 3):
            write(table.iloc[start : start + 3])
    blocks = results.Blocks(tmp_path / "t.parquet")
    assert {len(block) for block in blocks} <= {6, len(table) % 6}
    pd.testing.assert_frame_equal(pd.concat(blocks, ignore_index=True), table)
    assert results.distinct(tmp_path / "t.parquet", "slice") == set(table["slice"])
