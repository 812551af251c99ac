"""The Dask map: the same outcomes as the others, with real worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from workers import fail, refuse, tasks, touch_or_always_die, touch_or_die_once

from robustkit.cluster import dask_map
from robustkit.errors import DataError, UsageError

pytest.importorskip("distributed", reason="needs the extra: pip install 'robustkit[distributed]'")


def test_a_killed_worker_is_replaced_and_everything_is_done(tmp_path):
    outcome = dict(dask_map("local:2")(touch_or_die_once, tasks(tmp_path)))
    assert outcome == dict.fromkeys(tasks(tmp_path))
    assert all(Path(t).exists() for t in tasks(tmp_path))


def test_poison_is_reported_and_the_rest_finishes(tmp_path):
    outcome = dict(dask_map("local:2")(touch_or_always_die, tasks(tmp_path)))
    assert [task for task, error in outcome.items() if error is not None] == [str(tmp_path / "2")]


def test_errors_come_with_their_tasks(tmp_path):
    outcome = dict(dask_map("local:1")(fail, tasks(tmp_path)))
    assert all(isinstance(error, ValueError) for error in outcome.values())


def test_a_users_mistake_is_raised_here(tmp_path):
    with pytest.raises(DataError, match="no such thing"):
        list(dask_map("local:1")(refuse, tasks(tmp_path)))


@pytest.mark.parametrize("address", ["local:", "local:0", "local:x"])
def test_a_senseless_number_of_workers_is_refused(address, tmp_path):
    with pytest.raises(UsageError, match="local:N"):
        list(dask_map(address)(fail, tasks(tmp_path)))
