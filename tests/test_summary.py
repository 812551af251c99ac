"""summary.json, the gate's verdict, and junit.xml."""

import json
from collections import Counter
from functools import partial
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from robustkit import junit, results
from robustkit.errors import UsageError
from robustkit.gates import Gate, judge, judged, parse_rate
from robustkit.plain import plain
from robustkit.stats import clopper_pearson, cluster_bootstrap, simultaneous, total_interval
from robustkit.summary import build, exit_code

CLASSES = ["BN", "C", "AP", "LF"]
ASKED = {"model": "m.onnx", "noise": "nps", "unit": "mAs", "n": 1000, "seed": 7}


def rows(*cells, **common):
    """One row a cell: (slice, level, clean, flips, n) with flips to "X", further ties as a sixth."""
    fixed = {"run": "r", "model": "m", "noise": "nps", "group": "", "label": "", "unit": "mAs"} | common
    fixed |= {"realization": -1, "margin": np.nan}
    made = []
    for slice_id, level, clean, k, n, *ties in cells:
        tied = ties[0] if ties else 0
        for noisy, count, is_tied in ((clean, n - k - tied, False), ("X", k, False), ("X", tied, True)):
            if count:
                case = {"slice": slice_id, "level": level, "clean": clean}
                made.append(fixed | case | {"noisy": noisy, "count": count, "tied": is_tied})
    return results.conform(pd.DataFrame(made))


def summarise(table, gate=None, **options):
    levels = sorted(set(table["level"]))
    asked = ASKED | {"classes": CLASSES, "levels": levels, "null_audit": {"floor": 1e-7}} | options
    return build(table, gate=gate, **asked)


AUDIT = rows(
    ("bn", 25, "BN", 185, 1000), ("bn", 50, "BN", 20, 1000), ("bn", 200, "BN", 0, 1000),
    ("c", 25, "C", 596, 1000), ("c", 50, "C", 3, 1000), ("c", 200, "C", 12, 1000),
    ("ap", 25, "AP", 0, 1000), ("ap", 50, "AP", 0, 1000), ("ap", 200, "AP", 0, 1000),
)  # fmt: skip


def test_contract_is_kept():
    found = summarise(AUDIT)
    assert {name: found[name] for name in ASKED} == ASKED
    assert found["schema"] == 1
    assert found["classes"] == [*CLASSES, "X"]
    assert found["levels"] == [25, 50, 200]
    row = next(r for r in found["sar"] if (r["class"], r["level"]) == ("BN", 25))
    assert set(row) == {"class", "level", "k", "n", "rate", "low", "high", "tied"}
    assert (row["k"], row["n"], row["rate"]) == (185, 1000, 0.185)
    assert found["gate"] is None
    assert found["null_audit"] == {"floor": 1e-7}


def test_summary_is_strict_json():
    found = summarise(AUDIT, gate=Gate(0.02))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_cmr_has_noisy_rows_clean_columns_and_null_for_undefined():
    matrix = summarise(AUDIT)["cmr"][0]
    assert matrix["level"] == 25
    assert [row[0] for row in matrix["counts"]] == [815, 0, 0, 0, 185]
    assert [row[3] for row in matrix["rates"]] == [None] * 5
    assert sum(row[1] for row in matrix["rates"]) == pytest.approx(1)


def test_other_metrics_are_recorded():
    def flips(table):
        return pd.DataFrame({"slice": table["slice"].unique(), "value": [1, np.nan, np.float32(2)]})

    found = summarise(AUDIT, metrics={"flips": flips, "sar": flips})
    assert found["metrics"] == {
        "flips": [{"slice": "bn", "value": 1.0}, {"slice": "c", "value": None}, {"slice": "ap", "value": 2.0}]
    }


def broken(table):
    raise RuntimeError("no luck")


def leaves(table):
    raise SystemExit(3)


def spoils(table):
    table["count"] = 0
    return table.head(0)


@pytest.mark.parametrize(
    ("metric", "told"),
    [(broken, "RuntimeError: no luck"), (leaves, "SystemExit: 3"), (lambda t: 5, "DataFrame, not int")],
)
def test_bad_metric_is_named_and_stops_nothing(metric, told):
    found = summarise(AUDIT, metrics={"bad": metric, "good": lambda t: t.head(1)})
    assert told in found["metrics"]["bad"]["error"]
    assert any("'bad'" in warning for warning in found["warnings"])
    assert len(found["metrics"]["good"]) == 1


