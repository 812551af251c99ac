"""A run hit by anything ends, resumed, in the table of an undisturbed one; a resume that does not match says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from models import SPEC, mean_probe, write_image
from soak import ROBUSTKIT, fill, processes, shards, small_disk, start, table_hash, workers

from robustkit import outputs, run, rundir
from robustkit.errors import RobustkitError, UsageError

SHAPE = (64, 64)
SHARDS = 40
NUMBER = 77


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Return the arguments of an audit of a few seconds in 60 shards, and the hash of its undisturbed table."""
    folder = tmp_path_factory.mktemp("asked")
    mean_probe(folder / "model.onnx", SHAPE, 0.0)
    write_image(folder / "images.npz", np.stack([np.full(SHAPE, 0.5), np.full(SHAPE, -0.8)]))
    common = {
        "images": str(folder / "images.npz"),
        "noise": "white",
        "settings": {"sigma": 30, "reference_mas": 100},
        "levels": [25.0, 50.0, 100.0],
        "n": SHARDS // 2 * 64,
    }
    run.audit_model(str(folder / "model.onnx"), **common, out=folder / "whole")
    white = ["--noise", "white", "--set", "sigma=30", "--set", "reference_mas=100"]
    line = ["audit", str(folder / "model.onnx"), "--images", common["images"], *white, "--mas", "25,50,100"]
    return [*line, "-n", str(common["n"])], table_hash(folder / "whole"), folder, common


