"""NIfTI in: the same slices, rows and columns as the DICOM they came from."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from robustkit.errors import DataError, MissingExtraError
from robustkit.scans import load_images

nibabel = pytest.importorskip("nibabel", reason="needs robustkit[nifti]")


def volume():
    return np.random.default_rng(0).normal(-200, 100, (3, 12, 10)).round().astype(np.int16)  # (z, row, column)


def save(path, stack, *, flip=(1, 1, 1), zooms=(0.5, 0.75, 3.0), slope=None):
    """Write (z, row, column) with columns to the patient's left and rows to the back, as DICOM has them."""
    data = stack.transpose(2, 1, 0)
    affine = np.diag([-zooms[0], -zooms[1], zooms[2], 1.0])  # RAS: left and back are negative
    for axis, sign in enumerate(flip):
        if sign < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    image = nibabel.Nifti1Image(data, affine)
    if slope:
        image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)
    return str(path)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_slices_lie_as_in_dicom(tmp_path, name, flip):
    stack = volume()
    images = load_images(save(tmp_path / name, stack, flip=flip))
    assert np.array_equal(np.stack([i.pixels for i in images]), stack)
    assert images[0].pixel_mm == (0.75, 0.5)
    assert len({i.group for i in images}) == 1
    assert images[0].mas is None


def test_floats_and_warning(tmp_path, caplog):
    images = load_images(save(tmp_path / "v.nii", volume().astype(np.float32) + 0.25))
    assert images[0].storage is None
    assert "3 of 3 images: NIfTI does not say that values are HU" in caplog.text


def test_refusals(tmp_path):
    stack = volume()
    with pytest.raises(DataError, match="no negative value"):
        load_images(save(tmp_path / "a.nii", np.abs(stack)))
    with pytest.raises(DataError, match="NaN"):
        load_images(save(tmp_path / "b.nii", np.where(stack > -150, np.nan, stack).astype(np.float32)))
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 5, 5, 2), np.int16), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(DataError, match="three-dimensional"):
        load_images(str(tmp_path / "c.nii"))


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_cut_short(tmp_path, name, keep):
    path = tmp_path / name
    save(path, volume())
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=r"cut short|damaged|not an image"):
        load_images(str(path))


def test_absurd_header_and_bomb(tmp_path):
    path = tmp_path / "v.nii"
    save(path, volume())
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([8000, 8000, 8000], "<i2").tobytes()
    path.write_bytes(data)
    with pytest.raises(DataError, match="cut short"):
        load_images(str(path))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(data) + bytes(100 << 20)))
    with pytest.raises(DataError, match="expands beyond"):
        load_images(str(tmp_path / "b.nii.gz"))


def test_missing_extra(tmp_path, monkeypatch):
    path = save(tmp_path / "v.nii", volume())
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"robustkit\[nifti\]"):
        load_images(path)
