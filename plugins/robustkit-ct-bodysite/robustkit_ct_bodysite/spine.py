"""One vertebra of any level, cut at any height, with the disc below it."""

from __future__ import annotations

from robustkit_ct_bodysite.painter import Scene
from robustkit_ct_bodysite.patient import Patient


def vertebra(s: Scene, p: Patient, x: float, y: float, size: float, t: float, pitch: float) -> None:
    """Add the vertebra about (x, y), `size` 1 = lumbar, `pitch` mm from one disc to the next."""
    phase = (t / pitch + p.vary("vertebra phase", 0.3)) % 1.0
    a, b = 23.0 * size, 17.0 * size
    hard = 520 * p.bone
    s.add(x, y + b + 24 * size, 3.0 * size, 15 * size * (0.4 + 0.6 * (phase > 0.45)), hard, taper=0.3)
    if 0.3 < phase < 0.8:
        for side in (-1, 1):
            s.add(x + side * 26 * size, y + b + 5 * size, 17 * size, 4 * size, hard * 0.8, angle=side * 16)
            s.add(x + side * 14 * size, y + b + 3 * size, 5 * size, 9 * size, hard, angle=side * 10)
    else:
        for side in (-1, 1):
            s.add(x + side * 16 * size, y + b + 12 * size, 8 * size, 7 * size, hard * 1.2, angle=side * 30, rough=1)
    s.add(x, y + b + 9 * size, 14 * size, 13 * size, hard * 1.1)
    s.add(x, y + b + 7 * size, 10.5 * size, 9.5 * size, p.soft(15))
    s.add(x, y + b + 7 * size, 6 * size, 5 * size, p.soft(35))
    if phase < 0.2:
        s.add(x, y, a, b, p.soft(85), square=0.1)
        if p.age > 60 and p.has("spur", 0.5):
            s.add(x + a * 0.9, y - b * 0.3, 5 * size, 6 * size, 800 * p.bone, rough=2)
    else:
        rim = 650 * p.bone if 0.26 < phase < 0.94 else 780 * p.bone
        s.add(x, y, a, b, rim, square=0.1)
        core = (190 if 0.26 < phase < 0.94 else 420) * p.bone
        s.add(x, y, a - 1.8, b - 1.8, core, square=0.1, texture="cloud", grain=50, scale=4)
    if "spine" in p.metal and 600 < t < 740:
        for side in (-1, 1):
            s.add(x + side * 15 * size, y + b * 0.9, 3, 14, 3071, angle=side * 12)
