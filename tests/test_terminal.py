"""What a terminal shows: the SAR table in blocks that fit, its curves, the verdict, and names that cannot style it."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from robustkit.cli.options import levels as read_levels
from robustkit.cli.sartable import BLOCKS, CURVE, interval, sar_tables, spark
from robustkit.cli.show import print_summary


def summary(classes=("BN", "C"), levels=(12.5, 25.0), flips=(50, 0), **more):
    sar = [
        {"class": name, "level": level, "k": k, "n": 1000, "rate": k / 1000, "low": 0.0, "high": 0.09, "tied": 0}
        for name in classes
        for level, k in zip(levels, flips, strict=True)
    ]
    told = {"model": "m", "noise": "nps", "unit": "mAs", "classes": list(classes), "levels": list(levels), "sar": sar}
    return {"n": 1000, "seed": 0, "gate": None, "verdict_sentence": "As told.", "warnings": []} | told | more


def printed(found, width=80):
    out = Console(file=io.StringIO(), width=width, force_terminal=False)
    for part in sar_tables(found, width):
        out.print(part, markup=False)
    return out.file.getvalue()


def test_spark_of_a_ramp_uses_every_block():
    assert spark(np.linspace(0, 1, 8), 1.0) == BLOCKS


def test_spark_tells_none_from_few_and_from_nothing_scored():
    assert spark([0.0, 1e-6, None], 0.5) == BLOCKS[0] + BLOCKS[1] + " "


def test_spark_of_many_levels_keeps_the_worst():
    rates = [0.0] * 40
    rates[17] = 1.0
    drawn = spark(rates, 1.0)
    assert len(drawn) <= CURVE
    assert drawn.count(BLOCKS[-1]) == 1


def test_spark_without_any_flip_is_flat():
    assert set(spark([0.0] * 5, 0.0)) == {BLOCKS[0]}


@pytest.mark.parametrize(
    ("ends", "text"), [((0, 0.01831), "0-1.8%"), ((0.196, 0.321), "20-32%"), ((0.9963, 1), "99.6-100%")]
)
def test_intervals_have_two_digits(ends, text):
    assert interval(*ends) == text


def test_table_holds_counts_and_intervals_of_every_level():
    text = printed(summary())
    assert text.count("50/1000 0-9%") == 2
    assert text.count("0/1000 0-9%") == 4  # 50/1000 ends in it too
    assert "curves from noisy to quiet, 0 to 5%" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_twelve_classes_are_broken_into_tables_that_fit(width):
    names = [f"class {c}" for c in "ABCDEFGHIJKL"]
    text = printed(summary(names), width)
    assert max(map(len, text.split("\n")[1:])) <= width
    assert [name for name in names if name in text] == names
    assert "…" not in text


def test_class_that_was_never_seen_has_no_column():
    found = summary()
    for row in found["sar"][2:]:
        row.update(k=0, n=0, rate=None)
    assert "C" not in re.findall(r"\b[A-Z]+\b", printed(found).split("\n", 1)[1])


def test_names_full_of_markup_are_printed_as_they_are(tmp_path, capsys):
    print_summary(summary(["[red]x[/red]"], model="[bold]m", warnings=["[link=x]y"]), tmp_path)
    told = capsys.readouterr().out
    for name in ("[red]x[/red]", "[bold]m", "[link=x]y"):
        assert name in told


def test_terminal_without_blocks_gets_the_numbers_alone(tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", out)
    print_summary(summary(), tmp_path)
    out.flush()
    assert b"50/1000" in out.buffer.getvalue()


def test_log_spaced_levels_are_short_and_keep_their_ends():
    assert read_levels("12.5:500:5") == [12.5, 31.4, 79.1, 199.0, 500.0]


def test_dense_log_spaced_levels_stay_apart():
    found = read_levels("100:101:12")
    assert len(set(found)) == 12
    np.testing.assert_allclose(np.diff(np.log(found)), np.log(1.01) / 11, rtol=1e-2)
