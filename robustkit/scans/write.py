"""Writing images: `.npz`, or CT DICOM that any viewer shows and that reads back as it was.

What is written as DICOM says honestly what it is: ImageType DERIVED\\SECONDARY\\AXIAL, a derivation in words, UIDs
made from the content (two writes are byte-identical), and no element copied from a source file: only the
allow-listed facts that a `Slice` carries. There is no SourceImageSequence, because a source's UIDs lead to a patient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError, UsageError
from robustkit.files import atomic_path
from robustkit.scans import own
from robustkit.scans.npz import write_npz
from robustkit.scans.records import check_pixels, check_size, clean_protocol
from robustkit.types import Image, RepeatScans, Slice, slice_id

AIR = -1024.0


def save_images(path: str | Path, slices: Sequence[Slice]) -> Path:
    """Write slices to `path`: one file for a name ending in `.npz`, else a new folder of CT DICOM.

    A `.npz` needs slices of one shape and pixel size and keeps float32 as they are; DICOM keeps the stored grid of
    each slice, and rounds a slice without one to 1 HU. Returns what was written.

    Raises
    ------
    UsageError : for no slices, slices of several shapes in one .npz, or a folder that holds files already.
    DataError : for values that are not HU.
    """
    path = Path(path)
    if not slices:
        raise UsageError("there are no images to write; give at least one")
    if path.suffix == ".npz":
        write_npz(path, _image_arrays(slices))
        return path
    _new_folder(path)
    for number, image in enumerate(slices):
        made = _made(image, "an image")
        dataset = ct_dataset(image, made, number=number, series=("images",), facts=own.facts_of(image, source=made))
        _save(path / f"image-{number + 1:04d}.dcm", dataset)
    return path


def save_repeats(path: str | Path, repeats: Sequence[RepeatScans] | RepeatScans) -> Path:
    """Write repeats to `path`: one `.npz` for one stack, a folder of them (named without the ending) for several,
    or, for a name without that ending, a new folder of CT DICOM with one sub-folder a stack. Returns what was written.

    Raises
    ------
    UsageError : for no repeats, or a folder that holds files already.
    DataError : for values that are not HU.
    """
    path, stacks = Path(path), [repeats] if isinstance(repeats, RepeatScans) else list(repeats)
    if not stacks:
        raise UsageError("there are no repeats to write; give at least one set")
    if path.suffix == ".npz" and len(stacks) == 1:
        write_npz(path, _repeat_arrays(stacks[0]))
        return path
    if path.suffix == ".npz":
        path = path.with_suffix("")
        _new_folder(path)
        for number, stack in enumerate(stacks):
            write_npz(path / f"{_name(number, stack)}.npz", _repeat_arrays(stack))
        return path
    _new_folder(path)
    for number, stack in enumerate(stacks):
        _save_stack(path / _name(number, stack), stack, number)
    return path


def write_noisy(
    path: str | Path,
    source: Slice,
    pixels: Image,
    *,
    level: float,
    unit: str,
    noise: str,
    seed: int,
    realization: int,
    stream: str = "audit",
) -> Path:
    """Write one noisy image (H, W) HU of `source` as derived CT DICOM, and say in it how to make it again.

    Stored on the source's grid (1 HU where it has none). The same arguments give the same bytes.

    Raises
    ------
    DataError : for pixels of another shape than the source, NaN, or values that are not HU.
    """
    path = Path(path)
    if pixels.shape != source.pixels.shape:
        raise DataError(f"the noisy image is {pixels.shape}, its source {source.pixels.shape}; they must agree")
    made = (
        f"noise added by robustkit {_version()}: {noise}, {level:g} {unit}, seed {seed}, stream {stream}, "
        f"realization {realization}, on image {source.id}"
    )
    facts = {
        **own.facts_of(source, source=made),
        "mas": level if unit == "mAs" else None,
        "synthetic": source.synthetic,
    }
    noisy = _replaced(source, pixels, level if unit == "mAs" else None)
    dataset = ct_dataset(noisy, made, number=realization, series=("noisy", source.id, level, unit, seed), facts=facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, dataset)
    return path


def _replaced(source: Slice, pixels: Image, mas: float | None) -> Slice:
    from dataclasses import replace

    return replace(source, pixels=np.asarray(pixels, np.float32), mas=mas)


def _save_stack(folder: Path, stack: RepeatScans, number: int) -> None:
    for k, pixels in enumerate(stack.pixels):
        image = Slice(
            id=stack.id,
            pixels=pixels,
            pixel_mm=stack.pixel_mm,
            label=stack.label,
            group=stack.group,
            mas=stack.mas,
            kernel=stack.kernel,
            mask=stack.mask,
            storage=stack.storage,
            protocol=stack.protocol,
            synthetic=stack.synthetic,
        )
        made = f"{_made(image, 'a scan')}; scan {k + 1} of {len(stack.pixels)}, {stack.source}"
        facts = own.facts_of(image, subject=stack.id, source=stack.source)
        dataset = ct_dataset(image, made, number=number, series=("scan", k, stack.mas), facts=facts)
        _save(folder / f"scan-{k + 1:04d}.dcm", dataset)


def _made(image: Slice, what: str) -> str:
    subject = "of a phantom, showing nobody, " if image.synthetic else ""
    grid = "" if image.storage else ", rounded to 1 HU"
    return f"{what} {subject}written by robustkit {_version()}{grid}"


def _name(number: int, stack: RepeatScans) -> str:
    level = "" if stack.mas is None else f"-{stack.mas:g}mAs"
    return f"slice-{number + 1:03d}{level}"


def _new_folder(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("the output folder exists and is not empty; name a new one")
    path.mkdir(parents=True, exist_ok=True)


def _version() -> str:
    from robustkit import __version__

    return __version__


def _image_arrays(slices: Sequence[Slice]) -> dict[str, Any]:
    first = slices[0]
    if any(s.pixels.shape != first.pixels.shape or s.pixel_mm != first.pixel_mm for s in slices):
        raise UsageError("one .npz holds images of one shape and pixel size; write a folder of DICOM instead")
    return {
        "pixels": np.stack([s.pixels for s in slices]).astype(np.float32),
        "pixel_mm": np.array(first.pixel_mm, float),
        "mas": np.array([math.nan if s.mas is None else s.mas for s in slices]),
        "ids": np.array([s.id for s in slices]),
        "labels": _text_array([s.label for s in slices]),
        "groups": _text_array([s.group for s in slices]),
        "kernels": _text_array([s.kernel for s in slices]),
        "mask": _masks(slices),
        "storage": np.array([_limits(s) for s in slices]),
        "synthetic": np.array([int(s.synthetic) for s in slices]),
        "protocol": np.array([_facts(s) for s in slices]),
    }


def _repeat_arrays(stack: RepeatScans) -> dict[str, Any]:
    return {
        "pixels": stack.pixels.astype(np.float32),
        "pixel_mm": np.array(stack.pixel_mm, float),
        "mas": None if stack.mas is None else np.array(stack.mas),
        "id": np.array(stack.id),
        "label": _text_array([stack.label]),
        "group": _text_array([stack.group]),
        "kernel": _text_array([stack.kernel]),
        "mask": stack.mask,
        "source": np.array(stack.source),
        "storage": np.array(_limits(stack)),
        "synthetic": np.array(int(stack.synthetic)),
        "protocol": np.array(_facts(stack)),
    }


def _limits(image: Slice | RepeatScans) -> tuple[float, float, float]:
    storage = image.storage
    return (math.nan,) * 3 if storage is None else (storage.low, storage.high, storage.step)


def _facts(image: Slice | RepeatScans) -> str:
    return json.dumps(clean_protocol(image.protocol), sort_keys=True)


def _text_array(texts: Sequence[str | None]) -> NDArray[Any] | None:
    return np.array([t or "" for t in texts]) if any(texts) else None


def _masks(slices: Sequence[Slice]) -> NDArray[np.bool_] | None:
    if all(s.mask is None for s in slices):
        return None
    return np.stack([np.ones(s.pixels.shape, bool) if s.mask is None else s.mask for s in slices])


def ct_dataset(image: Slice, made: str, *, number: int, series: Sequence[object], facts: Mapping[str, Any]) -> Any:
    """Return a pydicom CT Image dataset of `image`; `number` is its place in the stack, `series` names its series."""
    from pydicom.dataset import Dataset

    check_size(image.pixels.shape, "the image")
    check_pixels(image.pixels, "the image")
    dataset = Dataset()
    _describe(dataset, image, made, number, series)
    _geometry(dataset, image, number)
    _pixels(dataset, image)
    own.mark(dataset, facts, image.mask)
    return dataset


def _describe(dataset: Any, image: Slice, made: str, number: int, series: Sequence[object]) -> None:
    from pydicom.uid import CTImageStorage

    subject = image.group or image.id
    content = slice_id(image.pixels, image.pixel_mm)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = _uid("image", subject, image.id, content, number, *series)
    dataset.StudyInstanceUID = _uid("study", subject)
    dataset.SeriesInstanceUID = _uid("series", subject, *series)
    dataset.FrameOfReferenceUID = _uid("frame", subject)
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.Modality = "CT"
    dataset.PatientName = "robustkit^phantom" if image.synthetic else "robustkit^derived"
    dataset.PatientID = subject[:64]
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "made from allow-listed facts only"
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"):
        setattr(dataset, keyword, "")
    dataset.AccessionNumber = dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer, dataset.SoftwareVersions = "robustkit", _version()
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 1, number + 1, 1
    dataset.DerivationDescription = made[:1024]
    if image.synthetic:
        dataset.BurnedInAnnotation = "NO"
    _exposure(dataset, image)


def _exposure(dataset: Any, image: Slice) -> None:
    facts = {
        "KVP": "kvp",
        "SpiralPitchFactor": "pitch",
        "GantryDetectorTilt": "tilt",
        "ReconstructionDiameter": "fov_mm",
    }
    for keyword, key in facts.items():
        value = image.protocol.get(key)
        if isinstance(value, int | float):
            setattr(dataset, keyword, _ds(value) if keyword != "SpiralPitchFactor" else float(value))
    if image.mas is not None:
        dataset.Exposure = round(image.mas)
        dataset.ExposureInuAs = round(image.mas * 1000)
    if image.kernel is not None:
        dataset.ConvolutionKernel = image.kernel[:16]


def _geometry(dataset: Any, image: Slice, number: int) -> None:
    (rows, columns), (dy, dx) = image.pixels.shape, image.pixel_mm
    thickness = image.protocol.get("thickness_mm")
    thickness = float(thickness) if isinstance(thickness, int | float) and thickness > 0 else 5.0
    dataset.PixelSpacing = [_ds(dy), _ds(dx)]
    dataset.SliceThickness = _ds(thickness)
    dataset.PatientPosition = "HFS"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [_ds(-(columns - 1) / 2 * dx), _ds(-(rows - 1) / 2 * dy), _ds(number * thickness)]


def _pixels(dataset: Any, image: Slice) -> None:
    stored, base, step = stored_integers(image)
    bits = 12 if int(stored.max()) < 4096 else 16
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, bits, bits - 1, 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = _ds(base), _ds(step), "HU"
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"
    padding = _padding(stored, image.mask)
    if padding is not None:
        dataset.add_new("PixelPaddingValue", "US", padding)
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def stored_integers(image: Slice) -> tuple[NDArray[np.uint16], float, float]:
    """Return (integers (H, W), intercept, slope) of a slice on its stored grid, or on one of 1 HU from -1024."""
    storage = image.storage
    step, anchor = (1.0, AIR) if storage is None else (storage.step, storage.low)
    pixels = image.pixels.astype(np.float64)
    # the highest grid point at or below both air and the darkest pixel: what a scanner's intercept looks like
    base = anchor + step * math.floor((min(AIR, float(pixels.min())) - anchor) / step + 1e-6)
    stored = np.rint((pixels - base) / step)
    if stored.max() > 65535:
        raise DataError(f"values up to {pixels.max():g} HU in steps of {step:g} do not fit 16 bits; write .npz instead")
    return stored.astype(np.uint16), base, step


def _padding(stored: NDArray[np.uint16], mask: NDArray[np.bool_] | None) -> int | None:
    """Return the value that marks padding and nothing else, where there is one."""
    if mask is None or mask.all():
        return None
    value = int(stored[~mask].flat[0])
    return value if np.array_equal(stored == value, ~mask) else None


def _ds(value: float) -> str:
    text = f"{value:.12g}"
    return text if len(text) <= 16 else f"{value:.9g}"


def _uid(*parts: object) -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["robustkit", *map(str, parts)]))


def _save(path: Path, dataset: Any) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True, overwrite=True)
