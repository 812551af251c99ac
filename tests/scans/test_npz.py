""".npz in: shapes, optional keys, and files that are refused before anything large is allocated."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from robustkit.errors import DataError
from robustkit.scans import load_images, load_repeats
from robustkit.types import Storage, slice_id


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return str(path)


def stack(count=3, seed=0):
    return np.random.default_rng(seed).normal(0, 20, (count, 12, 10)).astype(np.float32)


def test_one_image(tmp_path):
    pixels = stack(1)[0]
    image = load_images(save(tmp_path / "a.npz", pixels=pixels, pixel_mm=[0.7, 0.9]))[0]
    assert np.array_equal(image.pixels, pixels)
    assert image.pixel_mm == (0.7, 0.9)
    assert image.id == slice_id(pixels, (0.7, 0.9))
    assert (image.label, image.group, image.mas, image.mask, image.storage) == (None,) * 5


def test_a_stack_with_everything(tmp_path):
    mask = np.ones((12, 10), bool)
    mask[0] = False
    path = save(
        tmp_path / "a.npz",
        pixels=stack().astype(np.int16),
        pixel_mm=[1, 1],
        mas=[10.0, np.nan, 30.0],
        labels=["C", "C", "AP"],
        groups=["Doe", "Roe", "Doe"],
        mask=mask,
    )
    images = load_images(path)
    assert [i.mas for i in images] == [10.0, None, 30.0]
    assert [i.label for i in images] == ["C", "C", "AP"]
    assert images[0].group == images[2].group != images[1].group
    assert "Doe" not in repr(images)
    assert images[0].storage == Storage(-32768, 32767, 1)
    assert not images[1].mask[0].any()


def test_ids_join_images_to_repeats_and_name_nobody(tmp_path):
    images = load_images(save(tmp_path / "a.npz", pixels=stack(2), pixel_mm=[1, 1], ids=["case-1", "00ff00ff00ff00ff"]))
    repeats = load_repeats(save(tmp_path / "r.npz", pixels=stack(2), pixel_mm=[1, 1], mas=20, id="case-1"))
    assert images[0].id == repeats[0].id != "case-1"
    assert images[1].id == "00ff00ff00ff00ff"


def test_copies_are_left_out(tmp_path, caplog):
    pixels = stack()
    pixels[2] = pixels[0]
    assert len(load_images(save(tmp_path / "a.npz", pixels=pixels, pixel_mm=[1, 1]))) == 2
    assert "file 1 of 1, image 3 left out" in caplog.text


GOOD = {"pixels": stack(), "pixel_mm": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pixels": None}, "lacks `pixels`"),
        ({"pixel_mm": None}, "lacks `pixel_mm`"),
        ({"pixels": np.zeros((2, 3, 4, 5))}, "4 dimensions"),
        ({"pixels": np.zeros(5)}, "1 dimensions"),
        ({"pixels": np.zeros((0, 5, 5))}, "holds no pixels"),
        ({"pixels": np.zeros((1, 9000), np.float32)}, "larger than 8192"),
        ({"pixels": np.zeros((64, 64, 3))}, "colour"),
        ({"pixels": np.full((8, 8), np.nan)}, "64 pixels are NaN"),
        ({"pixels": np.full((8, 8), 1e300)}, "64 pixels are NaN or infinite"),
        ({"pixels": np.full((8, 8), 1e7)}, "not Hounsfield"),
        ({"pixels": np.zeros((8, 8), complex)}, "type c"),
        ({"pixels": np.array(["a"])}, "type U"),
        ({"pixel_mm": [1.0]}, "pixel spacing"),
        ({"pixel_mm": [1.0, -1.0]}, "pixel spacing"),
        ({"pixel_mm": [1.0, np.nan]}, "pixel spacing"),
        ({"mas": [1.0, 2.0]}, "2 values for 3 images"),
        ({"mas": 0.0}, "must be positive"),
        ({"labels": ["a", "b"]}, "2 texts for 3 images"),
        ({"ids": ["a", "b", "a"]}, "repeat themselves"),
        ({"mask": np.ones((3, 3), bool)}, "`mask` has shape"),
        ({"mask": np.zeros((12, 10), bool)}, "padding"),
        ({"storage": [1.0, 0.0, 1.0]}, "low < high"),
        ({"protocol": "[1"}, "JSON"),
    ],
)
def test_refused_with_a_reason(tmp_path, changes, reason):
    arrays = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    with pytest.raises(DataError, match=reason):
        load_images(save(tmp_path / "a.npz", **arrays))


def test_pickles_are_refused(tmp_path):
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros((4, 4)), np.zeros((5, 5))]
    path = save(tmp_path / "a.npz", pixels=ragged, pixel_mm=[1, 1])
    with pytest.raises(DataError, match="Python objects"):
        load_repeats(path)


def header(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_header_that_claims_more_than_is_there(tmp_path):
    path = tmp_path / "a.npz"
    spacing = io.BytesIO()
    np.save(spacing, np.array([1.0, 1.0]))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pixels.npy", header((100_000, 8000, 8000)) + bytes(64))
        archive.writestr("pixel_mm.npy", spacing.getvalue())
    with pytest.raises(DataError, match="does not hold what its header says"):
        load_images(str(path))


def test_decompression_bomb(tmp_path):
    path = save(tmp_path / "a.npz", pixels=np.zeros((20, 1000, 1000), np.float32), pixel_mm=[1, 1])
    with pytest.raises(DataError, match="400-fold"):
        load_images(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_odd_compression(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        for name in ("pixels", "pixel_mm"):
            archive.writestr(f"{name}.npy", header((2, 2)) + bytes(16))
    with pytest.raises(DataError, match="oddly compressed"):
        load_images(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path, keep):
    path = tmp_path / "a.npz"
    save(path, **GOOD)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(DataError, match="damaged"):
        load_images(str(path))


def test_repeats_of_one_slice(tmp_path):
    pixels = stack(4)
    repeats = load_repeats(save(tmp_path / "r.npz", pixels=pixels, pixel_mm=[1, 1], mas=25, kernel="B40f", label="C"))
    assert len(repeats) == 1
    assert np.array_equal(repeats[0].pixels, pixels)
    assert (repeats[0].mas, repeats[0].kernel, repeats[0].label) == (25.0, "B40f", "C")
    assert repeats[0].id == slice_id(pixels.mean(axis=0, dtype=float), (1.0, 1.0))


def test_a_folder_of_repeats_joins_by_id(tmp_path):
    for name, seed in (("p", 0), ("q", 1), ("sub/r", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        ident = "slice-a" if name != "q" else "slice-b"
        save(tmp_path / f"{name}.npz", pixels=stack(2, seed), pixel_mm=[1, 1], mas=25, id=ident)
    repeats = load_repeats(str(tmp_path))
    assert [len(r.pixels) for r in repeats] == [4, 2]


@pytest.mark.parametrize("pixels", [stack(1)[0], stack(1)])
def test_one_repeat_only(tmp_path, pixels):
    with pytest.raises(DataError, match=r"one scan only.*at least 2"):
        load_repeats(save(tmp_path / "r.npz", pixels=pixels, pixel_mm=[1, 1]))


def test_copied_repeats(tmp_path):
    pixels = stack(3)
    pixels[2] = pixels[0]
    with pytest.raises(DataError, match="scans 1, 3 are copies"):
        load_repeats(save(tmp_path / "r.npz", pixels=pixels, pixel_mm=[1, 1]))


def test_repeats_of_different_shapes(tmp_path):
    save(tmp_path / "a.npz", pixels=stack(2), pixel_mm=[1, 1], id="x")
    save(tmp_path / "b.npz", pixels=stack(2)[:, :8], pixel_mm=[1, 1], id="x")
    with pytest.raises(DataError, match=r"1 x 12 x 10 px.*1 x 8 x 10 px.*one matrix"):
        load_repeats(str(tmp_path))


def test_repeats_at_several_mas(tmp_path):
    with pytest.raises(DataError, match="different mAs"):
        load_repeats(save(tmp_path / "r.npz", pixels=stack(2), pixel_mm=[1, 1], mas=[10, 20]))


@pytest.mark.parametrize("name", ["pixel_mm", "mas", "ids", "storage", "kernel", "synthetic", "protocol"])
def test_what_is_no_image_may_not_be_as_large_as_one(tmp_path, name):
    large = np.zeros((512, 512), np.uint8).astype(str if name in ("ids", "kernel", "protocol") else np.uint8)
    path = save(tmp_path / "a.npz", **{"pixels": stack(2), "pixel_mm": [1.0, 1.0], name: large})
    with pytest.raises(DataError, match=f"`{name}` in the .npz holds 262144 values for 2 images"):
        load_images(path)
