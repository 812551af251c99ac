"""Three maps, one outcome: same work done, dead workers replaced, poison reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from workers import fail, refuse, tasks, touch, touch_or_always_die, touch_or_die_once

from robustkit import engine
from robustkit.errors import DataError, UsageError


def maps():
    return [pytest.param(engine.serial, id="serial"), pytest.param(engine.processes(2), id="processes")]


@pytest.mark.parametrize("work", maps())
def test_every_task_is_done_and_told(work, tmp_path):
    outcome = dict(work(touch, tasks(tmp_path)))
    assert outcome == dict.fromkeys(tasks(tmp_path))
    assert all(Path(t).exists() for t in tasks(tmp_path))


@pytest.mark.parametrize("work", maps())
def test_a_users_mistake_in_a_worker_is_raised_here(work, tmp_path):
    with pytest.raises(DataError, match="no such thing"):
        list(work(refuse, tasks(tmp_path)))


@pytest.mark.parametrize("how", [{"jobs": 2}, {"dask": "local:2"}])
def test_workers_leave_ctrl_c_to_the_parent(how, tmp_path):
    if "dask" in how:
        pytest.importorskip("distributed")
    script = tmp_path / "first.py"  # in a process that never started another: whatever starts with the first counts
    script.write_text(
        "import signal, sys\n"
        "from workers import hear_ctrl_c\n"
        "from robustkit import engine\n"
        "if __name__ == '__main__':\n"
        f"    work = engine.choose({how.get('jobs')!r}, {how.get('dask')!r})\n"
        "    found = dict(work(hear_ctrl_c, sys.argv[1:]))\n"
        "    assert found == dict.fromkeys(sys.argv[1:]), found\n"
        "    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
    )
    beside = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(script), *tasks(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=beside, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(Path(task).exists() for task in tasks(tmp_path))


def test_an_error_in_a_worker_is_told_with_its_task(tmp_path):
    outcome = dict(engine.processes(2)(fail, tasks(tmp_path)))
    assert all(isinstance(error, ValueError) for error in outcome.values())


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    outcome = dict(engine.processes(2)(touch_or_die_once, tasks(tmp_path)))
    assert outcome == dict.fromkeys(tasks(tmp_path))
    assert (tmp_path / "2.died").exists()


def test_a_task_that_always_kills_is_reported_and_the_rest_finishes(tmp_path):
    outcome = dict(engine.processes(2)(touch_or_always_die, tasks(tmp_path)))
    failed = [task for task, error in outcome.items() if error is not None]
    assert failed == [str(tmp_path / "2")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "3", "4"]


def test_jobs_and_dask_together_are_refused():
    with pytest.raises(UsageError, match="give one"):
        engine.choose(2, "local:2")


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_is_refused(jobs):
    with pytest.raises(UsageError, match="at least 1"):
        engine.processes(jobs)


def test_no_task_needs_no_worker():
    assert list(engine.processes(2)(print, [])) == []


def test_sigterm_waits_until_what_was_begun_is_known():
    def interrupt(*_):
        raise KeyboardInterrupt

    def begin():
        with engine.undisturbed():
            signal.raise_signal(signal.SIGTERM)
            done.append("to its end")

    done, before = [], signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["to its end"]
