"""DICOM in: HU, geometry, exposure, padding, storage; and what is refused, with its reason."""

from __future__ import annotations

import logging

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from robustkit.dosimetry import dose_facts
from robustkit.errors import DataError, MissingExtraError
from robustkit.scans import load_images, load_repeats
from robustkit.types import Storage, slice_id


def sample(name):
    return get_testdata_file(name, download=False)


def test_values_are_hounsfield_units(make, tmp_path):
    hu = make.body()
    image = load_images(make.write(make.classic(hu), tmp_path / "a.dcm"))[0]
    assert np.array_equal(image.pixels, hu)
    assert image.pixels.dtype == np.float32
    assert image.id == slice_id(hu, (0.75, 0.5))


def test_spacing_is_row_then_column(make, tmp_path):
    image = load_images(make.write(make.classic(), tmp_path / "a.dcm"))[0]
    assert image.pixel_mm == (0.75, 0.5)
    assert image.pixels.shape == (48, 40)


def test_ct_small_agrees_with_pydicom():
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    image = load_images(sample("CT_small.dcm"))[0]
    assert np.array_equal(image.pixels, dataset.pixel_array.astype(float) + float(dataset.RescaleIntercept))
    assert image.kernel == "STANDARD"
    assert image.protocol["manufacturer"] == "ge"


@pytest.mark.parametrize(
    ("name", "mas", "told"),
    [("CT_small.dcm", 170.0, True), ("J2K_pixelrep_mismatch.dcm", 460.0, False)],
)
def test_exposure_of_known_files(name, mas, told, caplog):
    # 170 mA x 1.601 s = 272 mAs against Exposure 170; 230 mA x 2 s = 460 mAs against Exposure 460
    image = load_images(sample(name))[0]
    assert image.mas == mas
    assert image.protocol["mas_source"] == "Exposure"
    assert ("differ by more than 10 %" in caplog.text) == told


def test_dose_index_is_told_where_the_files_state_it(make, tmp_path):
    for number in range(3):
        make.write(make.classic(make.body(seed=number), CTDIvol=7.5), tmp_path / "scans" / f"{number}.dcm")
    (repeats,) = load_repeats(str(tmp_path / "scans"))
    told = dose_facts(load_images(str(tmp_path / "scans"))[0], [repeats])
    assert told["scans"] == [{"k": 3, "mas": 100.0, "ctdivol": 7.5}]
    silent = load_images(make.write(make.classic(), tmp_path / "silent.dcm"))[0]
    assert "ctdivol" not in silent.protocol


@pytest.mark.parametrize(
    ("elements", "mas", "source"),
    [
        ({}, 100.0, "Exposure"),
        ({"Exposure": None, "ExposureInuAs": 98_000}, 98.0, "ExposureInuAs"),
        ({"Exposure": None}, 100.0, "current x time"),
        ({"Exposure": None, "ExposureTime": None}, None, None),
        ({"Exposure": 0}, None, None),
        ({"Exposure": 6000}, None, None),
    ],
)
def test_exposure_comes_from_the_first_source(make, tmp_path, elements, mas, source):
    image = load_images(make.write(make.classic(**elements), tmp_path / "a.dcm"))[0]
    assert image.mas == mas
    assert image.protocol.get("mas_source") == source


def test_sources_that_differ_are_told(make, tmp_path, caplog):
    load_images(make.write(make.classic(Exposure=111), tmp_path / "a.dcm"))
    assert "differ" not in caplog.text
    load_images(make.write(make.classic(Exposure=112), tmp_path / "b.dcm"))
    assert "1 of 1 images: Exposure and current x time differ by more than 10 %" in caplog.text


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_transfer_syntaxes_without_codecs(make, tmp_path, syntax):
    dataset = make.classic()
    if syntax == RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    image = load_images(make.write(dataset, tmp_path / "a.dcm"))[0]
    assert np.array_equal(image.pixels, make.body())


def test_big_endian(make, tmp_path):
    dataset = make.classic()
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    image = load_images(make.write(dataset, tmp_path / "a.dcm"))[0]
    assert np.array_equal(image.pixels, make.body())


def test_jpeg2000_through_gdcm():
    pytest.importorskip("gdcm", reason="needs robustkit[dicom-codecs]")
    image = load_images(sample("J2K_pixelrep_mismatch.dcm"))[0]
    assert image.pixels.shape == (512, 512)
    assert image.protocol["tilt"] == -22.0
    stored = pydicom.dcmread(sample("J2K_pixelrep_mismatch.dcm")).pixel_array
    assert np.array_equal(image.pixels, stored)
    assert np.array_equal(image.mask, stored != -2000)


def test_missing_codec_names_the_cure(monkeypatch, make, tmp_path):
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder

    # as on a machine without any codec package
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_unavailable", {"gdcm": ("gdcm>=3.0.10",)})
    with pytest.raises(MissingExtraError, match=r"gdcm>=3\.0\.10.*pip install 'robustkit\[dicom-codecs\]'"):
        load_images(sample("J2K_pixelrep_mismatch.dcm"))