def test_metric_cannot_spoil_the_table():
    table = AUDIT.copy()
    metrics = {"a spoils": spoils, "b counts": lambda t: pd.DataFrame({"count": [t["count"].sum()]})}
    found = summarise(table, metrics=metrics)
    pd.testing.assert_frame_equal(table, AUDIT)
    assert found["metrics"]["b counts"] == [{"count": 9000}]


def test_lowest_level_is_where_the_fixed_sequence_stops():
    lowest = summarise(AUDIT)["lowest_passing_level"]
    assert lowest["BN"] | {"reason": ""} == {
        "level": 50, "limit": 0.05, "confidence": 0.95, "stopped_at": 25, "reason": "",
    }  # fmt: skip
    assert lowest["AP"]["level"] == 25
    assert lowest["AP"]["stopped_at"] is None
    assert lowest["LF"]["level"] is None
    assert "no image" in lowest["LF"]["reason"]


def test_lowest_level_uses_the_gates_limit_and_skips_nothing():
    # C passes 2 % at 50 mAs (3 flips) and 200 mAs (12 flips); at 1 % it fails at 200, so 50 is not claimed either
    assert summarise(AUDIT, Gate(0.02))["lowest_passing_level"]["C"]["level"] == 50
    assert summarise(AUDIT, Gate(0.01))["lowest_passing_level"]["C"]["level"] is None


def test_ties_count_against_the_lowest_level():
    table = rows(("bn", 200, "BN", 0, 1000, 100))
    assert summarise(table)["lowest_passing_level"]["BN"]["level"] is None


def test_noise_that_rises_with_the_level_goes_up():
    table = rows(("s", 5.0, "C", 0, 1000), ("s", 10.0, "C", 0, 1000), ("s", 20.0, "C", 500, 1000), unit="sigma")
    found = summarise(table, unit="sigma")
    assert found["lowest_passing_level"]["C"]["level"] == 10
    assert "sigma 20" in found["verdict_sentence"]


def test_lowest_level_can_be_withheld():
    found = summarise(AUDIT, withhold_lowest="the noise is tied to no measured dose")
    assert {entry["level"] for entry in found["lowest_passing_level"].values()} == {None}
    assert found["lowest_passing_level"]["AP"]["reason"] == "the noise is tied to no measured dose"


def test_thresholds_are_looked_up():
    found = {(t["class"], t["rate"]): t for t in summarise(AUDIT)["thresholds"]}
    assert 25 < found["BN", 0.05]["level"] < 50
    assert (found["BN", 0.05]["low"], found["BN", 0.05]["high"]) == (25, 50)
    assert found["AP", 0.05]["level"] is None


@pytest.mark.parametrize(
    ("gate", "verdict", "code"),
    [
        (Gate(0.02), "fail", 1),
        (Gate(0.02, at=200.0), "pass", 0),
        (Gate(0.015, at=200.0), "inconclusive", 3),
        (Gate(0.02, only_class="AP"), "pass", 0),
        (Gate(0.005, at=50.0, only_class="C"), "inconclusive", 3),
        (Gate(0.5, at=25.0), "fail", 1),
        (Gate(0.02, only_class="LF"), "inconclusive", 3),
    ],
)
def test_verdict_and_exit_code(gate, verdict, code):
    found = summarise(AUDIT, gate)
    assert found["gate"]["verdict"] == verdict
    assert exit_code(found) == code


def test_no_gate_is_no_verdict():
    assert exit_code(summarise(AUDIT)) == 0


