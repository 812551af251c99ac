"""Specimen run directories: invented numbers in the shape of real ones, for looking at reports and testing them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustkit import results, summary

SITES = ("BN", "C", "AP", "LF")
FORTY = tuple(sorted({25.0, *np.geomspace(10, 500, 39).round(2).tolist()}))
MAS = (12.5, 25.0, 37.5, 50.0, 75.0, 100.0, 150.0, 175.0, 200.0, 225.0, 325.0, 400.0, 500.0)
SOURCE = "20 repeats simulated for this very slice by the virtual scanner, kernel B40, 0.98 mm pixels"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&\u202egnp.x{{7*7}}"


@dataclass(frozen=True)
class Specimen:
    """What an invented run looks like. `rates` is "falling", "none" or "all"."""

    classes: tuple[str, ...] = SITES
    levels: tuple[float, ...] = MAS
    n: int = 1000
    rates: str = "falling"
    unit: str = "mAs"
    model: str = "specimen-net.onnx"
    noise: str = "nps"
    undefined: tuple[str, ...] = ()
    max_sar: float | None = 0.02
    at: float | None = 25.0
    measured: bool = True
    flips: int = 4
    maps: bool = True
    scale: float = 1.0
    seed: int = 0

    def rate(self, column: int, level: float) -> float:
        if self.rates in ("none", "all"):
            return float(self.rates == "all")
        strength = (0.55, 0.9, 0.0, 0.62, 0.3, 0.8)[column % 6] * self.scale
        if self.unit == "sigma":
            return float(strength * level**2 / (level**2 + 400))
        middle = (14.0, 28.0, 10.0, 17.0, 40.0, 8.0)[column % 6] * min(self.levels) / 12.5
        return float(strength / (1 + (level / middle) ** 1.9)) if strength else 0.0


def counts(s: Specimen, level: float, rng: np.random.Generator, n: int) -> np.ndarray:
    size = len(s.classes)
    matrix = np.zeros((size, size), dtype=int)
    for column, name in enumerate(s.classes):
        if name in s.undefined:
            continue
        changed = int(rng.binomial(n, s.rate(column, level)))
        matrix[column, column] = n - changed
        others = [i for i in range(size) if i != column]
        if others:
            split = rng.multinomial(
                changed,
                np.array([2.0 ** -abs(i - column) for i in others]) / sum(2.0 ** -abs(i - column) for i in others),
            )
            matrix[others, column] = split
    return matrix


def table_rows(s: Specimen, level: float, matrix: np.ndarray, noise: str) -> list[dict[str, Any]]:
    return [
        {
            "run": "specimen", "model": s.model, "noise": noise, "slice": f"{column:016x}", "group": "", "label": clean,
            "unit": s.unit, "level": level, "realization": -1, "clean": clean, "noisy": noisy, "margin": np.nan,
            "tied": tied, "count": number,
        }
        for column, clean in enumerate(s.classes)
        for row, noisy in enumerate(s.classes)
        for tied, number in split_ties(int(matrix[row, column]), row != column)
        if number
    ]  # fmt: skip


def split_ties(number: int, changed: bool) -> list[tuple[bool, int]]:
    ties = 2 if changed and 100 < number < 300 else 0
    return [(False, number - ties), (True, ties)]


def summary_of(s: Specimen, table: pd.DataFrame) -> dict[str, Any]:
    gate = summary.Gate(s.max_sar, s.at) if s.max_sar is not None else None
    found = summary.build(
        table, model=s.model, noise=s.noise, unit=s.unit, classes=s.classes, levels=s.levels, n=s.n, seed=s.seed,
        gate=gate, null_audit={"images": len(s.classes), "changed": 0, "floor": 3.1e-8},
    )  # fmt: skip
    return {**found, "noise_source": [SOURCE], "clean_source": ["mean of 20 repeats"]}


def phantom(column: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a clean picture in HU and a map of its noise: an ellipse with two holes, streaks along its long axis."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    wide, tall = ((0.5, 0.62), (0.88, 0.6), (0.82, 0.58), (0.9, 0.3))[column % 4]
    body = (x / wide) ** 2 + (y / tall) ** 2
    clean = np.where(body < 1, 40.0, -1000.0)
    for side_x in (-0.45, 0.45):
        hole = ((x - side_x * wide) / (0.33 * wide)) ** 2 + (y / (0.6 * tall)) ** 2
        clean[hole < 1] = (-20.0, -820.0, 60.0, 900.0)[column % 4]
    clean[((x / 0.09) ** 2 + ((y - 0.6 * tall) / 0.12) ** 2) < 1] = 700.0
    sd = np.where(body < 1, 12 + 26 * np.exp(-1.5 * body) + 6 * np.cos(9 * y) ** 2 * (np.abs(x) < wide), 4.0)
    return clean.astype(np.float32), sd.astype(np.float32)


def coloured_noise(sd: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    white = rng.standard_normal(sd.shape)
    smooth = sum(np.roll(white, (i, j), (0, 1)) for i in (0, 1) for j in (0, 1, 2)) / np.sqrt(6)
    return (smooth * sd).astype(np.float32)


def noise_record(s: Specimen, column: int) -> dict[str, Any]:
    frequency = np.linspace(0, 0.7, 48)
    radial = [
        {
            "region": region,
            "frequency": frequency.round(4).tolist(),
            "nps": (peak * (frequency / f0) * np.exp(1 - (frequency / f0) ** 1.5)).round(3).tolist(),
        }
        for region, peak, f0 in (("centre", 2300, 0.16), ("edge", 1100, 0.2), ("whole body", 1600, 0.18))
    ]
    return {
        "slice": f"{column:016x}", "label": s.classes[column], "group": "specimen", "noise": s.noise,
        "source": SOURCE,
        "clean": {"from": "mean of 20 repeats", "k": 20, "mas": 200.0},
        "beam": {
            "wed_mm": 312.5,
            "scans": [{"k": 20, "mas": 25.0, "ctdivol": 5.1}, {"k": 20, "mas": 200.0, "ctdivol": 40.8}],
        },
        "report": {
            "method": "nps", "K": 20, "patch_mm": 6.8, "patch_px": 7, "reference_mas": 25.0, "sigma_median_hu": 23.4,
            "peak_frequency": 0.16, "mean_frequency": 0.24, "radial": radial, "sampling_floor": 0.1, "warnings": [],
        },
        "warnings": ["the clean image’s own noise is 0.35 of the noise added at 500 mAs"] if column == 0 else [],
    }  # fmt: skip


def write_specimen(path: Path, s: Specimen) -> Path:
    """Write a run directory of invented data and return its path."""
    rng = np.random.default_rng(s.seed)
    path.mkdir(parents=True)
    matrices = {level: counts(s, level, rng, s.n) for level in s.levels}
    rows = [row for level, m in matrices.items() for row in table_rows(s, level, m, s.noise)]
    if s.measured and len(s.levels) > 1:
        for level in (s.levels[1], s.levels[len(s.levels) * 2 // 3]):
            rows += table_rows(s, level, counts(s, level, rng, 150), "measured")
    table = results.conform(pd.DataFrame(rows, columns=list(results.COLUMNS)))
    results.write(table, path / "results.parquet")
    (path / "summary.json").write_text(json.dumps(summary_of(s, table)))
    run = {
        "version": 1, "created": "2031-05-04T09:12:33Z", "wall_seconds": 61.2,
        "command": ["robustkit", "audit", s.model, "--noise", s.noise, "--max-sar", "2%", "--at", "25"],
        "plan": {
            "model": {"name": s.model, "sha256": "9c1f" * 16}, "seed": s.seed, "batch": 64,
            "versions": {"robustkit": "0.1.0", "python": "3.11.7", "numpy": "2.4.6"},
            "cases": [
                {"slice": f"{i:016x}", "label": name, "group": "specimen", "from": "f" * 16, "clean": "mean"}
                for i, name in enumerate(s.classes)
            ],
        },
        "hardware": {"cpu": "specimen CPU", "cores": 2}, "files": {"results.parquet": "ab" * 32},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(run))
    if s.maps:
        few = range(min(len(s.classes), 4))
        (path / "noise.json").write_text(json.dumps([noise_record(s, c) for c in few]))
        np.savez(path / "noise.npz", **{f"sd_{c:016x}": phantom(c, 256)[1].astype(np.float16) for c in few})
    write_gallery(path, s, rng)
    return path


def write_gallery(path: Path, s: Specimen, rng: np.random.Generator) -> None:
    pictures, records = {}, []
    for i in range(s.flips):
        column = i % len(s.classes)
        clean, sd = phantom(column, 512)
        pictures[f"clean_{i}"] = clean.astype(np.float16)
        pictures[f"noisy_{i}"] = (clean + coloured_noise(sd, rng)).astype(np.float16)
        name, other = s.classes[column], s.classes[(column + 1) % len(s.classes)]
        records.append(
            {
                "slice": f"{column:016x}", "label": name, "clean": name, "noisy": other, "level": s.levels[:2][-1],
                "unit": s.unit, "realization": 17 + i,
                "probabilities_clean": {c: (0.81 if c == name else 0.15 if c == other else 0.01) for c in s.classes},
                "probabilities_noisy": {c: (0.55 if c == other else 0.41 if c == name else 0.01) for c in s.classes},
                "command": f"robustkit verify specimen {s.model} --slice {column:016x} --realization {17 + i}",
            }
        )  # fmt: skip
    (path / "gallery.json").write_text(json.dumps(records))
    np.savez(path / "gallery.npz", **pictures)


SPECIMENS: dict[str, Specimen] = {
    "usual": Specimen(),
    "three": Specimen(classes=("normal", "benign", "malignant"), measured=False),
    "twelve": Specimen(classes=tuple(f"lesion class {c}" for c in "ABCDEFGHIJKL"), max_sar=None),
    "one-level": Specimen(levels=(25.0,)),
    "forty-levels": Specimen(levels=FORTY),
    "twelve-forty": Specimen(classes=tuple(f"K{c}" for c in "ABCDEFGHIJKL"), levels=FORTY),
    "all-zeros": Specimen(rates="none"),
    "all-flips": Specimen(rates="all"),
    "undefined": Specimen(undefined=("C", "LF")),
    "sigma": Specimen(unit="sigma", noise="white", levels=(0.0, 5.0, 10.0, 20.0, 40.0), at=None, maps=False),
    "hostile": Specimen(model=HOSTILE, noise=f"plugin {HOSTILE}", classes=(HOSTILE, "C", "AP", "LF")),
}


@pytest.fixture(scope="session")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the run directory of a specimen, written once."""
    made: dict[str, Path] = {}

    def get(name: str, **changes: Any) -> Path:
        key = f"{name}-{sorted(changes.items())}"
        if key not in made:
            folder = tmp_path_factory.mktemp("specimen") / name
            made[key] = write_specimen(folder, replace(SPECIMENS[name], **changes))
        return made[key]

    return get
