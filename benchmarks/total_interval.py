"""Coverage of the total-uncertainty interval beside the binomial one, where the truth is known.

    python benchmarks/total_interval.py [--markdown docs/statistics-coverage.md]

A linear probe flips when the noise passes its margin. Its noise has M equal,
independent modes; K scans give the centre and each mode's sd, 1,000 realizations are simulated around them, and the
interval should contain the flip rate of true scans. Standard error of a coverage: 0.9 points.
"""

import numpy as np
from scipy.stats import norm
from sections import table, write

from robustkit.stats import clopper_pearson, total_interval

CASES, REALIZATIONS = 600, 1000


def fit(margin, scans):
    """Margin and sd that a simulation around the mean of `scans` (K, M) has."""
    return margin + scans.sum(axis=1).mean(), np.sqrt(scans.var(axis=0, ddof=1).sum())


def coverage(k_scans, modes, rates, rng):
    covered, width = np.zeros(2), np.zeros(2)
    for _ in range(CASES):
        truth = rng.uniform(*rates)
        scans = rng.standard_normal((k_scans, modes)) / np.sqrt(modes)
        white = rng.standard_normal(REALIZATIONS)
        every = [fit(-norm.ppf(truth), scans)]
        every += [fit(-norm.ppf(truth), np.delete(scans, i, axis=0)) for i in range(k_scans)]
        flips = [int((margin + sd * white < 0).sum()) for margin, sd in every]
        refits = [(k, REALIZATIONS) for k in flips[1:]]
        total = total_interval(flips[0], REALIZATIONS, refits, least_spread=k_scans**-0.5)
        for i, (low, high) in enumerate((total, clopper_pearson(flips[0], REALIZATIONS))):
            covered[i] += low <= truth <= high
            width[i] += high - low
    return covered / CASES, width / CASES


def text():
    """Return the section of the page."""
    generator = np.random.default_rng(1)
    rows = []
    for k_scans in (10, 20, 40):
        for modes in (1, 3, 30):
            for rates in ((0.001, 0.02), (0.02, 0.6)):
                (total, plain), (wide, narrow) = coverage(k_scans, modes, rates, generator)
                setting = [f"{k_scans}", f"{modes}", f"{rates[0]:.1%} to {rates[1]:.0%}"]
                rows.append([*setting, f"{plain:.1%}", f"{total:.1%}", f"{narrow:.1%} / {wide:.1%}"])
    heads = ["K", "modes", "true SAR", "binomial interval", "total interval", "mean widths"]
    return f"""
    python benchmarks/total_interval.py --markdown docs/statistics-coverage.md

The same question where everything is known in closed form: a linear model, noise of some equal independent modes, the
centre the mean of K scans, {REALIZATIONS:,} realizations, {CASES} sets of scans a row (standard error 0.9 points).

{table(heads, rows)}

It falls short of 95 % where all the noise is a single mode and flips are rare: the jackknife of one variance is skewed.
"""


if __name__ == "__main__":
    write("closed-form", text, __doc__)
