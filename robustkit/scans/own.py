"""What robustkit's own DICOM files say of themselves, so that they read back as what was written.

One private block holds a small JSON (label, mAs, kernel, storage, what the scan repeats, how it was made) and, where
there is padding, the mask. Its presence is what lets a derived image in; everything in it is checked on the way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.scans.records import Found, clean_protocol, clean_text, number, opaque
from robustkit.types import Slice, Storage

GROUP = 0x0099
CREATOR = "ROBUSTKIT 1"
FACTS, MASK = 0x01, 0x02


def mark(dataset: Any, facts: Mapping[str, Any], mask: NDArray[np.bool_] | None) -> None:
    """Write the private block into a pydicom dataset."""
    block = dataset.private_block(GROUP, CREATOR, create=True)
    block.add_new(FACTS, "UT", json.dumps(facts, sort_keys=True))
    if mask is not None:
        packed = np.packbits(mask).tobytes()
        block.add_new(MASK, "OB", packed + b"\0" * (len(packed) % 2))


def facts_of(image: Slice, *, subject: str | None = None, source: str | None = None) -> dict[str, Any]:
    """Return what a file must say for `image` to read back as it is."""
    storage = image.storage
    return {
        "label": image.label,
        "group": image.group,
        "mas": image.mas,
        "kernel": image.kernel,
        "storage": None if storage is None else [storage.low, storage.high, storage.step],
        "protocol": clean_protocol(image.protocol),
        "synthetic": image.synthetic,
        "subject": subject,
        "source": source,
    }


def facts(dataset: Any) -> Mapping[str, Any] | None:
    """Return the block's JSON and mask bytes, None where the file is not one of ours."""
    try:
        block = dataset.private_block(GROUP, CREATOR)
        text = block[FACTS].value
        found = json.loads(text.decode() if isinstance(text, bytes) else text)
    except Exception:  # any damage to the block makes it a stranger's file
        return None
    if not isinstance(found, dict):
        return None
    mask = block[MASK].value if MASK in block else None
    return {**found, "mask": mask if isinstance(mask, bytes) else None}


def restore(found: Found, ours: Mapping[str, Any]) -> Found:
    """Return `found` with what the block says in place of what the public elements say."""
    image = found.slice
    synthetic = ours.get("synthetic") is True
    group = clean_text(ours.get("group"))
    mas = number(ours.get("mas"))  # ours is known, so it may lie outside what a strange header is believed
    image = replace(
        image,
        label=clean_text(ours.get("label")),
        group=group if synthetic or group is None else opaque(group),
        mas=mas if mas is not None and mas > 0 else None,
        kernel=clean_text(ours.get("kernel")),
        mask=_mask(ours.get("mask"), image),
        storage=storage_of(ours.get("storage")),
        protocol=clean_protocol(ours["protocol"]) if isinstance(ours.get("protocol"), dict) else {},
        synthetic=synthetic,
    )
    subject = clean_text(ours.get("subject"))
    return replace(
        found,
        slice=image,
        owner=None,
        subject=None if subject is None else opaque(subject),
        source=clean_text(ours.get("source"), 400),
        notes=(),
    )


def storage_of(values: object) -> Storage | None:
    """Return three numbers (low, high, step) as a Storage; None unless low < high and step > 0, all finite."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    low, high, step = map(number, values)
    if low is None or high is None or step is None or not (low < high and step > 0):
        return None
    return Storage(low, high, step)


def _mask(packed: object, image: Slice) -> NDArray[np.bool_] | None:
    if not isinstance(packed, bytes):
        return None
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    size = image.pixels.size
    return bits[:size].astype(bool).reshape(image.pixels.shape) if bits.size >= size else image.mask
