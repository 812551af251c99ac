"""Which scans may be compared: one protocol, one object, other doses, none used twice; and what is recorded of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import cases
from robustkit.dosimetry import water_equivalent_diameter
from robustkit.errors import DataError, UsageError
from robustkit.plain import Record
from robustkit.scans.repeats import same_object
from robustkit.types import RepeatScans, slice_id

SAME_DOSE = 0.03
"""Relative difference of mAs below which two doses are one."""
FACTS = {
    "manufacturer": "scanner manufacturer",
    "kvp": "kVp",
    "filter": "filter",
    "kernel": "kernel",
    "ir": "iterative reconstruction",
    "thickness_mm": "slice thickness",
    "collimation_mm": "collimation",
    "pitch": "pitch",
    "fov_mm": "field of view",
    "matrix": "matrix",
    "pixel_mm": "pixel size",
}
"""What must match between fit, hold-out and monthly scans, and how a message calls it."""


def describe(stack: RepeatScans) -> Record:
    """Return what is recorded of one set of scans: protocol, dose, size, and a hash of each scan's pixels."""
    return {
        "slice": stack.id,
        "label": stack.label,
        "k": len(stack.pixels),
        "mas": stack.mas,
        "ctdivol": stack.protocol.get("ctdivol"),
        "wed_mm": round(water_equivalent_diameter(stack.clean, stack.pixel_mm, stack.mask), 1),
        "protocol": _protocol(stack),
        "source": stack.source,
        "scans": [slice_id(scan, stack.pixel_mm) for scan in stack.pixels],
    }


def mismatches(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare two protocols; return what differs, a phrase each, and the names of what one of them does not state."""
    differ, unstated = [], []
    for key, name in FACTS.items():
        a, b = there.get(key), here.get(key)
        if a is None or b is None:
            unstated.append(name)
        elif not _same_fact(a, b):
            differ.append(f"{name} ({_told(a)} there, {_told(b)} here)")
    return differ, unstated


def check_fresh(stacks: Sequence[RepeatScans], seen: Sequence[Record], what: str) -> None:
    """Raise DataError when scans' pixels are among those seen before in this commissioning."""
    known = {scan for record in seen for scan in record["scans"]}
    used = sum(slice_id(scan, stack.pixel_mm) in known for stack in stacks for scan in stack.pixels)
    if used:
        raise DataError(f"{used} of the {what} scans were used before in this commissioning; scan anew")


def check_match(stacks: Sequence[RepeatScans], fit: Sequence[Record], folder: Path, what: str) -> list[str]:
    """Refuse scans of another protocol or object than the fit's; return the names of facts that files do not state."""
    slices = cases.by_slice(stacks)
    records = fit_records(fit)
    if len(slices) != len(records):
        raise DataError(f"the {what} scans show {len(slices)} slices, the fit {len(records)}; scan the same slices")
    unstated: list[str] = []
    for number, (group, record) in enumerate(zip(slices, matched(slices, records), strict=True), start=1):
        clean = np.load(folder / "clean" / f"{records.index(record) + 1:03d}.npz")["pixels"].squeeze()
        for stack in group:
            differ, silent = mismatches(record["protocol"], _protocol(stack))
            if differ:
                told = ", ".join(differ)
                raise DataError(
                    f"the {what} scans of slice {number} differ from the fit in {told}; scan as for the fit"
                )
            if not same_object(clean, stack.clean):
                raise DataError(
                    f"the {what} scans of slice {number} do not show the object that the fit shows; scan that object"
                )
            unstated += silent
    return list(dict.fromkeys(unstated))


def matched(slices: Sequence[Sequence[RepeatScans]], records: Sequence[Record]) -> list[Record]:
    """Return the fit's record of each slice: by id where every one has it, else by position, as an audit matches."""
    by_id = {record["slice"]: record for record in records}
    if all(group[0].id in by_id for group in slices):
        return [by_id[group[0].id] for group in slices]
    return list(records)


def fit_stacks(stacks: Sequence[RepeatScans]) -> list[RepeatScans]:
    """Return the set of each slice that noise is fitted to."""
    return [cases.fit_set(group) for group in cases.by_slice(stacks)]


def fit_records(fit: Sequence[Record]) -> list[Record]:
    """Return the record of the set of each slice that noise was fitted to."""
    by_slice: dict[str, list[Record]] = {}
    for record in fit:
        by_slice.setdefault(record["slice"], []).append(record)
    return [min(group, key=lambda record: record["mas"]) for group in by_slice.values()]


def _protocol(stack: RepeatScans) -> Record:
    facts = {key: stack.protocol.get(key) for key in FACTS if stack.protocol.get(key) is not None}
    facts |= {"kernel": stack.kernel} if stack.kernel else {}
    return facts | {"matrix": list(stack.pixels.shape[1:]), "pixel_mm": [round(mm, 4) for mm in stack.pixel_mm]}


def _same_fact(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same_fact(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return bool(np.isclose(a, b, rtol=0.005, atol=1e-6))
    return str(a).strip().lower() == str(b).strip().lower()


def _told(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(_told(part) for part in value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def same_dose(a: float, b: float) -> bool:
    """Say whether two mAs are one dose."""
    return abs(a - b) <= SAME_DOSE * max(a, b)


def dose_of(stack: RepeatScans) -> float:
    """Return the mAs of a set of scans; UsageError when it does not say."""
    if stack.mas is None:
        raise UsageError("a set of scans does not say its mAs; give it in the .npz key `mas` or the DICOM tag")
    return stack.mas
