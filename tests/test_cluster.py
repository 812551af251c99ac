"""The Dask map: the same outcomes as the others, with real worker processes."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
from workers import fail, refuse, tasks, touch, touch_or_always_die, touch_or_die_once

from robustkit.cluster import dask_map
from robustkit.errors import DataError, RobustkitError, UsageError

pytest.importorskip("distributed", reason="needs the extra: pip install 'robustkit[distributed]'")


def test_a_killed_worker_is_replaced_and_everything_is_done(tmp_path):
    outcome = dict(dask_map("local:2")(touch_or_die_once, tasks(tmp_path)))
    assert outcome == dict.fromkeys(tasks(tmp_path))
    assert all(Path(t).exists() for t in tasks(tmp_path))


DIES = """
import os, pathlib
folder = pathlib.Path({folder!r})
if len(list(folder.glob("died-*"))) < {most}:
    (folder / f"died-{{os.getpid()}}").touch()
    os._exit(9)
"""


@contextmanager
def dying_at_start(folder, most):
    """Let `most` Dask workers die before they are workers."""
    import dask

    preload = folder / "dies.py"
    preload.write_text(DIES.format(folder=str(folder), most=most))
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        yield


def test_a_worker_killed_as_it_starts_is_replaced(tmp_path):
    with dying_at_start(tmp_path, 1):
        outcome = dict(dask_map("local:2")(touch, tasks(tmp_path)))
    assert outcome == dict.fromkeys(tasks(tmp_path))
    assert list(tmp_path.glob("died-*"))


def test_workers_that_never_start_are_given_up(tmp_path):
    with dying_at_start(tmp_path, 1000), pytest.raises(RobustkitError, match="local:1: worker processes ended 3 times"):
        list(dask_map("local:1")(touch, tasks(tmp_path)))


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
