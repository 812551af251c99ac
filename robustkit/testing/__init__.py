"""The conformance kit: `check_*` tells a plugin's author what breaks the protocol, and why it matters.

Each `check_*` raises a `ConformanceError` for the first check that failed; `run_checks(kind, part)` returns what all
of them found; `robustkit plugins check NAME` prints it. The fakes have known answers.
"""

from robustkit.testing.core import CheckResult, ConformanceError
from robustkit.testing.fakes import (
    FakeClassifier,
    FakeNoise,
    FakeRecipe,
    FakeTrainable,
    known_nps,
    make_results,
    make_scans,
    make_slice,
    make_slices,
)
from robustkit.testing.images import check_scans
from robustkit.testing.metrics import check_metric
from robustkit.testing.models import check_classifier, check_trainable
from robustkit.testing.noise import check_noise_model
from robustkit.testing.plugin import PartReport, check_plugin, run_checks
from robustkit.testing.training import check_hardener, check_recipe

__all__ = [
    "CheckResult",
    "ConformanceError",
    "FakeClassifier",
    "FakeNoise",
    "FakeRecipe",
    "FakeTrainable",
    "PartReport",
    "check_classifier",
    "check_hardener",
    "check_metric",
    "check_noise_model",
    "check_plugin",
    "check_recipe",
    "check_scans",
    "check_trainable",
    "known_nps",
    "make_results",
    "make_scans",
    "make_slice",
    "make_slices",
    "run_checks",
]
