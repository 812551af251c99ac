"""What the trunk holds: lungs, heart and vessels, then the organs of the belly and pelvis."""

from __future__ import annotations

import math

from robustkit_ct_bodysite.painter import Scene, between, ring, swell
from robustkit_ct_bodysite.patient import Patient
from robustkit_ct_bodysite.trunk import Wall


def chest(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    """Add lungs, mediastinum and heart at t in 306..600; the diaphragm's dome comes with `belly`."""
    if not 306.0 < t < 602.0:
        return
    _lungs(s, p, t, wall)
    narrow = between(t, (306, 30), (340, 31), (400, 30), (430, 34), (600, 30))
    s.add(0, wall.y, narrow, wall.b, p.fat(30), within=wall.cavity, square=0.3, rough=3)
    s.add(0, wall.y + 0.35 * wall.b, narrow * 0.8, wall.b * 0.6, p.soft(35), within=wall.cavity, square=0.3, edge=6)
    if 425 < t < 545:
        _heart(s, p, t, wall)
    _great_vessels(s, p, t, wall)
    _airways(s, p, t, wall)
    if "pacer" in p.metal and 340 < t < 385:
        s.add(-70, wall.y - wall.b - 22, 24, 5, 3071, angle=-14)
    if "pacer" in p.metal and 385 < t < 520:
        s.add(-8, wall.y - 10, 1.6, 1.6, 3071)


def _lungs(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    air = -1000 + (150 if p.plain else 140 + p.vary("inflation", 45))
    if "emphysema" in p.findings:
        air -= 60
    grow = between(t, (306, 0.0), (312, 0.32), (325, 0.6), (350, 0.86), (390, 1.0))
    for side in (-1, 1):
        x = side * between(t, (306, 0.5), (360, 0.53)) * wall.a
        a, b = 0.54 * wall.a * grow, wall.b * (0.25 + 0.75 * grow) * (grow > 0)
        rich = 0.0 if p.plain else 950.0
        lung = s.add(
            x,
            wall.y + 4,
            a,
            b,
            air,
            square=0.25,
            within=wall.cavity,
            texture="vessels" if rich else "",
            grain=rich,
            scale=between(t, (306, 13), (420, 17), (600, 14)),
        )
        if p.plain:
            continue
        s.add(
            x,
            wall.y + 0.75 * b,
            a,
            0.5 * b,
            air + 60,
            within=lung,
            edge=30,
            opacity=0.5,
            texture="vessels",
            grain=850,
            scale=13,
        )
        if "effusion" in p.findings and t > 430 and p.vary("effusion side") * side > -0.3:
            s.add(x, wall.y + b * 1.05, a * 1.1, b * between(t, (430, 0), (600, 0.75)), p.soft(10), within=lung)
        if "nodule" in p.findings:
            at = 380 + 60 * p.vary("nodule z")
            s.add(
                x * (1 + p.vary("nodule x", 0.3)),
                wall.y + p.vary("nodule y", 30),
                12 * swell(t, at - 14, at + 14),
                11 * swell(t, at - 14, at + 14),
                p.soft(40),
                within=lung,
                rough=4,
            )
        for i, (cx, cy) in enumerate(ring(5, p.vary(f"hilum{side}", 1.0))):
            r = 5.5 * swell(t, 370, 500)
            s.add(x * 0.55 + cx * 14, wall.y + 8 + cy * 20, r * (0.7 + 0.1 * i), r, p.blood(0.8), within=lung)


def _heart(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    f = swell(t, 420, 560) * (1 + p.vary("heart", 0.08))
    x = 24 * p.width + between(t, (425, -6), (520, 10))
    y = wall.y - 0.22 * wall.b
    a, b = min(66 * f, 0.62 * wall.a), min(50 * f, 0.66 * wall.b)
    sack = s.add(x, y, a + 4, b + 4, p.fat(20), angle=32, within=wall.cavity, rough=3)
    muscle = s.add(x, y, a, b, p.organ(45) + 0.3 * p.contrast, angle=32, within=sack)
    if p.plain:
        return
    s.add(x + 0.38 * a, y + 0.15 * b, 0.4 * a, 0.36 * b, p.blood(0.9), angle=38, within=muscle, edge=3)
    s.add(x + 0.02 * a, y - 0.5 * b, 0.55 * a, 0.3 * b, p.blood(0.7), angle=25, within=muscle, edge=3)
    s.add(x - 0.62 * a, y + 0.0 * b, 0.33 * a, 0.5 * b, p.blood(0.7), angle=10, within=muscle, edge=3)
    s.add(x - 0.05 * a, y + 0.62 * b, 0.42 * a, 0.3 * b, p.blood(0.9), angle=20, within=muscle, edge=3)
    if "calcified" in p.findings and p.vary("coronary") > 0:
        s.add(x + 0.1 * a, y - 0.2 * b, 4, 1.6, 700, angle=40)


def _great_vessels(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    if p.plain:
        return
    old = 1 + max(p.age - 40, 0) * 0.006
    y = wall.y
    if 366 < t < 386:
        s.add(8, y + 6, 12 * old, 40, p.blood(), angle=-28, bend=0.2, within=wall.cavity)
    if t < 366:
        for i, (x, dy) in enumerate(((-14, -16), (4, -6), (17, 2))):
            s.add(x, y + dy, 5.5 + (i == 0) * 2, 5.5, p.blood(), within=wall.cavity)
        s.add(-22, y - 22, 8, 8, p.blood(0.8), within=wall.cavity)
        s.add(14, y - 30, 14, 5, p.blood(0.8), angle=14, within=wall.cavity)
    if t > 384:
        s.add(20, wall.spine_y - 22, 12 * old, 12 * old, p.blood(), within=wall.cavity)
        if "calcified" in p.findings:
            s.add(20 + 11 * old, wall.spine_y - 24, 1.3, 5, 800)
    if 380 < t < 440:
        s.add(-10, y - 24, 15 * old, 15 * old, p.blood(), within=wall.cavity)
    if 366 < t < 440:
        s.add(-31, y - 18, 9, 8, p.blood(1.2), within=wall.cavity)
        if "line" in p.metal:
            s.add(-31, y - 18, 1.4, 1.4, 2200)
    if 396 < t < 424:
        s.add(17, y - 22, 13, 17, p.blood(0.9), angle=20, within=wall.cavity)
        s.add(-6, y - 2, 36, 8.5, p.blood(0.9), angle=-10, bend=-0.5, within=wall.cavity)
    if 440 < t < 560:
        s.add(-26, y + 4, 11, 10, p.blood(0.6), within=wall.cavity)
    s.add(9, wall.spine_y - 27, 6, 5, p.soft(35), within=wall.cavity)


def _airways(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    if t < 404:
        y = between(t, (306, wall.spine_y - 37), (404, wall.y + 12))
        s.add(-1, y, 10.5, 10.5, p.soft(30), within=wall.cavity)
        s.add(-1, y, 8.5, 8.5, -985, within=wall.cavity)
    elif t < 450:
        for side in (-1, 1):
            x = side * between(t, (404, 8), (450, 30)) - 2
            s.add(x, wall.y + 12, 9, 8, p.soft(30), angle=side * 30, within=wall.cavity)
            s.add(x, wall.y + 12, 7, 6, -985, angle=side * 30, within=wall.cavity)


def belly(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    """Add the organs below the diaphragm at t in 470..945; above 600 they fill the dome under the lungs."""
    if not 468.0 < t < 945.0:
        return
    room = _room(s, p, t, wall)
    s.add(0, wall.spine_y - 8, 40, 30, p.fat(10), within=wall.cavity, also=room)
    _retroperitoneum(s, p, t, wall, room)
    if t < 870:
        _bowel(s, p, t, wall, room)
    _upper_organs(s, p, t, wall, room)
    if "ascites" in p.findings and 560 < t < 840:
        for side in (-1, 1):
            s.add(side * wall.a, wall.y + 10, 20, wall.b * 0.8, p.soft(8), within=wall.cavity, also=room)


def _room(s: Scene, p: Patient, t: float, wall: Wall) -> int:
    if t >= 600:
        return s.add(
            0, wall.y, wall.a, wall.b, p.fat(8), square=0.25, within=wall.cavity, texture="cloud", grain=18, scale=16
        )
    f = between(t, (468, 0.0), (485, 0.42), (520, 0.74), (560, 0.9), (600, 1.06))
    depth = between(t, (468, 0.0), (485, 0.42), (520, 0.7), (560, 0.85), (600, 1.1))
    lift = between(t, (485, -0.2), (560, -0.16), (600, 0.0)) * wall.b
    right = between(t, (468, -0.42), (520, -0.15), (580, 0)) * wall.a
    muscle = s.add(right, wall.y + lift, wall.a * f, wall.b * depth, p.soft(50), square=0.2, within=wall.cavity)
    return s.add(right, wall.y + lift, wall.a * f - 2.5, wall.b * depth - 2.5, p.fat(8), square=0.2, within=muscle)


def _upper_organs(s: Scene, p: Patient, t: float, wall: Wall, room: int) -> None:
    a, b, y = wall.a, wall.b, wall.y
    _stomach(s, p, t, wall, room)
    shift = p.vary("liver", 14)
    f = between(t, (468, 0.5), (500, 0.95), (560, 1.0), (620, 0.72), (660, 0.48), (695 + shift, 0.0))
    liver = p.organ(60) + 0.35 * p.contrast + (0 if p.plain else p.vary("steatosis", 12))
    x = between(t, (468, -0.42), (540, -0.34), (620, -0.56), (690, -0.72)) * a
    body = s.add(
        x,
        y - 0.02 * b,
        0.66 * a * f,
        0.98 * b * f,
        liver,
        within=wall.cavity,
        also=room,
        square=0.35,
        rough=4,
        texture="cloud",
        grain=6,
        scale=20,
    )
    if t < 600:
        g = swell(t, 460, 625)
        s.add(0.08 * a, y - 0.5 * b, 0.5 * a * g, 0.36 * b * g, liver, angle=-8, within=wall.cavity, also=room, rough=4)
    if not p.plain:
        for i, (cx, cy) in enumerate(ring(5, t / 90.0)):
            s.add(x + cx * 0.3 * a * f, y + cy * 0.4 * b * f, 7 - 0.5 * i, 3.5, p.blood(0.5), angle=50 * i, within=body)
        if 575 < t < 640 and not p.has("no gall bladder", 0.15):
            g = swell(t, 575, 640)
            s.add(-0.45 * a, y - 0.25 * b, 17 * g, 22 * g, p.soft(10), angle=20)
    g = swell(t, 505 + p.vary("spleen", 10), 622)
    s.add(
        0.74 * a,
        y + 0.35 * b,
        27 * g,
        46 * g,
        p.soft(55) + 0.4 * p.contrast,
        angle=-20,
        bend=0.25,
        within=wall.cavity,
        also=room,
    )
    _kidneys(s, p, t, wall, room)
    if 590 < t < 650 and not p.plain:
        s.add(8, y + 0.12 * b, 56, 11, p.soft(42) + 0.3 * p.contrast, angle=-14, bend=-0.5, within=room, rough=4)


def _stomach(s: Scene, p: Patient, t: float, wall: Wall, room: int) -> None:
    f = swell(t, 505, 640) * (1 + p.vary("stomach", 0.2))
    if f <= 0 or p.plain:
        return
    x, y = 0.42 * wall.a, wall.y - 0.35 * wall.b
    a, b = 40 * f, 34 * f
    wall_of = s.add(x, y, a, b, p.soft(45), angle=-30, within=room, rough=5)
    inner = s.add(
        x, y, a - 4, b - 4, p.soft(20) + p.oral, angle=-30, within=wall_of, rough=5, texture="cloud", grain=40, scale=8
    )
    if p.gas > 0.25:
        s.add(x, y - b * (1.5 - p.gas), a * 1.2, b, -990, within=inner)


def _kidneys(s: Scene, p: Patient, t: float, wall: Wall, room: int) -> None:
    for side in (-1, 1):
        low = 8 if side < 0 else -6
        f = swell(t, 588 + low, 700 + low) * (1 + p.vary(f"kidney{side}", 0.08))
        x = side * between(t, (588, 50), (700, 66)) * p.width**0.7
        y = wall.spine_y - 2
        s.add(x, y, 31 * f, 29 * f, p.organ(35) + 0.7 * p.contrast, angle=side * 30, within=wall.cavity)
        if f > 0.75 and not p.plain:
            s.add(x - side * 13, y - 6, 14 * f, 9 * f, p.fat(20), angle=side * 30, edge=4)
            s.add(x - side * 14, y - 6, 7 * f, 5 * f, p.soft(12), angle=side * 30)
        if 575 < t < 600 and not p.plain:
            s.add(x * 0.7, y - 8, 2.5, 12, p.soft(25), angle=side * 30, within=room)


def _retroperitoneum(s: Scene, p: Patient, t: float, wall: Wall, room: int) -> None:
    y = wall.spine_y
    if t > 600:
        for side in (-1, 1):
            f = between(t, (600, 0.3), (700, 1.0), (790, 1.05), (900, 0.8))
            x = between(t, (600, 30), (720, 42), (800, 62), (870, 74))
            dy = between(t, (600, 2), (760, -6), (850, -44))
            s.add(
                side * x, y + dy, 19 * f, 22 * f, p.soft(56), within=wall.cavity, texture="strands", grain=-40, scale=14
            )
    if p.plain:
        return
    old = 1 + max(p.age - 40, 0) * 0.006
    if t < 728:
        s.add(9, y - 27, 10.5 * old, 10.5 * old, p.blood(), within=wall.cavity)
        s.add(-17, y - 24, 12, 9, p.blood(0.6), within=wall.cavity)
        if "calcified" in p.findings:
            s.add(9 - 9 * old, y - 27, 1.3, 5, 850, angle=10)
            s.add(9, y - 27 + 9 * old, 6, 1.3, 850)
    else:
        for side in (-1, 1):
            x = side * between(t, (728, 10), (800, 52), (900, 66))
            dy = between(t, (728, -30), (800, -44), (870, -78))
            s.add(x, y + dy, 7, 7, p.blood(0.9), within=wall.cavity)
            s.add(x - side * 10, y + dy + 7, 8, 7, p.blood(0.6), within=wall.cavity)


def _bowel(s: Scene, p: Patient, t: float, wall: Wall, room: int) -> None:
    if t < 590 or p.plain:
        return
    _loops(s, p, t, wall, room)
    for side in (-1, 1):
        if not (605 if side < 0 else 570) < t < (790 if side < 0 else 780):
            continue
        x = side * 0.8 * wall.a + 5 * math.sin(t / 19 + side)
        r = (
            (24 if side < 0 else 17)
            * (1 + 0.25 * math.sin(t / 11 + p.vary("colon", 3)))
            * (1 + p.vary(f"colon{side}", 0.15))
        )
        _colon(s, p, x, wall.y + 0.25 * wall.b, r, r * 1.1, room)
    centre = 655 + p.vary("transverse", 22)
    if abs(t - centre) < 24:
        _colon(s, p, 0, wall.y - 0.72 * wall.b, 0.62 * wall.a, 21, room, bend=0.5)
    if 760 < t < 850:
        _colon(
            s,
            p,
            between(t, (760, 55), (810, 10), (850, 0)),
            wall.spine_y - between(t, (760, 45), (850, 38)),
            26,
            18,
            room,
        )


def _colon(s: Scene, p: Patient, x: float, y: float, a: float, b: float, room: int, *, bend: float = 0.0) -> None:
    tube = s.add(x, y, a, b, p.soft(40), within=room, bend=bend, rough=3)
    s.add(
        x,
        y,
        a - 2.5,
        b - 2.5,
        p.soft(20) + 0.7 * p.oral,
        within=tube,
        bend=bend,
        rough=3,
        texture="gas",
        grain=-500 * p.gas - 100,
        scale=6,
    )
    if p.gas > 0.2:
        s.add(x, y - b * (1.45 - p.gas), a * 1.1, b, -980, within=tube, bend=bend)


def _loops(s: Scene, p: Patient, t: float, wall: Wall, room: int) -> None:
    for i in range(44):
        top = 600 + 9.0 * (i % 23) + p.vary(f"loop z{i}", 15)
        f = swell(t, top, top + 62 + p.vary(f"loop long{i}", 10))
        if f <= 0:
            continue
        way = (t - top) / 60.0
        x = wall.a * 0.68 * math.sin(i * 2.4 + way * 1.3 + p.vary(f"loop x{i}", 0.6))
        y = wall.y - wall.b * 0.18 + wall.b * 0.62 * math.cos(i * 1.7 + way + p.vary(f"loop y{i}", 0.5))
        if y > wall.spine_y - 34:
            continue
        a, b = 23 * f, 14 * f
        turn = 37.0 * (i % 5)
        tube = s.add(x, y, a, b, p.soft(42) + 0.25 * p.contrast, angle=turn, bend=0.4, within=room)
        s.add(x, y, a - 3, b - 3, p.soft(18) + p.oral * (i % 3 > 0), angle=turn, bend=0.4, within=tube)
        if p.gas * 1.5 > 0.4 + 0.5 * ((i * 0.618) % 1):
            s.add(x, y - b * 0.7, a, b * 0.7, -970, within=tube)
