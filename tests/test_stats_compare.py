"""Tests of two proportions against the paper's numbers, brute force, scipy and statsmodels."""

import itertools
from math import comb, isnan, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.optimize import minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar as library_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from robustkit import stats
from robustkit.stats import compare

BN = [815, 0, 180, 5], [123, 0, 27, 0]
CHEST = [404, 596], [64, 86]
LEG = [702, 298], [107, 43]


@st.composite
def two_groups(draw, most=60):
    n1, n2 = draw(st.integers(1, most)), draw(st.integers(1, most))
    return draw(st.integers(0, n1)), n1, draw(st.integers(0, n2)), n2


@pytest.mark.parametrize(
    ("k1", "k2", "z"), [(596, 86, 0.526947), (185, 27, 0.147264), (5, 0, 0.867914), (298, 43, 0.283401)]
)
def test_worked_z(k1, k2, z):
    assert stats.two_proportion_z(k1, 1000, k2, 150).statistic == pytest.approx(z, abs=1e-6)


@pytest.mark.parametrize(("p1", "p2", "z"), [(0.0125, 0.0133, -0.081899), (0.0185, 0.0125, 0.519433)])
def test_printed_z_come_from_rounded_percentages(p1, p2, z):
    assert stats.two_proportion_z(p1 * 1000, 1000, p2 * 150, 150).statistic == pytest.approx(z, abs=1e-6)


@pytest.mark.parametrize("counts", [(0, 1000, 0, 150), (1000, 1000, 150, 150)])
def test_nought_over_nought_has_no_z(counts):
    test = stats.two_proportion_z(*counts)
    assert isnan(test.statistic)
    assert isnan(test.p)
    assert test.reason == "degenerate"


def test_empty_group_has_no_z():
    assert stats.two_proportion_z(0, 0, 3, 5).reason == "no data"
    assert stats.exact_or_z(0, 0, 3, 5).reason == "no data"


@given(two_groups(2000))
def test_z_equals_statsmodels(counts):
    k1, n1, k2, n2 = counts
    test = stats.two_proportion_z(*counts)
    if not test.reason:
        assert (test.statistic, test.p) == pytest.approx(proportions_ztest([k1, k2], [n1, n2]), abs=1e-9)


def test_worked_exact_tests():
    assert stats.fisher(5, 1000, 0, 150).p == pytest.approx(1.0, abs=1e-9)
    assert stats.boschloo(5, 1000, 0, 150).p == pytest.approx(0.9251, abs=5e-5)
    assert stats.two_proportion_z(5, 1000, 0, 150).p == pytest.approx(0.3854, abs=5e-5)