def test_bound_decides_and_not_the_point():
    # 12 of 1,000 is 1.2 %, its one-sided bound 1.94 %
    assert clopper_pearson(12, 1000, 0.95, "upper").high == pytest.approx(0.0194, abs=5e-5)
    assert summarise(AUDIT, Gate(0.0195, at=200.0, only_class="C"))["gate"]["verdict"] == "pass"
    assert summarise(AUDIT, Gate(0.0193, at=200.0, only_class="C"))["gate"]["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("flips", "told"),
    [
        ((90, 0, 0), "sure)."),
        ((90, 80, 0), "1 of the 2 other classes exceeds it too."),
        ((90, 80, 70), "All 2 other classes exceed it too."),
        ((90, 80), "The other class exceeds it too."),
    ],
)
def test_sentence_of_a_fail_counts_the_others(flips, told):
    table = rows(*[("s", 25, name, k, 100) for name, k in zip("CBA", flips, strict=False)])
    assert summarise(table, Gate(0.02, at=25.0))["verdict_sentence"].endswith(told)


@pytest.mark.parametrize(("n", "verdict"), [(298, "inconclusive"), (299, "pass")])
def test_299_without_a_flip_pass_one_percent(n, verdict):
    assert summarise(rows(("s", 25, "C", 0, n)), Gate(0.01))["gate"]["verdict"] == verdict


def test_ties_count_against_a_pass_but_not_for_a_fail():
    tied = rows(("s", 25, "C", 0, 1000, 200))
    found = summarise(tied, Gate(0.02))
    assert found["gate"]["verdict"] == "inconclusive"
    assert found["sar"][1]["tied"] == 200
    assert any("ties" in warning for warning in found["warnings"])


def test_one_flipping_item_of_many_needs_holm_to_fail():
    # 9 of 300 against 1 %: p = 0.0039 alone fails; as the worst of 40 items it does not
    assert summarise(rows(("s", 25, "C", 9, 300)), Gate(0.01))["gate"]["verdict"] == "fail"
    many = rows(*[("s", level, "C", 9 if level == 25 else 0, 300) for level in range(1, 41)])
    assert summarise(many, Gate(0.01))["gate"]["verdict"] == "inconclusive"


def test_false_fail_is_rare_over_many_items():
    # All 20 items at the limit: a false fail needs one of them to reach the fewest flips that fail, exactly
    frame = pd.DataFrame({"class": "C", "level": range(20), "n": 400, "tied": 0, "slices": 1, "k": 0})
    limit = 0.02

    def fails(k):
        return judge(Gate(limit), frame.assign(k=[k] + [0] * 19), 0.95)["verdict"] == "fail"

    fewest = next(k for k in range(9, 40) if fails(k))
    assert 20 * binom.sf(fewest - 1, 400, limit) <= 0.05 < 20 * binom.sf(fewest - 2, 400, limit)


def test_false_pass_is_rare():
    # One class at the limit among good ones: the chance of a pass is at most its own, exactly
    def passed(k):
        return (
            summarise(rows(("c", 25, "C", k, 500), ("ap", 25, "AP", 0, 500)), Gate(0.02))["gate"]["verdict"] == "pass"
        )

    most = max(k for k in range(12) if passed(k))
    assert binom.cdf(most, 500, 0.02) <= 0.05 < binom.cdf(most + 1, 500, 0.02)


def test_inconclusive_says_how_many_more():
    found = summarise(rows(("s", 25, "C", 0, 200)), Gate(0.01))["gate"]
    assert (found["more_needed"], found["n_needed"]) == (99, 299)
    shared = summarise(rows(("s", 25, "C", 0, 100), ("t", 25, "C", 0, 100)), Gate(0.01))["gate"]
    assert (shared["more_needed"], shared["n_needed"]) == (50, 150)


def test_rate_at_the_limit_promises_nothing():
    found = summarise(rows(("s", 25, "C", 10, 1000)), Gate(0.01))
    assert found["gate"]["n_needed"] is None
    assert "may not decide" in found["verdict_sentence"]


def test_sequential_gate_pays_for_looking():
    table = rows(("s", 25, "C", 0, 300))
    assert summarise(table, Gate(0.01))["gate"]["verdict"] == "pass"
    watched = summarise(table, Gate(0.01, sequential=True))
    assert watched["gate"]["verdict"] == "inconclusive"
    assert watched["gate"]["n_needed"] == 409
    assert summarise(rows(("s", 25, "C", 0, 409)), Gate(0.01, sequential=True))["gate"]["verdict"] == "pass"


def test_sequential_gate_judges_every_slice():
    table = rows(("good", 25, "C", 0, 5000), ("bad", 25, "C", 40, 1000))
    evidence = summarise(table, Gate(0.01, sequential=True))["gate"]["evidence"]
    assert {item["slice"]: item["verdict"] for item in evidence} == {"good": "pass", "bad": "fail"}


