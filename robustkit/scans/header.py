"""Reading single facts out of a DICOM header: typed, allow-listed, and never quoting what an element holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from robustkit.errors import DataError
from robustkit.scans.records import opaque
from robustkit.scans.tube import Tube

MODALITIES = re.compile(
    "CR|DX|ECG|IVUS|KO|MG|MR|NM|OCT|OPT|OT|PR|PT|PX|REG|RF|RTDOSE|RTIMAGE|RTPLAN|RTSTRUCT|SC|SEG|SM|SR|US|XA|XC"
)
MAKERS = {
    "siemens": "siemens",
    "ge": "ge",
    "general electric": "ge",
    "philips": "philips",
    "marconi": "philips",
    "picker": "philips",
    "toshiba": "canon",
    "canon": "canon",
    "hitachi": "hitachi",
    "fujifilm": "hitachi",
    "neusoft": "neusoft",
    "uih": "united imaging",
    "united imaging": "united imaging",
    "samsung": "samsung",
    "neurologica": "samsung",
    "robustkit": "robustkit",
}
KERNEL_WORDS = re.compile(
    r"(SOFT|STND|STANDARD|STD|DETAIL|BONE|BONEPLUS|LUNG|EDGE|CHEST|ULTRA|HEAD|BODY|SHARP|SMOOTH|RAMP|HANN|HAMMING"
    r"|COSINE|SHEPP-LOGAN|RAM-LAK)\+?(/\d{1,2})?",
    re.IGNORECASE,
)
# Siemens B40f, Br40d, I30f, Hr40, Qr36; Canon FC13, FL04; Philips B, UB, YC; Hitachi 11; a filter strength may follow
KERNEL_FORM = re.compile(r"([A-Z][a-z]?\d{2,3}[a-z]{0,3}|F[CL]\d{2}|[A-Z]{1,2}|\d{1,3})(/\d{1,2})?")
FILTER_FORM = re.compile(r"[A-Z]{1,2}|\d{1,2}|NONE|FLAT|STRIP|WEDGE|BUTTERFLY|(HEAD|BODY|LARGE|MEDIUM|SMALL)( FILTER)?")
FUNCTIONAL_GROUPS = (
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "CTImageFrameTypeSequence",
    "CTExposureSequence",
    "CTReconstructionSequence",
    "CTAcquisitionDetailsSequence",
    "CTTableDynamicsSequence",
    "CTXRayDetailsSequence",
    "CTGeometrySequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
)


@dataclass(frozen=True)
class Header:
    """Where to look for an element, nearest first: the frame's functional groups, the shared ones, the top."""

    layers: tuple[Any, ...]

    def value(self, keyword: str) -> Any:
        """Return an element's value, None where it is absent or empty; DataError where it is malformed."""
        for layer in self.layers:
            try:
                value = layer.get(keyword)
                filled = value is not None and (not hasattr(value, "__len__") or len(value) > 0)
            except Exception as error:  # pydicom converts on access and raises whatever the bytes provoke
                raise DataError(f"its {keyword} is malformed; export it again") from error
            if filled:
                return value
        return None

    def items(self, keyword: str) -> list[Any]:
        """Return the items of a sequence, empty where absent; DataError where it is something else."""
        value = self.value(keyword)
        if value is None:
            return []
        items = list(value) if hasattr(value, "__iter__") else [value]
        if not all(hasattr(item, "walk") for item in items):
            raise DataError(f"its {keyword} is not a sequence; export it again")
        return items

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the values of a text element, stripped; empty where absent or malformed."""
        try:
            value = self.value(keyword)
        except DataError:
            return ()
        if value is None:
            return ()
        values = [value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else list(value)
        return tuple(str(v).strip() for v in values)

    def text(self, keyword: str) -> str:
        """Return the first value of a text element, or ''."""
        return next(iter(self.texts(keyword)), "")

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return the finite values of a numeric element, () where absent; DataError where it holds no numbers."""
        value = self.value(keyword)
        if value is None:
            return ()
        values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
        try:
            result = tuple(float(v) for v in values)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"its {keyword} is not a number; export it again") from error
        if not all(map(math.isfinite, result)):
            raise DataError(f"its {keyword} is not a finite number; export it again")
        return result

    def optional(self, *keywords: str) -> float | None:
        """Return the first number found under any of `keywords`, None where there is none or it is malformed."""
        for keyword in keywords:
            try:
                found = self.numbers(keyword)
            except DataError:
                continue
            if found:
                return found[0]
        return None


