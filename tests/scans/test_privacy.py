"""Nothing of a patient comes out: planted in every element and every file name, then looked for everywhere."""

from __future__ import annotations

import json
import logging
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.tag import Tag

from robustkit.errors import RobustkitError
from robustkit.scans import load_images, load_repeats, save_images, save_repeats, write_noisy

MARK, NUMBER, DATE, UID = "ZQXPLANTED", "987612345", "19390417", "1.2.987612345.39.417"
PLANTS = (MARK, NUMBER, DATE, UID)
TEXTS = {"PN": f"{MARK}^JANE", "LO": MARK, "SH": MARK, "LT": MARK, "ST": MARK, "UT": MARK, "UC": MARK, "AE": MARK}
FORMAL = {"UI": UID, "DA": DATE, "DT": DATE, "TM": "041739", "AS": "041Y", "UR": f"http://{MARK}", "CS": MARK}
NEEDED = {
    "SOPClassUID", "ImageType", "Modality", "PhotometricInterpretation", "RescaleType", "FrameType", "SamplesPerPixel",
    "BurnedInAnnotation", "LossyImageCompression", "SpecificCharacterSet",
}  # fmt: skip


def plant(dataset):
    """Put a mark into every text, name, date and identifier element of the dictionary, and into private ones."""
    for number, (vr, vm, _, _, keyword) in DicomDictionary.items():
        tag = Tag(number)
        if tag.group in (0x0000, 0x0002, 0x0004) or keyword in NEEDED or not keyword:
            continue
        value = {**TEXTS, **FORMAL}.get(vr)
        if value is not None:
            count = 2 if vm.startswith("2") else 1
            dataset.add_new(tag, vr, [value] * count if count > 1 else value)
        elif vr == "IS" and keyword not in ("NumberOfFrames", "Exposure", "XRayTubeCurrent", "ExposureTime"):
            dataset.add_new(tag, vr, NUMBER)
    block = dataset.private_block(0x0009, MARK, create=True)
    block.add_new(0x01, "PN", f"{MARK}^JANE")
    block.add_new(0x02, "LO", NUMBER)
    dataset.add_new(0x00330010, "LO", MARK)
    dataset.add_new(0x00331001, "UN", MARK.encode())
    dataset.OtherPatientIDsSequence = [pydicom.Dataset()]
    dataset.OtherPatientIDsSequence[0].PatientID = MARK
    return dataset


@pytest.fixture
def planted(make, tmp_path):
    """Return a folder of planted files: three slices and three refused files, under planted names."""
    folder = tmp_path / f"{MARK}^JANE" / NUMBER
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the planted values are against the rules of their types
        for k in range(3):
            dataset = plant(make.classic(make.body(seed=k)))
            dataset.SOPInstanceUID = f"{UID}.{k}"
            make.write(dataset, folder / f"{MARK}-{DATE}-{k}.dcm")
        broken = {"MR": {"Modality": "MR"}, "HU": {"RescaleSlope": None}, "SC": {"SamplesPerPixel": 3}}
        for name, changes in broken.items():
            make.write(plant(make.classic(**changes)), folder / f"{MARK}-{name}.dcm")
        text = make.write(plant(make.classic(PixelPaddingValue=0)), folder / "cut.dcm")
    (folder / "cut.dcm").write_bytes((folder / "cut.dcm").read_bytes()[:-2000])
    (folder / f"{MARK}.txt").write_text(MARK)
    assert text
    return folder


def leaks(text):
    return [p for p in PLANTS if p in text]


def test_planted_names_are_really_there(planted):
    data = (planted / f"{MARK}-{DATE}-0.dcm").read_bytes()
    assert data.count(MARK.encode()) > 1000
    assert all(p.encode() in data for p in PLANTS)


def test_nothing_in_results_logs_and_streams(planted, tmp_path, caplog, capfd, recwarn):
    caplog.set_level(logging.DEBUG)
    images = load_images(str(planted.parent))
    repeats = load_repeats(str(planted.parent))
    assert len(images) == 3
    assert len(repeats[0].pixels) == 3
    out, err = capfd.readouterr()
    told = [repr(images), repr(repeats), caplog.text, out, err, *(str(w.message) for w in recwarn)]
    told += [json.dumps(dict(i.protocol)) + str((i.id, i.group, i.kernel, i.label)) for i in images]
    assert "refused" in caplog.text
    assert leaks("\n".join(told)) == []


def test_nothing_in_errors(planted):
    for file in sorted(planted.iterdir()):
        try:
            load_images(str(file))
        except RobustkitError as error:
            chain = f"{error!r} {error}"
            assert leaks(chain) == []
            assert str(file) not in chain
        else:
            assert file.name.startswith(f"{MARK}-{DATE}")
    with pytest.raises(RobustkitError) as caught:
        load_repeats(str(sorted(planted.iterdir())[0]))
    assert leaks(str(caught.value)) == []


def test_nothing_in_what_is_written(planted, tmp_path):
    images, repeats = load_images(str(planted)), load_repeats(str(planted))
    out = tmp_path / "out"
    save_images(out / "images", images)
    save_images(out / "images.npz", images)
    save_repeats(out / "repeats", repeats)
    save_repeats(out / "repeats.npz", repeats)
    write_noisy(out / "noisy.dcm", images[0], images[0].pixels, level=25, unit="mAs", noise="n", seed=0, realization=0)
    files = [f for f in out.rglob("*") if f.is_file()]
    assert len(files) == 3 + 1 + 3 + 1 + 1
    for file in files:
        data = file.read_bytes()
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                data += b"".join(
                    a.tobytes() + str(a.tolist() if a.dtype.kind == "U" else "").encode() for a in arrays.values()
                )
        found = [p for p in PLANTS if p.encode() in data or p.encode("utf-32-le") in data]
        assert (found, leaks(file.name)) == ([], [])


def test_identifiers_are_not_kept_in_memory(planted):
    import pickle

    data = pickle.dumps((load_images(str(planted)), load_repeats(str(planted))))
    assert [p for p in PLANTS if p.encode() in data] == []


def test_nothing_of_real_headers_is_told(real_data, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for folder in sorted({f.parent for f in real_data.rglob("*.dcm")}):
        file = sorted(folder.glob("*.dcm"))[0]
        header = pydicom.dcmread(file, stop_before_pixels=True)
        images = load_images(str(file))
        written = pydicom.dcmread(save_images(tmp_path / folder.relative_to(real_data), images) / "image-0001.dcm")
        told = f"{images!r} {caplog.text} {written}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # real headers break the rules of their types
            secret = {str(e.value) for e in header.iterall() if e.VR in ("PN", "LO", "SH", "UI", "DA", "TM", "LT")}
        public = {str(written.SOPClassUID), images[0].kernel, str(header.get("FilterType", ""))}
        assert len(secret) > 5
        assert [value for value in secret - public if len(value) > 5 and value in told] == []
