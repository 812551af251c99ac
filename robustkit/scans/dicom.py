"""CT images out of DICOM files: refused with a reason rather than guessed.

Classic single-frame CT, enhanced and legacy-converted multi-frame CT; uncompressed, big endian, deflated and RLE
pixel data as they are, other transfer syntaxes through the extra `dicom-codecs`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError, MissingExtraError
from robustkit.scans import own
from robustkit.scans.header import MODALITIES, Header, frame_headers, kernel_of, protocol_of, tube_of
from robustkit.scans.records import (
    MAX_BYTES,
    Found,
    check_pixels,
    check_size,
    check_spacing,
    grid,
    outside,
    quiet,
    seen_limits,
)
from robustkit.scans.tube import tube_mas
from robustkit.types import Slice, Storage, slice_id

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = (f"{CT}.1", f"{CT}.2")
DICOMDIR = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
LOSSY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203))
PLACEHOLDERS = frozenset(("", "0", "1", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "test"))
HU_TYPES = frozenset(("", "HU", "US", "HU_MOD"))


def is_dicom(head: bytes) -> bool:
    """Return whether a file's first bytes carry the DICOM marker."""
    return head[128:132] == b"DICM"


def read_dicom(path: Path) -> list[Found]:
    """Return the frames of one DICOM CT file.

    Raises
    ------
    DataError : for anything but a whole CT image that says its HU scale and its pixel size.
    MissingExtraError : for compressed pixel data without a codec.
    """
    with quiet():
        dataset = _parse(path)
        check_kind(dataset)
        ours = own.facts(dataset)
        found = []
        for frame, header in enumerate(frame_headers(dataset)):
            _check_image_type(header, derived_allowed=ours is not None)
            found.append(_read_frame(dataset, header, frame, ours))
        if not found:
            raise DataError("it holds no frames; leave it out")
        return found


def _parse(path: Path) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"it is larger than {MAX_BYTES >> 30} GiB; split it")
    data = path.read_bytes()
    try:
        if DEFLATED.encode() in data:
            _check_deflated(data)
        return pydicom.dcmread(BytesIO(data))
    except DataError:
        raise
    except InvalidDicomError:
        raise DataError("it is not a DICOM file (no DICM marker); export it again") from None
    except Exception as error:  # pydicom raises whatever broken bytes provoke
        raise DataError(f"it is damaged ({type(error).__name__} in its header); export it again") from error


def _check_deflated(data: bytes) -> None:
    """Refuse a deflated dataset that would expand beyond the limit, without expanding it whole."""
    from pydicom.filereader import read_dataset

    stream = BytesIO(data)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = Header((meta,)).text("TransferSyntaxUID")
    if not syntax:
        raise DataError("its transfer syntax is missing or unknown; export it again")
    if syntax != DEFLATED:
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, total, limit = data[stream.tell() :], 0, min(MAX_BYTES, max(1 << 26, 200 * len(data)))
    while rest and not inflate.eof:
        total += len(inflate.decompress(rest, 1 << 20))
        rest = inflate.unconsumed_tail
        if total > limit:
            raise DataError("its deflated content expands beyond any image; refused")


def check_kind(dataset: Any) -> None:
    """DataError unless the dataset is a CT image of one sample a pixel with pixel data."""
    header = Header((dataset,))
    sop = header.text("SOPClassUID") or Header((dataset.file_meta,)).text("MediaStorageSOPClassUID")
    if sop == DICOMDIR:
        raise DataError("a DICOMDIR is an index without pixels; give the folder of images")
    modality = header.text("Modality")
    if modality != "CT":
        told = modality if MODALITIES.fullmatch(modality) else "not stated" if not modality else "another one"
        raise DataError(f"its modality is {told}, not CT; give CT images, or HU arrays as .npz")
    if sop != CT and sop not in ENHANCED:
        raise DataError("it is marked CT but is not a CT image object; give the image series itself")
    if header.value("PixelData") is None:
        raise DataError("it holds no pixel data (cut short, or headers only); export it again")
    if header.numbers("SamplesPerPixel") != (1.0,):
        raise DataError("it has more than one sample a pixel (colour or a screen capture); give the CT series")