def test_boschloo_has_the_groups_as_columns():
    transposed = scipy_stats.boschloo_exact([[5, 995], [0, 150]]).pvalue
    assert transposed == pytest.approx(0.8701, abs=5e-4)
    assert stats.boschloo(5, 1000, 0, 150).p != pytest.approx(transposed, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(two_groups(25))
def test_boschloo_equals_scipy(counts):
    k1, n1, k2, n2 = counts
    expected = scipy_stats.boschloo_exact([[k1, k2], [n1 - k1, n2 - k2]], n=32).pvalue
    found = stats.boschloo(*counts).p
    if not isnan(expected):  # scipy has no answer for an empty row
        assert found == pytest.approx(expected, rel=2e-4)


@given(two_groups(40))
def test_boschloo_is_at_most_twice_the_smaller_fisher_tail(counts):
    k1, n1, k2, n2 = counts
    tails = [scipy_stats.fisher_exact([[k1, k2], [n1 - k1, n2 - k2]], side).pvalue for side in ("less", "greater")]
    assert stats.boschloo(*counts).p <= min(1, 2 * min(tails)) + 1e-9


def test_boschloo_of_huge_groups_says_fisher():
    assert stats.boschloo(3, 10_000, 0, 10_000).method == "fisher"


def test_exact_test_only_where_counts_are_small():
    assert stats.exact_or_z(596, 1000, 86, 150).method == "z"
    assert stats.exact_or_z(5, 1000, 0, 150).method == "boschloo"


@pytest.mark.parametrize(
    ("column", "chi_square", "df", "p"),
    [(BN, 0.753998, 2, 0.685917), (CHEST, 0.277673, 1, 0.598230), (LEG, 0.080316, 1, 0.776870)],
)
def test_worked_homogeneity(column, chi_square, df, p):
    test = stats.homogeneity(*column)
    assert test.statistic == pytest.approx(chi_square, abs=1e-6)
    assert test.df == df
    assert stats.chi_square_tail(test.statistic, df) == pytest.approx(p, abs=1e-6)


def test_homogeneity_of_two_categories_is_z_squared():
    z = stats.two_proportion_z(596, 1000, 86, 150)
    test = stats.homogeneity(*CHEST)
    assert test.statistic == pytest.approx(z.statistic**2)
    assert test.p == pytest.approx(z.p)


def test_sparse_column_is_tested_exactly():
    assert stats.homogeneity(*BN).method == "freeman-halton"
    assert stats.homogeneity(*CHEST).method == "chi-square"


def brute_force_freeman_halton(a, b):
    columns, drawn = np.add(a, b), sum(a)

    def weight(table):
        return np.prod([comb(int(c), int(t)) for c, t in zip(columns, table, strict=True)], dtype=object)

    tables = [t for t in itertools.product(*[range(c + 1) for c in columns]) if sum(t) == drawn]
    observed = weight(a)
    return float(sum(weight(t) for t in tables if weight(t) <= observed) / comb(int(columns.sum()), drawn))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=4))
def test_freeman_halton_equals_enumeration(pairs):
    a, b = zip(*pairs, strict=True)
    test = stats.homogeneity(a, b)
    if not test.reason and test.method == "freeman-halton":
        assert test.p == pytest.approx(brute_force_freeman_halton(a, b), rel=1e-9)


@given(two_groups(12))
def test_freeman_halton_of_two_categories_is_fisher(counts):
    k1, n1, k2, n2 = counts
    test = stats.homogeneity([k1, n1 - k1], [k2, n2 - k2])
    if test.method == "freeman-halton":
        assert test.p == pytest.approx(stats.fisher(*counts).p, rel=1e-9)


def test_sampled_tables_agree_with_all_tables(monkeypatch):
    # p is near 0.2: with 19,999 tables its standard error is 0.003; four of them, a false alarm in 16,000, seed fixed
    column = [9, 3, 1, 0], [4, 5, 2, 2]
    exact = stats.homogeneity(*column)
    monkeypatch.setattr(compare, "ENUMERATED_TABLES", 0)
    sampled = stats.homogeneity(*column)
    assert (exact.method, sampled.method) == ("freeman-halton", "monte-carlo")
    assert sampled.p == pytest.approx(exact.p, abs=4 * np.sqrt(exact.p * (1 - exact.p) / 19_999))
    assert stats.homogeneity(*column) == sampled


def test_columns_without_a_test_say_why():
    assert stats.homogeneity([5, 0], [7, 0]).reason == "degenerate"
    assert stats.homogeneity([5, 0], [0, 0]).reason == "no data"


@pytest.mark.parametrize("m", [1, 2, 30, 500])
def test_holm_equals_statsmodels(m):
    p = np.random.default_rng(m).beta(0.3, 3, m).round(3)  # rounded: with ties
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


def test_holm_leaves_out_what_has_no_value():
    assert stats.holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


def test_holm_of_the_papers_columns_is_one():
    p = [stats.homogeneity(*column).p for column in (BN, CHEST, LEG)]
    assert stats.holm(p) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("k1", "k2", "margin", "p", "places"),
    [
        (596, 86, 0.05, 0.265, 5e-4),
        (596, 86, 0.10, 0.038, 5e-4),
        (185, 27, 0.05, 0.074, 5e-4),
        (185, 27, 0.10, 0.0031, 5e-5),
        (298, 43, 0.05, 0.157, 5e-4),
        (298, 43, 0.10, 0.0075, 5e-5),
        (5, 0, 0.05, 0.0016, 5e-5),
    ],
)
def test_worked_equivalence(k1, k2, margin, p, places):
    found = stats.tost(k1, 1000, k2, 150, margin)
    assert found.p == pytest.approx(p, abs=places)
    assert found.equivalent == (p <= 0.05)