def test_gate_on_an_unknown_class_or_level_is_a_usage_error():
    with pytest.raises(UsageError, match="BN, C, AP, LF"):
        summarise(AUDIT, Gate(0.02, only_class="Chest"))
    with pytest.raises(UsageError, match="25, 50, 200"):
        summarise(AUDIT, Gate(0.02, at=30.0))


@pytest.mark.parametrize(("text", "rate"), [("2%", 0.02), (" 2.5 % ", 0.025), ("0.02", 0.02), (0.02, 0.02)])
def test_rates_are_read(text, rate):
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["2", "two", "", "0%", "100%", "-1%", "nan", "inf", "%", 1.0])
def test_impossible_rates_are_refused(text):
    with pytest.raises(UsageError):
        parse_rate(text)


def test_percent_without_its_sign_gets_a_hint():
    with pytest.raises(UsageError, match="did you mean 2%"):
        parse_rate("2")


def test_gate_checks_its_limit():
    with pytest.raises(UsageError):
        Gate(2.0)


def test_verdict_sentences_carry_the_evidence():
    failed = summarise(AUDIT, Gate(0.02))["verdict_sentence"]
    assert failed.startswith("Fail")
    assert "596 of 1,000 images of class C at 25 mAs" in failed
    passed = summarise(AUDIT, Gate(0.03, at=200.0))["verdict_sentence"]
    assert passed.startswith("Pass: at 200 mAs")
    assert "at most 2 % of the answers in any of BN, C and AP (95 % sure), within the limit of 3 %" in passed
    plainly = summarise(rows(("s", 25, "C", 0, 1000)))["verdict_sentence"]
    assert "none of 1,000 answers" in plainly
    assert "up to 0.3 %" in plainly


def test_pass_without_a_flip_says_none_and_still_gives_the_bound():
    table = rows(("s", 25, "C", 0, 500), ("t", 25, "AP", 0, 500))
    sentence = summarise(table, Gate(0.02), classes=["C", "AP"])["verdict_sentence"]
    # 0 of 500: 1 - 0.05^(1/500) = 0.597 %
    assert "changed none of 1,000 answers" in sentence
    assert "at most 0.6 % of the answers in any class" in sentence


def test_pass_names_the_classes_it_speaks_of_where_some_were_not_seen():
    one = summarise(rows(("s", 25, "C", 0, 500)), Gate(0.02), classes=["BN", "C"])["verdict_sentence"]
    assert "of the answers in class C (95 % sure)" in one
    two = rows(("s", 25, "C", 1, 500), ("t", 25, "AP", 0, 500))
    both = summarise(two, Gate(0.02), classes=["BN", "C", "AP"])["verdict_sentence"]
    assert "of the answers in any of C and AP (95 % sure)" in both
    assert "1 of 500 images of class C" in both


def test_bound_in_words_is_rounded_up():
    # 1 of 1,000 has the bound 0.4735 %
    sentence = summarise(rows(("s", 25, "C", 1, 1000)), Gate(0.01))["verdict_sentence"]
    assert "at most 0.48 %" in sentence


def test_empty_table_says_so():
    found = summarise(AUDIT.iloc[:0], levels=[25.0])
    assert "Nothing was scored" in found["verdict_sentence"]


def test_slices_of_one_class_are_told_apart():
    table = rows(*[(f"s{i}", 25, "C", k, 100) for i, k in enumerate([0, 1, 5, 30])], ("t", 25, "BN", 0, 100))
    found = summarise(table)
    assert [r["slice"] for r in found["by_slice"]] == ["s0", "s1", "s2", "s3"]
    cluster = found["clusters"][0]
    expected = cluster_bootstrap([0, 1, 5, 30], [100] * 4)
    assert (cluster["unit"], cluster["clusters"]) == ("slice", 4)
    assert (cluster["low"], cluster["high"]) == tuple(expected.interval)


