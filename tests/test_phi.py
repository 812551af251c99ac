"""Names, numbers, dates and UIDs planted in every element and file name: none is in any output of any command."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from models import mean_probe
from scans import conftest as scans
from scans.test_privacy import DATE, MARK, NUMBER, PLANTS, UID, plant
from test_cli import robustkit

from robustkit import audit as core
from robustkit import noise
from robustkit.cases import find_repeats
from robustkit.cli.main import main

SHAPE = (40, 40)
WHITE = ("--noise", "white", "--set", "sigma=200", "--set", "reference_mas=100")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Return planted images, planted repeats and a planted broken file, all under planted names, and a model."""
    folder = tmp_path_factory.mktemp("hospital") / f"{MARK}^JANE" / NUMBER
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the planted values are against the rules of their types
        for k in range(6):
            dataset = plant(scans.classic(scans.body(*SHAPE, seed=k % 4, sigma=9)))
            dataset.SOPInstanceUID = f"{UID}.{k}"
            kind = "images" if k < 2 else "repeats"
            dataset.ImagePositionPatient = [0, 0, 5 * k if k < 2 else 0]
            scans.write(dataset, folder / kind / f"{MARK}-{DATE}-{k}.dcm")
        scans.write(plant(scans.classic(Modality="MR")), folder / f"{MARK}-MR.dcm")
    (folder / f"{MARK}.toml").write_text(
        '[input]\nwindow = "none"\n[output]\nclasses = ["low", "high"]\nkind = "logits"\n'
    )
    noise.save_profile(noise.estimate(find_repeats(str(folder / "repeats"))[0]), folder / f"{MARK}-{DATE}.npz")
    model = folder / f"{MARK}"
    model.mkdir()
    mean_probe(model / "model.onnx", SHAPE, -600.0)
    return folder


