"""A hospital's worth: gathering, summing up and reporting hold little of each slice, whatever it went through."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from robustkit import gathering, outputs, rundir
from robustkit.audit import Scores
from robustkit.gates import Gate
from robustkit.report import source, words
from robustkit.report.audit_report import write_report
from robustkit.stats import cluster_bootstrap

LEVELS = [float(m) for m in np.geomspace(12.5, 500, 13)]
CLASSES = ("BN", "C", "AP", "LF")
WARNING = "the clean image is a mean of 20 repeats with noise of its own"


def plan_of(slices):
    cases = [
        {"slice": f"{i * 2654435761:016x}", "group": f"{i // 40:016x}", "label": "", "from": "x" * 16, "clean": "slice"}
        for i in range(slices)
    ]
    return {
        "model": {"name": "m", "sha256": "0", "spec": {}}, "noise": "nps", "settings": {}, "levels": LEVELS, "n": 1,
        "seed": 0, "batch": 16, "version": 1, "versions": {}, "cases": cases,
    }  # fmt: skip


@pytest.fixture
def records(monkeypatch):
    """Let case records and shards be made up as they are read: one image of three changes at the noisiest level."""
    radial = {"region": "whole", "frequency": [i / 80 for i in range(1, 41)], "nps": [40.0] * 40}

    def case(path):
        number = int(path.name[:16], 16)
        report = {"method": "nps", "K": 20, "reference_mas": 25.0, "radial": [radial], "warnings": []}
        clean = {"from": "mean of 20 repeats", "k": 20, "mas": 200.0 + number % 7}
        story = {"slice": path.name[:16], "unit": "mAs", "source": "20 repeats", "clean": clean, "report": report}
        told = {"null": {"floor": 0.0, "changed": 0, "n": 3}, "story": story | {"warnings": [WARNING]}}
        return {"probabilities": np.eye(4)[number % 3], **json.loads(json.dumps(told))}

    def scores(path):
        number = int(path.name[:16], 16)
        noisy = np.full((1, 13), number % 3, np.int16)
        noisy[0, 0] = 3 if number % 9 < 3 else number % 3
        return Scores(np.arange(1), noisy, np.full((1, 13), 0.3, np.float32))

    monkeypatch.setattr(rundir, "read_case", case)
    monkeypatch.setattr(rundir, "read_scores", scores)
    monkeypatch.setattr("robustkit.stats.cluster_bootstrap", partial(cluster_bootstrap, resamples=99))


def worked_off(folder, slices, gate=None, row_limit=None):
    directory = rundir.RunDir(folder, plan_of(slices))
    directory.shards.mkdir(parents=True)
    found = gathering.gather(directory, 1, CLASSES, row_limit=row_limit)
    summary = outputs.summarise(found.table, found.facts, directory.plan, CLASSES, 0.95, gate)
    stories = (record["story"] for record in gathering.case_records(directory))
    outputs.write_results(directory, found.table, summary, stories)
    write_report(folder)
    return summary


def peak_of(*asked):
    tracemalloc.start()
    try:
        worked_off(*asked)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("row_limit", [None, 1000])
def test_memory_grows_by_little_a_slice(tmp_path, records, monkeypatch, row_limit):
    """13 rows of codes and counts a slice are 300 bytes; names, facts, and what is sorted in passing are as much again.

    The stories alone would be 4,000 bytes, the table 13 rows of 150.
    """
    monkeypatch.setattr("robustkit.results.GROUP", 1_500)
    for name in ("summary.MANY_SLICES", "verdict.MANY_SLICES", "gates.LISTED", "gathering.SHOWN_OF"):
        monkeypatch.setattr(f"robustkit.{name}", 20)
    for name in ("source.WHOLE", "grids.LONG"):
        monkeypatch.setattr(f"robustkit.report.{name}", 20)
    worked_off(tmp_path / "imports", 10)
    gate = Gate(0.9, sequential=row_limit is not None)
    few, many = (peak_of(tmp_path / str(n), n, gate, row_limit) for n in (200, 800))
    assert (many - few) / 600 < 1500


def test_counts_and_rows_make_one_summary(tmp_path, records):
    ways = [worked_off(tmp_path / str(limit), 60, row_limit=limit) for limit in (None, 100)]
    assert ways[0] == ways[1]


def test_a_page_says_of_many_stories_what_it_says_of_each(tmp_path, monkeypatch):
    chance = np.random.default_rng(0)
    stories = [
        {
            "source": f"scans of set {chance.integers(5)}",
            "clean": {"from": "mean", "k": int(chance.integers(2, 30)), "mas": float(chance.integers(1, 400))},
            "report": {"K": int(chance.integers(2, 30)), "reference_mas": 25.0, "warnings": [f"w{chance.integers(9)}"]},
            "warnings": [],
            "beam": {"wed_mm": 300.0, "scans": [{"k": 20, "mas": 25.0, "ctdivol": None}]},
        }
        for _ in range(60)
    ]
    summary = {"unit": "mAs", "levels": [25.0, 500.0], "sar": [], "classes": []}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "noise.json").write_text(json.dumps(stories))
    whole = source.load(tmp_path)
    monkeypatch.setattr(source, "WHOLE", 2)
    some = source.load(tmp_path)
    assert len(some.noise) < 40 < len(whole.noise) == some.noise_count == some.scan_count == 60
    for say in (words.origin, words.warnings, words.limits, words.axis_meaning, words.slice_count):
        assert say(some) == say(whole)


def test_the_benchmark_of_a_hospital_counts_every_image(tmp_path):
    code = "import json, pathlib, sys, scale; print(json.dumps(scale.shards(pathlib.Path(sys.argv[1]), 1, count=800)))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=benchmarks).stdout)
    assert (told["shards aggregated"], told["images counted"]) == (800, 800 * 64 * len(LEVELS))
    assert told["rows of counts"] == 50 * len(LEVELS) * 2  # of fifty slices at each level: the answer kept, and changed
