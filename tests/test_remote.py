"""Images and models at URLs, through the file system that fsspec keeps in memory."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from models import SPEC, mean_probe

from robustkit import remote
from robustkit.cases import find_images, find_repeats
from robustkit.cli.options import command_line
from robustkit.errors import DataError, ModelError
from robustkit.run import audit_model
from robustkit.scans import save_images

fsspec = pytest.importorskip("fsspec", reason="needs the extra: pip install 'robustkit[fsspec]'")
SHAPE = (32, 32)


@pytest.fixture
def memory():
    """Return an empty file system in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def archive(pixels, **more):
    stream = io.BytesIO()
    np.savez(stream, pixels=pixels.astype(np.float32), pixel_mm=[1.0, 1.0], mas=100.0, **more)
    return stream.getvalue()


def test_an_audit_at_urls_is_that_of_the_files(memory, tmp_path):
    mean_probe(tmp_path / "model.onnx", SHAPE, 0.0, spec=None)
    (tmp_path / "model.robustkit.toml").write_text(SPEC)
    (tmp_path / "a.npz").write_bytes(archive(np.full(SHAPE, 1.0)))
    for name in ("model.onnx", "model.robustkit.toml", "a.npz"):
        memory.pipe(f"/bucket/{name}", (tmp_path / name).read_bytes())
    asked = {"noise": "white", "settings": {"sigma": 30, "reference_mas": 100}, "levels": [25.0], "n": 70}
    here = audit_model(str(tmp_path / "model.onnx"), images=str(tmp_path / "a.npz"), **asked, out=tmp_path / "here")
    there = audit_model(
        "memory://bucket/model.onnx", images="memory://bucket/a.npz", **asked, jobs=2, out=tmp_path / "there"
    )
    assert here.table.equals(there.table)
    recorded = json.loads((tmp_path / "there" / "run.json").read_text())
    assert recorded["plan"]["model"]["name"] == "model.onnx"
    assert "bucket" not in json.dumps(recorded)


def test_a_folder_of_dicom_and_its_repeats_are_read(memory, tmp_path):
    images = find_images("phantom/C")
    save_images(tmp_path / "dicom", images)
    for file in sorted((tmp_path / "dicom").rglob("*.dcm")):
        memory.pipe(f"/scans/deep/{file.name}", file.read_bytes())
    found = find_images("memory://scans")
    assert len(found) == 1
    np.testing.assert_allclose(found[0].pixels, np.rint(images[0].pixels), atol=1)
    memory.pipe("/repeats.npz", archive(np.random.default_rng(0).normal(0, 9, (4, *SHAPE))))
    assert find_repeats("memory://repeats.npz")[0].pixels.shape == (4, *SHAPE)


@pytest.mark.parametrize("url", ["memory://nothing/here.npz", "nosuchscheme://a", "http://127.0.0.1:9/DOE^JANE.npz"])
def test_what_cannot_be_read_is_one_line_without_the_address(memory, url):
    with pytest.raises(DataError) as caught:
        find_images(url)
    assert "here" not in str(caught.value)
    assert "DOE" not in str(caught.value)
    with pytest.raises(ModelError):
        audit_model(url)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("s3://b/k", True), ("simplecache::s3://b", True), ("C:\\scans", False), ("a/b.npz", False), ("phantom/C", False)],
)
def test_urls_are_told_from_paths(text, is_one):
    assert remote.is_url(text) == is_one


def test_no_credentials_are_recorded():
    line = ["x", "audit", "s3://key:secret@host/m.onnx", "--images", "s3://key:secret@host/DOE", "--mas", "25"]
    assert command_line(line) == ["robustkit", "audit", "m.onnx", "--images", "IMAGES", "--mas", "25"]
