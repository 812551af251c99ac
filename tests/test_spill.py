"""Images laid down on disk read as they were given, and take no memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from robustkit import spill
from robustkit.errors import DataError
from robustkit.scans import load_images, npz


@settings(max_examples=60)
@given(st.lists(arrays(st.sampled_from(["<f4", "|b1", "<i2"]), array_shapes(max_dims=3, max_side=9)), max_size=6))
def test_arrays_come_back_as_they_were(given_):
    store = spill.Store()
    laid = [store.put(array) for array in given_]
    store.forget()
    for before, after in zip(given_, laid, strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
        assert not after.flags.writeable


def test_more_than_one_extent_is_mapped(monkeypatch):
    monkeypatch.setattr(spill, "EXTENT", 1 << 16)
    store, made = spill.Store(), [np.full((100, 101), i, np.float32) for i in range(7)]
    laid = [store.put(array) for array in made]
    assert len(store.maps) > 2
    for before, after in zip(made, laid, strict=True):
        np.testing.assert_array_equal(after, before)


def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_was_read_is_let_go():
    store = spill.Store()
    laid = [store.put(np.full((1 << 22,), i, np.float32)) for i in range(8)]  # 128 MB
    before = resident()
    assert sum(float(a.sum()) for a in laid) > 0
    assert resident() - before > 100 << 20
    store.forget()
    assert resident() - before < 20 << 20


def test_no_room_for_images_names_the_cure(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match="TMPDIR=FOLDER"):
        spill.Store().put(np.zeros(9))


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i2", "<i8"])
def test_a_large_npz_reads_as_a_small_one(tmp_path, monkeypatch, kind):
    pixels = np.random.default_rng(0).integers(-900, 900, (5, 12, 11)).astype(kind)
    np.savez_compressed(tmp_path / "a.npz", pixels=pixels, pixel_mm=[1, 1])
    small = load_images(str(tmp_path / "a.npz"))
    monkeypatch.setattr(npz, "LARGE", 100)
    monkeypatch.setattr(spill, "BUDGET", 0)
    large = load_images(str(tmp_path / "a.npz"))
    assert [s.id for s in small] == [s.id for s in large]
    assert [s.storage for s in small] == [s.storage for s in large]
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