def restricted_by_search(k1, n1, k2, n2, d):
    def minus_log_likelihood(p2):
        terms = ((k1, p2 + d), (n1 - k1, 1 - p2 - d), (k2, p2), (n2 - k2, 1 - p2))
        return -sum(k * log(p) for k, p in terms if k)

    low, high = max(0, -d), min(1, 1 - d)
    return minimize_scalar(
        minus_log_likelihood, bounds=(low + 1e-12, high - 1e-12), method="bounded", options={"xatol": 1e-12}
    ).x


@given(two_groups(300), st.floats(-0.3, 0.3))
def test_restricted_rate_maximizes_the_likelihood(counts, d):
    assert compare._restricted_rate(*counts, d) == pytest.approx(restricted_by_search(*counts, d), abs=2e-5)


@given(two_groups(300), st.floats(0.01, 0.5))
def test_equivalence_does_not_care_which_run_comes_first(counts, margin):
    k1, n1, k2, n2 = counts
    assert stats.tost(*counts, margin).p == pytest.approx(stats.tost(k2, n2, k1, n1, margin).p, abs=1e-7)


@given(two_groups(300), st.floats(0.01, 0.4))
def test_wider_margin_is_easier(counts, margin):
    assert stats.tost(*counts, margin + 0.1).p <= stats.tost(*counts, margin).p + 1e-9


def test_equivalence_holds_its_size_at_the_margin():
    # exact size by enumeration: rates 0.15 and 0.20 lie at the 5-point margin; the asymptotic score test may
    # exceed 5 % by a little, not by a half
    n = 200
    k = np.arange(n + 1)
    weight = np.outer(scipy_stats.binom.pmf(k, n, 0.15), scipy_stats.binom.pmf(k, n, 0.20))
    likely = np.argwhere(weight > 1e-7)
    wrong = sum(weight[i, j] for i, j in likely if stats.tost(int(i), n, int(j), n, 0.05).equivalent)
    assert wrong <= 0.055


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_equals_statsmodels(b, c):
    expected = library_mcnemar([[50, b], [c, 50]], exact=True).pvalue
    assert stats.mcnemar(b, c).p == pytest.approx(min(1.0, expected), rel=1e-9)


def test_worked_detectable_differences():
    up, down = stats.smallest_detectable_difference(0.18, 1000, 150)
    assert (up, down) == pytest.approx((0.100, 0.087), abs=5e-4)
    for rate, known in ((0.29, 0.111), (0.57, 0.121)):  # symmetric approximation z sqrt(2-sample variance at p)
        found = stats.smallest_detectable_difference(rate, 1000, 150)
        assert min(found) - 5e-4 <= known <= max(found) + 5e-4


@pytest.mark.parametrize(("p", "n1", "n2"), [(0.18, 1000, 150), (0.0, 1000, 150), (1.0, 300, 300), (0.5, 80, 900)])
def test_detectable_difference_has_the_stated_power(p, n1, n2):
    found = stats.smallest_detectable_difference(p, n1, n2, power=0.8)
    assert found.up == pytest.approx(found.up, nan_ok=p == 1.0)
    for difference in (found.up, -found.down):
        if not isnan(difference):
            assert stats.comparison_power(p, p + difference, n1, n2) == pytest.approx(0.8, abs=1e-6)


def test_no_detectable_difference_is_left_at_the_border():
    assert isnan(stats.smallest_detectable_difference(0.0, 100, 100).down)
    assert isnan(stats.smallest_detectable_difference(0.5, 3, 3).up)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=8))
def test_holm_of_repeated_p_values_need_not_repeat_them(pairs):
    p, times = (np.array(column) for column in zip(*pairs, strict=True))
    spread = stats.holm(np.repeat(p, times))
    assert np.repeat(stats.holm(p, times), times).tolist() == spread.tolist()
