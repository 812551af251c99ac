"""What a virtual scan costs, and how noisy water is: the tables of docs/noise.md.

python benchmarks/scanner.py            cost of scans, projection and maps, as a Markdown table
python benchmarks/scanner.py --water    sigma of a 30 cm water cylinder by kernel and mAs, beside theory
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable

import numpy as np
from scipy.integrate import trapezoid

from robustkit.scanner import VirtualScanner
from robustkit.scanner.filters import KERNELS
from robustkit.scanner.geometry import MU_WATER
from robustkit.scanner.scanner import _projected
from robustkit.seeding import draws
from robustkit.types import Slice, slice_id


def cylinder(size: int, fov_mm: float = 500.0, diameter_mm: float = 300.0) -> Slice:
    """Paint a water cylinder, its edge painted with 4 x 4 samples a pixel."""
    pixel = fov_mm / size
    fine = (np.arange(4 * size) - 0.5 * (4 * size - 1)) * pixel / 4
    inside = np.hypot(fine[:, None], fine[None, :]) < 0.5 * diameter_mm
    share = inside.reshape(size, 4, size, 4).mean(axis=(1, 3))
    pixels = (1000.0 * share - 1000.0).astype(np.float32)
    return Slice(slice_id(pixels, (pixel, pixel)), pixels, (pixel, pixel), synthetic=True)


def timed(function: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Best wall and best CPU time of some rounds, in ms; the first run, which may compile, is not counted."""
    function()
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return 1e3 * min(walls), 1e3 * min(cpus)


def costs() -> None:
    print("| what | matrix | views | threads | wall, ms | CPU, ms |")
    print("|---|---|---|---|---|---|")
    for size, views in ((512, 600), (256, 600), (256, 400)):
        item = cylinder(size)
        keys = draws(0, "scan", item.id, range(32))
        for threads in (1, 2):
            scanner = VirtualScanner(views=views, threads=threads)
            scanner.project(item)
            wall, cpu = timed(lambda: scanner.noise(item, 25, keys))  # noqa: B023
            print(
                f"| one scan of 32 (noise, filter, back-projection) | {size} | {views} | {threads} "
                f"| {wall / 32:.1f} | {cpu / 32:.1f} |"
            )
    item = cylinder(512)
    keys = draws(0, "scan", item.id, range(32))
    for threads in (1, 2):
        scanner = VirtualScanner(threads=threads)

        def project() -> None:
            _projected.cache_clear()
            scanner.project(item)  # noqa: B023

        for name, function, share in (
            ("one scan of 32, every 8th pixel", lambda: scanner.noise(item, 25, keys, every=8), 32),  # noqa: B023
            ("one scan alone", lambda: scanner.noise(item, 25, keys[:1]), 1),  # noqa: B023
            ("line integrals of a slice", project, 1),
            ("one scan of each of 16 slices, projection included", lambda: scanner.scan_each([item] * 16, 25), 16),  # noqa: B023
            ("the same, every 8th pixel", lambda: scanner.scan_each([item] * 16, 25, every=8), 16),  # noqa: B023
            ("sd map, one mAs", lambda: scanner.sd_map(item, 25), 1),  # noqa: B023
            ("sd maps, thirteen mAs", lambda: scanner.sd_at(item, np.geomspace(12.5, 500, 13)), 1),  # noqa: B023
        ):
            wall, cpu = timed(function, rounds=3)
            print(f"| {name} | 512 | 600 | {threads} | {wall / share:.1f} | {cpu / share:.1f} |")
    print(
        f"\nPeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB, Python and numba included."
    )


def theory(scanner: VirtualScanner, diameter_mm: float, mas: float) -> float:
    """HU at the centre of a water cylinder by the continuous theory of parallel-beam FBP, first order in 1 / counts."""
    a = scanner.detector_mm
    f = np.linspace(-0.5 / a, 0.5 / a, 20001)
    gain = np.abs(f) * KERNELS[scanner.kernel](np.abs(f))
    integral = trapezoid(gain**2 * (2 + np.cos(2 * math.pi * a * f)) / 3, f)
    counts = scanner.photons * mas / 200 * math.exp(-MU_WATER * diameter_mm)
    ray = 1 / counts + scanner.electronic**2 / counts**2
    return 1000 / MU_WATER * math.pi * math.sqrt(ray * a * integral / scanner.views)


def water() -> None:
    item = cylinder(512)
    at = (np.arange(512) - 255.5) * item.pixel_mm[0]
    radius = np.hypot(at[:, None], at[None, :])
    print("| kernel | mAs | centre, 200 scans | sd map | theory | 120 mm off centre | mean HU, 200 scans | noiseless |")
    print("|---|---|---|---|---|---|---|---|")
    for kernel in ("smooth", "standard", "sharp"):
        scanner = VirtualScanner(kernel=kernel)
        middle, rim = radius < 30, (radius > 115) & (radius < 125)
        noiseless = scanner.noiseless(item)[middle].mean()
        for mas in (12.5, 25.0, 50.0, 100.0, 200.0, 500.0):
            scans = scanner.noise(item, mas, draws(0, "scan", item.id, range(200)), every=4)
            inner, outer = middle[2::4, 2::4], rim[2::4, 2::4]
            claimed = scanner.sd_map(item, mas, every=4)[inner].mean()
            print(
                f"| {kernel} | {mas:g} | {scans[:, inner].std():.2f} | {claimed:.2f} "
                f"| {theory(scanner, 300, mas):.2f} | {scans[:, outer].std():.2f} "
                f"| {noiseless + scans[:, inner].mean():+.2f} | {noiseless:+.2f} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--water", action="store_true", help="the water table instead of the costs")
    (water if parser.parse_args().water else costs)()