def test_of_very_many_slices_the_worst_are_told_and_all_are_judged(monkeypatch):
    table = rows(*[(f"s{i}", 25, "C", k, 1000) for i, k in enumerate([0, 1, 5, 300, 200, 0, 0] + [0] * 60)])
    whole = summarise(table, Gate(0.02))
    monkeypatch.setattr("robustkit.summary.MANY_SLICES", 2)
    monkeypatch.setattr("robustkit.verdict.MANY_SLICES", 2)
    monkeypatch.setattr("robustkit.verdict.NAMED_SLICES", 1)
    found = summarise(table, Gate(0.02))
    assert [r["slice"] for r in found["by_slice"]] == ["s3", "s4"]
    assert [r for r in whole["by_slice"] if r["slice"] in ("s3", "s4")] == found["by_slice"]
    assert found["clusters"] == whole["clusters"]
    assert found["gate"] == whole["gate"]
    assert found["gate"]["verdict"] == "pass"
    told = " ".join(found["warnings"])
    assert "67 slices share classes: `by_slice` holds the 2 whose answers changed most" in told
    assert "slice s3 alone is above the limit (300/1000)" in told
    assert "so are 1 more slices and levels" in told
    assert "slice s4 alone" not in told
    assert "slice s4 alone is above" in " ".join(whole["warnings"])


def test_patients_are_the_clusters_where_named():
    parts = [rows((f"s{i}", 25, "C", i, 100), group=f"p{i // 2}") for i in range(6)]
    cluster = summarise(pd.concat(parts, ignore_index=True))["clusters"][0]
    assert (cluster["unit"], cluster["clusters"]) == ("group", 3)


def test_no_flip_in_ten_slices_excludes_a_quarter():
    table = rows(*[(f"s{i}", 25, "C", 0, 1000) for i in range(10)])
    cluster = summarise(table)["clusters"][0]
    assert (cluster["low"], cluster["high"]) == (None, None)
    assert cluster["excluded_share"] == pytest.approx(0.259, abs=5e-4)


def test_bad_slice_in_a_passing_class_is_named():
    table = rows(*[(f"s{i}", 25, "C", 40 if i == 3 else 0, 1000) for i in range(10)])
    found = summarise(table, Gate(0.01))
    assert found["gate"]["verdict"] == "pass"
    assert any("slice s3 alone is above" in warning for warning in found["warnings"])


def test_measured_rows_are_kept_beside_the_simulated():
    measured = rows(("c", 25, "C", 86, 150), noise="measured")
    found = summarise(pd.concat([AUDIT, measured], ignore_index=True))
    star = next(r for r in found["measured"] if r["class"] == "C")
    assert (star["k"], star["n"]) == (86, 150)
    assert next(r for r in found["sar"] if (r["class"], r["level"]) == ("C", 25))["n"] == 1000


def test_simultaneous_intervals_on_request():
    row = summarise(AUDIT, simultaneous=True)["sar"][0]
    low, high = simultaneous([185] + [0] * 8, [1000] * 9)
    assert (row["low_simultaneous"], row["high_simultaneous"]) == pytest.approx((low[0], high[0]))


def test_refits_add_the_total_interval():
    refits = pd.DataFrame({"class": "C", "level": 25.0, "k": [550, 600, 640, 580], "n": 1000})
    found = {(r["class"], r["level"]): r for r in summarise(AUDIT, refits=refits)["sar"]}
    expected = total_interval(596, 1000, refits[["k", "n"]].to_numpy())
    assert (found["C", 25]["total_low"], found["C", 25]["total_high"]) == pytest.approx(tuple(expected))
    assert "total_low" not in found["BN", 25]


def test_wilson_is_for_reading_only():
    table = rows(("s", 25, "C", 0, 280))
    found = summarise(table, Gate(0.01), interval="wilson")
    assert found["gate"]["verdict"] == "inconclusive"
    assert any("Wilson" in warning for warning in found["warnings"])


