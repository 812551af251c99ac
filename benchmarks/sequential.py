"""Draws saved or spent by `--until-decided` against a fixed n, for true rates from 0 to three times the limit.

Run: python benchmarks/sequential.py [LIMIT ...]. Every number is exact (dynamic programming, binomial tails).
The fixed design has the fewest realizations whose one-sided bound passes a model at half the limit with 80 % chance.
"""

import sys

from scipy.stats import binom

from robustkit import stats

ALPHA = 0.05
MOST = 10_000
SHARES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)


def table(limit):
    fixed = stats.realizations_for_power(limit / 2, limit, 0.8)
    print(f"\nlimit {limit:.3g}, alpha {ALPHA}, at most {MOST:,} draws; fixed design n = {fixed:,}")
    least = stats.realizations_for(limit)
    print(f"without a flip {least:,} fixed realizations pass; the sequence needs {first_pass(limit):,}")
    print(f"false pass over all looks: {stats.false_pass_probability(limit, ALPHA, MOST):.4f}")
    print("rate/limit | sequential: pass   fail   open  mean draws | fixed: pass   fail |  saved")
    for share in SHARES:
        rate = share * limit
        found = stats.sequential_operation(rate, limit, ALPHA, MOST)
        passed = stats.pass_probability(fixed, rate, limit)
        failed = binom.sf(first_failing(fixed, limit) - 1, fixed, rate)
        print(
            f"{share:10.2f} | {found.passed:16.4f} {found.failed:6.4f} {found.undecided:6.4f} "
            f"{found.mean_draws:11,.0f} | {passed:11.4f} {failed:6.4f} | {1 - found.mean_draws / fixed:+6.0%}"
        )


def first_pass(limit):
    return next(n for n in range(1, MOST) if stats.decide(0, n, limit, ALPHA) == "pass")


def first_failing(n, limit):
    return next(k for k in range(n + 1) if stats.clopper_pearson(k, n, 1 - ALPHA, "lower").low > limit)


if __name__ == "__main__":
    for text in sys.argv[1:] or ("0.01", "0.02", "0.05"):
        table(float(text))
