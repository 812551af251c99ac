"""Head and neck: t from 0 (crown) to about 330."""

from __future__ import annotations

from robustkit_ct_bodysite.painter import Scene, between, ring, swell
from robustkit_ct_bodysite.patient import Patient
from robustkit_ct_bodysite.spine import vertebra


def head_and_neck(s: Scene, p: Patient, t: float, shoulders: int = -1) -> None:
    """Add skin, skull, brain, face and neck at t < 300; the face nods against the occiput by `p.nod` mm.

    Where the neck meets the muscle of the `shoulders` (a scene index) it has neither skin nor fat.
    """
    front, back = t + p.nod, t - p.nod
    outline = _outline(s, p, t, shoulders)
    if t < 156.0:
        _skull(s, p, t, back)
    if 88.0 < front < 235.0:
        _face(s, p, front, outline)
    if back > 158.0:
        neck(s, p, t, outline)


def _outline(s: Scene, p: Patient, t: float, shoulders: int) -> int:
    k = p.head
    a = between(
        t,
        (0, 0),
        (3, 22),
        (14, 45),
        (40, 68),
        (75, 77),
        (115, 78),
        (150, 73),
        (190, 66),
        (225, 57),
        (262, 57),
        (290, 74),
        (312, 88),
        (330, 80),
    )
    b = between(
        t,
        (0, 0),
        (3, 26),
        (14, 55),
        (40, 82),
        (75, 97),
        (115, 99),
        (150, 94),
        (190, 86),
        (215, 78),
        (240, 62),
        (270, 58),
        (300, 62),
        (330, 66),
    )
    y = between(t, (0, 4), (150, 0), (215, -4), (245, 10), (300, 14))
    a *= k * (1 + p.vary("head width", 0.03))
    b *= k * (1 + p.vary("head depth", 0.03))
    a += max(t - 200, 0) * 0.05 * (p.fat_mm - 18) / 18
    skin = s.add(0, y, a, b, p.soft(25), square=0.12, rough=1.5, outside=shoulders)
    m = between(t, (0, 3.0), (150, 5.0), (230, 5.0), (300, 0.45 * p.fat_mm))
    fat = (a - 1.8, b - 1.8, p.fat())
    s.add(0, y, *fat, square=0.12, texture="cloud", grain=12, scale=14, within=skin, outside=shoulders)
    return s.add(0, y, a - m, b - m, p.soft(54), square=0.12, texture="strands", grain=-90, scale=24, within=skin)


def _skull(s: Scene, p: Patient, t: float, back: float) -> None:
    k = p.head
    a = (
        k
        * (1 + p.vary("head width", 0.03))
        * between(t, (4, 0), (8, 26), (16, 42), (40, 62), (75, 71), (112, 71), (130, 63), (145, 48), (156, 0))
    )
    b = (
        k
        * (1 + p.vary("head depth", 0.03))
        * between(
            t, (4, 0), (8, 32), (16, 52), (40, 76), (75, 91), (100, 92), (118, 70), (132, 52), (146, 38), (156, 0)
        )
    )
    y = between(t, (0, 4), (95, 1), (112, 14), (132, 34), (156, 48))
    thick = (6.5 + p.vary("skull", 1.0)) * between(t, (0, 1.5), (60, 1.0), (120, 1.0), (150, 1.3))
    s.add(0, y, a, b, 1250 * p.bone, square=0.08)
    s.add(0, y, a - 0.3 * thick, b - 0.3 * thick, 620 * p.bone, square=0.08, texture="cloud", grain=160, scale=5)
    s.add(0, y, a - 0.6 * thick, b - 0.6 * thick, 1150 * p.bone, square=0.08)
    cavity = s.add(0, y, a - thick, b - thick, p.soft(12), square=0.08)
    _brain(s, p, back, (a - thick, b - thick, y), cavity)
    if 60 < t < 150 and "scar" in p.findings:
        s.add(a * 0.8, y - 30, 7, 5, p.soft(20), angle=50, edge=2)
    base = p.bone * between(t, (104, 0), (112, 900), (128, 1150), (140, 500), (150, 0))
    if base > 0:
        for side in (-1, 1):
            s.add(side * 38 * k, y - 22 * k, 31 * k, 8 * k, base, angle=-side * 38, rough=3, taper=0.2)
            s.add(side * 59 * k, y - 2, 11 * k, 15 * k, base * 0.85, rough=3)
            s.add(side * 58 * k, y, 9 * k, 13 * k, 300, texture="gas", grain=-1100, scale=5, rough=2)
            s.add(side * 44 * k, y - 20 * k, 4, 2.5, -700, angle=-side * 38)
        s.add(0, y - 38 * k, 12 * k, 17 * k, base * 0.7, square=0.3)