def test_unknown_interval_is_refused():
    with pytest.raises(UsageError, match="clopper-pearson, wilson"):
        summarise(AUDIT, interval="wald")


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 40)), min_size=1, max_size=6), st.floats(0.005, 0.5))
def test_pass_means_every_bound_is_under_the_limit(items, limit):
    table = rows(*[("s", 10.0 * (i + 1), "C", k, 600, tied) for i, (k, tied) in enumerate(items)])
    verdict = summarise(table, Gate(limit))["gate"]["verdict"]
    bounds = [clopper_pearson(k + tied, 600, 0.95, "upper").high for k, tied in items]
    assert (verdict == "pass") == all(bound <= limit for bound in bounds)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32("nan"), None),
        (float("inf"), None),
        (pd.NA, None),
        (pd.NaT, None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        ({1: (np.nan, "x")}, {"1": [None, "x"]}),
        (np.array([[1.5, np.nan]]), [[1.5, None]]),
        (pd.Series([1, 2]), [1, 2]),
        (pd.Timestamp("2024-01-02"), "2024-01-02 00:00:00"),
    ],
)
def test_plain_values(value, expected):
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def junit_of(summary, path):
    junit.write(summary, path / "junit.xml")
    return ET.parse(path / "junit.xml").getroot()


def test_junit_has_a_case_for_each_class_and_level(tmp_path):
    root = junit_of(summarise(AUDIT, Gate(0.02)), tmp_path)
    suite = root.find("testsuite")
    cases = suite.findall("testcase")
    assert len(cases) == int(suite.get("tests")) == 15
    assert len({case.get("name") for case in cases}) == 15
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == 2
    assert int(suite.get("errors")) == len(suite.findall("testcase/error")) == 1
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped")) == 6


def test_junit_failure_tells_counts_bound_and_command(tmp_path):
    failure = junit_of(summarise(AUDIT, Gate(0.02, at=25.0)), tmp_path).find(".//failure")
    assert "SAR 185/1000" in failure.get("message")
    assert "lower bound" in failure.get("message")
    assert failure.get("type")
    assert "robustkit audit m.onnx --noise nps --levels 25 -n 1000 --seed 7 --max-sar 0.02" in failure.text


def test_junit_without_a_gate_passes(tmp_path):
    suite = junit_of(summarise(AUDIT), tmp_path).find("testsuite")
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")


def test_junit_passes_nothing_that_was_not_judged(tmp_path):
    suite = junit_of(summarise(AUDIT, Gate(0.02, at=200.0)), tmp_path).find("testsuite")
    judged = [case.get("name") for case in suite.findall("testcase") if case.find("skipped") is None]
    assert sorted(judged) == [f"SAR of class {name} at 200 mAs" for name in ("AP", "BN", "C")]
    skipped = [told.get("message") for told in suite.iter("skipped")]
    assert "SAR 596/1000 = 0.596; reported only, the gate does not speak of it" in skipped


def test_junit_makes_an_error_of_the_one_class_that_was_asked_for_and_not_seen(tmp_path):
    found = summarise(AUDIT, Gate(0.02, at=25.0, only_class="LF"))
    assert exit_code(found) == 3
    suite = junit_of(found, tmp_path).find("testsuite")
    assert suite.get("errors") == "1"
    assert "no image was called LF" in suite.find(".//error").get("message")


def test_junit_tells_sequential_slices_apart(tmp_path):
    table = rows(("one", 25, "C", 0, 500), ("two", 25, "C", 0, 500))
    cases = junit_of(summarise(table, Gate(0.01, sequential=True)), tmp_path).findall(".//testcase")
    names = [case.get("name") for case in cases]
    assert len(set(names)) == len(names)


def test_junit_survives_hostile_names(tmp_path):
    name = 'a<b>&"\x00\x1b[31m]]>\ud800é'
    root = junit_of(summarise(AUDIT, Gate(0.02), model=name), tmp_path)
    assert root.find("testsuite").get("name") == 'robustkit: a<b>&"??[31m]]>?é, noise nps'


ALLOWED = {  # the elements and attributes that Jenkins' schema knows, and GitLab and GitHub actions read
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
    "system-out": set(),
}


def test_junit_keeps_to_the_common_form(tmp_path):
    root = junit_of(summarise(AUDIT, Gate(0.02)), tmp_path)
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) <= ALLOWED[element.tag]
    assert root.find("testsuite")[0].tag == "properties"
    for case in root.iter("testcase"):
        assert float(case.get("time")) == 0
        assert len(case) <= 1


LEVELS = (25.0, 50.0)


