"""Thighs, knees, calves and feet; t from 880 to 1800."""

from __future__ import annotations

from robustkit_ct_bodysite.painter import Scene, between, ring, swell
from robustkit_ct_bodysite.patient import Patient

CROTCH = 930.0


def legs(s: Scene, p: Patient, t: float) -> None:
    """Add both legs."""
    if t < 878.0:
        return
    for side in (-1, 1):
        if not ("amputee" in p.findings and side > 0 and t > 1180):
            _leg(s, p, t, side)


def _leg(s: Scene, p: Patient, t: float, side: int) -> None:
    turn, shift = s.turn, s.shift
    x, y = centre(p, t, side)
    s.shift = s.moved(x, y)
    s.turn = turn + side * p.toe_out * between(t, (930, 0.2), (1270, 0.7), (1660, 1.0))
    if t < 1225:
        _thigh(s, p, t, side)
    elif t < 1318:
        _knee(s, p, t, side)
    elif t < 1650:
        _calf(s, p, t, side)
    else:
        _foot(s, p, t, side)
    s.turn, s.shift = turn, shift


def centre(p: Patient, t: float, side: int) -> tuple[float, float]:
    """Return where the leg's middle lies at t, mm."""
    apart = between(
        t,
        (880, 86 * p.width**0.6),
        (930, 90 * p.width**0.6),
        (1000, 86 * p.width**0.6),
        (1270, 72),
        (1660, 62),
        (1800, 66),
    )
    closest = _radii(p, t)[0] + 2.0
    spread = p.gap * between(t, (930, 0.05), (1660, 1.0))
    x = max(apart, closest if t > 930 else 0.0) + spread
    lift = p.leg_lift[side > 0] * between(t, (930, 0), (1270, 1.0), (1660, 0.2))
    foot = -between(t, (1690, 0), (1800, 70)) if t > 1690 else 0.0
    return side * x, between(t, (880, 4), (1270, 8), (1660, 20)) - abs(lift) + foot


def _radii(p: Patient, t: float) -> tuple[float, float]:
    a = between(
        t,
        (878, 20),
        (890, 55),
        (910, 80),
        (940, 86),
        (1000, 82),
        (1120, 70),
        (1220, 59),
        (1270, 57),
        (1320, 54),
        (1390, 56),
        (1470, 50),
        (1580, 37),
        (1640, 34),
        (1690, 37),
        (1800, 40),
    )
    b = between(
        t,
        (878, 30),
        (890, 70),
        (910, 92),
        (940, 94),
        (1000, 90),
        (1120, 78),
        (1220, 63),
        (1270, 62),
        (1320, 58),
        (1390, 62),
        (1470, 55),
        (1580, 40),
        (1640, 44),
        (1690, 68),
        (1740, 62),
        (1800, 22),
    )
    fat = 0.42 * (p.fat_mm - 18) * between(t, (900, 1.0), (1270, 0.45), (1660, 0.1))
    return (a + fat) * p.limb**0.7, (b + fat) * p.limb**0.7


def _layers(s: Scene, p: Patient, t: float) -> tuple[int, float, float]:
    a, b = _radii(p, t)
    skin = s.add(0, 0, a, b, p.soft(15), rough=2.5, square=0.08)
    fat = max(
        p.fat_mm * (0.75 if p.female else 0.5) * between(t, (900, 1.0), (1270, 0.45), (1450, 0.5), (1660, 0.12)), 2.0
    )
    s.add(0, 0, a - 1.8, b - 1.8, p.fat(), rough=2.5, square=0.08, texture="cloud", grain=12, scale=14)
    return skin, a - 1.8 - fat, b - 1.8 - fat


def _muscles(s: Scene, p: Patient, a: float, b: float, parts: int, phase: float, t: float) -> int:
    wasting = -100 - 0.9 * p.age
    flesh = s.add(0, 0, a, b, p.soft(50), rough=3, texture="strands", grain=wasting, scale=24)
    if not p.plain:
        for i, (cx, cy) in enumerate(ring(parts, phase + 0.25 * p.vary("muscle phase") + t / 2500.0)):
            s.add(cx * a * 0.6, cy * b * 0.6, a * 0.36, b * 0.36, p.fat(30), within=flesh)
            s.add(
                cx * a * 0.6,
                cy * b * 0.6,
                a * 0.36 - 1.3,
                b * 0.36 - 1.3,
                p.soft(56) + 2 * (i % 3),
                within=flesh,
                texture="strands",
                grain=-60,
                scale=13,
            )
    return flesh


