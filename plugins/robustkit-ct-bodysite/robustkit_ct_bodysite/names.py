"""Names of the fixed phantom's slices: `phantom`, `phantom/C`, `phantom/AP+40`, `phantom/LF-12.5`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from robustkit import Slice, UsageError
from robustkit_ct_bodysite.patient import SITES, fixed_phantom
from robustkit_ct_bodysite.phantom import central_slices, central_z, phantom_slice

_NAME = re.compile(r"phantom/(?P<site>[A-Za-z]+)(?P<offset>[+-]\d+(\.\d+)?)?")


def phantom_images(name: str) -> Sequence[Slice] | None:
    """Return the slices that `name` asks for; None when it is no phantom's name.

    Raises
    ------
    UsageError
        A site that does not exist, or an offset that leaves the body.
    """
    if name == "phantom":
        return central_slices()
    if not name.startswith("phantom/"):
        return None
    found = _NAME.fullmatch(name)
    if found is None or found["site"] not in SITES:
        raise UsageError(
            f"no phantom slice {name.removeprefix('phantom/')!r}; there is phantom/SITE or phantom/SITE+MM with SITE "
            f"one of {', '.join(SITES)}, for example phantom/AP+40"
        )
    offset = float(found["offset"] or 0.0)
    first, last = fixed_phantom().z_range
    z = central_z(fixed_phantom(), found["site"])
    if not first < z + offset < last:
        raise UsageError(
            f"{name} leaves the phantom: from the middle of {found['site']}, offsets go from {first - z:+g} to "
            f"{last - z:+g} mm"
        )
    return (phantom_slice(found["site"], offset),)