def _check_image_type(header: Header, *, derived_allowed: bool) -> None:
    kinds = {k.upper() for k in header.texts("FrameType") or header.texts("ImageType")}
    if "LOCALIZER" in kinds:
        raise DataError("it is a localizer (scout), not a slice; give the axial series")
    if kinds & {"DERIVED", "SECONDARY"} and not derived_allowed:
        raise DataError("it is a derived or secondary image: its noise is no longer the scanner's; give the originals")


def _read_frame(dataset: Any, header: Header, frame: int, ours: Mapping[str, Any] | None) -> Found:
    slope, intercept = _rescale(header)
    pixel_mm = check_spacing(header.numbers("PixelSpacing") or _missing("PixelSpacing"), "it")
    stored = _decode(dataset, frame)
    storage, notes = _grid(dataset, stored, slope, intercept)
    pixels = np.asarray(stored.astype(np.float64) * slope + intercept, dtype=np.float32)
    check_pixels(pixels, "it")
    mask = outside(pixels, _tagged_padding(header, stored))
    if mask is not None and not mask.any():
        raise DataError("every pixel of it is padding; leave it out")
    mas, mas_source, tube_notes = tube_mas(tube_of(header))
    kernel = kernel_of(header)
    protocol = protocol_of(header, kernel)
    if mas_source:
        protocol["mas_source"] = mas_source
    image = Slice(
        id=slice_id(pixels, pixel_mm),
        pixels=pixels,
        pixel_mm=pixel_mm,
        mas=mas,
        kernel=kernel,
        mask=mask,
        storage=seen_limits(pixels, mask, storage),
        protocol=protocol,
    )
    found = _placed(header, image, frame, (*notes, *tube_notes, *_remarks(header, dataset, kernel)))
    return found if ours is None else own.restore(found, ours)


def _placed(header: Header, image: Slice, frame: int, notes: tuple[str, ...]) -> Found:
    place, along = _place(header)
    owner = header.text("PatientID")
    if owner.lower() in PLACEHOLDERS:
        owner = ""
    study, series = header.text("StudyInstanceUID"), header.text("SeriesInstanceUID")
    return Found(
        slice=image,
        owner=owner or study or series or None,
        uid=f"{header.text('SOPInstanceUID')}/{frame}" if header.text("SOPInstanceUID") else None,
        series=series,
        along=along,
        place=place,
        frame=frame,
        notes=notes,
    )


def _missing(keyword: str) -> tuple[float, ...]:
    raise DataError(f"it lacks {keyword}; without it a pixel has no size: export it again with it")


def _rescale(header: Header) -> tuple[float, float]:
    slope, intercept = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    if not slope or not intercept:
        raise DataError(
            "it lacks RescaleSlope or RescaleIntercept, so its values are not known to be HU; give the HU series"
        )
    if header.text("RescaleType").upper() not in HU_TYPES:
        raise DataError("its values are rescaled to something other than HU; give the HU series")
    if not 1e-3 <= abs(slope[0]) <= 100 or abs(intercept[0]) > 1e5:
        raise DataError(
            "its RescaleSlope or RescaleIntercept is outside what HU need (slope 0.001 .. 100); export it again"
        )
    return slope[0], intercept[0]


def _whole(header: Header, keyword: str, low: int, high: int) -> int:
    values = header.numbers(keyword)
    if not values or values[0] != int(values[0]) or not low <= values[0] <= high:
        raise DataError(f"its {keyword} is missing or outside {low} .. {high}; export it again")
    return int(values[0])