def wait_for(path, count):
    deadline = time.monotonic() + 120
    while len(shards(path)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ended(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    deadline = time.monotonic() + 20
    while processes(NUMBER):
        assert time.monotonic() < deadline, "processes outlive their run"
        time.sleep(0.05)
    return process.returncode, err


@pytest.mark.parametrize(
    ("way", "sent", "code"),
    [
        ((), signal.SIGKILL, -9),
        (("--jobs", "2"), signal.SIGKILL, -9),
        (("--jobs", "2"), signal.SIGINT, 130),
        ((), signal.SIGTERM, 130),
    ],
    ids=["kill -9", "kill -9 of a parent", "Ctrl-C", "terminate"],
)
def test_a_stopped_run_resumes_to_the_same_table(asked, tmp_path, way, sent, code):
    line, wanted, _, _ = asked
    process = start([*line, *way, "--out", str(tmp_path / "run")], NUMBER)
    wait_for(tmp_path / "run", 5)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        os.kill(process.pid, sent)
    found, err = ended(process)
    assert found == code, err
    kept = shards(tmp_path / "run")
    assert 5 <= len(kept) < SHARDS
    assert code != 130 or "--resume" in err
    found, err = ended(start([*line, *way, "--out", str(tmp_path / "run"), "--resume"], NUMBER))
    assert found == 0, err
    assert table_hash(tmp_path / "run") == wanted


def test_a_killed_worker_is_replaced_within_the_run(asked, tmp_path):
    line, wanted, _, _ = asked
    process = start([*line, "--jobs", "2", "--out", str(tmp_path / "run")], NUMBER)
    wait_for(tmp_path / "run", 5)
    os.kill(workers(NUMBER, process.pid)[0], signal.SIGKILL)
    found, err = ended(process)
    assert found == 0, err
    assert table_hash(tmp_path / "run") == wanted


def test_a_full_disk_is_one_line_and_costs_nothing_finished(asked, tmp_path):
    line, wanted, _, _ = asked
    with small_disk(tmp_path / "disk") as mounted:
        if not mounted:
            pytest.skip("mounting a small tmpfs is not allowed here")
        path = tmp_path / "disk" / "run"
        process = start([*line, "--out", str(path)], NUMBER)
        wait_for(path, 5)
        ballast = fill(tmp_path / "disk")
        found, err = ended(process)
        assert found == 4
        assert "No space left" in err
        assert "--resume" in err
        assert len(shards(path)) >= 5
        ballast.unlink()
        found, err = ended(start([*line, "--out", str(path), "--resume"], NUMBER))
        assert found == 0, err
        assert table_hash(path) == wanted


def test_results_that_do_not_fit_are_one_line(asked, tmp_path, monkeypatch):
    _, _, folder, common = asked
    path = tmp_path / "run"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
        with pytest.raises(RobustkitError, match=r"cannot write results.parquet: No space left"):
            run.audit_model(str(folder / "model.onnx"), **common, out=path)
    assert len(shards(path)) == SHARDS
    monkeypatch.setattr("robustkit.audit.score_realizations", full)  # nothing is scored again
    run.audit_model(str(folder / "model.onnx"), **common, out=path, resume=True)
    assert table_hash(path) == asked[1]


def test_a_run_killed_before_its_report_is_finished_without_scoring_again(asked, tmp_path, monkeypatch):
    _, _, folder, common = asked
    path = tmp_path / "run"

    class KilledError(BaseException):
        pass

    def killed(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "finish", killed)
        with pytest.raises(KilledError):
            run.audit_model(str(folder / "model.onnx"), **common, out=path)
    monkeypatch.setattr(run, "do_task", killed)
    outcome = run.audit_model(str(folder / "model.onnx"), **common, out=path, resume=True)
    assert (path / "report.html").exists()
    assert not (path / "shards").exists()
    assert table_hash(path) == asked[1]
    assert outcome.summary == json.loads((path / "summary.json").read_text())


def test_other_questions_of_a_finished_run_are_answered_anew(asked, tmp_path):
    _, _, folder, common = asked
    small = common | {"n": 64}
    first = run.audit_model(str(folder / "model.onnx"), **small, out=tmp_path / "run")
    gated = run.audit_model(str(folder / "model.onnx"), **small, max_sar=0.0001, out=tmp_path / "run", resume=True)
    assert (first.exit_code, gated.exit_code) == (0, 1)
    assert first.table.equals(gated.table)


@pytest.mark.parametrize("crumb", [".lock", ".run.json.abc123.json", "shards"])
def test_a_run_killed_before_its_first_file_can_be_started_again(tmp_path, crumb):
    if crumb == "shards":
        (tmp_path / crumb).mkdir()
    else:
        (tmp_path / crumb).touch()
    directory = rundir.start(tmp_path, {"version": rundir.VERSION}, resume=True)
    assert directory.shards.is_dir()
    assert not (tmp_path / ".run.json.abc123.json").exists()


@pytest.fixture
def small(tmp_path):
    """Return a short audit as keywords, its images and model in files that a test may change."""
    mean_probe(tmp_path / "model.onnx", SHAPE, 0.0)
    pixels = np.stack([np.full(SHAPE, 0.5), np.full(SHAPE, -0.8)])
    write_image(tmp_path / "images.npz", pixels)
    np.savez(
        tmp_path / "repeats.npz", pixels=np.random.default_rng(0).normal(0, 9, (4, *SHAPE)), pixel_mm=[1, 1], mas=50
    )
    return {
        "model": str(tmp_path / "model.onnx"),
        "images": str(tmp_path / "images.npz"),
        "repeats": str(tmp_path / "repeats.npz"),
        "noise": "white",
        "levels": [25.0],
        "n": 8,
        "out": tmp_path / "run",
    }


def change(small, what):
    """Change one thing of an audit; return its keywords."""
    folder = small["out"].parent
    if what == "model":
        mean_probe(folder / "model.onnx", SHAPE, 1.0)
    elif what == "input spec":
        (folder / "model.robustkit.toml").write_text(SPEC.replace('"none"', "[-100, 100]"))
    elif what == "pixels":
        write_image(folder / "images.npz", np.stack([np.full(SHAPE, 0.5), np.full(SHAPE, 7.0)]))
    elif what == "fewer images":
        write_image(folder / "images.npz", np.full(SHAPE, 0.5))
    elif what == "order":
        write_image(folder / "images.npz", np.stack([np.full(SHAPE, -0.8), np.full(SHAPE, 0.5)]))
    elif what in ("mask", "storage"):
        fields = dict(np.load(folder / "images.npz"))
        fields["mask"] = np.arange(64 * 64).reshape(SHAPE) > 99
        fields["storage"] = np.array([-1024, 3071, 1])
        del fields[{"mask": "storage", "storage": "mask"}[what]]
        np.savez(folder / "images.npz", **fields)
    elif what == "repeats":
        np.savez(
            folder / "repeats.npz", pixels=np.random.default_rng(1).normal(0, 9, (4, *SHAPE)), pixel_mm=[1, 1], mas=50
        )
    elif what == "clean":
        return small | {"clean": "mean"}
    return small


DIFFERS = {
    "model": "model.sha256 is",
    "input spec": "model.input is",
    "pixels": "1 slices are there and not asked",
    "fewer images": "1 slices are there and not asked",
    "order": "the slices are the same in another order",
    "mask": "what its noise is fitted to differs for 2 slices",
    "storage": "what its noise is fitted to differs for 2 slices",
    "repeats": "what its noise is fitted to differs for 2 slices",
    "clean": "its clean image differs for 2 slices",
}


@pytest.mark.parametrize("what", DIFFERS)
def test_a_resume_with_other_inputs_says_exactly_what_differs(small, what):
    run.audit_model(**small)
    asked = change(small, what)
    with pytest.raises(UsageError) as caught:
        run.audit_model(**asked, resume=True)
    said = str(caught.value)
    assert DIFFERS[what] in said
    assert said.count(";") == (what == "pixels")  # this and nothing else; other pixels are another slice


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", 3, "seed is 0 there, 3 asked"),
        ("n", 9, "n is 8 there, 9 asked"),
        ("batch", 4, "batch is 16 there, 4 asked"),
        ("levels", [26.0], "levels is [25.0] there, [26.0] asked"),
        ("settings", {"reference_mas": 50}, "settings.reference_mas is None there, 50 asked"),
    ],
)
def test_a_resume_with_other_numbers_says_exactly_what_differs(small, name, value, said):
    run.audit_model(**small)
    with pytest.raises(UsageError) as caught:
        run.audit_model(**small | {name: value}, resume=True)
    assert said in str(caught.value)


def test_two_runs_in_one_directory_are_refused(asked, tmp_path):
    line, _, _, _ = asked
    process = start([*line, "--out", str(tmp_path / "run")], NUMBER)
    try:
        wait_for(tmp_path / "run", 1)
        process.send_signal(signal.SIGSTOP)  # it holds the lock until the other has been refused
        second = subprocess.run(
            [ROBUSTKIT, *line, "--out", str(tmp_path / "run"), "--resume"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert "another run is writing" in second.stderr
    finally:
        process.kill()
        process.communicate()
    with rundir.locked(tmp_path / "run"):
        pass
