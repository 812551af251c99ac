"""What `--until-decided` and the lowest passing level promise, computed: false passes, draws saved or spent, claims.

    python benchmarks/sequential.py [--markdown docs/statistics-coverage.md]

All of the first two tables is exact (dynamic programming, binomial tails); the third is simulated.
"""

import numpy as np
from scipy.stats import binom
from sections import table, write

from robustkit import stats
from robustkit.run import looks

ALPHA = 0.05
MOST = 10_000
LIMITS = (0.01, 0.02, 0.05)
SHARES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
RUNS, REALIZATIONS, LIMIT = 10_000, 1000, 0.02
CURVES = {  # true SAR from the quietest level to the noisiest; the limit is 2 %
    "flat, just above": [0.022] * 12,
    "flat, 40 levels": [0.022] * 40,
    "rising": [0.001, 0.002, 0.005, 0.01, 0.019, 0.0201, 0.03, 0.06, 0.2, 0.5],
    "not monotone": [0.001, 0.021, 0.004, 0.03, 0.002, 0.021, 0.001, 0.022, 0.3],
    "one bump": [0.001, 0.001, 0.0201, 0.001, 0.001, 0.001, 0.001],
    "steep": [0.0, 0.0, 0.0201, 0.9],
}


def operation(limit):
    """Return the table of one limit: how the sequence ends, and what it costs beside a fixed number of draws."""
    fixed = stats.realizations_for_power(limit / 2, limit, 0.8)
    fails_at = next(k for k in range(fixed + 1) if stats.clopper_pearson(k, fixed, 1 - ALPHA, "lower").low > limit)
    rows = []
    for share in SHARES:
        rate = share * limit
        every = stats.sequential_operation(rate, limit, ALPHA, MOST)
        looked = stats.sequential_operation(rate, limit, ALPHA, MOST, looks(MOST))
        passed, failed = stats.pass_probability(fixed, rate, limit), binom.sf(fails_at - 1, fixed, rate)
        ends = [f"{share:g}", *(f"{p:.1%}" for p in (every.passed, every.failed, every.undecided))]
        cost = [f"{every.mean_draws:,.0f}", f"{looked.mean_draws:,.0f}", f"{1 - every.mean_draws / fixed:+.0%}"]
        rows.append([*ends, *cost, f"{passed:.1%}", f"{failed:.1%}"])
    heads = ["true rate / limit", "passes", "fails", "open at 10,000", "mean draws", "as robustkit looks", "saved"]
    heads += [f"fixed {fixed:,}: passes", "fails"]
    return f"Limit {limit:.0%}, beside a fixed n = {fixed:,}:\n\n{table(heads, rows)}"


def false_passes():
    """Return the exact chance that a rate equal to the limit ever passes, and the draws that no flip needs."""
    rows = []
    for limit in LIMITS:
        looked = stats.sequential_operation(limit, limit, ALPHA, MOST, looks(MOST)).passed
        first = next(n for n in range(1, MOST) if stats.decide(0, n, limit, ALPHA) == "pass")
        chances = [f"{stats.false_pass_probability(limit, ALPHA, MOST):.2%}", f"{looked:.2%}", f"{peeked(limit):.1%}"]
        rows.append([f"{limit:.0%}", *chances, f"{first:,}", f"{stats.realizations_for(limit):,}"])
    heads = ["limit", "looking after every draw", "as robustkit looks", "peeking at Clopper-Pearson every 50 to 5,000"]
    return table([*heads, "draws without a flip", "fixed n without a flip"], rows)


def peeked(limit, every=50, most=5000):
    """Return the chance that a bound made for one look, looked at every 50 draws, passes a rate equal to the limit."""
    alive, wrong = np.zeros(most + 2), 0.0
    alive[0] = 1.0
    for n in range(1, most + 1):
        alive[1:] = alive[1:] * (1 - limit) + alive[:-1] * limit
        alive[0] *= 1 - limit
        if n % every == 0:
            allowed = stats.allowed_flips(n, limit)
            wrong += alive[: allowed + 1].sum()
            alive[: allowed + 1] = 0
    return wrong


def claims():
    """Return the share of runs whose claim covers a level above the limit: fixed sequence, and the naive minimum."""
    allowed = stats.allowed_flips(REALIZATIONS, LIMIT)
    rows = []
    for name, curve in CURVES.items():
        rng, truth = np.random.default_rng(11), np.array(curve)
        first_bad = int(np.argmax(truth > LIMIT))
        shares = []
        for common in (False, True):
            wrong = np.zeros(2)
            for _ in range(RUNS):
                same = (rng.random(REALIZATIONS)[:, None] < truth).sum(0) if common else None
                passed = list((rng.binomial(REALIZATIONS, truth) if same is None else same) <= allowed)
                last = stats.fixed_sequence(passed)
                naive = [i for i, ok in enumerate(passed) if ok]
                wrong += (last is not None and last >= first_bad, bool(naive) and naive[-1] >= first_bad)
            shares += list(wrong / RUNS)
        rows.append([name, *(f"{shares[i]:.1%}" for i in (0, 2, 1))])
    heads = ["true curve", "fixed sequence, independent levels", "one realization at all levels"]
    return table([*heads, "lowest level whose own bound passes"], rows)


def text():
    """Return the section of the page."""
    return f"""
    python benchmarks/sequential.py --markdown docs/statistics-coverage.md

**False passes.** Chance that a model whose true rate equals the limit is ever passed within {MOST:,} draws, exactly;
it may be {ALPHA:.0%}. robustkit looks after 128 draws and then after a quarter more each time, so it errs less still.

{false_passes()}

**Draws saved or spent.** The fixed design has the fewest realizations whose bound passes a model at half the limit with
80 % probability. Far from the limit looking saves draws; close to it, it spends them, up to the most that `-n` allows.

{(chr(10) * 2).join(operation(limit) for limit in LIMITS)}

**Lowest passing level.** {RUNS:,} simulated runs of {REALIZATIONS:,} realizations a level, limit {LIMIT:.0%}: share of
runs that claim a level below the truth, that is, down to or past a level whose true rate is above the limit. It may be
{ALPHA:.0%}; its standard error is 0.2 points.

{claims()}
"""


if __name__ == "__main__":
    write("sequential", text, __doc__)
