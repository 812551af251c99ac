"""The run directory: whole files, the right ones, one writer, and a resume that refuses what differs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from robustkit import files, rundir
from robustkit.audit import Scores
from robustkit.errors import DataError, UsageError


def plan(**changes):
    made = {
        "version": rundir.VERSION,
        "model": {"name": "m", "sha256": "0", "spec": {}},
        "noise": "white",
        "settings": {"sigma": 3},
        "levels": [25.0],
        "n": 100,
        "seed": 0,
        "batch": 16,
        "versions": {"numpy": "1"},
        "cases": [{"slice": "abc", "from": "f"}],
    }
    return made | changes


def record(path, made):
    told = {"version": rundir.VERSION, "plan": made, "files": {}, "command": [], "finished": None}
    files.write_json(path / "run.json", told)


def scores(start=0):
    return Scores(np.arange(start, start + 3), np.zeros((3, 1), np.int16), np.ones((3, 1), np.float32))


def test_ranges_cut_all_realizations_once():
    cut = rundir.ranges(1000)
    assert [r for a, b in cut for r in range(a, b)] == list(range(1000))


def test_shard_round_trip(tmp_path):
    rundir.write_scores(tmp_path / "s.npz", scores(5))
    found = rundir.read_scores(tmp_path / "s.npz")
    assert found.realization.tolist() == [5, 6, 7]
    assert found.noisy.dtype == np.int16


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_damaged_shard_is_named_with_the_cure(tmp_path, keep):
    path = tmp_path / "s.npz"
    rundir.write_scores(path, scores())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"s\.npz is damaged .* --resume"):
        rundir.read_scores(path)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"levels": [50.0]}, {"noise": "nps"}, {"settings": {}}, {"model": {"name": "m", "sha256": "1"}}],
)
def test_shard_name_changes_with_whatever_decides_its_bits(tmp_path, change):
    case = plan()["cases"][0]
    before = rundir.RunDir(tmp_path, plan()).shard_path(case, 0, 64)
    after = rundir.RunDir(tmp_path, plan(**change)).shard_path(case, 0, 64)
    assert before != after


def test_missing_lists_what_is_not_on_disk(tmp_path):
    directory = rundir.RunDir(tmp_path, plan())
    case = directory.plan["cases"][0]
    rundir.write_scores(directory.shard_path(case, 0, 64), scores())
    assert directory.missing(case, 100) == [(64, 100)]


def test_resume_of_another_run_says_what_differs(tmp_path):
    record(tmp_path, plan())
    with pytest.raises(UsageError, match=r"seed is 0 there, 7 asked; settings\.sigma is 3 there, 4 asked"):
        rundir.start(tmp_path, plan(seed=7, settings={"sigma": 4}), resume=True)


def test_a_finished_directory_is_not_overwritten(tmp_path):
    record(tmp_path, plan())
    with pytest.raises(UsageError, match="--resume"):
        rundir.start(tmp_path, plan(), resume=False)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear reader")
    with pytest.raises(UsageError, match="holds no run"):
        rundir.start(tmp_path, plan(), resume=False)


def test_a_run_of_another_version_says_why_not(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        rundir.read_run(tmp_path)


def test_two_writers_are_refused_and_a_killed_one_frees_the_lock(tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; from robustkit.rundir import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another run"), rundir.locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with rundir.locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_atomic_write_leaves_nothing_behind_on_failure(tmp_path):
    def write_half():
        with files.atomic_path(tmp_path / "x.json") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_names_on_disk_are_known_by_the_hash_in_them(tmp_path):
    directory = rundir.RunDir(tmp_path, plan())
    directory.shards.mkdir()
    case = {"slice": "a" * 16, "from": "b"}
    paths = [directory.case_path(case), *(directory.shard_path(case, *part) for part in rundir.ranges(500))]
    for path in paths[::2]:
        path.touch()
    for name in (".half.npz.tmp.npz", "results.parquet", "x-without-1-of-3-200.json"):
        (directory.shards / name).touch()
    found = directory.done()
    assert [path.name in found for path in paths] == [i % 2 == 0 for i in range(len(paths))]
    assert len(found.keys) == len(paths[::2])
    assert directory.missing(case, 500) == rundir.ranges(500)[::2]
