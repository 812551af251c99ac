"""Who lies on the table: the parameters of a virtual patient, and of the fixed phantom.

Anatomy is written once, for a reference adult of 1750 mm; a position along the body there is called `t` (mm from the
crown). A patient's own landmarks map their z to t, and their factors scale it in the plane.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

from robustkit_ct_bodysite.painter import between

SITES = ("BN", "C", "AP", "LF")
LANDMARKS = {
    "crown": 0.0,
    "chin": 218.0,
    "apex": 306.0,
    "dome": 485.0,
    "base": 600.0,
    "crest": 690.0,
    "hip": 852.0,
    "crotch": 930.0,
    "knee": 1270.0,
    "ankle": 1660.0,
    "toes": 1800.0,
}
"""Position t in mm of the reference adult's landmarks; `apex` and `base` bound the lungs, `hip` tops the thigh bone."""
_REFERENCE = tuple(LANDMARKS.values())


@dataclass(frozen=True)
class Patient:
    """One body and how it lies: lengths in mm, angles in degrees, HU where named so, else factors of the reference.

    `landmarks` are this body's z of `LANDMARKS`. `variety` scales every small, named variation (`vary`): 0 for the
    fixed phantom. `plain` paints one soft tissue for skin, fat, muscle and organs, as a moulded phantom has.
    """

    name: str
    seed: int
    landmarks: tuple[float, ...]
    variety: float = 1.0
    plain: bool = False
    female: bool = False
    age: float = 50.0
    width: float = 1.0
    depth: float = 1.0
    head: float = 1.0
    limb: float = 1.0
    fat_mm: float = 18.0
    visceral: float = 0.5
    fat_hu: float = -100.0
    soft_hu: float = 52.0
    bone: float = 1.0
    contrast: float = 0.0
    oral: float = 0.0
    gas: float = 0.4
    arms: str = "down"
    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    lean: float = 0.0
    nod: float = 0.0
    gap: float = 0.0
    toe_out: float = 0.0
    leg_lift: tuple[float, float] = (0.0, 0.0)
    table: str = "curved"
    holder: bool = True
    metal: frozenset[str] = frozenset()
    findings: frozenset[str] = frozenset()
    _known: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def z_range(self) -> tuple[float, float]:
        """First and last z in mm."""
        return self.landmarks[0], self.landmarks[-1]

    def position(self, z_mm: float) -> float:
        """Return t, the place in the reference adult, of z."""
        return between(z_mm, *zip(self.landmarks, _REFERENCE, strict=True))

    def z_of(self, landmark: str) -> float:
        """Return this body's z in mm of one of `LANDMARKS`."""
        return self.landmarks[list(LANDMARKS).index(landmark)]

    def site(self, z_mm: float) -> str:
        """Return the class of an axial slice: bounds belong to the site below them."""
        if z_mm < self.z_of("apex"):
            return "BN"
        if z_mm < self.z_of("base"):
            return "C"
        return "AP" if z_mm < self.z_of("hip") else "LF"

    def span(self, site: str) -> tuple[float, float]:
        """Return the z range in mm of one of `SITES`."""
        edges = [self.landmarks[0], self.z_of("apex"), self.z_of("base"), self.z_of("hip"), self.landmarks[-1]]
        at = SITES.index(site)
        return edges[at], edges[at + 1]

    def shift_at(self, z_mm: float) -> tuple[float, float]:
        """Return where, in mm, the body's own (0, 0) lies on the table at z."""
        return self.shift[0] + self.lean * (z_mm - 0.5 * sum(self.z_range)), self.shift[1]

    def to_scanner(self, x: float, y: float, z_mm: float) -> tuple[float, float]:
        """Return where, in mm, a point of the body's own frame lies on the table at z."""
        turn, shift = math.radians(self.turn), self.shift_at(z_mm)
        cos, sin = math.cos(turn), math.sin(turn)
        return cos * x - sin * y + shift[0], sin * x + cos * y + shift[1]

    def vary(self, name: str, size: float = 1.0) -> float:
        """Return this body's own deviation of `name`: normal with sd `size` (cut at 2.5 sd), always the same."""
        if self.variety == 0.0:
            return 0.0
        if name not in self._known:
            digest = hashlib.blake2b(f"{self.seed}|{name}".encode(), digest_size=8).digest()
            share = (int.from_bytes(digest, "little") + 0.5) / 2.0**64
            self._known[name] = min(max(NormalDist().inv_cdf(share), -2.5), 2.5)
        return self._known[name] * size * self.variety

    def has(self, name: str, chance: float) -> bool:
        """Return whether this body has `name`, which a share `chance` of bodies have; never in the fixed phantom."""
        return self.variety > 0.0 and self.vary(f"has {name}") < NormalDist().inv_cdf(chance) * self.variety

    def soft(self, hu: float) -> float:
        """Return the HU of a soft tissue: the one mould material in a plain phantom."""
        return self.soft_hu if self.plain else hu + self.soft_hu - 52.0

    def organ(self, hu: float) -> float:
        """Return the HU of an organ that a moulded phantom holds too, in a second material."""
        return self.soft_hu + 30.0 if self.plain else self.soft(hu)

    def fat(self, offset: float = 0.0) -> float:
        """Return the HU of fat."""
        return self.soft_hu if self.plain else self.fat_hu + offset

    def blood(self, share: float = 1.0) -> float:
        """Return the HU of blood, with `share` of the contrast agent of the large arteries."""
        return self.soft(42.0 + self.contrast * share)


