"""The bony pelvis, the hips, and what lies between them; t from 690 to 945."""

from __future__ import annotations

from robustkit_ct_bodysite.painter import Scene, between, swell
from robustkit_ct_bodysite.patient import Patient
from robustkit_ct_bodysite.trunk import Wall


def pelvis(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    """Add iliac wings, sacrum, bladder and rectum, and the hip bones around the femoral heads."""
    if t < 688.0:
        return
    k = p.width**0.5 * (1.05 if p.female else 1.0)
    _gluteal(s, p, t, wall, k)
    _contents(s, p, t, wall)
    if 740 < t < 852:
        _sacrum(s, p, t, wall, k)
    for side in (-1, 1):
        if t < 832:
            _wing(s, p, t, side, k, wall)
        if t > 815:
            _hip_bone(s, p, t, side, k)


def _gluteal(s: Scene, p: Patient, t: float, wall: Wall, k: float) -> None:
    grain = -110 - p.age * 0.4
    for side in (-1, 1):
        f = between(t, (700, 0.2), (780, 0.9), (880, 1.0), (945, 0.8))
        s.add(
            side * 88 * k, wall.spine_y + 26, 62 * f * k, 34 * f, p.fat(10), angle=side * -24, within=wall.skin, edge=3
        )
        s.add(
            side * 88 * k,
            wall.spine_y + 26,
            60 * f * k,
            31 * f,
            p.soft(52),
            angle=side * -24,
            within=wall.skin,
            texture="strands",
            grain=grain,
            scale=14,
        )
        if t > 840:
            s.add(side * 72 * k, -66 * p.depth, 22, 18, p.fat(10), within=wall.skin, edge=5)
            s.add(side * 66 * k, -70 * p.depth, 6, 6, p.blood(0.9), within=wall.skin)
            s.add(side * 55 * k, -66 * p.depth, 8, 7, p.blood(0.6), within=wall.skin)
            s.add(
                side * 98 * k,
                -62 * p.depth,
                18,
                22,
                p.soft(55),
                within=wall.skin,
                texture="strands",
                grain=-60,
                scale=12,
            )


def _wing(s: Scene, p: Patient, t: float, side: int, k: float, wall: Wall) -> None:
    long = between(t, (690, 8), (700, 30), (740, 50), (790, 42), (832, 26))
    x = side * between(t, (690, 116), (740, 96), (790, 82), (832, 86)) * k
    y = wall.spine_y - between(t, (690, 22), (740, 6), (790, 10), (832, 34))
    angle = -side * between(t, (690, 62), (760, 50), (832, 74))
    thick = between(t, (690, 4), (720, 7), (790, 8), (832, 15))
    s.add(x, y, long, thick, 850 * p.bone, angle=angle, bend=side * 0.3)
    s.add(x, y, long - 2.5, thick - 2.2, 230 * p.bone, angle=angle, bend=side * 0.3, texture="cloud", grain=60, scale=4)


def _sacrum(s: Scene, p: Patient, t: float, wall: Wall, k: float) -> None:
    f = between(t, (740, 0.75), (760, 1.0), (800, 0.85), (835, 0.35), (852, 0.2))
    y = wall.spine_y + between(t, (740, 6), (800, 26), (852, 12))
    s.add(0, y, 52 * f * k, 19 * f, 700 * p.bone, bend=-0.5, taper=-0.2)
    s.add(0, y, (52 * f - 3) * k, 19 * f - 2.5, 190 * p.bone, bend=-0.5, taper=-0.2, texture="cloud", grain=60, scale=5)
    if f > 0.5:
        for side in (-1, 1):
            s.add(side * 24 * k, y + 2, 4, 4, p.fat(60))
        s.add(0, y + 12, 9, 5, p.soft(20))


def _contents(s: Scene, p: Patient, t: float, wall: Wall) -> None:
    if p.plain:
        return
    full = 0.75 + p.vary("bladder", 0.25)
    f = swell(t, 868 - 70 * full, 912)
    urine = p.soft(5) + (p.contrast * 2.0 if p.has("excretion", 0.25) else 0)
    s.add(
        0,
        wall.y - 0.2 * wall.b,
        (50 * full * f + 3) * (f > 0),
        (36 * full * f + 3) * (f > 0),
        p.soft(42),
        within=wall.cavity,
    )
    s.add(0, wall.y - 0.2 * wall.b, 50 * full * f, 36 * full * f, urine, within=wall.cavity)
    if 840 < t < 920:
        s.add(0, wall.spine_y - 4, 17, 15, p.soft(42), within=wall.cavity)
        s.add(0, wall.spine_y - 6, 10, 8, -800 * p.gas + 20, within=wall.cavity)
    g = swell(t, 800, 880) if p.female else swell(t, 885, 935)
    s.add(
        p.vary("uterus", 8),
        wall.spine_y - (34 if p.female else 28),
        30 * g,
        22 * g,
        p.soft(50) + 0.3 * p.contrast,
        within=wall.cavity,
        rough=3,
    )


def _hip_bone(s: Scene, p: Patient, t: float, side: int, k: float) -> None:
    bone, x, y = 850 * p.bone, side * 88 * k, -4.0
    if 818 < t < 905:
        f = swell(t, 815, 908)
        s.add(x - side * 13, y + 1, 31 * f, 35 * f, bone, taper=0.1, rough=2)
        s.add(x - side * 14, y + 1, 31 * f - 4, 35 * f - 4, 260 * p.bone, texture="cloud", grain=60, scale=4)
    if 868 < t < 945:
        f = swell(t, 862, 948)
        s.add(side * 62 * k, y + 32, 15 * f, 24 * f, bone, angle=side * 20)
        s.add(side * 62 * k, y + 32, 15 * f - 3, 24 * f - 3, 280 * p.bone, angle=side * 20)
    if 872 < t < 915:
        s.add(side * 34 * k, -38, 38, 8, bone, angle=side * 18)
        s.add(side * 34 * k, -38, 35, 5, 280 * p.bone, angle=side * 18)
    s.add(0, -44, between(t, (872, 0), (890, 3), (912, 3), (915, 0)), 12, p.soft(70))
    _femoral_head(s, p, t, side, x, y)


def _femoral_head(s: Scene, p: Patient, t: float, side: int, x: float, y: float) -> None:
    metal = "hip" in p.metal and p.vary("hip side") * side > 0
    hu = 3071.0 if metal else 900 * p.bone
    f = swell(t, 852, 900)
    s.add(x, y, 26.5 * f, 26.5 * f, p.soft(60), edge=1)
    s.add(x, y, 24.5 * f, 24.5 * f, hu)
    if not metal:
        s.add(x, y, 24.5 * f - 1.8, 24.5 * f - 1.8, 330 * p.bone, texture="cloud", grain=70, scale=4)
    g = swell(t, 866, 925)
    s.add(x + side * 22, y + 6, (20 * g + 6) * (g > 0.05), 12 * g, hu, angle=side * 14)
    s.add(x + side * 44, y + 12, 15 * g, 20 * g, hu, angle=side * 10)
    if not metal:
        s.add(x + side * 22, y + 6, 20 * g + 3, 12 * g - 2.5, 260 * p.bone, angle=side * 14)
        s.add(x + side * 44, y + 12, 15 * g - 2.5, 20 * g - 2.5, 200 * p.bone, angle=side * 10)
