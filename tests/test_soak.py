"""Audits disturbed at random end verified and bit-identical: two minutes here, half an hour in the slow run."""

from __future__ import annotations

import pytest
from soak import soak


@pytest.mark.parametrize(
    "seconds", [pytest.param(120, id="two minutes"), pytest.param(1800, id="half an hour", marks=pytest.mark.slow)]
)
def test_a_soak_ends_without_a_violation(tmp_path, seconds):
    pytest.importorskip("distributed", reason="some of the audits run on Dask")
    figures = soak(seconds, 11, tmp_path)
    assert figures["rounds"] >= 1
    assert sum(figures["faults"].values()) >= 1
    assert figures["violations"] == 0