@cache
def fixed_phantom() -> Patient:
    """Return the fixed phantom: one soft tissue, with skeleton, lungs, liver, kidneys and heart."""
    return Patient(
        name="phantom",
        seed=0,
        landmarks=_REFERENCE,
        variety=0.0,
        plain=True,
        fat_mm=12.0,
        fat_hu=-10.0,
        soft_hu=30.0,
        gas=0.0,
        visceral=0.2,
        table="curved",
        holder=False,
    )


@cache
def virtual_patient(number: int) -> Patient:
    """Return virtual patient `number` (>= 0), drawn from `number` alone; no two are the same."""
    rng = np.random.Generator(np.random.Philox(key=[0x0B0D5175, number]))
    female = bool(rng.random() < 0.5)
    age = float(rng.uniform(18, 90))
    height = float(np.clip(rng.normal(1640 if female else 1760, 70), 1400, 2000))
    if rng.random() < 0.06:
        height, age = float(rng.uniform(1150, 1500)), float(rng.uniform(7, 14))
    mass_index = float(np.clip(rng.gamma(14, 1.9), 16, 46))
    return Patient(
        name=f"virtual-{number:03d}",
        seed=int(rng.integers(1, 2**31)),
        landmarks=_landmarks(rng, height),
        female=female,
        age=age,
        fat_hu=float(rng.normal(-104, 5)),
        soft_hu=float(rng.normal(52, 5)),
        bone=float(np.clip(rng.normal(1.12 - 0.004 * age, 0.12), 0.55, 1.3)),
        **_build(rng, height, mass_index, female),
        **_preparation(rng),
        **_posture(rng),
        metal=_some(rng, dental=0.35, hip=0.07, knee=0.06, spine=0.05, wires=0.08, pacer=0.06, line=0.2, nail=0.04),
        findings=_some(
            rng,
            effusion=0.08,
            nodule=0.12,
            emphysema=0.15,
            ascites=0.05,
            calcified=0.4,
            scar=0.15,
            amputee=0.02,
            mass=0.12,
        ),
    )


def _landmarks(rng: np.random.Generator, height: float) -> tuple[float, ...]:
    lengths = np.diff(_REFERENCE)
    own = lengths * np.exp(rng.normal(0.0, [0.04, 0.14, 0.09, 0.16, 0.10, 0.07, 0.06, 0.05, 0.05, 0.05]))
    own *= height / 1750.0
    own[0] *= (1750.0 / height) ** 0.6  # heads differ less than bodies do
    return tuple(float(v) for v in np.concatenate([[0.0], np.cumsum(own)]))


def _build(rng: np.random.Generator, height: float, mass_index: float, female: bool) -> dict[str, Any]:
    size = height / 1750.0
    girth = (mass_index / 24.0) ** 0.5
    return {
        "width": float(size**0.8 * girth**0.55 * rng.normal(1.0, 0.045)),
        "depth": float(size**0.7 * girth**0.85 * rng.normal(1.0, 0.06)),
        "head": float(size**0.35 * rng.normal(1.0, 0.035)),
        "limb": float(size**0.8 * girth**0.75 * rng.normal(1.0, 0.06)),
        "fat_mm": float(np.clip((mass_index - 15) * (1.55 if female else 1.15) * rng.normal(1, 0.2) + 3, 2.5, 60)),
        "visceral": float(np.clip((mass_index - 16) / 22 * rng.normal(1.0, 0.35), 0.05, 1.2)),
    }


def _preparation(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "contrast": float(rng.choice([0.0, rng.uniform(60, 130), rng.uniform(130, 280)], p=[0.45, 0.35, 0.2])),
        "oral": float(rng.choice([0.0, rng.uniform(80, 400)], p=[0.7, 0.3])),
        "gas": float(rng.beta(1.6, 2.2)),
    }


def _posture(rng: np.random.Generator) -> dict[str, Any]:
    crossed = rng.normal(0, 22, 2) * (rng.random() < 0.3)
    return {
        "arms": str(rng.choice(["down", "up", "folded"], p=[0.5, 0.38, 0.12])),
        "shift": (float(rng.normal(0, 13)), float(rng.normal(0, 14))),
        "turn": float(rng.normal(0, 4.0)),
        "lean": float(rng.normal(0, 0.012)),
        "nod": float(rng.normal(0, 12.0)),
        "gap": float(np.clip(rng.gamma(1.3, 14), 0, 75)),
        "toe_out": float(rng.normal(14, 14)),
        "leg_lift": (float(crossed[0]), float(crossed[1])),
        "table": str(rng.choice(["curved", "flat", "thin", "none"], p=[0.5, 0.25, 0.15, 0.1])),
        "holder": bool(rng.random() < 0.65),
    }


def _some(rng: np.random.Generator, **chances: float) -> frozenset[str]:
    return frozenset(name for name, chance in chances.items() if rng.random() < chance)