def frame_headers(dataset: Any) -> Iterator[Header]:
    """Yield one header a frame: the dataset alone, or with the functional groups of an enhanced image."""
    top = Header((dataset,))
    frames = top.items("PerFrameFunctionalGroupsSequence")
    if not frames:
        yield top
        return
    shared = top.items("SharedFunctionalGroupsSequence")
    common = tuple(layer for item in shared[:1] for layer in _groups(item))
    for item in frames:
        yield Header((*_groups(item), *common, dataset))


def _groups(item: Any) -> tuple[Any, ...]:
    inner = Header((item,))
    return tuple(first for keyword in FUNCTIONAL_GROUPS for first in inner.items(keyword)[:1])


def tube_of(header: Header) -> Tube:
    """Return what a header says of the exposure, classic or enhanced (whose units are mAs, mA and ms too)."""
    return Tube(
        exposure=header.optional("Exposure", "ExposureInmAs"),
        exposure_uas=header.optional("ExposureInuAs"),
        current=header.optional("XRayTubeCurrent", "XRayTubeCurrentInmA"),
        time=header.optional("ExposureTime", "ExposureTimeInms"),
    )


def kernel_of(header: Header) -> str | None:
    """Return the reconstruction kernel, several values joined by '/'.

    A text that is not of a vendor's form is replaced by "kernel-" and six digits of its hash: two kernels can
    still be told apart, and a note that somebody typed there is not repeated.
    """
    text = "/".join(header.texts("ConvolutionKernel"))
    if not text:
        return None
    if KERNEL_FORM.fullmatch(text) or KERNEL_WORDS.fullmatch(text):
        return text
    return f"kernel-{opaque(text)[:6]}"


def maker_of(header: Header) -> str | None:
    """Return the class of manufacturer: one of a short list, "other", or None where nothing is said."""
    text = " ".join(header.texts("Manufacturer")).lower()
    if not text:
        return None
    return next((v for k, v in MAKERS.items() if re.match(rf"{k}\b", text)), "other")


def protocol_of(header: Header, kernel: str | None) -> dict[str, Any]:
    """Return the allow-listed acquisition facts of a header; what is absent or malformed is left out."""
    numbers = {
        "kvp": header.optional("KVP"),
        "thickness_mm": header.optional("SliceThickness"),
        "pitch": header.optional("SpiralPitchFactor"),
        "ctdivol": header.optional("CTDIvol"),
        "fov_mm": header.optional("ReconstructionDiameter"),
        "tilt": header.optional("GantryDetectorTilt"),
        "collimation_mm": header.optional("TotalCollimationWidth"),
    }
    filter_text = header.text("FilterType").upper()
    texts = {
        "manufacturer": maker_of(header),
        "filter": filter_text if FILTER_FORM.fullmatch(filter_text) else ("other" if filter_text else None),
        "ir": _iterative(header, kernel),
    }
    return {k: v for k, v in {**numbers, **texts}.items() if v is not None}


def _iterative(header: Header, kernel: str | None) -> str | None:
    """Say whether the reconstruction was iterative, where the header says so in words or (Siemens) in the kernel."""
    told = header.text("ReconstructionAlgorithm")
    if told in ("ITERATIVE", "FILTER_BACK_PROJ"):
        return {"ITERATIVE": "iterative", "FILTER_BACK_PROJ": "filtered back-projection"}[told]
    if kernel and re.fullmatch(r"([IJQ][a-z]?\d{2}[a-z]?(/\d)?|[A-Z][a-z]\d{2}[a-z]?/\d)", kernel):
        return "iterative"
    return None
