"""Tests against the real packages: left out where one is missing; ROBUSTKIT_INTEROP=1 says that all must be there."""

import importlib.util
import os
from typing import Any

import pytest

NEEDS = {"test_maite.py": ("maite", "beartype"), "test_art.py": ("art", "sklearn"), "test_nrtk.py": ("nrtk",)}
REQUIRED = os.environ.get("ROBUSTKIT_INTEROP") == "1"

collect_ignore = [
    name
    for name, packages in NEEDS.items()
    if not REQUIRED and any(importlib.util.find_spec(package) is None for package in packages)
]


if "test_art.py" not in collect_ignore:
    import robustkit.interop.art  # noqa: F401 (it keeps ART's warnings on import to itself)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Turn a skip into a failure where everything is required."""
    outcome = yield
    report = outcome.get_result()
    if REQUIRED and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where nothing may be"
