"""Statistics of flips: counts in, plain numbers out. Knows nothing of tables, models or images."""

from robustkit.stats.compare import (
    Detectable,
    Equivalence,
    Outcome,
    boschloo,
    comparison_power,
    exact_or_z,
    fisher,
    holm,
    homogeneity,
    mcnemar,
    smallest_detectable_difference,
    tost,
    two_proportion_z,
)
from robustkit.stats.intervals import Interval, clopper_pearson, newcombe, simultaneous, total_interval, wilson

__all__ = [
    "Detectable",
    "Equivalence",
    "Interval",
    "Outcome",
    "boschloo",
    "clopper_pearson",
    "comparison_power",
    "exact_or_z",
    "fisher",
    "holm",
    "homogeneity",
    "mcnemar",
    "newcombe",
    "simultaneous",
    "smallest_detectable_difference",
    "total_interval",
    "tost",
    "two_proportion_z",
    "wilson",
]
