"""Who is scanned and how: virtual patients in series, as a clinic would take them, and scans of the fixed phantom.

A series is a stack of axial slices of one body with one field of view. Whole-body series fill a 500 mm field;
regional ones have the tight fields of head, neck, chest, belly, hip and leg scans, down to crops about a single leg,
and know nothing outside of them. Bodies are split, never slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustkit_ct_bodysite.legs import centre as leg_centre
from robustkit_ct_bodysite.patient import SITES, Patient, fixed_phantom, virtual_patient
from robustkit_ct_bodysite.phantom import CENTRED, View

Split = Literal["train", "validation", "test"]
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
class Shot:
    """One slice to be scanned: whose (`PHANTOM` or a patient's number), where, and how."""

    patient: int
    z_mm: float
    mas: float
    kernel: str = "standard"
    view: View = CENTRED
    crop: Crop | None = None
    series: str = "whole"
    scan: int = 0

    @property
    def body(self) -> Patient:
        """Return who is scanned."""
        return fixed_phantom() if self.patient == PHANTOM else virtual_patient(self.patient)

    @property
    def label(self) -> str:
        """Return the class of this slice."""
        return self.body.site(self.z_mm)

    @property
    def from_boundary_mm(self) -> float:
        """Return the distance from the nearest boundary between two sites."""
        return min(abs(self.z_mm - self.body.z_of(name)) for name in ("apex", "base", "hip"))

    @property
    def group(self) -> str:
        """Return the name of the object scanned, for splitting and clustering."""
        return self.body.name


@dataclass(frozen=True)
class Cohort:
    """Which bodies train and which test: numbers of virtual patients, phantom scans, and slice spacing in mm."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    phantom_scans: int = 10
    spacing_mm: float = 24.0
    regional: float = 0.4

    def folds(self, count: int = 10) -> tuple[tuple[int, ...], ...]:
        """Split the training bodies (and the phantom, which goes with the first fold) into `count` groups."""
        return tuple(tuple(self.train[i::count]) for i in range(count))

    def shots(self, split: Split, fold: int = 0) -> tuple[Shot, ...]:
        """Return the slices of one split; `fold` of the ten is the validation set."""
        held = self.folds()[fold]
        if split == "test":
            return tuple(self._shots(self.test, phantom=range(10, 10 + self.phantom_scans)))
        chosen = held if split == "validation" else tuple(n for n in self.train if n not in held)
        with_phantom = (fold == 9) == (split == "validation")
        return tuple(self._shots(chosen, phantom=range(self.phantom_scans) if with_phantom else range(0)))

    def _shots(self, numbers: tuple[int, ...], phantom: range) -> Iterator[Shot]:
        for number in numbers:
            yield from patient_shots(number, self.spacing_mm, self.regional)
        for scan in phantom:
            yield from phantom_shots(scan, 2.0 * self.spacing_mm)


PAPER = Cohort(train=tuple(range(37)), test=tuple(range(1000, 1010)))
"""37 patients and 10 scans of the fixed phantom train, 10 other patients and 10 other scans test."""
STRESS = Cohort(train=tuple(range(12)), test=tuple(range(1000, 1010)), phantom_scans=0)
"""A third of the patients and no phantom: a starved cohort, for models that change their minds more readily."""


@cache
def phantom_shots(scan: int, spacing_mm: float) -> tuple[Shot, ...]:
    """Return whole-body scan number `scan` of the fixed phantom; mAs goes round `PHANTOM_MAS`."""
    rng = _rng(0x9AA7, scan)
    zs = _stack(fixed_phantom().z_range, spacing_mm, rng)
    return tuple(Shot(PHANTOM, z, PHANTOM_MAS[scan % len(PHANTOM_MAS)], scan=scan) for z in zs)


@cache
def patient_shots(number: int, spacing_mm: float, regional: float = 0.4) -> tuple[Shot, ...]:
    """Return every series of a patient: one of the whole body, each regional one with chance `regional`."""
    p, rng = virtual_patient(number), _rng(0x5E12, number)
    taken = list(_series(p, number, rng, "whole", p.z_range, spacing_mm, None))
    for name, span, step, sides in _regions(p):
        wide = _crop(rng, *sides) if rng.random() < regional else None
        if wide is not None:
            taken += _series(p, number, rng, name, span, step * spacing_mm, wide)
    for side in (-1, 1):
        if rng.random() < regional:
            taken += _leg_series(p, number, rng, side, spacing_mm)
    return tuple(taken)


def _regions(p: Patient) -> list[tuple[str, tuple[float, float], float, tuple[float, float, bool]]]:
    z = p.z_of
    return [
        ("head", (4.0, z("chin") + 15), 0.6, (210, 320, True)),
        ("neck", (z("chin") - 70, z("apex") + 110), 0.5, (220, 340, True)),
        ("chest", (z("apex") - 25, z("base") + 25), 0.75, (300, 460, True)),
        ("belly", (z("base") - 35, z("hip") + 60), 0.75, (310, 470, True)),
        ("hips", (z("hip") - 60, z("crotch") + 110), 0.5, (330, 500, True)),
        ("knees", (z("crotch") - 20, z("toes") - 5), 1.5, (280, 460, False)),
    ]


def _leg_series(p: Patient, number: int, rng: np.random.Generator, side: int, spacing_mm: float) -> Iterator[Shot]:
    """Crops about one leg: off its middle by centimetres, cutting skin and neighbour as they come."""
    half = (float(rng.uniform(70, 135)), float(rng.uniform(70, 145)))
    off = rng.normal(0, 26, 2)
    alone = side if rng.random() < 0.35 else 0
    mas, kernel = _exposure(rng)
    for z in _stack((p.z_of("hip") + 2, p.z_of("toes") - 3), spacing_mm * 1.8, rng):
        x, y = leg_centre(p, p.position(z), side)
        view = View((x + p.shift[0] + off[0], y + p.shift[1] + off[1]), alone if z > p.z_of("crotch") else 0)
        yield Shot(number, z, mas, kernel, view, Crop(half), f"leg{side}")


def _series(
    p: Patient,
    number: int,
    rng: np.random.Generator,
    name: str,
    span: tuple[float, float],
    spacing_mm: float,
    crop: Crop | None,
) -> Iterator[Shot]:
    mas, kernel = _exposure(rng)
    sd = 5.0 if crop is None else 12.0
    view = View((float(rng.normal(0, sd)), float(rng.normal(0, sd))), 0, bool(rng.random() < 0.85))
    for z in _stack(span, spacing_mm, rng):
        yield Shot(number, z, mas, kernel, view, crop, name)


def _exposure(rng: np.random.Generator) -> tuple[float, str]:
    mas = float(np.round(np.exp(rng.uniform(np.log(80), np.log(300)))))
    return mas, str(rng.choice(["standard", "smooth", "sharp"], p=[0.6, 0.25, 0.15]))


def _crop(rng: np.random.Generator, least: float, most: float, circle: bool) -> Crop:
    half = 0.5 * float(rng.uniform(least, most))
    return Crop((half, half), circle and bool(rng.random() < 0.35))


def _stack(span: tuple[float, float], spacing_mm: float, rng: np.random.Generator) -> list[float]:
    first = span[0] + 1.0 + float(rng.uniform(0, spacing_mm))
    return [float(z) for z in np.arange(first, span[1] - 1.0, spacing_mm)]


def _rng(stream: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[stream, number]))


def count_by_site(shots: tuple[Shot, ...]) -> dict[str, int]:
    """Return how many slices each site has."""
    labels = [shot.label for shot in shots]
    return {site: labels.count(site) for site in SITES}