def _brain(s: Scene, p: Patient, t: float, inner: tuple[float, float, float], cavity: int) -> None:
    a, b, y = inner
    if a <= 4 or b <= 4:
        return
    atrophy = 1.5 + max(p.age - 40, 0) * 0.07
    grey = s.add(
        0,
        y,
        a - atrophy,
        b - atrophy,
        p.soft(37),
        square=0.08,
        texture="strands",
        grain=-14 - atrophy * 2,
        scale=11,
        within=cavity,
    )
    if t < 112:
        for side in (-1, 1):
            s.add(side * a * 0.46, y, a * 0.36, b * 0.72, p.soft(28), rough=6, edge=3, within=grey)
            if 58 < t < 100:
                f = swell(t, 55, 104) * (1 + (p.age - 50) * 0.012)
                s.add(side * 10, y - 16, 4.5 * f, 21 * f, p.soft(6), angle=side * 14, bend=0.0, within=grey)
                s.add(side * 22, y + 26, 6 * f, 16 * f, p.soft(6), angle=-side * 24, within=grey)
            if 74 < t < 104:
                s.add(side * 21, y - 2, 9, 17, p.soft(38), angle=side * 16, edge=2, within=grey)
        s.add(0, y, 1.3, b - 2, p.soft(62), edge=1.5, within=cavity)
        if p.has("calcified pineal", 0.5) and 88 < t < 94:
            s.add(0, y + 14, 2.5, 2.5, 220)
    else:
        s.add(0, y - 0.45 * b, 13, 12, p.soft(34), within=grey, edge=2)
        s.add(0, y - 0.1 * b, 6, 5, p.soft(6), within=grey, edge=2)
    if p.contrast > 0:
        for x, dy in ((0, -0.75), (0, 0.93), (-18, -0.55), (18, -0.55)):
            s.add(x, y + dy * b, 2.5, 2.5, p.blood(0.6), within=cavity)


def _face(s: Scene, p: Patient, t: float, skin: int) -> None:
    k = p.head
    bone = 950 * p.bone
    _orbits(s, p, t, k, bone, skin)
    if 96 < t < 135:
        s.add(0, -62 * k, 14 * k, 24 * k, -820, square=0.5, within=skin, texture="gas", grain=950, scale=8)
        s.add(0, -66 * k, 15 * k, 3, bone * 0.6, within=skin)
    if 84 < t < 104 and not p.has("no frontal sinus", 0.3):
        s.add(0, -84 * k, 17 * k, 5 * k, bone, within=skin)
        s.add(0, -84 * k, 14 * k, 3 * k, -930, within=skin, rough=1)
    if 112 < t < 134:
        s.add(0, -26 * k, 13 * k, 9 * k, bone * 0.7, within=skin, square=0.4)
        s.add(0, -27 * k, 11 * k, 7 * k, -940, within=skin, rough=2)
    f = swell(t, 124, 166)
    for side in (-1, 1):
        s.add(
            side * 29 * k,
            -52 * k,
            (17 * f + 2) * k * (f > 0),
            (18 * f + 2) * k * (f > 0),
            bone * 0.7,
            square=0.4,
            within=skin,
        )
        s.add(side * 29 * k, -52 * k, 17 * f * k, 18 * f * k, -950, square=0.4, taper=0.2, within=skin)
        if 124 < t < 144:
            s.add(side * 60 * k, -42 * k, 4 * k, 24 * k, bone, angle=side * 12, within=skin)
        if 134 < t < 200:
            ramus = between(t, (134, 5), (150, 13), (190, 16), (200, 10))
            s.add(side * 47 * k, -14 * k, 4.5 * k, ramus * k, bone * 1.2, angle=side * 9, within=skin)
            s.add(side * 47 * k, -14 * k, 2 * k, (ramus - 4) * k, 300, angle=side * 9, within=skin)
            s.add(side * 58 * k, -12 * k, 7 * k, 18 * k, p.soft(58), angle=side * 9, within=skin)
        if 124 < t < 165:
            s.add(side * 20 * k, -18 * k, 3, 10 * k, bone * 0.7, angle=side * 8, within=skin)
    _mouth(s, p, t, k, bone, skin)


def _orbits(s: Scene, p: Patient, t: float, k: float, bone: float, skin: int) -> None:
    f = swell(t, 97, 131)
    if f <= 0:
        return
    for side in (-1, 1):
        x, y = side * 33 * k, -62 * k
        s.add(x, y, 21 * f * k, 27 * f * k, bone * 0.8, angle=-side * 20, within=skin, taper=-0.35)
        s.add(x, y, 18.5 * f * k, 27 * f * k, p.fat(20), angle=-side * 20, within=skin, taper=-0.35)
        s.add(x - side * 9 * k, y + 10, 2 * f, 14 * f, p.soft(45), angle=-side * 28)
        s.add(x + side * 9 * k, y + 8, 2 * f, 14 * f, p.soft(45), angle=side * 8)
        if 108 < t < 120:
            s.add(x - side * 3, y + 14, 2.2, 15, p.soft(35), angle=-side * 22)
        g = swell(t, 101, 127)
        s.add(x, y - 12 * k, 12.5 * g, 12.5 * g, p.soft(60))
        s.add(x, y - 12 * k, 11.5 * g, 11.5 * g, p.soft(12))
        s.add(x, y - 20 * k, 4.5 * g, 2.2 * g, p.soft(85))
    s.add(0, -92 * k * min(f + 0.2, 1), 5 * k, 9 * k, p.soft(20), taper=0.5)


