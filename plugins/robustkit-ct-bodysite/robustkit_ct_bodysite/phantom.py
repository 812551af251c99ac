"""Axial slices of a whole body, in HU, of any patient at any height.

`phantom_slice` gives the fixed phantom, the object on which robustness is judged: its four central slices, one a body
site, were fixed before any model was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from robustkit import Slice, Storage, slice_id
from robustkit_ct_bodysite.head import head_and_neck, neck
from robustkit_ct_bodysite.legs import CROTCH, legs
from robustkit_ct_bodysite.organs import belly, chest
from robustkit_ct_bodysite.painter import Scene, between
from robustkit_ct_bodysite.patient import SITES, Patient, fixed_phantom
from robustkit_ct_bodysite.pelvis import pelvis
from robustkit_ct_bodysite.trunk import arms, shoulder_slope, spine_and_ribs, trunk_wall

STORAGE = Storage(-1024.0, 3071.0, 1.0)
SIZE, FIELD_MM = 512, 500.0


@dataclass(frozen=True)
class View:
    """How the body lies: `centre`, the point (mm on the table) in the middle of the field; on a table or not."""

    centre: tuple[float, float] = (0.0, 0.0)
    table: bool = True


CENTRED = View()


def scene(p: Patient, z_mm: float, view: View = CENTRED) -> Scene:
    """Return all shapes of the slice at z, in the body's own frame."""
    t, here = p.position(z_mm), p.shift_at(z_mm)
    looks_at = view.centre[0] - here[0], view.centre[1] - here[1]
    s = Scene(z_mm, p.seed, centre=looks_at, textured=not p.plain)
    if view.table:
        _table(s, p, t, -here[0])
    s.turn = p.turn
    _body(s, p, t)
    return s


def render(
    p: Patient,
    z_mm: float,
    *,
    view: View = CENTRED,
    size: int = SIZE,
    fov_mm: float = FIELD_MM,
) -> NDArray[np.float32]:
    """Return (size, size) float32 HU of the slice at z, a square field of `fov_mm` about the view's centre."""
    return STORAGE.apply(scene(p, z_mm, view).paint(size, fov_mm))


def central_z(p: Patient, site: str) -> float:
    """Return the z in mm of the middle of a site."""
    first, last = p.span(site)
    return 0.5 * (first + last)


@cache
def phantom_slice(site: str, offset_mm: float = 0.0) -> Slice:
    """Return the fixed phantom's slice `offset_mm` below the middle of `site`: 512 x 512 over 500 mm."""
    p = fixed_phantom()
    z = central_z(p, site) + offset_mm
    pixels = render(p, z)
    pixels.setflags(write=False)
    spacing = (FIELD_MM / SIZE, FIELD_MM / SIZE)
    return Slice(
        id=slice_id(pixels, spacing),
        pixels=pixels,
        pixel_mm=spacing,
        label=p.site(z),
        group=p.name,
        storage=STORAGE,
        synthetic=True,
    )


def central_slices() -> tuple[Slice, ...]:
    """Return the fixed phantom's four central slices, BN, C, AP, LF."""
    return tuple(phantom_slice(site) for site in SITES)


def _body(s: Scene, p: Patient, t: float) -> None:
    if t < 300.0:
        head_and_neck(s, p, t, shoulder_slope(s, p, t))
        if p.arms == "up":
            arms(s, p, t)
        return
    arms(s, p, t)
    if t >= CROTCH:
        legs(s, p, t)
        return
    wall = trunk_wall(s, p, t)
    legs(s, p, t)
    chest(s, p, t, wall)
    belly(s, p, t, wall)
    if t < 335.0:
        neck(s, p, t, wall.skin)
    spine_and_ribs(s, p, t, wall)
    pelvis(s, p, t, wall)


def _table(s: Scene, p: Patient, t: float, x: float) -> None:
    y = 128.0 * p.depth + 0.8 * p.fat_mm + 6.0
    if p.table == "curved":
        s.add(x, y + 22, 212, 22, -150, bend=-1.6, square=0.3)
        s.add(x, y + 22, 209, 19.5, -960, bend=-1.7, square=0.3)
    elif p.table == "flat":
        s.add(x, y + 22, 230, 22, -120, square=0.9)
        s.add(x, y + 22, 228, 20, -950, square=0.9)
    elif p.table == "thin":
        s.add(x, y + 8, 205, 4, 60, bend=-6.0)
    if p.holder and t < 235.0:
        r = between(t, (0, 105), (235, 118)) * p.head
        s.add(x, 6, r, r, -350)
        s.add(x, 6, r - 4, r - 4, -1000)
        s.add(x, -0.75 * r, r * 1.2, 0.75 * r, -1000, square=0.8)
        s.add(x, 0.93 * r, 0.5 * r, 0.12 * r, -930)
