"""Images out and back: lossless to the stored grid, deterministic bytes, honest and anonymous DICOM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.errors import DataError, UsageError
from robustkit.scans import load_images, load_repeats, save_images, save_repeats, write_noisy
from robustkit.scans.write import stored_integers
from robustkit.types import RepeatScans, Slice, Storage, slice_id

MM = (0.8, 0.5)


def whole(count=4, seed=0):
    return np.random.default_rng(seed).integers(-1024, 2000, (count, 20, 16)).astype(np.float32)


def repeats(seed=0, **changes):
    pixels = np.rint(np.random.default_rng(seed).normal(0, 30, (4, 20, 16))).astype(np.float32)
    mean_id = slice_id(pixels.mean(axis=0), MM)
    facts = {"mas": 12.5, "kernel": "standard", "label": "LF", "group": "virtual-3", "synthetic": True}
    more = {"protocol": {"kvp": 120.0, "thickness_mm": 3.0}, "source": "simulated for this slice"}
    facts |= {"storage": Storage(-1024, 3071), **more, **changes}
    return RepeatScans(mean_id, pixels, MM, **facts)


def same(a, b, names):
    return [n for n in names if getattr(a, n) != getattr(b, n)] == []


FACTS = ("id", "pixel_mm", "mas", "kernel", "label", "group", "storage", "protocol", "synthetic")


@pytest.mark.parametrize("name", ["r.npz", "dicom"])
def test_repeats_read_back_as_they_were(tmp_path, name):
    before = repeats(mas=0.5)
    after = load_repeats(str(save_repeats(tmp_path / name, before)))
    assert len(after) == 1
    assert same(before, after[0], (*FACTS, "source"))
    assert np.array_equal(before.pixels, after[0].pixels)
    assert after[0].mask is None


@pytest.mark.parametrize("name", ["r.npz", "dicom"])
def test_several_stacks_read_back(tmp_path, name):
    first = repeats(0)
    before = [first, replace(repeats(1, mas=100.0), id=first.id), repeats(2, mas=100.0, label="C")]
    after = load_repeats(str(save_repeats(tmp_path / name, before)))
    assert sorted((r.id, r.mas) for r in after) == sorted((r.id, r.mas) for r in before)
    assert all(len(r.pixels) == 4 for r in after)


@pytest.mark.parametrize("name", ["s.npz", "dicom"])
def test_images_read_back_as_they_were(tmp_path, name):
    mask = np.ones((20, 16), bool)
    mask[:, :3] = False
    before = [
        Slice(
            slice_id(p, MM), p, MM, "C", "0123456789abcdef", 80.0 + i, "B40f", mask, Storage(-1024, 3071), {"kvp": 80.0}
        )
        for i, p in enumerate(whole())
    ]
    after = load_images(str(save_images(tmp_path / name, before)))
    for a, b in zip(before, after, strict=True):
        assert same(a, b, FACTS)
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.mask, b.mask)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    step=st.sampled_from([1.0, 0.5, 0.1, 2.0, 1 / 3]),
    low=st.sampled_from([-1024.0, -1000.0, -32768.0, -8192.0, -1000.5]),
    seed=st.integers(0, 99),
)
def test_any_stored_grid_is_kept(step, low, seed):
    storage = Storage(low, low + 65535 * step, step)
    levels = np.random.default_rng(seed).integers(0, 4000, (6, 5)) + np.rint((max(low, -1500) - low) / step)
    pixels = storage.apply((low + levels * step).astype(np.float32))
    stored, base, slope = stored_integers(Slice("x", pixels, MM, storage=storage))
    back = (stored * slope + base).astype(np.float32)
    assert np.abs(back - pixels).max() <= 1e-3 * step + 4e-3  # float32 near -32768 carries 0.004
    assert base <= -1024


def test_floats_are_rounded_to_whole_units(tmp_path):
    before = repeats(storage=None)
    before = replace(before, pixels=before.pixels + np.float32(0.3))
    after = load_repeats(str(save_repeats(tmp_path / "d", before)))[0]
    assert np.array_equal(after.pixels, np.rint(before.pixels))
    assert "rounded to 1 HU" in pydicom.dcmread(next((tmp_path / "d").rglob("*.dcm"))).DerivationDescription


def test_two_writes_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_repeats(tmp_path / name, repeats())
        save_repeats(tmp_path / f"{name}.npz", repeats())
    first, second = (sorted((tmp_path / n).rglob("*.dcm")) for n in ("a", "b"))
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_every_file_has_its_own_uid_and_says_what_it_is(tmp_path):
    save_repeats(tmp_path / "d", [repeats(), repeats(mas=50.0)])
    files = [pydicom.dcmread(f) for f in sorted((tmp_path / "d").rglob("*.dcm"))]
    assert len({f.SOPInstanceUID for f in files}) == 8
    first = files[0]
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert "showing nobody" in first.DerivationDescription
    assert "simulated for this slice" in first.DerivationDescription
    assert str(first.PatientName) == "robustkit^phantom"
    assert (float(first.RescaleSlope), float(first.RescaleIntercept)) == (1, -1024)
    assert [float(v) for v in first.PixelSpacing] == [0.8, 0.5]
    assert first.Exposure == 12 and first.ExposureInuAs == 12500  # noqa: PT018


def test_an_independent_reader_sees_the_same_hounsfield_units(tmp_path):
    before = repeats()
    save_repeats(tmp_path / "d", before)
    dataset = pydicom.dcmread(sorted((tmp_path / "d").rglob("*.dcm"))[2])
    assert np.array_equal(pydicom.pixels.apply_rescale(dataset.pixel_array, dataset), before.pixels[2])


def noisy(path, source, **changes):
    facts = {"level": 25.0, "unit": "mAs", "noise": "nps", "seed": 3, "realization": 7}
    return write_noisy(path, source, source.storage.apply(source.pixels + 3), **{**facts, **changes})


def test_noisy_image_of_a_source_file(make, tmp_path):
    source = load_images(make.write(make.classic(), tmp_path / "source.dcm"))[0]
    path = noisy(tmp_path / "flips" / "1.dcm", source)
    image = load_images(str(path))[0]
    assert np.array_equal(image.pixels, source.pixels + 3)
    assert (image.mas, image.kernel, image.storage) == (25.0, "B40f", source.storage)
    told = pydicom.dcmread(path).DerivationDescription
    assert f"nps, 25 mAs, seed 3, stream audit, realization 7, on image {source.id}" in told


def test_noisy_image_is_repeatable_and_alone(make, tmp_path):
    source = load_images(make.write(make.classic(), tmp_path / "source.dcm"))[0]
    a, b = noisy(tmp_path / "a.dcm", source), noisy(tmp_path / "b.dcm", source)
    c = noisy(tmp_path / "c.dcm", source, realization=8)
    assert a.read_bytes() == b.read_bytes()
    assert pydicom.dcmread(a).SOPInstanceUID != pydicom.dcmread(c).SOPInstanceUID


def test_what_cannot_be_written_is_refused(make, tmp_path):
    source = load_images(make.write(make.classic(), tmp_path / "in" / "source.dcm"))[0]
    with pytest.raises(DataError, match="must agree"):
        write_noisy(tmp_path / "a", source, source.pixels[:5], level=1, unit="mAs", noise="x", seed=0, realization=0)
    with pytest.raises(DataError, match="NaN"):
        save_images(tmp_path / "out", [replace(source, pixels=source.pixels * np.nan)])
    with pytest.raises(DataError, match="do not fit 16 bits"):
        save_images(tmp_path / "out2", [replace(source, pixels=source.pixels * 100)])
    with pytest.raises(UsageError, match="not empty"):
        save_images(tmp_path / "in", [source])
    with pytest.raises(UsageError, match="one shape"):
        save_images(tmp_path / "a.npz", [source, replace(source, pixels=source.pixels[:5])])
    with pytest.raises(UsageError, match="no images"):
        save_images(tmp_path / "b.npz", [])
    with pytest.raises(UsageError, match="no repeats"):
        save_repeats(tmp_path / "b.npz", [])


def test_a_strangers_derived_file_stays_out(tmp_path):
    save_repeats(tmp_path / "d", repeats())
    path = next((tmp_path / "d").rglob("*.dcm"))
    dataset = pydicom.dcmread(path)
    del dataset[0x0099, 0x0010]
    del dataset[0x0099, 0x1001]
    dataset.save_as(path)
    with pytest.raises(DataError, match="derived or secondary"):
        load_images(str(path))


def test_real_images_read_back(real_data, tmp_path):
    for folder in ("LF/tcga_ov_abdomen_toshiba", "C/cptac_pda_chest_siemens"):
        before = load_images(str(real_data / folder))[:2]
        for name in ("d", "s.npz"):
            after = load_images(str(save_images(tmp_path / folder / name, before)))
            for a, b in zip(before, after, strict=True):
                assert same(a, b, FACTS)
                assert np.array_equal(a.pixels, b.pixels)