def _decode(dataset: Any, frame: int) -> NDArray[Any]:
    """Return the stored integers (H, W) of one frame, after checking that the header's size is honest."""
    from pydicom.pixels.utils import pixel_array

    rows, columns = _check_length(dataset)
    try:
        stored = pixel_array(dataset, index=frame, raw=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "missing dependencies" in text:
            raise MissingExtraError(f"compressed pixel data ({text})", "dicom-codecs") from None
        raise DataError("its compressed pixel data cannot be decoded; export it again uncompressed") from None
    except Exception as error:  # codecs raise whatever broken bytes provoke
        raise DataError(f"its pixel data cannot be decoded ({type(error).__name__}); export it again") from error
    if stored.shape != (rows, columns) or stored.dtype.kind not in "iu":
        raise DataError("its pixel data are not the image that its header describes; export it again")
    return np.asarray(stored)


def _check_length(dataset: Any) -> tuple[int, int]:
    header = Header((dataset,))
    rows, columns = (_whole(header, k, 1, 1 << 16) for k in ("Rows", "Columns"))
    check_size((rows, columns), "its header")
    allocated = _whole(header, "BitsAllocated", 8, 32)
    if allocated % 8 or not _whole(header, "BitsStored", 1, 32) <= allocated:
        raise DataError("its BitsAllocated and BitsStored do not fit together; export it again")
    frames = _whole(header, "NumberOfFrames", 1, 1 << 16) if header.value("NumberOfFrames") is not None else 1
    if frames != (len(header.items("PerFrameFunctionalGroupsSequence")) or 1):
        raise DataError("its number of frames differs from its per-frame descriptions; export it again")
    need, have = frames * rows * columns * allocated // 8, len(header.value("PixelData"))
    if not _encapsulated(dataset):
        if have < need:
            raise DataError(f"its pixel data are cut short ({have} of {need} bytes); export it again")
        if have > need + 1:  # one byte makes the length even
            raise DataError(f"its header claims {need} bytes of pixel data and it holds {have}; export it again")
    elif need > max(1 << 24, 1000 * have):
        raise DataError(f"{have} compressed bytes cannot hold the {need} bytes its header claims; refused")
    return rows, columns


def _encapsulated(dataset: Any) -> bool:
    try:
        return bool(dataset.file_meta.TransferSyntaxUID.is_encapsulated)
    except (AttributeError, ValueError):
        raise DataError("its transfer syntax is missing or unknown; export it again") from None


def _grid(dataset: Any, stored: NDArray[Any], slope: float, intercept: float) -> tuple[Storage, tuple[str, ...]]:
    header = Header((dataset,))
    signed = _whole(header, "PixelRepresentation", 0, 1)
    bits = _whole(header, "BitsStored", 1, 32)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    notes: tuple[str, ...] = ()
    if int(stored.min()) < low or int(stored.max()) > high:
        info = np.iinfo(stored.dtype)
        low, high = int(info.min), int(info.max)
        notes = ("stored values exceed BitsStored; the limits of the pixel type are used",)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return grid(ends[0], ends[1], abs(slope)), notes


def _tagged_padding(header: Header, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where the stored value is PixelPaddingValue, or between it and PixelPaddingRangeLimit."""
    value = header.optional("PixelPaddingValue")
    if value is None:
        return None
    limit = header.optional("PixelPaddingRangeLimit")
    info = np.iinfo(stored.dtype)
    # the tag's own type may be the wrong one of signed and unsigned, so both readings of its bits are accepted
    span = 2**info.bits
    both = (value, value if limit is None else limit)
    ends = [v - span if v > info.max else v + span if v < info.min else v for v in both]
    padded: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return padded


def _place(header: Header) -> tuple[tuple[float, ...], float]:
    """Return (orientation and position, rounded to what repeats share) and the distance along the normal in mm."""
    try:
        origin, axes = header.numbers("ImagePositionPatient"), header.numbers("ImageOrientationPatient")
    except DataError:
        origin, axes = (), ()
    if len(origin) != 3 or len(axes) != 6:
        along = header.optional("SliceLocation") or 0.0
        return (round(along, 1),), along
    row, column = np.array(axes[:3]), np.array(axes[3:])
    along = float(np.dot(np.cross(row, column), origin))
    in_plane = (round(float(np.dot(row, origin)), 1), round(float(np.dot(column, origin)), 1))
    return (*(round(a, 3) for a in axes), *in_plane), along


def _remarks(header: Header, dataset: Any, kernel: str | None) -> tuple[str, ...]:
    notes = []
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax in LOSSY or header.text("LossyImageCompression") == "01":
        notes.append("lossy compression has changed the noise spectrum; use the original series if there is one")
    if abs(header.optional("GantryDetectorTilt") or 0.0) > 0.5:
        notes.append("the gantry was tilted; pixel spacing is taken in the tilted plane")
    if kernel is None:
        notes.append("no reconstruction kernel in the header, so a profile's kernel cannot be checked against it")
    if header.text("BurnedInAnnotation").upper() == "YES":
        notes.append("text is burned into the pixels; keep such images out of any report")
    return tuple(notes)
