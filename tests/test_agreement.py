"""Comparison of two runs: the paper's table, its verdicts, pairs, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from robustkit import results, stats
from robustkit.agreement import compare
from robustkit.errors import DataError, UsageError

CLASSES = ["BN", "C", "AP", "LF"]


def rows(*cells, **common):
    """One row a cell: (slice, level, clean, noisy, count)."""
    fixed = {"run": "r", "model": "m", "noise": "nps", "group": "", "label": "", "unit": "mAs", "tied": False}
    names = ("slice", "level", "clean", "noisy", "count")
    made = [
        fixed | common | dict(zip(names, cell, strict=True)) | {"realization": -1, "margin": np.nan} for cell in cells
    ]
    return results.conform(pd.DataFrame(made))


def single(flips, n, clean="A", noisy="B", slice_id="s", level=25.0, **common):
    """One row a realization of one slice; `flips` are the realizations that change."""
    table = rows(*[(slice_id, level, clean, noisy if r in flips else clean, 1) for r in range(n)], **common)
    return table.assign(realization=range(n), margin=np.float32(0.5))


SIMULATED = rows(
    ("bn", 25, "BN", "BN", 815), ("bn", 25, "BN", "AP", 180), ("bn", 25, "BN", "LF", 5),
    ("c", 25, "C", "C", 404), ("c", 25, "C", "AP", 596), ("ap", 25, "AP", "AP", 1000),
    ("lf", 25, "LF", "LF", 702), ("lf", 25, "LF", "C", 298), ("lf", 12.5, "LF", "LF", 5),
)  # fmt: skip
MEASURED = rows(
    ("bn", 25, "BN", "BN", 123), ("bn", 25, "BN", "AP", 27), ("c", 25, "C", "C", 64), ("c", 25, "C", "AP", 86),
    ("ap", 25, "AP", "AP", 150), ("lf", 25, "LF", "LF", 107), ("lf", 25, "LF", "C", 43), ("lf", 200, "LF", "LF", 5),
    noise="measured",
)  # fmt: skip


def entry(found, clean, noisy, level=25.0):
    return next(e for e in found["entries"] if (e["clean"], e["noisy"], e["level"]) == (clean, noisy, level))


@pytest.fixture(scope="module")
def paper():
    return compare(SIMULATED, MEASURED, classes=CLASSES)


@pytest.mark.parametrize(
    ("clean", "noisy", "z"),
    [("BN", "BN", -0.147264), ("BN", "LF", 0.867914), ("C", "AP", 0.526947), ("LF", "C", 0.283401), ("BN", "AP", 0)],
)
def test_entries_carry_the_papers_z(paper, clean, noisy, z):
    assert entry(paper, clean, noisy)["z"] == pytest.approx(z, abs=1e-6)


def test_nought_over_nought_has_a_reason_and_is_shown_as_zero(paper):
    found = entry(paper, "AP", "AP")
    assert found["z"] is None
    assert found["reason"] == "degenerate"
    table = paper["tables"][0]
    assert table["z"][2][2] == 0.0
    assert ["AP", "AP"] in table["footnoted"]
    assert "0/0" in table["footnote"]


def test_paper_table_has_noisy_rows_and_clean_columns(paper):
    z = paper["tables"][0]["z"]
    assert z[3][0] == pytest.approx(0.867914, abs=1e-6)  # BN without noise, LF with
    assert z[0][3] == 0.0


def test_sparse_entry_gets_the_exact_test(paper):
    assert entry(paper, "BN", "LF")["method"] == "boschloo"
    assert entry(paper, "BN", "LF")["p"] == pytest.approx(0.9251, abs=5e-5)
    assert entry(paper, "C", "AP")["method"] == "z"


def test_columns_are_tested_once_each(paper):
    columns = {c["class"]: c for c in paper["columns"]}
    assert columns["BN"]["p_chi_square"] == pytest.approx(0.685917, abs=1e-6)
    assert columns["C"]["p"] == pytest.approx(0.598230, abs=1e-6)
    assert columns["AP"]["reason"] == "degenerate"
    assert [columns[name]["p_holm"] for name in ("BN", "C", "LF")] == pytest.approx([1, 1, 1])


def test_no_difference_is_said_with_what_could_be_missed(paper):
    assert (paper["verdict"], paper["exit_code"]) == ("agree", 0)
    assert entry(paper, "C", "AP")["detectable"]["up"] == pytest.approx(0.12, abs=0.005)
    assert "could have been missed" in paper["sentence"]


def test_the_papers_data_agree_within_ten_points_not_within_five():
    five = compare(SIMULATED, MEASURED, classes=CLASSES, margin=0.05)
    ten = compare(SIMULATED, MEASURED, classes=CLASSES, margin=0.10)
    assert (five["verdict"], five["exit_code"]) == ("not shown equivalent", 3)
    assert (ten["verdict"], ten["exit_code"]) == ("equivalent", 0)
    assert entry(five, "C", "AP")["equivalence"]["p"] == pytest.approx(0.265, abs=5e-4)
    assert entry(five, "C", "AP")["equivalence"]["high"] == pytest.approx(0.0944, abs=5e-5)


def test_levels_of_one_run_only_are_listed(paper):
    assert paper["levels"] == [25.0]
    assert (paper["only_in_a"], paper["only_in_b"]) == ([12.5], [200.0])


def test_different_runs_disagree():
    found = compare(SIMULATED, rows(("c", 25, "C", "C", 120), ("c", 25, "C", "AP", 30)), classes=CLASSES)
    assert (found["verdict"], found["exit_code"]) == ("disagree", 1)
    assert "class C" in found["sentence"]
    assert [c["class"] for c in found["columns"] if c["differs"]] == ["C"]


def test_same_flips_to_another_class_disagree():
    one = rows(("c", 25, "C", "C", 500), ("c", 25, "C", "AP", 500))
    other = rows(("c", 25, "C", "C", 500), ("c", 25, "C", "LF", 500))
    assert compare(one, other)["verdict"] == "disagree"


def test_wide_margin_makes_a_detected_difference_equivalent():
    one = rows(("c", 25, "C", "C", 9000), ("c", 25, "C", "AP", 1000))
    other = rows(("c", 25, "C", "C", 8800), ("c", 25, "C", "AP", 1200))
    assert compare(one, other)["verdict"] == "disagree"
    assert compare(one, other, margin=0.05)["verdict"] == "equivalent"
    assert compare(one, other, margin=0.01)["verdict"] == "disagree"


def test_column_of_one_run_only_has_no_value():
    found = compare(SIMULATED, rows(("c", 25, "C", "C", 100)), classes=CLASSES)
    assert entry(found, "BN", "BN")["reason"] == "no data"
    assert found["tables"][0]["z"][0][0] is None


def test_swapping_the_runs_flips_every_sign(paper):
    swapped = compare(MEASURED, SIMULATED, classes=CLASSES)
    for e in paper["entries"]:
        other = entry(swapped, e["clean"], e["noisy"])
        assert other["difference"] == -e["difference"]
        assert (e["z"] is None and other["z"] is None) or other["z"] == pytest.approx(-e["z"])


def test_result_is_strict_json(paper):
    assert json.loads(json.dumps(paper, allow_nan=False)) == paper


def test_homogeneity_holds_its_size():
    # 400 pairs of runs of one truth, three columns, Holm at 5 %: 20 disagreements are expected at most; more than 33
    # (8.25 %) happen by chance in under one of 300 seeds; the seed is fixed
    rng = np.random.default_rng(4)
    truth = {"A": [0.97, 0.02, 0.01], "B": [0.1, 0.8, 0.1], "C": [0.0, 0.004, 0.996]}

    def p_values():
        return [stats.homogeneity(rng.multinomial(1000, p), rng.multinomial(150, p)).p for p in truth.values()]

    wrong = sum(np.nanmin(stats.holm(p_values())) <= 0.05 for _ in range(400))
    assert wrong <= 33


def test_pairs_decide_when_the_runs_saw_the_same_noise():
    before, after = single(range(20, 60), 1000), single(range(20, 50), 1000)
    assert compare(before, after)["verdict"] == "agree"
    found = compare(before, after, paired=True)
    assert (found["paired"], found["verdict"]) == (True, "disagree")
    pair = found["pairs"][0]
    assert (pair["both"], pair["only_a"], pair["only_b"], pair["n"]) == (30, 10, 0, 1000)
    assert pair["p"] == pytest.approx(2 * 0.5**10)


def test_pairs_use_only_realizations_that_both_runs_saw():
    found = compare(single({5, 700, 800}, 1000), single({5}, 100), paired=True)
    pair = found["pairs"][0]
    assert (pair["both"], pair["only_a"], pair["only_b"], pair["n"]) == (1, 0, 0, 100)


def test_flip_ledger_is_enough_for_pairs():
    ledger = pd.concat([rows(("s", 25, "A", "A", 998)), single({0, 1}, 2)], ignore_index=True)
    pair = compare(ledger, single({1, 2}, 1000), paired=True)["pairs"][0]
    assert (pair["both"], pair["only_a"], pair["only_b"], pair["n"]) == (1, 1, 1, 1000)


def test_ties_are_no_flips_in_pairs():
    tied = single({1, 2}, 100).assign(tied=lambda t: t["realization"] == 2)
    assert compare(tied, single({1}, 100), paired=True)["pairs"][0]["only_a"] == 0


def test_tables_that_cannot_be_paired_say_why():
    counted = rows(("s", 25, "A", "A", 90), ("s", 25, "A", "B", 10))
    found = compare(counted, single({1}, 100), paired=True)
    assert not found["paired"]
    assert "counts" in found["notes"][0]


def test_no_common_level_is_refused():
    with pytest.raises(DataError, match=r"share no level: A has 25 mAs, B has 50 mAs"):
        compare(single({1}, 5), single({1}, 5, level=50.0))


def test_no_common_class_is_refused():
    with pytest.raises(DataError, match="no class"):
        compare(single({1}, 5), single({1}, 5, clean="B", noisy="A"))


def test_different_units_are_refused():
    with pytest.raises(UsageError, match="mAs and sigma"):
        compare(single({1}, 5), single({1}, 5, unit="sigma"))


def test_mixed_table_is_refused():
    with pytest.raises(DataError, match="run A mixes several"):
        compare(pd.concat([single({1}, 5), single({1}, 5, noise="white")]), single({1}, 5))


@pytest.mark.parametrize("margin", [0, 1, 5, -0.1])
def test_impossible_margin_is_refused(margin):
    with pytest.raises(UsageError, match="margin"):
        compare(single({1}, 5), single({1}, 5), margin=margin)