def test_enhanced_frames_are_slices(make, tmp_path):
    stack = np.stack([make.body(seed=s) for s in range(3)])
    images = load_images(make.write(make.enhanced(stack, [50, 75, 100]), tmp_path / "e.dcm"))
    assert [i.mas for i in images] == [50.0, 75.0, 100.0]
    assert np.array_equal(np.stack([i.pixels for i in images]), stack)
    assert images[0].kernel == "Br40d"
    assert images[0].protocol["kvp"] == 100.0
    assert len({i.group for i in images}) == 1


def test_enhanced_without_rescale_is_refused(make, tmp_path):
    dataset = make.enhanced(np.stack([make.body()] * 2), [50, 50])
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    with pytest.raises(DataError, match="RescaleSlope"):
        load_images(make.write(dataset, tmp_path / "e.dcm"))


def test_tagged_padding_is_masked(make, tmp_path):
    hu = make.body()
    hu[:10] = -1000
    dataset = make.classic(hu, PixelPaddingValue=24)  # stored value of -1000 HU
    image = load_images(make.write(dataset, tmp_path / "a.dcm"))[0]
    assert not image.mask[:10].any()
    assert np.array_equal(image.mask, hu != -1000)


def test_padding_range_is_masked(make, tmp_path):
    hu = make.body()
    hu[:5], hu[5:10] = -1020, -1010
    dataset = make.classic(hu, PixelPaddingValue=4)
    dataset.PixelPaddingRangeLimit = 14
    image = load_images(make.write(dataset, tmp_path / "a.dcm"))[0]
    assert not image.mask[:10].any()
    assert image.mask[10:].all()


def test_padding_tag_of_the_wrong_sign(make, tmp_path):
    hu = make.body()
    hu[:10] = -2000
    dataset = make.classic(hu, BitsStored=16, HighBit=15, PixelRepresentation=1, RescaleIntercept=0)
    dataset.PixelData = hu.astype("<i2").tobytes()
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    image = load_images(make.write(dataset, tmp_path / "a.dcm"))[0]
    assert not image.mask[:10].any()
    assert image.mask[10:].all()


@pytest.mark.parametrize("value", [-2048, -1500, -3024])
def test_untagged_padding_outside_the_circle(make, tmp_path, value):
    hu = make.body()
    y, x = np.mgrid[:48, :40]
    outside = (y - 24) ** 2 + (x - 20) ** 2 > 23**2
    hu[outside] = value
    hu[24, 20] = value  # one such pixel inside the body is no padding
    dataset = make.classic(hu, BitsStored=16, HighBit=15, PixelRepresentation=1, RescaleIntercept=0)
    dataset.PixelData = hu.astype("<i2").tobytes()
    image = load_images(make.write(dataset, tmp_path / "a.dcm"))[0]
    assert np.array_equal(image.mask, ~outside)


def test_air_is_no_padding(make, tmp_path):
    assert load_images(make.write(make.classic(), tmp_path / "a.dcm"))[0].mask is None


def test_storage_follows_the_stored_integers(make, tmp_path):
    hu = make.body()
    image = load_images(make.write(make.classic(hu), tmp_path / "a.dcm"))[0]
    assert image.storage == Storage(-1024.0, 3071.0, 1.0)
    dataset = make.classic(hu, RescaleSlope=0.5, RescaleIntercept=-1000)
    image = load_images(make.write(dataset, tmp_path / "b.dcm"))[0]
    assert image.storage == Storage(-1000.0, 1047.5, 0.5)


def test_clipping_that_shows_narrows_storage(make, tmp_path):
    hu = np.clip(make.body(sigma=40) - 50, -1000, None)
    image = load_images(make.write(make.classic(hu), tmp_path / "a.dcm"))[0]
    assert image.storage.low == -1000.0


