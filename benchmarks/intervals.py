"""How often does an interval of SAR hold the SAR of true scans? The total interval beside the binomial one.

A case is (model probe, slice, level, set of K scans). Truth: independent virtual scans, scored against the answer to
the mean of the K scans. The audit: noise fitted to the K scans, added to their mean, n realizations; then the scans
left out in turn, as `robustkit audit --total` does. Probes are linear models of several scales; all probes of a slice
see the same images, so a case costs a dot product.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py --markdown docs/statistics-coverage.md
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from sections import put, table

from robustkit import audit, cases, stats, uncertainty
from robustkit.scanner import VirtualScanner
from robustkit.scanner.scanner import scans_of
from robustkit.seeding import draws
from robustkit.types import Slice, slice_id

SIDE, MM = 96, 1.5
FIT_MAS, LEVELS = 10.0, (10.0, 40.0)
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)  # sd of a probe in px; every second one is the difference of two places
SCANNER = VirtualScanner(views=240, detector_mm=1.5, threads=1)
CHUNK = 64
BINS = ("up to 1 %", "1 to 5 %", "5 to 20 %", "above 20 %")


@dataclass(frozen=True, eq=False)
class Panel:
    """Linear models of one slice: weights (P, H*W), thresholds (P,). An answer is the sign of the margin."""

    weights: np.ndarray
    thresholds: np.ndarray

    def margins(self, images: np.ndarray) -> np.ndarray:
        """Margins (..., P) of images (..., H, W); a logistic model's log-odds are its margin."""
        return images.reshape(*images.shape[:-2], -1) @ self.weights.T - self.thresholds


def objects() -> list[Slice]:
    """Four objects of 100 to 130 mm: disc, ellipse with two lungs, two legs, disc with bone ring."""
    y, x = (np.indices((SIDE, SIDE)) - 0.5 * (SIDE - 1)) * MM
    air, found = -1000.0, []
    disc = np.where(np.hypot(y, x) < 55, 0.0, air)
    disc[np.hypot(y - 20, x + 15) < 12] = 120
    chest = np.where(np.hypot(y / 48, x / 64) < 1, 40.0, air)
    chest[(np.hypot(y / 28, (np.abs(x) - 28) / 20) < 1)] = -850
    legs = np.where(np.hypot(y, np.abs(x) - 34) < 28, 20.0, air)
    legs[np.hypot(y, np.abs(x) - 34) < 8] = 900
    head = np.where(np.hypot(y / 58, x / 48) < 1, 35.0, air)
    head[(np.hypot(y / 58, x / 48) < 1) & (np.hypot(y / 53, x / 43) > 1)] = 800
    for painted in (disc, chest, legs, head):
        pixels = gaussian_filter(painted, 0.6).astype(np.float32)
        found.append(Slice(slice_id(pixels, (MM, MM)), pixels, (MM, MM), synthetic=True))
    return found


def panel(item: Slice, truth: np.ndarray, clean: np.ndarray, rng: np.random.Generator) -> Panel:
    """Probes at random places of the object; at the lowest level 2 to 40 % of true scans cross the threshold."""
    inside = np.argwhere(gaussian_filter((item.pixels > -500).astype(float), 3) > 0.9)
    weights = []
    for number, scale in enumerate(SCALES):
        places = inside[rng.integers(len(inside), size=2)]
        spot = np.zeros((2, SIDE, SIDE))
        spot[0][tuple(places[0])], spot[1][tuple(places[1])] = 1, -1
        blurred = gaussian_filter(spot, (0, scale, scale))
        weights.append((blurred[0] + (number % 2) * blurred[1]).ravel())
    flat = np.array(weights, np.float32)
    spread = (truth.reshape(len(truth), -1) @ flat.T).std(axis=0)
    distance = rng.uniform(0.25, 2.0, len(SCALES))
    return Panel(flat, flat @ clean.ravel() - distance * spread)


def true_scans(item: Slice, mas: float, clean: np.ndarray, count: int, first: int) -> np.ndarray:
    """Return `count` stored scans (N, H, W), none of which any set of K holds."""
    parts = [
        scans_of(
            item,
            clean,
            SCANNER.noise(item, mas, draws(0, "scan", item.id, range(a, min(a + CHUNK, first + count)))),
            mas,
            kernel=None,
            source="",
        ).pixels
        for a in range(first, first + count, CHUNK)
    ]
    return np.concatenate(parts)


def margins(case: audit.Case, probes: Panel, n: int) -> np.ndarray:
    """Margins (n, L, P) of the audit's realizations 0 .. n - 1."""
    parts = []
    for a in range(0, n, CHUNK):
        part = draws(0, "audit", case.slice.id, range(a, min(a + CHUNK, n)))
        parts.append(probes.margins(audit.perturb(case, LEVELS, part)))
    return np.concatenate(parts)