def _mass(s: Scene, p: Patient, t: float, side: int, a: float, b: float) -> None:
    """Add a soft-tissue mass in one leg, where the patient has one."""
    if "mass" not in p.findings or p.vary("mass side") * side < 0:
        return
    at, long = 1080 + 130 * p.vary("mass level"), 90 + 30 * p.vary("mass length")
    f = swell(t, at - long, at + long)
    x, y = p.vary("mass x", 0.35) * a, p.vary("mass y", 0.35) * b
    size = 34 + 10 * p.vary("mass size")
    s.add(x, y, size * f, size * f * 0.8, p.soft(36), rough=5, texture="cloud", grain=12, scale=12)


def _thigh(s: Scene, p: Patient, t: float, side: int) -> None:
    if t < CROTCH:  # still within the trunk's skin
        a, b = (r - 0.5 * p.fat_mm for r in _radii(p, t))
    else:
        _, a, b = _layers(s, p, t)
    _muscles(s, p, a, b, 7, 0.3, t)
    if not p.plain:
        s.add(-side * 0.45 * a, -0.15 * b, 9, 8, p.fat(10), edge=3)
        s.add(-side * 0.45 * a, -0.2 * b, 4.2, 4.2, p.blood(0.9))
        s.add(-side * 0.45 * a, -0.02 * b, 5, 5, p.blood(0.5))
        _mass(s, p, t, side, a, b)
    x = side * between(t, (890, 22), (960, 8), (1100, -2), (1225, 0))
    y = between(t, (890, 2), (1000, -10), (1225, 2))
    r = between(t, (890, 18), (940, 16), (1000, 14), (1180, 14.5), (1225, 22))
    if t > 900:
        s.add(x, y, r, r, 1250 * p.bone)
        wall = between(t, (900, 3.5), (1000, 5.5), (1150, 5), (1225, 2))
        s.add(x, y, r - wall, r - wall, 120 if t < 960 else -30)
        if "nail" in p.metal and p.vary("nail side") * side > 0:
            s.add(x, y, 5.5, 5.5, 3071)
        if "hip" in p.metal and p.vary("hip side") * side > 0 and t < 1040:
            s.add(x, y, 7, 7, 3071)


def _knee(s: Scene, p: Patient, t: float, side: int) -> None:
    _, a, b = _layers(s, p, t)
    s.add(0, 0, a, b, p.soft(35), rough=3, texture="strands", grain=-120, scale=16)
    bone, spongy = 800 * p.bone, 230 * p.bone
    metal = "knee" in p.metal and p.vary("knee side") * side > 0
    hu = 3071.0 if metal and 1250 < t < 1305 else bone
    g = swell(t, 1222, 1275)
    if not p.plain:
        for x in (-1, 1):
            s.add(x * 24, 0.55 * b, 12, 15, p.soft(55), edge=1)
        s.add(0, 0.5 * b, 11, 15, p.fat(15), edge=3)
        s.add(0, 0.5 * b, 4.5, 4.5, p.blood(0.8))
    s.add(0, -0.82 * b, 22 * g, 11 * g, bone, bend=0.3)
    s.add(0, -0.82 * b, 22 * g - 2.2, 11 * g - 2.2, spongy, bend=0.3)
    if t < 1294:
        f = between(t, (1225, 0.62), (1255, 1.0), (1282, 0.95), (1294, 0.45))
        s.add(0, -0.12 * b, 24, 20 * f, hu, square=0.3)
        for x in (-1, 1):
            s.add(x * 21 * f, 0.08 * b, 18 * f, 29 * f, hu, angle=x * -9)
        for x in (-1, 1):
            s.add(
                x * 21 * f, 0.08 * b, 18 * f - 2, 29 * f - 2, spongy, angle=x * -9, texture="cloud", grain=60, scale=4
            )
        s.add(0, -0.12 * b, 22, 20 * f - 2, spongy, square=0.3, texture="cloud", grain=60, scale=4)
        s.add(0, 0.36 * b, 7, 15 * f, p.soft(30))
    if t > 1288:
        f = between(t, (1288, 0.8), (1296, 1.0), (1318, 0.85))
        s.add(0, -2, 38 * f, 25 * f, hu, bend=-0.15)
        s.add(0, -2, 38 * f - 2, 25 * f - 2, spongy, bend=-0.15, texture="cloud", grain=60, scale=4)
        _fibula(s, p, t, side, b)