@st.composite
def tables(draw):
    """Slices that share classes or not, with groups or without, ties, and now and then measured scans beside them."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    named, measured, n = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([1, 40, 600]))
    parts = []
    for number in range(draw(st.integers(1, 12))):
        name, clean = f"{chance.integers(1 << 40):010x}", CLASSES[chance.integers(3)]
        for noise in ["nps", *["measured"] * measured]:
            flips = [int(chance.binomial(n, chance.choice([0, 0.004, 0.05]))) for _ in LEVELS]
            ties = [int(chance.binomial(n - k, 0.01)) for k in flips]
            cells = [(name, level, clean, k, n, t) for level, k, t in zip(LEVELS, flips, ties, strict=True)]
            parts.append(rows(*cells, noise=noise, group=f"p{number // 2}" if named else ""))
    return parts, measured


GATES = [None, Gate(0.02), Gate(0.02, sequential=True), Gate(0.1, at=50.0), Gate(0.02, only_class="C", sequential=True)]


@pytest.fixture
def few_resamples(monkeypatch):
    """Let the bootstrap over slices take a hundredth of its time."""
    monkeypatch.setattr("robustkit.stats.cluster_bootstrap", partial(cluster_bootstrap, resamples=99))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=tables(), size=st.integers(1, 5), gate=st.sampled_from(GATES))
@pytest.mark.usefixtures("few_resamples")
def test_blocks_of_whole_slices_change_nothing(made, size, gate):
    parts, measured = made
    each = 1 + measured  # the measured rows of a slice stay with it
    cut = [pd.concat(parts[i : i + size * each], ignore_index=True) for i in range(0, len(parts), size * each)]
    asked = {
        "gate": gate,
        "levels": LEVELS,
        "metrics": {"rows": lambda t: t.groupby("slice")["count"].sum().reset_index()},
    }
    whole = summarise(pd.concat(parts, ignore_index=True), **asked)
    assert json.dumps(build(cut, **ASKED, classes=CLASSES, null_audit={"floor": 1e-7}, **asked)) == json.dumps(whole)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=tables(), gate=st.sampled_from([Gate(0.02, sequential=True), Gate(0.2, sequential=True), Gate(0.02)]))
@pytest.mark.usefixtures("few_resamples")
def test_a_gate_that_lists_the_hardest_judges_all(made, gate):
    table = pd.concat(made[0], ignore_index=True)
    whole = summarise(table, gate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustkit.gates.LISTED", 3)
        found = summarise(table, gate)
    every, some = whole["gate"]["evidence"], found["gate"]["evidence"]
    assert (found["verdict_sentence"], found["lowest_passing_level"]) == (
        whole["verdict_sentence"],
        whole["lowest_passing_level"],
    )
    assert {**found["gate"], "evidence": every} == {**whole["gate"], "judged": judged(found["gate"])} or len(every) <= 3
    assert judged(found["gate"]) == judged(whole["gate"])
    assert len(some) == min(3, len(every))
    assert all(item in every for item in some)
    verdicts = Counter(item["verdict"] for item in every)
    listed = Counter(item["verdict"] for item in some)
    if len(every) > 3:
        assert listed["fail"] == min(3, verdicts["fail"])
        assert any("lists the 3 hardest" in told for told in found["warnings"])
        for verdict, bound in (("fail", "lower"), ("inconclusive", "upper"), ("pass", "rate")):
            chosen = [item[bound] for item in some if item["verdict"] == verdict]
            assert chosen == sorted((i[bound] for i in every if i["verdict"] == verdict), reverse=True)[: len(chosen)]


def test_junit_counts_the_slices_that_the_evidence_leaves_out(tmp_path, monkeypatch):
    table = rows(*[(f"s{i}", 25, "C", 40 if i < 2 else 0, 1000) for i in range(9)], ("t", 25, "BN", 9, 1000))
    monkeypatch.setattr("robustkit.gates.LISTED", 4)
    junit.write(summarise(table, Gate(0.01, sequential=True)), tmp_path / "junit.xml")
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "junit.xml").getroot().iter("testcase")}
    assert sum(", slice s" in name or ", slice t" in name for name in cases) == 4
    assert "SAR of class C at 25 mAs, 6 more slices: pass" in cases
    assert not any("C at 25" in name and case.find("skipped") is not None for name, case in cases.items())
