"""The wall of the trunk: outline, fat, muscle, ribs, spine, shoulders, arms and breasts; t from 285 to 945."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustkit_ct_bodysite.painter import Scene, between, swell
from robustkit_ct_bodysite.patient import Patient
from robustkit_ct_bodysite.spine import vertebra


@dataclass(frozen=True)
class Wall:
    """What the organs need to know of the wall: scene indices, half-axes of the cavity in mm, and y of the spine."""

    skin: int
    cavity: int
    a: float
    b: float
    y: float
    spine_y: float


def trunk_wall(s: Scene, p: Patient, t: float) -> Wall:
    """Add the wall at t in 285..945 and return where the organs go."""
    a, b = _size(p, t)
    fat = _fat(p, t)
    front = 0.35 * fat * between(t, (450, 0.2), (600, 1.0), (820, 1.0), (930, 0.3))
    belly = p.visceral * between(t, (520, 0), (640, 30), (760, 22), (850, 0))
    ao, bo = a + fat + 0.5 * belly, b + 0.75 * fat + front * 0.5 + 0.5 * belly
    y = -0.5 * belly - front * 0.4
    square = between(t, (300, 0.0), (380, 0.35), (560, 0.3), (700, 0.2), (860, 0.35))
    skin = s.add(0, y, ao, bo, p.soft(15), square=square, rough=1 + 0.1 * fat)
    s.add(0, y, ao - 2, bo - 2, p.fat(), square=square, rough=1 + 0.1 * fat, texture="cloud", grain=10, scale=20)
    _breasts(s, p, t, ao, y - bo, fat)
    strands = 0.0 if p.plain else -100.0 - p.age * 0.3
    flesh = s.add(
        0,
        -0.35 * belly,
        a + 0.15 * belly,
        b + 0.35 * belly,
        p.soft(54),
        square=square,
        rough=2,
        within=skin,
        texture="strands",
        grain=strands,
        scale=26,
    )
    spine_y = b - between(t, (300, 46), (400, 47), (600, 50), (740, 58), (850, 40))
    ca, cb = _cavity(a, b, t)
    ca, cb = ca + 0.12 * belly, cb + 0.3 * belly
    cy = between(t, (300, 0), (420, -8), (600, -13), (700, -19), (850, -16)) - 0.35 * belly
    cavity = s.add(0, cy, ca, cb, p.soft(50), square=0.25, within=flesh)
    _back(s, p, t, a, b, flesh)
    return Wall(skin, cavity, ca, cb, cy, spine_y)


def shoulder_slope(s: Scene, p: Patient, t: float) -> int:
    """Add, at t < 300 and behind the neck, the muscles that slope from the neck to the shoulders, and the collar bones.

    How high they reach differs: shrugged shoulders and raised arms bring them up to the jaw, hanging ones leave the
    neck free. Returns the index of the muscle, -1 above it.
    """
    top = 250 - p.vary("shrug", 18) - (20 if p.arms == "up" else 0)
    share = (t - top) / (300 - top)
    if share <= 0.0:
        return -1
    fat = 1.0 + _fat(p, 300) * share
    a = (48 + 92 * share**0.7) * p.width
    b = (15 + 53 * share) * p.depth
    y = 70 * p.depth - b
    s.add(0, y, a + fat, b + 0.7 * fat, p.soft(15), square=0.2, rough=2)
    inner = (a + fat - 2, b + 0.7 * fat - 2)
    skin = s.add(0, y, *inner, p.fat(), square=0.2, rough=2, texture="cloud", grain=10, scale=20)
    flesh = s.add(
        0, y, a, b, p.soft(54), square=0.2, rough=2, within=skin, texture="strands", grain=-100 - p.age * 0.3, scale=22
    )
    for side in (-1, 1) if share > 0.5 else ():
        s.add(side * 0.55 * a, y - 0.35 * b, 0.22 * a, 0.2 * b, p.fat(15), angle=side * 20, within=flesh, edge=4)
        s.add(side * 0.8 * a, y - 0.1 * b, 22 * share, 7 * share, 800 * p.bone, angle=side * -25, within=flesh)
        s.add(side * 0.8 * a, y - 0.1 * b, 22 * share - 3, 7 * share - 2.4, 260, angle=side * -25, within=flesh)
    return flesh


def spine_and_ribs(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    """Add vertebrae, ribs and breast bone on top of what the cavity holds."""
    if t < 748:
        size = between(t, (285, 0.62), (420, 0.78), (600, 0.95), (740, 1.05)) * p.width**0.3
        vertebra(s, p, p.vary("scoliosis", 5) * swell(t, 330, 760), wall.spine_y, size, t, 23.0 if t < 600 else 34.0)
    if 300 < t < 690:
        _ribs(s, p, t, wall)
    if 325 < t < 520:
        wide = between(t, (325, 24), (345, 26), (370, 15), (480, 17), (500, 9), (520, 3))
        s.add(0, wall.y - wall.b - 5, wide, 6, 600 * p.bone, square=0.2)
        s.add(0, wall.y - wall.b - 5, wide - 2, 4, 180 * p.bone, square=0.2)
        if "wires" in p.metal and (t / 22) % 1 < 0.3:
            s.add(0, wall.y - wall.b - 11, 7, 1.2, 3071)


def _size(p: Patient, t: float) -> tuple[float, float]:
    a = between(
        t,
        (285, 122),
        (300, 140),
        (315, 152),
        (335, 161),
        (380, 163),
        (440, 158),
        (520, 150),
        (600, 144),
        (660, 139),
        (720, 146),
        (790, 160),
        (850, 168),
        (905, 171),
        (945, 168),
    )
    b = between(
        t,
        (285, 60),
        (310, 72),
        (340, 88),
        (400, 106),
        (460, 113),
        (540, 110),
        (600, 104),
        (680, 94),
        (760, 97),
        (830, 106),
        (880, 104),
        (945, 94),
    )
    if p.female:
        a *= between(t, (340, 0.93), (640, 0.94), (820, 1.05))
    up = 0.9 if p.arms == "up" and t < 380 else 1.0
    wave = 1 + p.vary("waist", 0.03) * math.sin(t / 130.0)
    return a * up * wave * p.width, b * wave * p.depth


def _fat(p: Patient, t: float) -> float:
    return p.fat_mm * between(
        t, (290, 0.45), (400, 0.55), (560, 0.75), (680, 1.15), (800, 1.2), (900, 1.15), (945, 1.0)
    )


def _cavity(a: float, b: float, t: float) -> tuple[float, float]:
    ca = a - between(
        t,
        (300, 130),
        (330, 73),
        (380, 42),
        (450, 27),
        (560, 17),
        (650, 15),
        (720, 28),
        (790, 52),
        (850, 72),
        (900, 95),
        (945, 120),
    )
    cb = b - between(
        t, (300, 36), (340, 34), (400, 29), (460, 25), (600, 23), (680, 24), (760, 34), (850, 38), (900, 48), (945, 60)
    )
    return max(ca, 6.0), max(cb, 6.0)


def _back(s: Scene, p: Patient, t: float, a: float, b: float, flesh: int) -> None:
    fat = p.fat(15)
    for side in (-1, 1):
        size = between(t, (300, 20), (420, 18), (640, 26), (720, 27), (790, 15), (850, 6))
        x = side * size * 1.25
        s.add(x, b - size * 0.9, size * 1.15, size * 0.85, fat, within=flesh, square=0.3)
        s.add(
            x,
            b - size * 0.9,
            size * 1.1,
            size * 0.8,
            p.soft(54),
            within=flesh,
            square=0.3,
            texture="strands",
            grain=-80 - p.age * 0.5,
            scale=13,
        )
        if t < 480:
            _shoulder(s, p, t, side, a, b, flesh)


def _shoulder(s: Scene, p: Patient, t: float, side: int, a: float, b: float, flesh: int) -> None:
    bone = 800 * p.bone
    if 292 < t < 345:
        lift = 14 if p.arms == "up" else 0
        r = between(t, (292, 0), (300, 8), (320, 6.5), (345, 5))
        reach = between(t, (292, 95), (312, 85), (330, 55), (345, 26))
        s.add(side * reach, -b * 0.42, 38, r, bone, angle=side * -18 + lift, within=flesh)
        s.add(side * reach, -b * 0.42, 36, r - 2.2, 250, angle=side * -18 + lift, within=flesh)
    if 305 < t < 455:
        x = between(t, (305, 0.8), (340, 0.78), (455, 0.62)) * a
        y = between(t, (305, 0.1), (350, 0.42), (455, 0.66)) * b
        long = between(t, (305, 14), (330, 40), (380, 42), (440, 22), (455, 8))
        s.add(side * x, y, long + 10, 17, p.soft(55), angle=side * -28, within=flesh)
        s.add(side * x, y, long, 4.2, bone, angle=side * -28, bend=0.3, within=flesh)
        s.add(side * x, y, long - 3, 1.6, 300, angle=side * -28, bend=0.3, within=flesh)
        if t < 365:
            s.add(side * (x + 5), y + 18, long * 0.7, 4, bone, angle=side * 12, within=flesh)
    if t > 345:
        s.add(side * a * 0.5, -b * 0.86, a * 0.4, 12, p.fat(15), angle=side * 16, within=flesh)
        s.add(side * a * 0.5, -b * 0.86, a * 0.38, 9, p.soft(55), angle=side * 16, within=flesh)
        s.add(side * a * 0.78, -b * 0.05, 14, 26, p.fat(5), angle=side * -20, within=flesh, edge=5)


def _ribs(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    a, b = wall.a + 4, wall.b + 4
    for i in range(12):
        start = 302 + 23.5 * i + p.vary("rib level", 3)
        drop = between(i, (0, 45), (2, 90), (6, 125), (9, 120), (10, 80), (11, 55))
        share = (t - start) / drop
        if not 0.0 < share < 1.0:
            continue
        end = between(i, (0, 0.92), (6, 0.86), (9, 0.72), (11, 0.45))
        angle = math.pi * (0.5 - (0.08 + share * (end - 0.08)))
        for side in (-1, 1):
            x, y = side * a * math.cos(angle), wall.y + b * math.sin(angle)
            along = math.degrees(math.atan2(b * math.cos(angle), -a * math.sin(angle) * side))
            long = between(share, (0, 9), (0.3, 10), (0.6, 19), (1.0, 13))
            cartilage = share > 0.88 and i < 10
            s.add(x, y, long, 5.2, p.soft(110) if cartilage else 850 * p.bone, angle=along)
            if not cartilage:
                s.add(x, y, long - 2.2, 2.8, 220 * p.bone, angle=along)


def _breasts(s: Scene, p: Patient, t: float, a: float, front: float, fat: float) -> None:
    if p.age < 13:
        return
    centre = 452 + p.vary("breast level", 14)
    f = swell(t, centre - 62, centre + 68)
    size = (0.62 + 0.02 * fat + p.vary("breast", 0.18)) if p.female else 0.006 * fat
    if f <= 0 or size < 0.1:
        return
    for side in (-1, 1):
        x, y = side * a * (0.47 + p.vary("breast side", 0.04)), front + 10
        w, d = 68 * f * size**0.4, 36 * f * size**0.8
        shell = s.add(x, y, w, d, p.soft(15), angle=side * 14, taper=0.15)
        s.add(x, y, w - 2, d - 2, p.fat(), angle=side * 14, taper=0.15, texture="cloud", grain=10, scale=12)
        if p.female and not p.plain:
            gland = 0.75 - max(p.age - 35, 0) * 0.008
            s.add(
                x,
                y - 0.25 * d,
                w * gland,
                d * gland * 0.7,
                p.soft(25),
                angle=side * 14,
                within=shell,
                texture="strands",
                grain=-110,
                scale=12,
                rough=5,
            )
        s.add(x + side * 4, y - d + 2, 4, 3, p.soft(40))


def arms(s: Scene, p: Patient, t: float) -> None:
    """Add both arms at t: beside the trunk, folded on the belly, or raised beside the head."""
    if p.plain:
        return
    for side in (-1, 1):
        if p.arms == "up":
            _raised(s, p, t, side)
        else:
            _lowered(s, p, t, side)


def _raised(s: Scene, p: Patient, t: float, side: int) -> None:
    if t > 350:
        return
    bent = 0.5 + 0.5 * min(max(p.vary("elbow"), -1), 1)
    if t > 20 + 120 * bent:
        x = between(t, (0, 105 + 50 * bent), (150, 130 + 25 * bent), (300, 142), (350, 135)) * p.width
        limb(
            s,
            p,
            side * x,
            -8 + p.vary(f"arm y{side}", 12),
            between(t, (0, 36), (200, 44), (320, 56)) * p.limb,
            t,
            f"arm{side}",
            bones=1,
        )
    if t < 160 + 60 * bent:
        x = between(t, (0, 30 + 60 * bent), (160, 90 + 50 * bent), (220, 140))
        y = between(t, (0, -60 - 50 * bent), (200, -40))
        if abs(x) > 20:
            limb(s, p, side * (x + 22), y - 45, between(t, (0, 25), (200, 38)) * p.limb, t, f"fore{side}", bones=2)


def _lowered(s: Scene, p: Patient, t: float, side: int) -> None:
    if not 306 < t < 950:
        return
    a, _ = _size(p, t)
    beside = a + 0.85 * _fat(p, t) + p.vary(f"arm gap{side}", 7) + 6
    r = between(
        t,
        (306, 14),
        (320, 40),
        (345, 52),
        (400, 49),
        (560, 40),
        (640, 43),
        (720, 38),
        (830, 27),
        (870, 33),
        (930, 30),
        (950, 8),
    )
    r *= p.limb * between(t, (306, 1.0), (400, 1.0))
    x = (
        between(t, (306, 128), (330, 152), (360, 168)) * p.width + r * 0.2
        if t < 360
        else max(beside + r * 0.82, 165 * p.width)
    )
    y = between(t, (306, 0), (400, 10), (640, 22), (830, 6))
    if p.arms == "folded" and t > 560:
        if t > 680:
            return
        x = between(t, (560, beside + r), (610, beside + 0.4 * r), (680, 12 * side + 40))
        y = between(t, (560, 10), (640, -110 * p.depth - p.fat_mm), (680, -128 * p.depth - p.fat_mm))
        if t > 600:
            s.add(side * x, y - 18, 90, r * 0.8, p.soft(50), texture="strands", grain=-80, scale=14)
            s.add(side * x, y - 18, 85, 6, 1000 * p.bone)
            return
    limb(s, p, side * x, y + p.vary(f"arm y{side}", 8), r, t, f"arm{side}", bones=1 if t < 640 else 2)
    if t > 868:
        for i in range(4):
            s.add(side * x + (i - 1.5) * 4, y + (i - 1.5) * 15, 5.5, 5.5, 900 * p.bone)


def limb(s: Scene, p: Patient, x: float, y: float, r: float, t: float, name: str, *, bones: int) -> None:
    """Add one arm's cross-section of radius r mm about (x, y) with one or two long bones."""
    tall = 1.12 + p.vary(name + " oval", 0.06)
    skin = s.add(x, y, r, r * tall, p.soft(15), rough=2)
    fat = min(1.0 + 0.35 * p.fat_mm * 0.7, 0.42 * r)
    s.add(x, y, r - 1.5, r * tall - 1.5, p.fat(), within=skin)
    if t < 870:
        s.add(x, y, r - fat, r * tall - fat, p.soft(54), within=skin, texture="strands", grain=-110, scale=18)
    head = between(t, (312, 0.0), (322, 20.0), (345, 23.0), (365, 12.5)) if bones == 1 and 312 < t < 365 else 11.0
    if bones == 1:
        s.add(x, y, head, head, 1150 * p.bone)
        s.add(
            x, y, head - 4 if head < 13 else head - 1.5, head - 4 if head < 13 else head - 1.5, 60 if head < 13 else 250
        )
    else:
        for turn in (-1, 1):
            s.add(x + turn * 6, y + turn * 11, 6.5, 7.5, 1150 * p.bone)
            s.add(x + turn * 6, y + turn * 11, 2.6, 3.2, 60)