def test_flat_object_is_no_limit(make, tmp_path):
    hu = np.full((48, 40), -1000)
    hu[10:30, 10:30] = 1800
    image = load_images(make.write(make.classic(hu), tmp_path / "a.dcm"))[0]
    assert image.storage == Storage(-1024.0, 3071.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "MR"}, "modality is MR, not CT"),
        ({"Modality": "DOE"}, "modality is another one, not CT"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not a CT image object"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED ", "PRIMARY", "AXIAL"]}, "derived or secondary"),
        ({"ImageType": ["ORIGINAL", "SECONDARY", "AXIAL"]}, "derived or secondary"),
        ({"RescaleSlope": None}, "RescaleSlope"),
        ({"RescaleIntercept": None}, "RescaleIntercept"),
        ({"RescaleSlope": 0}, "RescaleSlope"),
        ({"RescaleType": "Z_EFF"}, "other than HU"),
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"PixelSpacing": [0, 0.5]}, "pixel spacing"),
        ({"SamplesPerPixel": 3}, "more than one sample"),
        ({"PixelData": None}, "no pixel data"),
        ({"Rows": 60000, "Columns": 60000}, "larger than 8192"),
        ({"Rows": 8000, "Columns": 8000}, "cut short"),
        ({"BitsStored": 32}, "BitsAllocated and BitsStored"),
        ({"NumberOfFrames": 9}, "number of frames"),
    ],
)
def test_refused_with_a_reason(make, tmp_path, changes, reason):
    path = make.write(make.classic(**changes), tmp_path / "a.dcm")
    with pytest.raises(DataError, match=reason):
        load_images(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_small.dcm", "modality is MR"),
        ("MR_truncated.dcm", "modality is MR"),
        ("rtplan_truncated.dcm", "modality is RTPLAN"),
        ("693_J2KI.dcm", "derived or secondary"),
        ("SC_rgb_rle.dcm", "modality is OT"),
        ("no_meta.dcm", "not a whole DICOM file"),
        ("DICOMDIR-empty.dcm", "DICOMDIR"),
        ("meta_missing_tsyntax.dcm", "modality is not stated"),
        ("badVR.dcm", "modality is RTDOSE"),
    ],
)
def test_known_files_are_refused(name, reason):
    with pytest.raises(DataError, match=reason):
        load_images(sample(name))


@pytest.mark.parametrize("keep", [0, 50, 131, 200, 600, 1400, 3000, -1])
def test_truncated_files_are_refused(make, tmp_path, keep):
    path = make.write(make.classic(), tmp_path / "a.dcm")
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[:keep])
    with pytest.raises(DataError):
        load_images(path)


def test_deflate_bomb_is_refused(make, tmp_path):
    dataset = make.classic()
    dataset.PixelData = bytes(80 << 20)  # 80 MB of zeros in 80 kB
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(DataError, match="expands beyond"):
        load_images(make.write(dataset, tmp_path / "a.dcm"))


def test_compressed_bytes_cannot_hold_any_size(make, tmp_path):
    dataset = make.classic()
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.Rows = dataset.Columns = 8192
    with pytest.raises(DataError, match="cannot hold"):
        load_images(make.write(dataset, tmp_path / "a.dcm"))


def test_lossy_source_is_told(make, tmp_path, caplog):
    load_images(make.write(make.classic(LossyImageCompression="01"), tmp_path / "a.dcm"))
    assert "lossy compression" in caplog.text


def test_tilt_and_missing_kernel_are_told(make, tmp_path, caplog):
    image = load_images(make.write(make.classic(ConvolutionKernel=None, GantryDetectorTilt=-12), tmp_path / "a.dcm"))[0]
    assert image.kernel is None
    assert "tilted" in caplog.text
    assert "no reconstruction kernel" in caplog.text


@pytest.mark.parametrize(
    ("text", "kept"),
    [("B40f", True), ("Br40d", True), ("FC13", True), ("STD+", True), ("UB", True), ("11", True), ("STANDARD", True),
     ("Doe Jane", False), ("JANE", False), ("19710203", False)],
)  # fmt: skip
def test_kernel_of_a_vendor_form_alone_is_repeated(make, tmp_path, text, kept):
    kernel = load_images(make.write(make.classic(ConvolutionKernel=text), tmp_path / "a.dcm"))[0].kernel
    assert (kernel == text) == kept
    assert kept or kernel.startswith("kernel-")


def test_strength_of_iterative_reconstruction(make, tmp_path):
    image = load_images(make.write(make.classic(ConvolutionKernel=["Br40d", "3"]), tmp_path / "a.dcm"))[0]
    assert image.kernel == "Br40d/3"
    assert image.protocol["ir"] == "iterative"
    assert "ir" not in load_images(make.write(make.classic(), tmp_path / "b.dcm"))[0].protocol


def test_jpeg2000_claim_without_data(make, tmp_path):
    dataset = make.classic()
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(200)])
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises((DataError, MissingExtraError)):
        load_images(make.write(dataset, tmp_path / "a.dcm"))


def test_real_folders_all_load(real_data, caplog):
    caplog.set_level(logging.WARNING)
    folders = sorted({f.parent for f in real_data.rglob("*.dcm")})
    assert folders
    for folder in folders:
        images = load_images(str(folder))
        assert len(images) == len(list(folder.glob("*.dcm")))
        assert len({i.group for i in images}) == 1
        assert all(i.mas is not None and i.kernel for i in images)
    assert "refused" not in caplog.text


def test_real_padding_is_masked(real_data):
    for name, value in (("LF/tcga_ov_abdomen_toshiba", -2048), ("BN/ge_hispeed_head", -1500)):
        for image in load_images(str(real_data / name)):
            assert np.array_equal(~image.mask, image.pixels == value)
