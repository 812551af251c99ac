"""The command line as a stranger meets it: exit codes, one line of error with its cure, JSON and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import robustkit
from models import mean_probe, write_image
from pydicom.data import get_testdata_file
from scipy.stats import norm

from robustkit import stats

SHAPE = (32, 32)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Return a folder with a model, an image it calls `high` by 2 HU, and white noise of 40 HU at 100 mAs."""
    folder = tmp_path_factory.mktemp("bench")
    mean_probe(folder / "model.onnx", SHAPE, 0.0)
    write_image(folder / "image.npz", np.full(SHAPE, 2.0))
    return folder


WHITE = ("--noise", "white", "--set", "sigma=40", "--set", "reference_mas=100")


def audit(bench, *more):
    return robustkit("audit", bench / "model.onnx", "--images", bench / "image.npz", *WHITE, *more, cwd=bench)


def test_audit_prints_json_and_nothing_else(bench, tmp_path):
    done = audit(bench, "--mas", "25,100", "-n", 500, "--json", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    rows = {row["level"]: row for row in summary["sar"] if row["class"] == "high"}
    for level, sigma in ((25.0, 80.0), (100.0, 40.0)):
        expected = norm.cdf(-2.0 / (sigma / 32))
        # 99.9 % interval each: false alarm 0.2 % for a fixed seed
        assert abs(rows[level]["rate"] - expected) < norm.ppf(0.9995) * np.sqrt(expected * (1 - expected) / 500)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_run_directory_holds_what_is_promised(bench, tmp_path):
    assert audit(bench, "--mas", "100", "-n", 70, "--out", tmp_path / "run").returncode == 0
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"run.json", "results.parquet", "summary.json", "junit.xml", "report.html"} <= names
    assert "shards" not in names


@pytest.mark.parametrize(
    ("gate", "code", "verdict"), [("60%", 0, "pass"), ("1%", 1, "fail"), ("9%", 3, "inconclusive")]
)
def test_gate_gives_its_exit_code(bench, tmp_path, gate, code, verdict):
    done = audit(bench, "--mas", "100", "-n", 200, "--max-sar", gate, "--json", "--out", tmp_path / "run")
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["gate"]["verdict"] == verdict


def test_intervals_for_reading_and_for_all_at_once(bench, tmp_path):
    done = audit(
        bench, "--mas", "50,100", "-n", 64, "--interval", "wilson", "--simultaneous", "--json", "--out", tmp_path / "r"
    )
    summary = json.loads(done.stdout)
    row = next(r for r in summary["sar"] if r["n"])
    low, high = stats.wilson(row["k"], row["n"])
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    wide = stats.clopper_pearson(row["k"], row["n"], 1 - 0.05 / 2)  # two levels of the one class with images
    assert (row["low_simultaneous"], row["high_simultaneous"]) == (pytest.approx(wide.low), pytest.approx(wide.high))
    assert "all at once" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_unknown_interval_is_a_usage_error(bench, tmp_path):
    done = audit(bench, "--mas", "100", "-n", 64, "--interval", "wald", "--out", tmp_path / "r")
    assert done.returncode == 2
    assert "clopper-pearson, wilson" in done.stderr
    assert not (tmp_path / "r").exists()


def test_until_decided_stops_early(bench, tmp_path):
    done = audit(
        bench, "--mas", "100", "-n", 5000, "--max-sar", "60%", "--until-decided", "--json", "--out", tmp_path / "r"
    )
    summary = json.loads(done.stdout)
    assert done.returncode == 0
    assert summary["n"] < 1000


def test_resume_gives_the_same_table(bench, tmp_path):
    import pandas as pd

    common = ("--mas", "25,100", "-n", 300, "--quiet")
    assert audit(bench, *common, "--out", tmp_path / "whole").returncode == 0
    assert audit(bench, *common, "--out", tmp_path / "again").returncode == 0
    (tmp_path / "again" / "results.parquet").unlink()
    assert audit(bench, *common, "--out", tmp_path / "again", "--resume").returncode == 0
    tables = [pd.read_parquet(tmp_path / name / "results.parquet") for name in ("whole", "again")]
    pd.testing.assert_frame_equal(*tables)