def one_set(item: Slice, number: int, k: int, n: int, probes: Panel, truth: np.ndarray, settings: dict) -> list[dict]:
    """Return one record a level and probe: does each interval of this set of K scans hold the true SAR?"""
    repeats = SCANNER.repeats(item, FIT_MAS, k, stream="scan", first=number * k)
    source = cases.Source(item, (repeats,), clean_from="mean")
    choice = cases.NoiseChoice("nps", settings)
    case = cases.prepare(source, choice)
    answer = np.sign(probes.margins(case.clean))
    flips = (margins(case, probes, n) * answer < 0).sum(axis=0)
    refits = []
    for group in range(k):
        part = cases.prepare(uncertainty.left_out(source, group, k), choice)
        refits.append(uncertainty.expected_share(margins(part, probes, uncertainty.realizations(n)) * answer))
    shares = np.array(refits) * uncertainty.PER
    true = (truth * answer < 0).mean(axis=1)
    found = []
    for i, level in enumerate(LEVELS):
        for j, scale in enumerate(SCALES):
            flipped = int(flips[i, j])
            plain = stats.clopper_pearson(flipped, n)
            counts = np.column_stack([shares[:, i, j], np.full(k, uncertainty.PER)])
            total = stats.total_interval(flipped, n, counts)
            found.append(
                {"slice": item.id, "set": number, "mAs": level, "scale px": scale, "true": true[i, j]}
                | {"sar": flipped / n, "plain": plain.low <= true[i, j] <= plain.high}
                | {"total": total.low <= true[i, j] <= total.high}
                | {"plain width": plain.high - plain.low, "total width": total.high - total.low}
            )
    return found


@lru_cache(maxsize=1)
def _judged(index: int, scans: int, seed: int) -> tuple[Slice, Panel, np.ndarray]:
    """Return an object, its probes, and their margins (L, scans, P) on true scans."""
    item = objects()[index]
    clean = SCANNER.noiseless(item)
    images = [true_scans(item, mas, clean, scans, first=10**6) for mas in LEVELS]
    probes = panel(item, images[0], clean, np.random.default_rng([seed, index]))
    return item, probes, np.stack([probes.margins(part) for part in images])


def _some_sets(task: tuple[int, range, int, int, int, dict, int]) -> list[dict]:
    index, numbers, k, n, scans, settings, seed = task
    item, probes, truth = _judged(index, scans, seed)
    return [record for number in numbers for record in one_set(item, number, k, n, probes, truth, settings)]


def measure(sets: int, k: int, n: int, scans: int, settings: dict, jobs: int, seed: int = 1) -> pd.DataFrame:
    """Run every slice, set, level and probe; the same cases whatever `jobs`."""
    step = max(1, min(5, -(-sets * 4 // jobs)))
    tasks = [
        (index, range(first, min(first + step, sets)), k, n, scans, settings, seed)
        for index in range(len(objects()))
        for first in range(0, sets, step)
    ]
    with ProcessPoolExecutor(jobs) as pool:
        return pd.DataFrame([record for part in pool.map(_some_sets, tasks) for record in part])


def by(found: pd.DataFrame, column: str) -> str:
    """Return coverage and median width by a column, as Markdown."""
    rows = []
    groups = [("all", found)] if column == "all" else list(found.groupby(column, observed=True))
    for name, part in groups:
        widths = f"{part['plain width'].median():.1%} / {part['total width'].median():.1%}"
        label = name if isinstance(name, str) else format(name, "g")
        rows.append([label, f"{len(part)}", f"{part['plain'].mean():.1%}", f"{part['total'].mean():.1%}", widths])
    return table([column, "cases", "binomial interval", "total interval", "median widths"], rows)


def text(found: pd.DataFrame, asked: argparse.Namespace, seconds: float) -> str:
    """Return the section of the page."""
    binned = found.assign(**{"true SAR": pd.cut(found["true"], [-1, 0.01, 0.05, 0.2, 1], labels=BINS)})
    command = f"python benchmarks/intervals.py --sets {asked.sets} -k {asked.k} -n {asked.n} --scans {asked.scans}"
    sets = asked.sets * found["slice"].nunique()
    return f"""
    OMP_NUM_THREADS=1 {command} --markdown docs/statistics-coverage.md

Share of {len(found)} cases (model probe, slice, level, set of K = {asked.k} scans) whose 95 % interval holds the SAR of
true scans, each true SAR being itself a share of {asked.scans:,} scans of the virtual scanner. {asked.sets} disjoint
sets of scans of each of {found["slice"].nunique()} objects, {len(SCALES)} linear probes each, noise fitted at
{FIT_MAS:g} mAs, clean image the mean of the K scans, n = {asked.n}. Cases of one set share its scans: the {sets} sets,
not the cases, are what is independent.

{by(found, "all")}

By level (noise left in the mean is {np.sqrt(LEVELS[0] / asked.k / FIT_MAS):.2f} of the noise added at {LEVELS[0]:g} mAs
and {np.sqrt(LEVELS[1] / asked.k / FIT_MAS):.2f} at {LEVELS[1]:g} mAs), by scale of the probe, by true SAR:

{by(found, "mAs")}

{by(found, "scale px")}

{by(binned, "true SAR")}

The binomial interval is right for *this* fitted noise around *this* clean image, and only for those. More realizations
make it narrower and its coverage worse. ({seconds:.0f} s on {asked.jobs} processes.)
"""


def main() -> None:
    """Read the command line, measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=15)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--scans", type=int, default=4000)
    parser.add_argument("--method", help="of `robustkit.noise.estimate`; its default without")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; they change no case")
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    started = time.monotonic()
    settings = {"method": asked.method} if asked.method else {}
    found = measure(asked.sets, asked.k, asked.n, asked.scans, settings, asked.jobs)
    told = text(found, asked, time.monotonic() - started)
    print(told)
    if asked.markdown:
        put(asked.markdown, "virtual-scanner", told)


if __name__ == "__main__":
    main()
