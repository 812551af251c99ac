"""Who is scanned and how: virtual patients in series, as a clinic would take them, and scans of the fixed phantom.

Every body is scanned from crown to toes in a 500 mm field. From the same scans may come, as in a clinic, targeted
reconstructions with the tight fields of head, neck, chest, belly, hip and leg, down to crops about a single leg, which
know nothing outside of their field. Bodies are split, never slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustkit_ct_bodysite.legs import centre as leg_centre
from robustkit_ct_bodysite.patient import Patient, fixed_phantom, virtual_patient
from robustkit_ct_bodysite.phantom import CENTRED, View

Split = Literal["train", "validation", "test", "guard"]
PHANTOM = -1
PHANTOM_MAS = (25.0, 37.5, 50.0, 75.0, 100.0, 150.0, 200.0, 250.0, 350.0, 500.0)
TRANSITION_MM = 15.0


@dataclass(frozen=True)
class Crop:
    """The part of the field that a series knows: half-width and half-height in mm, a rectangle or an ellipse in it."""

    half: tuple[float, float]
    round: bool = False

    def inside(self, size: int, fov_mm: float) -> NDArray[np.bool_]:
        """Return the mask (size, size) of pixels whose centre lies in the crop."""
        axis = (np.arange(size) - 0.5 * (size - 1)) * (fov_mm / size)
        x, y = axis[None, :] / self.half[0], axis[:, None] / self.half[1]
        return np.asarray(x * x + y * y <= 1.0 if self.round else (np.abs(x) <= 1.0) & (np.abs(y) <= 1.0))


@dataclass(frozen=True)
class Scan:
    """One slice in the scanner, in a 500 mm field: whose (`PHANTOM` or a patient's number), where, and how."""

    patient: int
    z_mm: float
    mas: float
    kernel: str = "standard"
    view: View = CENTRED
    number: int = 0

    @property
    def body(self) -> Patient:
        """Return who is scanned."""
        return fixed_phantom() if self.patient == PHANTOM else virtual_patient(self.patient)


@dataclass(frozen=True)
class Shot:
    """One image: a scan, and its reconstruction: about which point (mm in its field), and what part is known."""

    scan: Scan
    centre: tuple[float, float] = (0.0, 0.0)
    crop: Crop | None = None
    series: str = "whole"

    @property
    def label(self) -> str:
        """Return the class of this slice."""
        return self.scan.body.site(self.scan.z_mm)

    @property
    def from_boundary_mm(self) -> float:
        """Return the distance from the nearest boundary between two sites."""
        body = self.scan.body
        return min(abs(self.scan.z_mm - body.z_of(name)) for name in ("apex", "base", "hip"))

    @property
    def group(self) -> str:
        """Return the name of the object scanned, for splitting and clustering."""
        return self.scan.body.name


@dataclass(frozen=True)
class Cohort:
    """Which bodies are scanned, and how.

    Attributes
    ----------
    train, test : numbers of the virtual patients. guard : of others, by whom hardening sees whether accuracy suffers.
    phantom_scans : of the fixed phantom, in training and again in testing. spacing_mm : of slices, on average.
    targeted : whether the tight fields of targeted reconstructions are there beside the whole-body series.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    guard: tuple[int, ...] = ()
    phantom_scans: int = 10
    spacing_mm: float = 16.0
    targeted: bool = False

    def folds(self, count: int = 10) -> tuple[tuple[int, ...], ...]:
        """Split the training bodies (and the phantom, which goes with the first fold) into `count` groups."""
        return tuple(tuple(self.train[i::count]) for i in range(count))

    def shots(self, split: Split, fold: int = 0) -> tuple[Shot, ...]:
        """Return the slices of one split; `fold` of the ten is the validation set."""
        held = self.folds()[fold]
        if split == "test":
            return tuple(self._shots(self.test, phantom=range(10, 10 + self.phantom_scans)))
        if split == "guard":
            return tuple(self._shots(self.guard, phantom=range(0)))
        chosen = held if split == "validation" else tuple(n for n in self.train if n not in held)
        with_phantom = (fold == 9) == (split == "validation")
        return tuple(self._shots(chosen, phantom=range(self.phantom_scans) if with_phantom else range(0)))

    def _shots(self, numbers: tuple[int, ...], phantom: range) -> Iterator[Shot]:
        for number in numbers:
            yield from patient_shots(number, self.spacing_mm, self.targeted)
        for scan in phantom:
            yield from phantom_shots(scan, 2.0 * self.spacing_mm)


PAPER = Cohort(train=tuple(range(37)), test=tuple(range(1000, 1010)), guard=tuple(range(2000, 2030)), spacing_mm=13.0)
"""As in the paper: whole-body scans of 37 patients and 10 scans of the phantom train, 10 others and 10 others test."""
STRESS = replace(PAPER, phantom_scans=0)
"""The same without the phantom: it is then a body unlike any that was trained on, and most models waver."""
CLINIC = replace(STRESS, spacing_mm=16.0, targeted=True)
"""What comes to a model in a clinic: targeted reconstructions, down to a single leg, beside the whole-body series."""


@cache
def phantom_shots(scan: int, spacing_mm: float) -> tuple[Shot, ...]:
    """Return whole-body scan number `scan` of the fixed phantom; mAs goes round `PHANTOM_MAS`."""
    zs = _stack(fixed_phantom().z_range, spacing_mm, _rng(0x9AA7, scan))
    mas = PHANTOM_MAS[scan % len(PHANTOM_MAS)]
    return tuple(Shot(Scan(PHANTOM, z, mas, number=scan)) for z in zs)


@cache
def patient_shots(number: int, spacing_mm: float, targeted: bool = True) -> tuple[Shot, ...]:
    """Return a patient's images, in the order of their scans.

    The body is scanned from crown to toes: `spacing_mm` on average, closest in the head and neck, widest in the long
    legs, so that no site outnumbers the others by far. A slice enters as it is; with `targeted` as it is, or
    reconstructed with the tight field of its region, or cropped about a leg, or in several of these ways.
    """
    p, rng = virtual_patient(number), _rng(0x5E12, number)
    mas = float(np.round(np.exp(rng.uniform(np.log(150), np.log(300)))))
    kernel = str(rng.choice(["standard", "smooth"], p=[0.6, 0.4]))
    view = View((float(rng.normal(0, 5)), float(rng.normal(0, 5))), table=bool(rng.random() < 0.85))
    regions, legs = _regions(p, rng), {side: _leg_crop(rng) for side in (-1, 1)}
    first, last = p.z_range
    shoulders, crotch = p.z_of("apex") + 60.0, p.z_of("crotch") + 60.0
    zs = _stack((first, shoulders), 0.5 * spacing_mm, rng)
    zs += _stack((shoulders, crotch), 0.75 * spacing_mm, rng) + _stack((crotch, last), 1.6 * spacing_mm, rng)
    taken: list[Shot] = []
    for z in zs:
        scan = Scan(number, z, mas, kernel, view)
        taken += _reconstructions(scan, rng, regions, legs) if targeted else [Shot(scan)]
    return tuple(taken)


Region = tuple[str, float, tuple[float, float], Crop]
"""Name, last z, centre and crop of the tight field of a region."""


def _reconstructions(
    scan: Scan, rng: np.random.Generator, regions: list[Region], legs: dict[int, tuple[tuple[float, float], Crop]]
) -> Iterator[Shot]:
    p, z = scan.body, scan.z_mm
    below = z > p.z_of("hip") + 2.0
    chances = rng.random(4)
    if chances[0] < (0.5 if below else 0.65):
        yield Shot(scan)
    if chances[1] < 0.5:
        name, _, centre, crop = next(region for region in regions if z <= region[1])
        yield Shot(scan, centre, crop, name)
    for side, chance in zip((-1, 1), chances[2:], strict=True):
        if below and chance < 0.4:
            off, crop = legs[side]
            x, y = p.to_scanner(*leg_centre(p, p.position(z), side), z)
            at = (x - scan.view.centre[0] + off[0], y - scan.view.centre[1] + off[1])
            yield Shot(scan, at, crop, f"leg{side}")


def _regions(p: Patient, rng: np.random.Generator) -> list[Region]:
    """Return the tight fields of this patient from head to feet; each ends where the next begins."""
    chin, apex, base, hip = (p.z_of(name) for name in ("chin", "apex", "base", "hip"))
    crotch, toes = p.z_of("crotch"), p.z_of("toes")
    wide = [
        ("head", chin - 20.0, 210, 320),
        ("neck", 0.5 * (apex + p.z_of("dome")), 200, 330),
        ("chest", base - 20.0, 290, 460),
        ("belly", hip - 40.0, 310, 470),
        ("hips", crotch + 90.0, 330, 500),
        ("knees", toes, 270, 460),
    ]
    found = []
    for name, last, least, most in wide:
        half = 0.5 * float(rng.uniform(least, most))
        centre = (float(rng.normal(0, 12)), float(rng.normal(0, 12)))
        found.append((name, last, centre, Crop((half, half), bool(rng.random() < 0.35))))
    return found


def _leg_crop(rng: np.random.Generator) -> tuple[tuple[float, float], Crop]:
    """Return how far off a leg's middle its crop lies, mm, and the crop: it may cut the skin or show the other leg."""
    half = (float(rng.uniform(65, 135)), float(rng.uniform(65, 145)))
    off = rng.normal(0, 26, 2)
    return (float(off[0]), float(off[1])), Crop(half)


def _stack(span: tuple[float, float], spacing_mm: float, rng: np.random.Generator) -> list[float]:
    first = span[0] + 1.0 + float(rng.uniform(0, spacing_mm))
    return [float(z) for z in np.arange(first, span[1] - 1.0, spacing_mm)]


def _rng(stream: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[stream, number]))