def test_table_is_the_same_for_every_batch_and_number_of_workers(bench, tmp_path):
    import pandas as pd

    tables = []
    for i, more in enumerate([("--batch", 1), ("--batch", 7), ("--batch", 64), ("--jobs", 2)]):
        done = audit(bench, "--mas", "25,100", "-n", 150, *more, "--out", tmp_path / str(i))
        assert done.returncode == 0, done.stderr
        tables.append(pd.read_parquet(tmp_path / str(i) / "results.parquet").drop(columns="run"))
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other)


def test_verify_holds_and_notices_a_changed_file(bench, tmp_path):
    assert audit(bench, "--mas", "100", "-n", 70, "--out", tmp_path / "run").returncode == 0
    done = robustkit("verify", tmp_path / "run", bench / "model.onnx", "--images", bench / "image.npz")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(summary.read_text().replace('"seed": 0', '"seed": 1'))
    done = robustkit("verify", tmp_path / "run")
    assert done.returncode == 1
    assert "summary.json" in done.stdout


def test_replay_and_compare(bench, tmp_path):
    rng = np.random.default_rng(5)
    scans = 2.0 + 80.0 * rng.standard_normal((150, *SHAPE)).astype(np.float32)
    np.savez(tmp_path / "scans.npz", pixels=scans, pixel_mm=[1.0, 1.0], mas=25.0)
    measured, simulated = tmp_path / "measured", tmp_path / "simulated"
    clean = ("--clean", bench / "image.npz")
    done = robustkit("replay", bench / "model.onnx", "--repeats", tmp_path / "scans.npz", *clean, "--out", measured)
    assert done.returncode == 0, done.stderr
    assert audit(bench, "--mas", "25", "-n", 1000, "--out", simulated).returncode == 0
    done = robustkit("compare", simulated, measured, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["verdict"] == "agree"


def bad_inputs(folder):
    """(name, arguments, exit code, words of the error) of each mistake."""
    model, image = folder / "model.onnx", folder / "image.npz"
    (folder / "text.onnx").write_text("this is not a model")
    (folder / "empty.onnx").write_bytes(b"")
    mean_probe(folder / "no-window.onnx", SHAPE, 0.0, spec='[output]\nclasses = ["low", "high"]\n')
    ct = get_testdata_file("CT_small.dcm", download=False)
    (folder / "cut.dcm").write_bytes(Path(ct).read_bytes()[:20000])
    pixels = np.full(SHAPE, 2.0)
    pixels[3, 4] = np.nan
    write_image(folder / "nan.npz", pixels)
    np.savez(folder / "one.npz", pixels=np.zeros((1, *SHAPE), np.float32), pixel_mm=[1.0, 1.0], mas=25.0)
    np.savez(folder / "small.npz", pixels=np.random.default_rng(0).normal(size=(5, 16, 16)), pixel_mm=[1, 1], mas=25.0)
    mr = get_testdata_file("MR_small.dcm", download=False)
    base = ("audit", model)
    return {
        "no such model": (("audit", folder / "none.onnx", "--images", image), 4, "no such model file"),
        "no such images": ((*base, "--images", folder / "none.npz"), 4, "no such file"),
        "MR image": ((*base, "--images", mr), 4, "MR"),
        "truncated DICOM": ((*base, "--images", folder / "cut.dcm"), 4, "pixel data"),
        "text as onnx": (("audit", folder / "text.onnx", "--images", image), 4, "text.onnx"),
        "empty onnx": (("audit", folder / "empty.onnx", "--images", image), 4, "empty"),
        "no window": (("audit", folder / "no-window.onnx", "--images", image), 2, "--window"),
        "NaN pixels": ((*base, "--images", folder / "nan.npz"), 4, "NaN"),
        "one repeat": ((*base, "--repeats", folder / "one.npz"), 4, "repeat"),
        "other shapes": ((*base, "--images", image, "--repeats", folder / "small.npz"), 4, "16 x 16"),
        "mAs 0": ((*base, "--images", image, "--mas", "0"), 2, "positive"),
        "unknown noise": ((*base, "--images", image, "--noise", "pink"), 2, "nps"),
        "unknown model": (("audit", "bodysite"), 2, "unknown model"),
        "no realizations": ((*base, "--images", image, "-n", "0"), 2, "at least 1"),
        "unknown setting": ((*base, "--images", image, *WHITE, "--set", "colour=1"), 2, "colour"),
        "senseless gate": ((*base, "--images", image, *WHITE, "--max-sar", "200%"), 2, "rate"),
    }


CASES = [
    "no such model",
    "no such images",
    "MR image",
    "truncated DICOM",
    "text as onnx",
    "empty onnx",
    "no window",
    "NaN pixels",
    "one repeat",
    "other shapes",
    "mAs 0",
    "unknown noise",
    "unknown model",
    "no realizations",
    "unknown setting",
    "senseless gate",
]


@pytest.fixture(scope="module")
def mistakes(bench):
    return bad_inputs(bench)


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_with_its_cure(mistakes, bench, name):
    arguments, code, words = mistakes[name]
    done = robustkit(*arguments, cwd=bench)
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert words in errors[0]
    assert "Traceback" not in done.stderr


def test_a_flat_model_is_refused(bench, tmp_path):
    import onnx

    model = onnx.load(str(bench / "model.onnx"))
    shape = model.graph.input[0].type.tensor_type.shape
    del shape.dim[1]
    onnx.save(model, str(tmp_path / "flat.onnx"))
    done = robustkit("audit", tmp_path / "flat.onnx", "--images", bench / "image.npz")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


STOPPED = "interrupted; what a run computed is kept, and goes on with --resume"
LOADING = "interrupted before anything was done"
MEANWHILE = """
import contextlib, signal, sys
from robustkit.__main__ import run

class Interrupting:
    def find_spec(self, name, *_):
        if name == {module!r}:
            with contextlib.suppress({suppressed}):
                signal.raise_signal({number})
            raise ImportError

sys.meta_path.insert(0, Interrupting())
sys.argv = ["robustkit", "plan", "--max-sar", "1%"]
run()
"""


@pytest.mark.parametrize(
    ("module", "told"), [("robustkit.cli.main", LOADING), ("numpy", LOADING), ("robustkit.planning", STOPPED)]
)
@pytest.mark.parametrize("suppressed", ["KeyboardInterrupt", "()"], ids=["made an ImportError", "as it is"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_of_an_import_is_one_line(number, suppressed, module, told):
    script = MEANWHILE.format(module=module, suppressed=suppressed, number=int(number))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told + "\n")


def test_a_late_ctrl_c_changes_no_exit_code():
    script = (
        "import atexit, signal, sys\n"
        "from robustkit.__main__ import run\n"
        "atexit.register(signal.raise_signal, signal.SIGINT)\n"
        "sys.argv = ['robustkit', '--help']\n"
        "run()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_told():
    from importlib.metadata import version

    done = robustkit("--version")
    assert (done.returncode, done.stdout) == (0, f"robustkit {version('robustkit')}\n")


def test_help_starts_without_heavy_modules():
    code = (
        "import sys, robustkit.cli.main\n"
        "heavy = {'torch', 'keras', 'onnxruntime', 'onnx', 'pandas', 'scipy', 'pydicom', 'numba', 'dask'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_above_the_row_limit_keeps_counts_and_every_flip(bench, tmp_path, monkeypatch):
    import pandas as pd

    from robustkit import results
    from robustkit.results import flipped

    assert audit(bench, "--mas", "25,100", "-n", 150, "--out", tmp_path / "rows").returncode == 0
    monkeypatch.setattr(results, "ROW_LIMIT", 100)
    assert audit(bench, "--mas", "25,100", "-n", 150, "--out", tmp_path / "counts").returncode == 0
    rows = results.read(tmp_path / "rows" / "results.parquet")
    counts = results.read(tmp_path / "counts" / "results.parquet")
    ledger = results.read(tmp_path / "counts" / "ledger.parquet")
    pd.testing.assert_frame_equal(results.condense(rows), counts)
    pd.testing.assert_frame_equal(rows[flipped(rows)].reset_index(drop=True), ledger)
    told = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("rows", "counts")]
    assert told[0]["sar"] == told[1]["sar"]
    assert told[0]["cmr"] == told[1]["cmr"]
    done = robustkit("verify", tmp_path / "counts", bench / "model.onnx", "--images", bench / "image.npz")
    assert done.returncode == 0, done.stdout


def test_kept_flips_read_back_and_flip_again(bench, tmp_path):
    from robustkit.run import audit_model

    done = audit(bench, "--mas", "100", "-n", 100, "--keep-noisy", "2", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    kept = sorted((tmp_path / "run" / "noisy").iterdir())
    assert len(kept) == 2
    # noise of sigma 0 leaves the kept image as it is: its clean answer is the flipped one
    outcome = audit_model(
        str(bench / "model.onnx"),
        images=str(tmp_path / "run" / "noisy"),
        noise="white",
        settings={"sigma": 0, "reference_mas": 100},
        levels=[100.0],
        n=1,
        out=tmp_path / "again",
    )
    assert set(outcome.table["clean"]) == {"low"}


def test_metric_of_an_installed_plugin_lands_in_the_summary(bench, tmp_path):
    (tmp_path / "toy_metric.py").write_text(
        "import robustkit\n"
        "@robustkit.hookimpl\n"
        "def robustkit_metrics():\n"
        "    return {'images': lambda results: results.groupby('level', as_index=False)['count'].sum()}\n"
    )
    info = tmp_path / "robustkit_toy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robustkit-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[robustkit]\ntoy = toy_metric\n")
    arguments = ("audit", bench / "model.onnx", "--images", bench / "image.npz", *WHITE, "--mas", "25,50", "-n", 30)
    done = subprocess.run(
        [sys.executable, "-m", "robustkit", *map(str, arguments), "--out", str(tmp_path / "run"), "--json"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert found["images"] == [{"level": 25.0, "count": 30}, {"level": 50.0, "count": 30}]


def test_model_that_may_run_code_is_refused_then_loud_and_recorded(tmp_path, caplog):
    torch = pytest.importorskip("torch")
    from adapters import torch_zoo

    torch.save(torch_zoo.build(), tmp_path / "m.pt")
    write_image(tmp_path / "image.npz", np.full((16, 16), 2.0))
    arguments = ("audit", "m.pt", "--images", "image.npz", *WHITE, "--window", "none", "--size", "16,16")
    arguments += ("--mas", "100", "-n", 20, "--out", "run")
    refused = robustkit(*arguments, cwd=tmp_path)
    assert refused.returncode == 4
    assert "m.pt is a pickle that wants adapters.torch_zoo.Net, and loading one runs code" in refused.stderr
    assert not (tmp_path / "run" / "run.json").exists()
    done = robustkit(*arguments, "--unsafe-load", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--unsafe-load: m.pt may run any code it holds" in caplog.text
    assert json.loads((tmp_path / "run" / "run.json").read_text())["unsafe_load"] is True


TAKES_A_MODEL = ("audit", "replay", "commission", "plan", "verify", "variability", "harden")


@pytest.mark.parametrize("name", TAKES_A_MODEL)
def test_every_command_that_takes_a_model_takes_all_that_says_what_its_input_is(name):
    import typer.main

    from robustkit.adapters.spec import FLAGS
    from robustkit.cli.main import app

    command = typer.main.get_command(app).commands[name]
    offered = {flag for parameter in command.params for flag in parameter.opts}
    assert {*FLAGS.values(), "--input-spec", "--arch", "--unsafe-load"} <= offered


def test_flags_of_the_input_reach_the_model_and_only_those_given(bench, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("robustkit.run.audit_model", lambda model, **given: asked.update(given, model=model) or 1 / 0)
    robustkit("audit", "m.onnx", "--window", "-160,240", "--output", "scores", "--dtype", "float16", "--out", "o")
    assert asked["spec"] == {"window": "-160,240", "output": "scores", "dtype": "float16"}
    assert (asked["out"], asked["resume"], asked["jobs"], asked["dask"]) == ("o", False, None, None)
    assert asked["command"][:3] == ["robustkit", "audit", "m.onnx"]
    asked.clear()
    robustkit("audit", "m.onnx", "--unsafe-load")
    assert asked["spec"] == {"unsafe_load": True}
