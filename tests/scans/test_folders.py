"""Folders: mixed content, order, copies, repeats wherever they lie, labels; and paths that are nobody's."""

from __future__ import annotations

import os

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from robustkit.errors import DataError
from robustkit.scans import load_images, load_repeats
from robustkit.types import slice_id


def at(z):
    return {"ImagePositionPatient": [-100, -100, z]}


def scans(make, folder, count, name="s", **changes):
    for k in range(count):
        make.write(make.classic(make.body(seed=k), **changes), folder / f"{name}{k}" / "image.dcm")


def test_nothing_there_is_left_to_others(tmp_path):
    assert load_images("phantom") is None
    assert load_repeats(str(tmp_path / "absent")) is None
    assert load_images("x" * 5000) is None


@pytest.mark.parametrize("content", [b"", b"just text\n" * 100, b"\x89PNG\r\n" + bytes(400), bytes(1000)])
def test_unknown_content_names_what_is_accepted(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"DICOM CT \(.dcm\), .npz"):
        load_images(str(path))


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load_images(str(tmp_path / "pipe"))
    with pytest.raises(DataError, match="regular file"):
        load_images(str(tmp_path))


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="holds no files"):
        load_images(str(tmp_path))


def test_mixed_content_goes_on_without_naming_files(make, tmp_path, caplog):
    make.write(make.classic(), tmp_path / "DOE_JANE" / "1.dcm")
    make.write(make.classic(make.body(seed=1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "a.dcm")
    make.write(make.classic(Modality="MR"), tmp_path / "b.dcm")
    (tmp_path / "readme.txt").write_text("notes")
    (tmp_path / ".DS_Store").write_text("hidden")
    (tmp_path / "DICOMDIR").write_bytes(bytes(400))
    images = load_images(str(tmp_path))
    assert len(images) == 1
    assert "file 2 of 4 refused: it is a localizer" in caplog.text
    assert "file 3 of 4 refused: its modality is MR" in caplog.text
    assert "file 4 of 4 refused: it is not an image file" in caplog.text
    assert "DOE" not in caplog.text
    assert "readme" not in caplog.text


def test_nothing_left_tells_the_reasons(make, tmp_path):
    for k in range(3):
        make.write(make.classic(Modality="MR"), tmp_path / f"{k}.dcm")
    with pytest.raises(DataError, match=r"none of the 3 files.*3 x its modality is MR, not CT"):
        load_images(str(tmp_path))


def test_a_series_comes_in_order_of_position(make, tmp_path):
    series = make.classic().SeriesInstanceUID
    for name, z in (("a", 20), ("b", -5), ("c", 7.5)):
        dataset = make.classic(make.body(seed=int(z) + 50), SeriesInstanceUID=series, InstanceNumber=1, **at(z))
        make.write(dataset, tmp_path / f"{name}.dcm")
    labels = "file,label\na,high\nb,low\nc,middle\n"
    (tmp_path / "labels.csv").write_text(labels)
    assert [i.label for i in load_images(str(tmp_path))] == ["low", "middle", "high"]


def test_groups_are_patients_and_say_nothing(make, tmp_path):
    for k, patient in enumerate(["MRN-4711", "MRN-4712", "MRN-4711"]):
        make.write(make.classic(make.body(seed=k), PatientID=patient, **at(k)), tmp_path / f"{k}.dcm")
    groups = [i.group for i in load_images(str(tmp_path))]
    assert groups[0] == groups[2] != groups[1]
    # the same pixels under other identifiers give the same names: nothing of the identifier is in them
    other = tmp_path / "other"
    for k, patient in enumerate(["X", "Y", "X"]):
        make.write(make.classic(make.body(seed=k), PatientID=patient, **at(k)), other / f"{k}.dcm")
    assert [i.group for i in load_images(str(other))] == groups


def test_placeholder_patients_are_told_apart_by_study(make, tmp_path):
    for k in range(2):
        make.write(make.classic(make.body(seed=k), PatientID="ANONYMOUS"), tmp_path / f"{k}.dcm")
    assert len({i.group for i in load_images(str(tmp_path))}) == 2


def test_copied_files_are_left_out(make, tmp_path, caplog):
    dataset = make.classic()
    make.write(dataset, tmp_path / "a.dcm")
    make.write(dataset, tmp_path / "b.dcm")
    assert len(load_images(str(tmp_path))) == 1
    assert "file 2 of 2 left out: the same image as in file 1" in caplog.text


def test_repeats_are_found_whatever_the_folders(make, tmp_path):
    for z in (0, 5):
        for mas in (50, 100):
            for k in range(3):
                hu = make.body(seed=1000 * z + mas + k)
                make.write(make.classic(hu, Exposure=mas, **at(z)), tmp_path / f"scan{k}" / f"z{z}-{mas}.dcm")
    repeats = load_repeats(str(tmp_path))
    assert [(len(r.pixels), r.mas) for r in repeats] == [(3, 50.0), (3, 100.0)] * 2
    assert np.array_equal(repeats[0].pixels[1], make.body(seed=51))
    # one slice at two levels is one slice: the id is that of the least noisy mean
    assert repeats[0].id == repeats[1].id == slice_id(repeats[1].clean, (0.75, 0.5))
    assert len({r.id for r in repeats}) == 2


def test_repeats_with_another_kernel_are_another_set(make, tmp_path):
    scans(make, tmp_path, 2, "a", ConvolutionKernel="B40f")
    for k in range(2):
        dataset = make.classic(make.body(seed=9 + k), ConvolutionKernel="B70f")
        make.write(dataset, tmp_path / f"b{k}" / "image.dcm")
    assert sorted(r.kernel for r in load_repeats(str(tmp_path))) == ["B40f", "B70f"]


def test_modulated_current_is_one_level(make, tmp_path):
    for k, mas in enumerate((150, 151, 152)):
        make.write(make.classic(make.body(seed=k), Exposure=mas), tmp_path / f"{k}.dcm")
    repeats = load_repeats(str(tmp_path))
    assert len(repeats[0].pixels) == 3
    assert repeats[0].mas == 151.0


def test_another_object_in_the_same_place_is_no_repeat(make, tmp_path):
    scans(make, tmp_path, 2, "a")
    for k in range(2):
        make.write(make.classic(np.roll(make.body(seed=5 + k), 16, axis=0)), tmp_path / f"b{k}" / "image.dcm")
    assert [len(r.pixels) for r in load_repeats(str(tmp_path))] == [2, 2]


def test_one_repeat_only(make, tmp_path):
    path = make.write(make.classic(), tmp_path / "a.dcm")
    for where in (path, str(tmp_path)):
        with pytest.raises(DataError, match=r"one repeat only.*2 or more scans"):
            load_repeats(where)


def test_a_copied_file_is_no_repeat(make, tmp_path):
    dataset = make.classic()
    make.write(dataset, tmp_path / "a.dcm")
    make.write(dataset, tmp_path / "b.dcm")
    with pytest.raises(DataError, match="one repeat only"):
        load_repeats(str(tmp_path))
    # nor is the same instance UID over other pixels
    changed = make.classic(make.body(seed=1), SOPInstanceUID=dataset.SOPInstanceUID)
    make.write(changed, tmp_path / "b.dcm")
    with pytest.raises(DataError, match="one repeat only"):
        load_repeats(str(tmp_path))


def test_repeats_of_different_shapes(make, tmp_path):
    scans(make, tmp_path, 2)
    make.write(make.classic(make.body(40, 40)), tmp_path / "odd.dcm")
    with pytest.raises(DataError, match=r"1 x 40 x 40 px.*2 x 48 x 40 px.*reconstruct"):
        load_repeats(str(tmp_path))


def test_a_scan_alone_among_repeats_is_told(make, tmp_path, caplog):
    scans(make, tmp_path, 2)
    make.write(make.classic(make.body(seed=7), **at(90)), tmp_path / "z.dcm")
    assert len(load_repeats(str(tmp_path))) == 1
    assert "file 3, image 1 left out: no second scan" in caplog.text


def test_padding_of_any_scan_is_padding_of_the_repeats(make, tmp_path):
    for k in range(2):
        hu = make.body(seed=k)
        hu[: 4 + k] = -1000
        make.write(make.classic(hu, PixelPaddingValue=24), tmp_path / f"{k}.dcm")
    mask = load_repeats(str(tmp_path))[0].mask
    assert not mask[:5].any()
    assert mask[6:].sum() > 0


def test_labels_by_file_and_by_index(make, tmp_path, caplog):
    for k in range(3):
        make.write(make.classic(make.body(seed=k), **at(k)), tmp_path / "sub" / f"{k}.dcm")
    (tmp_path / "labels.csv").write_text("file,label\nsub/0.dcm,C\nsub/1,AP\ngone.dcm,LF\n")
    assert [i.label for i in load_images(str(tmp_path))] == ["C", "AP", None]
    assert "1 rows fit no image" in caplog.text
    assert "1 of 3 images have no label" in caplog.text
    (tmp_path / "labels.csv").write_text("index,label\n0,C\n1,AP\n2,LF\n")
    assert [i.label for i in load_images(str(tmp_path))] == ["C", "AP", "LF"]
    (tmp_path / "sub" / "labels.csv").write_text("Label,File\nBN,2.dcm\n")
    assert [i.label for i in load_images(str(tmp_path))] == ["C", "AP", "BN"]  # the nearest row decides


def test_labels_beside_a_stack(tmp_path):
    pixels = np.random.default_rng(0).normal(0, 9, (3, 8, 8))
    np.savez(tmp_path / "a.npz", pixels=pixels, pixel_mm=[1, 1])
    (tmp_path / "labels.csv").write_text("file,index,label\na.npz,0,C\na,2,LF\nother.npz,1,AP\n")
    assert [i.label for i in load_images(str(tmp_path / "a.npz"))] == ["C", None, "LF"]
    (tmp_path / "labels.csv").write_text("index,label\n1,AP\n")
    assert [i.label for i in load_images(str(tmp_path / "a.npz"))] == [None, "AP", None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,class\n1,2\n", "header line"),
        ("file,label\nabsent.dcm,C\n", "no row of labels.csv fits"),
        ("file,label\na.dcm,C\na,AP\n", "2 different labels"),
        ("file,label\na.dcm,\n", "line 2 of labels.csv has no label"),
        ("index,label\n-1,C\n", "line 2.*whole number"),
        ("index,label\n,C\n", "neither a file nor an index"),
        (b"\xff\xfe\x00label", "UTF-8"),
        ("", "header line"),
    ],
)
def test_labels_that_do_not_fit(make, tmp_path, text, reason):
    make.write(make.classic(), tmp_path / "a.dcm")
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=reason):
        load_images(str(tmp_path))


def test_pydicom_sample_folder_is_sorted_out(tmp_path, caplog):
    for name in ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm"):
        os.symlink(get_testdata_file(name, download=False), tmp_path / name)
    assert len(load_images(str(tmp_path))) == 1
    assert caplog.text.count("refused") == 2
