"""Robustness as a test: `pytest examples/gate/test_gate.py`. The plugin comes with robustkit."""

import pytest


@pytest.mark.robustness(model="ct-bodysite", images="phantom/C", noise="nps", mas=50, n=64, max_sar="10%")
def test_chest_at_50_mas(): ...


def test_no_answer_is_ever_a_leg(robustness):
    outcome = robustness("ct-bodysite", images="phantom/C", mas=[50], n=32)
    assert "LF" not in set(outcome.table["noisy"])
