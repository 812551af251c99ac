"""Mutated bytes: a clean error or a valid result, whatever they are. Deterministic: the same examples every run."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from robustkit.errors import RobustkitError
from robustkit.scans import load_images, load_repeats


def seeds(make, folder):
    """Return the bytes of small valid files, by kind."""
    made = {name: make.classic(make.body(16, 12)) for name in ("plain", "implicit", "deflated", "rle")}
    made["enhanced"] = make.enhanced(np.stack([make.body(16, 12, s) for s in (0, 1)]), [50, 50])
    made["implicit"].file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made["deflated"].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    made["rle"].compress(RLELossless, generate_instance_uid=False)
    files = {}
    for name, dataset in made.items():
        make.write(dataset, folder / name)
        files[name] = (folder / name).read_bytes()
    stream = io.BytesIO()
    np.savez(
        stream,
        pixels=np.random.default_rng(0).normal(0, 9, (3, 8, 8)),
        pixel_mm=[1.0, 1.0],
        mas=20.0,
        ids=["a", "b", "c"],
    )
    files["npz"] = stream.getvalue()
    return files


@pytest.fixture(scope="module")
def corpus(make, tmp_path_factory):
    return seeds(make, tmp_path_factory.mktemp("seeds"))


def edit(*kinds):
    where = st.floats(0, 1, exclude_max=True)
    return st.tuples(st.sampled_from(kinds), where, st.integers(0, 255), st.integers(1, 8))


# half of the examples keep every length, and so reach beyond the parsing of the header
edits = st.lists(edit("flip", "set"), min_size=1, max_size=3) | st.lists(
    edit("flip", "set", "cut", "insert", "swap", "length"), min_size=1, max_size=6
)


def mutate(data, changes):
    """Apply byte edits beyond the first 132 bytes, where a file's kind is told."""
    data = bytearray(data)
    for kind, where, value, count in changes:
        at = 4 + int(where * (len(data) - 4)) if data[:2] == b"PK" else 132 + int(where * max(len(data) - 132, 1))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << (value % 8)
        elif kind == "set":
            data[at : at + count] = bytes([value]) * count
        elif kind == "cut":
            del data[at : at + count * 7]
        elif kind == "insert":
            data[at:at] = bytes([value]) * count
        elif kind == "swap":
            data[at : at + 2 * count] = data[at + count : at + 2 * count] + data[at : at + count]
        elif kind == "length":
            data[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


def check(path):
    """Load a file both ways; only robustkit's own errors, one line each, and whole results may come out."""
    for load in (load_images, load_repeats):
        found, message = outcome(load, path)
        assert "\n" not in message
        assert len(message) < 1000
        for entry in found:
            assert entry.pixels.dtype == np.float32
            assert np.isfinite(entry.pixels).all()
            assert all(0 < mm <= 100 for mm in entry.pixel_mm)
            assert entry.mas is None or entry.mas > 0


def outcome(load, path):
    try:
        return load(str(path)), ""
    except RobustkitError as error:
        return (), str(error)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(["plain", "enhanced", "implicit", "deflated", "rle", "npz"]), changes=edits)
def test_mutated_files(corpus, tmp_path, kind, changes):
    path = tmp_path / "file"
    path.write_bytes(mutate(corpus[kind], changes))
    check(path)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes=edits)
def test_mutations_under_deflate(corpus, tmp_path, changes):
    # past the compression, where plain byte edits hardly ever reach
    data = corpus["deflated"]
    start = next(n for n in range(200, 600) if inflates(data[n:]))
    inner = mutate(bytes(132) + zlib.decompress(data[start:], -15), changes)[132:]
    deflate = zlib.compressobj(wbits=-15)
    path = tmp_path / "file"
    path.write_bytes(data[:start] + deflate.compress(inner) + deflate.flush())
    check(path)


def inflates(data):
    try:
        return len(zlib.decompress(data, -15)) > 300
    except zlib.error:
        return False


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(["pixels", "pixel_mm", "mas", "ids"]), changes=edits)
def test_mutated_arrays_in_a_whole_archive(corpus, tmp_path, name, changes):
    # past the archive's checksums, which plain byte edits never pass
    path = tmp_path / "file"
    with zipfile.ZipFile(io.BytesIO(corpus["npz"])) as before, zipfile.ZipFile(path, "w") as after:
        for member in before.namelist():
            data = before.read(member)
            after.writestr(member, mutate(b"PK" + data, changes)[2:] if member == f"{name}.npy" else data)
    check(path)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(head=st.sampled_from([b"", bytes(128) + b"DICM", b"PK\x03\x04", b"\x1f\x8b"]), tail=st.binary(max_size=600))
def test_random_bytes(tmp_path, head, tail):
    path = tmp_path / "file"
    path.write_bytes(head + tail)
    check(path)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "PixelSpacing", "KVP", "Exposure", "ImagePositionPatient"])
@pytest.mark.parametrize("text", [b"NaN ", b"inf ", b"1e999 ", b"abc ", b"", b"1\\2\\3\\4 ", b"9" * 40])
def test_numbers_that_are_none(make, tmp_path, keyword, text):
    data = Path(make.write(make.classic(make.body(16, 12)), tmp_path / "a.dcm")).read_bytes()
    tag = tag_for_keyword(keyword)
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + dictionary_VR(tag).encode()
    head = data.index(start)
    (size,) = struct.unpack("<H", data[head + 6 : head + 8])
    changed = data[:head] + start + struct.pack("<H", len(text)) + text + data[head + 8 + size :]
    (tmp_path / "a.dcm").write_bytes(changed)
    check(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    "facts",
    [
        "[]", "null", "{", "[" * 5000, '{"storage": [1, 0, 1]}', '{"storage": [NaN, 1, 1]}', '{"storage": "x"}',
        '{"mas": Infinity}', '{"mas": "25"}', '{"label": 7, "group": [], "kernel": {}, "protocol": 3, "subject": 1}',
        '{"protocol": {"kvp": "Doe^Jane", "name": "Doe", "tilt": 1e999}}',
        '{"mas": %s, "storage": [0, %s, 1], "protocol": {"kvp": %s}}' % (("9" * 400,) * 3),
    ],
)  # fmt: skip
def test_private_facts_are_not_believed(make, tmp_path, facts):
    dataset = make.classic(make.body(16, 12))
    block = dataset.private_block(0x0099, "ROBUSTKIT 1", create=True)
    block.add_new(0x01, "UT", facts)
    block.add_new(0x02, "OB", b"\0\0")
    path = make.write(dataset, tmp_path / "a.dcm")
    check(path)
    for image in load_images(path):
        assert "Doe" not in repr(image)
        assert image.mas is None or 0 < image.mas < np.inf
        assert image.storage is None or image.storage.low < image.storage.high


def test_reading_does_not_import_until_it_must():
    code = (
        "import robustkit.scans, sys; print([m for m in ('pydicom', 'nibabel', 'scipy', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