def _fibula(s: Scene, p: Patient, t: float, side: int, b: float) -> None:
    if t > 1304:
        r = between(t, (1304, 4), (1318, 9), (1350, 6.5), (1600, 6.5), (1640, 9))
        x = side * between(t, (1304, 30), (1400, 27), (1640, 25))
        y = between(t, (1304, 20), (1400, 16), (1640, 8))
        s.add(x, y, r, r * 1.1, 1150 * p.bone)
        s.add(x, y, r - 3, r - 3, 60)


def _calf(s: Scene, p: Patient, t: float, side: int) -> None:
    _, a, b = _layers(s, p, t)
    _muscles(s, p, a, b, 5, 0.9, t)
    if not p.plain:
        f = between(t, (1318, 0.8), (1390, 1.0), (1500, 0.55), (1600, 0.15))
        for half in (-1, 1):
            s.add(half * 0.36 * a, 0.52 * b, 0.44 * a * f, 0.34 * b * f, p.fat(30))
            s.add(
                half * 0.36 * a,
                0.52 * b,
                0.44 * a * f - 1.2,
                0.34 * b * f - 1.2,
                p.soft(57),
                texture="strands",
                grain=-70,
                scale=14,
            )
        s.add(0, 0.15 * b, 3, 3, p.blood(0.7))
        if t > 1560:
            s.add(0, 0.82 * b, 8, 4, p.soft(85))
    _mass(s, p, t, side, a, b)
    wide = between(t, (1318, 30), (1350, 19), (1420, 14.5), (1600, 14), (1650, 20))
    x, y = -side * between(t, (1318, 3), (1400, 10), (1650, 4)), -between(t, (1318, 6), (1400, 0.32 * b + 2), (1650, 4))
    s.add(x, y, wide, wide * 0.95, 1250 * p.bone, taper=0.3)
    thick = between(t, (1318, 2), (1400, 5.5), (1580, 4.5), (1650, 2))
    s.add(
        x,
        y + 0.5,
        wide - thick,
        wide * 0.95 - thick,
        between(t, (1340, 200), (1380, -30), (1600, -30), (1640, 220)),
        taper=0.3,
    )
    _fibula(s, p, t, side, b)


def _foot(s: Scene, p: Patient, t: float, side: int) -> None:
    _, a, b = _layers(s, p, t)
    s.add(0, 0, a - 4, b - 4, p.soft(40), rough=3, texture="strands", grain=-120, scale=12)
    bone, spongy = 750 * p.bone, 260 * p.bone

    def block(x: float, y: float, w: float, h: float, angle: float = 0.0) -> None:
        s.add(x, y, w, h, bone, square=0.25, angle=angle, rough=1.5)
        s.add(x, y, w - 1.8, h - 1.8, spongy, square=0.25, angle=angle, rough=1.5, texture="cloud", grain=60, scale=4)

    if t < 1682:
        block(side * 27, 6, 8 * between(t, (1650, 1.0), (1682, 0.5)), 11)
        block(-side * 24, -4, 8 * between(t, (1650, 1.2), (1672, 0.4)), 12)
    if 1655 < t < 1705:
        f = swell(t, 1648, 1712)
        block(0, -6, 20 * f, 27 * f)
    if 1684 < t < 1752:
        f = swell(t, 1680, 1756)
        block(side * 3, 30, 17 * f, 32 * f)
    if 1690 < t < 1745:
        f = swell(t, 1684, 1750)
        for i in range(4):
            block((i - 1.5) * 15 * side * -1, -34 + 4 * i, 9 * f, 15 * f)
    if t > 1728:
        for i in range(5):
            r = (9.0 if i == 0 else 6.0) * between(t, (1728, 0.8), (1740, 1.0), (1800, 0.75))
            block((i - 2) * 15.5 * side, -18 + 3.5 * abs(i - 0.5) + between(t, (1728, -10), (1800, 14)), r, r * 1.15)
    s.add(0, 0.92 * b, 14, 5, p.soft(85), opacity=float(1650 < t < 1690))