def _mouth(s: Scene, p: Patient, t: float, k: float, bone: float, skin: int) -> None:
    if 118 < t < 168:
        s.add(0, -60 * k, 9 * k, 26 * k, -900, within=skin, square=0.4)
        s.add(0, -60 * k, 1.2, 25 * k, 150 * p.bone + 60, within=skin)
        for side in (-1, 1):
            s.add(side * 5.5 * k, -58 * k, 2.4 * k, 17 * k, p.soft(45), within=skin)
        s.add(0, -96 * k, 11 * k, 13 * k, p.soft(20), taper=0.6)
    if 128 < t < 215:
        s.add(0, -22 * k, between(t, (128, 9), (170, 12), (215, 8)) * k, 6 * k, -980, within=skin, rough=2)
    if 160 < t < 222:
        low = t > 186
        arch = bone * (1.25 if low else 0.8)
        reach = between(t, (160, 30), (186, 34), (205, 33), (222, 20))
        s.add(0, -44 * k, reach * 1.12 * k, reach * k, arch, square=0.05, bend=0.25, within=skin)
        s.add(
            0,
            -38 * k,
            (reach * 1.12 - 8) * k,
            (reach - 3) * k,
            p.soft(55),
            bend=0.25,
            within=skin,
            texture="strands",
            grain=-80,
            scale=14,
        )
        s.add(0, -12 * k, reach * 1.3 * k, 20 * k, p.soft(50), within=skin, edge=3)
        if 166 < t < 198 and p.age > 8 and not p.has("no teeth", 0.08):
            for i, (cx, cy) in enumerate(ring(22)):
                if cy < 0.25:
                    filled = "dental" in p.metal and p.vary(f"tooth {i} {low}") > 0.9
                    hu = 3071.0 if filled else 1900 * p.bone
                    s.add(cx * reach * k, (-44 + cy * (reach - 4)) * k, 3.4 * k, 3.6 * k, hu)
        if t < 188:
            s.add(0, -40 * k, 16 * k, 24 * k, p.soft(58), texture="strands", grain=-40, scale=9, within=skin)


def neck(s: Scene, p: Patient, t: float, skin: int) -> None:
    """Add what a neck holds, within the shape `skin`; also at the root of the neck, where the shoulders enclose it."""
    k = p.head
    spine_y = between(t, (140, 24), (220, 24), (300, 22))
    for side in (-1, 1):
        f = between(t, (150, 0.5), (230, 0.9), (300, 1.0))
        s.add(
            side * 22 * k,
            spine_y + 24,
            19 * f * k,
            16 * f * k,
            p.soft(58),
            angle=side * 20,
            within=skin,
            texture="strands",
            grain=-60,
            scale=16,
        )
        s.add(side * 17 * k, spine_y + 10, 8, 8, p.soft(56), within=skin)
        if t > 160:
            x = between(t, (160, 48), (230, 42), (300, 24))
            y = between(t, (160, 12), (230, -4), (300, -26))
            s.add(side * x * k, y, 8 * k, 14 * k, p.soft(60), angle=side * 35, within=skin)
            s.add(side * 27 * k, spine_y - 22, 16, 13, p.fat(25), within=skin, edge=4)
            s.add(side * 25 * k, spine_y - 20, 3.6, 3.6, p.blood(0.9), within=skin)
            s.add(side * 31 * k, spine_y - 17, 5.5 + p.vary(f"jugular{side}", 1.2), 5, p.blood(0.7), within=skin)
        if 168 < t < 215:
            s.add(
                side * 40 * k, -24 * k, 10 * k, 14 * k, p.soft(40), within=skin, texture="strands", grain=-40, scale=6
            )
    vertebra(s, p, 0, spine_y, 0.62 * k, t, 17.0)
    if t > 212:
        _throat(s, p, t, spine_y, skin)


def _throat(s: Scene, p: Patient, t: float, spine_y: float, skin: int) -> None:
    y = spine_y - 38
    if t < 226:
        s.add(0, y - 12, 20, 12, 600 * p.bone, bend=0.6, within=skin)
        s.add(0, y - 9, 19, 11, p.soft(45), bend=0.6, within=skin)
    if 230 < t < 258:
        s.add(0, y - 4, 17, 17, p.soft(130 + 3 * max(p.age - 40, 0)), taper=0.4, within=skin)
        s.add(0, y - 1, 14, 14, p.soft(45), taper=0.4, within=skin)
    if t > 258:
        f = swell(t, 256, 300)
        for side in (-1, 1):
            s.add(side * 15, y, 9 * f, 13 * f, p.soft(115 + 0.4 * p.contrast), within=skin)
        s.add(0, y, 11, 11, p.soft(90), within=skin)
    r = between(t, (212, 7), (245, 5), (262, 8.5), (340, 8.5))
    s.add(0, y, r, r * between(t, (230, 0.7), (246, 1.6), (262, 1.0)), -990, within=skin)
    s.add(0, spine_y - 17, 5, 3.5, p.soft(45), within=skin)
