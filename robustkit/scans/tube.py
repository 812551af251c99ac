"""The tube-current-time product of an image, in mAs, from whatever its header offers."""

from __future__ import annotations

from dataclasses import dataclass

from robustkit.scans.records import sane_mas


@dataclass(frozen=True)
class Tube:
    """What a header says of the exposure: mAs, mAs x 1000, mA and ms; None where it says nothing."""

    exposure: float | None = None
    exposure_uas: float | None = None
    current: float | None = None
    time: float | None = None


def tube_mas(tube: Tube) -> tuple[float | None, str | None, tuple[str, ...]]:
    """Return (mAs, where it came from, warnings).

    Exposure comes first, then ExposureInuAs / 1000, then current x time / 1000. Effective mAs, mAs a rotation
    and modulated averages are all found under Exposure, so only ratios within one protocol mean anything; a
    disagreement of more than 10 % with current x time is told, and a value outside 1 .. 5000 mAs is not believed.
    """
    product = None
    if tube.current is not None and tube.time is not None:
        product = tube.current * tube.time / 1000.0
    uas = None if tube.exposure_uas is None else tube.exposure_uas / 1000.0
    offers = (("Exposure", tube.exposure), ("ExposureInuAs", uas), ("current x time", product))
    name, mas = next(((n, v) for n, v in offers if v is not None), (None, None))
    if mas is None:
        return None, None, ("no tube-current-time product in the header (give --image-mas)",)
    notes = []
    if product is not None and abs(product - mas) > 0.1 * max(abs(mas), abs(product)):
        notes.append(f"{name} and current x time differ by more than 10 %; mAs taken from {name}")
    mas, why = sane_mas(mas)
    if why:
        notes.append(why)
    return mas, name if mas is not None else None, tuple(notes)