def told(path):
    """Yield every text and number of a file in a form that plants can be searched in."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        yield pd.read_parquet(path).to_csv().encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                content = archive.read(name)
                yield content
                if name.endswith(".npy"):
                    yield str(np.load(io.BytesIO(content), allow_pickle=False).tolist()).encode()


def leaks(folder, *texts):
    """Return what of the plants is in the files of a folder, their names, or texts."""
    parts = [text.encode() for text in texts]
    for path in folder.rglob("*"):
        parts.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            parts += told(path)
    return sorted({p for p in PLANTS for part in parts if p.encode() in part or p.encode("utf-16-le") in part})


def test_the_search_finds_what_is_there(hospital):
    assert leaks(hospital) == sorted(PLANTS)


def commands(hospital, out):
    model, images, repeats = hospital / MARK / "model.onnx", hospital / "images", hospital / "repeats"
    audit = ("audit", model, "--images", images, *WHITE, "--mas", "25,100", "-n", 64)
    few = ("--mas", "25", "-n", 2)
    return {
        "audit": (*audit, "--gallery", "--keep-noisy", 2, "--out", out / "a"),
        "audit of two workers": (*audit, "--jobs", 2, "--json", "--out", out / "b"),
        "audit with a spec": (*audit, "--input-spec", hospital / f"{MARK}.toml", "--out", out / "c"),
        "audit of repeats": ("audit", model, "--repeats", repeats, "--mas", "25", "-n", 64, "--out", out / "d"),
        "replay": ("replay", model, "--repeats", repeats, "--out", out / "e"),
        "resume that differs": (*audit, "--seed", 5, "--resume", "--out", out / "a"),
        "verify": ("verify", out / "a", model, "--images", images),
        "compare": ("compare", out / "a", out / "b", "-o", out / "compare.html"),
        "report": ("report", out / "a"),
        "estimate": ("nps", "estimate", repeats, "-o", out / "p.npz"),
        "show": ("nps", "show", out / "p.npz"),
        "constancy": ("nps", "compare", out / "p.npz", out / "p.npz"),
        "sample": ("nps", "sample", out / "p.npz", "-n", 2, "-o", out / "sampled"),
        "scan": ("scan", images, "--mas", 50, "-k", 2, "-o", out / "scans"),
        "no such images": ("audit", model, "--images", hospital / f"{MARK}.nothing"),
        "no such repeats": ("replay", model, "--repeats", hospital / f"{MARK}-{DATE}"),
        "wrong modality": ("audit", model, "--images", hospital / f"{MARK}-MR.dcm"),
        "no images": ("audit", model, "--images", hospital / MARK),
        "one repeat": ("nps", "estimate", images, "-o", out / "q.npz"),
        "a text for a profile": ("audit", model, "--images", images, "--profile", out / "p.txt"),
        "audit of a planted profile": (
            *audit[:4],
            "--profile",
            hospital / f"{MARK}-{DATE}.npz",
            *few,
            "--out",
            out / "f",
        ),
        "show a planted profile": ("nps", "show", hospital / f"{MARK}-{DATE}.npz"),
        "two profiles, one missing": (*audit[:4], "--profile", out / "p.npz", "--profile", hospital / f"{MARK}-.npz"),
        "compare with a folder": ("nps", "compare", out / "p.npz", hospital),
        "sample what is no profile": ("nps", "sample", hospital / f"{MARK}.toml", "-o", out / "sampled.npz"),
        "baseline of nothing": ("commission", model, "--baseline", out / "nothing", "--repeats", repeats),
    }


def test_no_command_tells_or_writes_what_was_planted(hospital, tmp_path):
    out, said, codes = tmp_path / "out", [], {}
    out.mkdir()
    (out / "p.txt").write_text("no profile")
    for name, line in commands(hospital, out).items():
        done = robustkit(*line, cwd=tmp_path)
        codes[name] = done.returncode
        found = sorted({p for p in PLANTS if p in done.stdout + done.stderr})
        assert found == [], f"{name} says {found}: {done.stdout} {done.stderr}"
        said += [done.stdout, done.stderr]
    assert leaks(out, *said) == []
    assert {name for name, code in codes.items() if code == 4} >= {"no such images", "wrong modality", "no images"}
    assert codes["resume that differs"] == 2
    refused = ("two profiles, one missing", "compare with a folder", "sample what is no profile")
    assert {name: codes[name] for name in refused} == dict.fromkeys(refused, 4)
    done_well = (
        "audit",
        "audit of two workers",
        "audit of repeats",
        "replay",
        "verify",
        "estimate",
        "scan",
        "sample",
        "show a planted profile",
    )
    assert {name: codes[name] for name in done_well} == dict.fromkeys(done_well, 0)


class Terminal(io.StringIO):
    """A stderr that somebody looks at."""

    def isatty(self):
        return True


@pytest.mark.parametrize("way", [(), ("--jobs", 2)], ids=["here", "two workers"])
def test_progress_names_nobody(hospital, tmp_path, monkeypatch, way):
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    line = [*map(str, commands(hospital, tmp_path)["audit"]), *map(str, way)]
    monkeypatch.setattr(sys, "argv", ["robustkit", *line])
    with contextlib.chdir(tmp_path), contextlib.redirect_stderr(shown):
        assert main() == 0
    assert "256/256 images" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert leaks(tmp_path, shown.getvalue()) == []


def test_a_crash_that_nobody_foresaw_keeps_its_words_to_itself(hospital, tmp_path, monkeypatch):
    def crash(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", f"/{MARK}^JANE/{DATE}.dcm")

    line = commands(hospital, tmp_path)["audit"]
    monkeypatch.setattr("robustkit.cases.gather", crash)
    done = robustkit(*line, cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith("error: unforeseen FileNotFoundError (No such file or directory) in run.py:")
    assert leaks(tmp_path, done.stdout, done.stderr) == []
    monkeypatch.undo()
    monkeypatch.setattr(core, "score_realizations", crash)
    done = robustkit(*line, cwd=tmp_path)
    assert done.returncode == 4
    assert leaks(tmp_path, done.stdout, done.stderr) == []
    assert "Traceback" not in done.stderr
