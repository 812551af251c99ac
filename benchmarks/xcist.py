"""The virtual scanner beside an independent one: gecatsim 1.5.4 (XCIST), a polychromatic fan beam. Prints tables.

    python -m venv peer && peer/bin/pip install -e . gecatsim==1.5.4
    peer/bin/python benchmarks/xcist.py [--scans 40] [--object water|rods] [--mas 12.5,50,200]

Both scan the same objects: a 30 cm water cylinder, and an ellipse of 36 x 24 cm of water with two dense rods. gecatsim
(120 kVp, 20 energies, 720 views over 360 degrees, 384 cells of 1.6 mm, energy-integrating detector with its electronic
noise, no bow-tie) projects, counts and reconstructs by its own code, kernel "soft"; ours as it ships. What is compared
is what no choice of units hides: the shape of the sd map, the texture (NPS), and how noise falls with mAs. Their mAs
differ by a constant, which is found on the object's centre at the highest dose. Never a dependency: where gecatsim is
not installed this says so and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robustkit.scanner import VirtualScanner
from robustkit.seeding import draws
from robustkit.types import Slice, slice_id

SIDE = 320  # pixels of 1 mm
OBJECTS = {
    "30 cm water": [((0.0, 0.0), (150.0, 150.0), 1.0)],
    "36 x 24 cm, two rods": [
        ((0.0, 0.0), (155.0, 110.0), 1.0),
        ((-95.0, 0.0), (20.0, 20.0), 1.8),
        ((95.0, 0.0), (20.0, 20.0), 1.8),
    ],
}
"""Elliptic cylinders of water: centre and half axes in mm (x, y), density; a later one replaces what it covers."""


def drawn(parts: list[tuple[tuple[float, float], tuple[float, float], float]], fine: int = 8) -> Slice:
    """Return an object as an image in HU, its borders drawn `fine` times finer and averaged."""
    at = (np.arange(SIDE * fine) + 0.5) / fine - SIDE / 2
    x, y = at[None, :], at[:, None]
    density = np.zeros((SIDE * fine, SIDE * fine), np.float32)
    for (cx, cy), (ax, ay), value in parts:
        density[((x - cx) / ax) ** 2 + ((y - cy) / ay) ** 2 < 1] = value
    mean = density.reshape(SIDE, fine, SIDE, fine).mean(axis=(1, 3))
    pixels = (1000 * mean - 1000).astype(np.float32)
    return Slice(slice_id(pixels, (1.0, 1.0)), pixels, (1.0, 1.0), synthetic=True)


def phantom_file(parts: list[tuple[tuple[float, float], tuple[float, float], float]]) -> str:
    """Return an object as gecatsim's analytic phantom."""
    lines = ["materialList = {'water'};"]
    for i, ((cx, cy), (ax, ay), density) in enumerate(parts, start=1):
        lines += [
            f"object.center({i},:) = [{cx:f} {cy:f} 0.000000];",
            f"object.half_axes({i},:) = [{ax:f} {ay:f} 50.000000];",
            f"object.euler_angs({i},:) = [0.000000 0.000000 0.000000];",
            f"object.density({i}) = {density:f};",
            f"object.type({i}) = 2;",
            f"object.material({i}) = 1;",
            f"object.axial_lims({i},:) = [0 0];",
            f"object.shape({i}) = 0;",
            f"object.clip{{{i}}} = [];",
            "",
        ]
    return "\n".join(lines)


@contextlib.contextmanager
def quiet_folder() -> Iterator[Path]:
    """Work in a folder of its own, since gecatsim writes where it stands, and let it print nothing."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield Path(folder)
        finally:
            os.chdir(before)


def peer_scans(name: str, mas: float, count: int) -> np.ndarray:
    """Return (count, H, W) HU scanned and reconstructed by gecatsim."""
    import gecatsim
    from gecatsim.reconstruction.pyfiles import recon

    found = []
    with quiet_folder() as folder:
        (folder / "object.ppm").write_text(phantom_file(OBJECTS[name]), encoding="utf-8")
        ct = gecatsim.CatSim()
        ct.resultsName = "scan"
        ct.phantom.callback, ct.phantom.projectorCallback = "Phantom_Analytic", "C_Projector_Analytic"
        ct.phantom.filename = "object.ppm"
        ct.scanner.detectorColCount, ct.scanner.detectorColSize = 384, 1.6
        ct.scanner.detectorRowCount = ct.scanner.detectorRowsPerMod = 1
        ct.scanner.detectorRowSize = 5.0
        ct.protocol.viewsPerRotation = ct.protocol.viewCount = 720
        ct.protocol.stopViewId = 719
        ct.protocol.mA, ct.protocol.bowtie = mas, []
        for sampled in ("colSampleCount", "rowSampleCount", "srcXSampleCount", "srcYSampleCount", "viewSampleCount"):
            setattr(ct.physics, sampled, 1)
        ct.recon.fov, ct.recon.imageSize, ct.recon.sliceCount, ct.recon.sliceThickness = float(SIDE), SIDE, 1, 1.0
        ct.recon.kernelType = "soft"
        for number in range(count):
            ct.protocol.scanTypes = [1, 1, 1] if number == 0 else [0, 0, 1]
            cfg = ct.run_all()
            if number:
                ct.prep_view(cfg)
            found.append(np.asarray(recon.recon_direct(ct.get_current_cfg()))[..., 0])
    return np.stack(found).astype(np.float32)


def own_scans(item: Slice, mas: float, count: int) -> np.ndarray:
    """Return (count, H, W) HU of the virtual scanner: the noise, which is all that is looked at."""
    return VirtualScanner().noise(item, mas, draws(0, "scan", item.id, range(count)))


def residuals(scans: np.ndarray) -> np.ndarray:
    return (scans - scans.mean(axis=0)) * np.sqrt(len(scans) / (len(scans) - 1))


def disc(x: float, y: float, radius: float) -> np.ndarray:
    at = np.arange(SIDE) + 0.5 - SIDE / 2
    return (at[None, :] - x) ** 2 + (at[:, None] - y) ** 2 < radius**2


def sd_in(noise: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.square(noise[:, where], dtype=np.float64).mean()))


def spectrum(noise: np.ndarray, x: float, y: float, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2-D NPS of a square about (x, y) mm, sum 1, and its frequencies in 1/mm (0 left out)."""
    row, column = int(SIDE / 2 + y - side / 2), int(SIDE / 2 + x - side / 2)
    power = np.square(np.abs(np.fft.fft2(noise[:, row : row + side, column : column + side]))).mean(axis=0)
    power[0, 0] = 0
    return power / power.sum(), np.fft.fftfreq(side)


def mean_frequency(power: np.ndarray, frequency: np.ndarray) -> float:
    return float((power * np.hypot(frequency[:, None], frequency[None, :])).sum())


def along(power: np.ndarray, frequency: np.ndarray) -> float:
    """Return the share of power within 45 degrees of the y axis: more than half where structures lie along x."""
    steep = np.abs(frequency[:, None]) > np.abs(frequency[None, :])
    level = np.abs(frequency[:, None]) < np.abs(frequency[None, :])
    return float(power[steep].sum() / (power[steep].sum() + power[level].sum()))


def facts(noise: dict[float, np.ndarray], name: str) -> dict[str, float]:
    """Return what is compared of one object: relative numbers alone."""
    top = max(noise)
    loud = noise[top]
    centre = disc(0, 0, 20)
    at = {"centre": (0.0, 0.0)}
    places = (
        {"60 mm off": (60.0, 0.0), "110 mm off": (110.0, 0.0), "110 mm off, above": (0.0, 110.0)}
        if name == "30 cm water"
        else {
            "above the centre, 70 mm": (0.0, 70.0),
            "beside a rod, 55 mm": (55.0, 0.0),
            "behind it, 135 mm": (135.0, 0.0),
        }
    )
    found = {f"sd, {what} / centre": sd_in(loud, disc(*xy, 12)) / sd_in(loud, centre) for what, xy in places.items()}
    for what, (x, y) in {**at, **dict(list(places.items())[1:2])}.items():
        power, frequency = spectrum(loud, x, y)
        found[f"mean frequency, {what}, 1/mm"] = mean_frequency(power, frequency)
        found[f"power along y, {what}"] = along(power, frequency)
    for mas in sorted(noise):
        if mas != top:
            ratio = sd_in(noise[mas], centre) / sd_in(loud, centre)
            found[f"sd at {mas:g} / at {top:g} mAs, over the square root"] = ratio / np.sqrt(top / mas)
    return found


def map_difference(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Return rms difference of two sd maps, smoothed over 5 mm and over their medians, and what sampling adds."""
    from scipy.ndimage import gaussian_filter

    def relative(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        halves = [np.sqrt(gaussian_filter(np.square(noise[i::2]).mean(axis=0), 5)) for i in (0, 1)]
        whole = np.sqrt(gaussian_filter(np.square(noise).mean(axis=0), 5))
        middle = np.median(whole[inside])
        return whole / middle, (halves[0] - halves[1]) / middle

    (one, own), (two, other) = relative(a), relative(b)
    sampling = sum(np.mean(np.square(half[inside])) / 4 for half in (own, other))
    rms = np.mean(np.square((one - two)[inside]))
    return float(np.sqrt(rms)), float(np.sqrt(sampling))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=40, help="per object and mAs")
    parser.add_argument("--object", choices=("water", "rods"), help="one of the objects alone")
    parser.add_argument("--mas", default="12.5,50,200", help="doses, the highest for the maps")
    options = parser.parse_args()
    levels = [float(mas) for mas in options.mas.split(",")]
    if importlib.util.find_spec("gecatsim") is None:
        sys.exit("gecatsim is not installed here, so there is nothing to compare with: see the head of this file")
    for name, parts in OBJECTS.items():
        if options.object and options.object not in name:
            continue
        item = drawn(parts)
        peer = {mas: residuals(peer_scans(name, mas, options.scans)) for mas in levels}
        top = max(levels)
        own = residuals(own_scans(item, top, options.scans))
        scale = float((sd_in(own, disc(0, 0, 20)) / sd_in(peer[top], disc(0, 0, 20))) ** 2)
        ours = {mas: residuals(own_scans(item, mas * scale, options.scans)) for mas in levels}
        print(f"\n{name}, {options.scans} scans each; 1 mAs of gecatsim is {scale:.3g} of ours.\n")
        print("| | gecatsim | virtual scanner |\n|---|---|---|")
        their, mine = facts(peer, name), facts(ours, name)
        for what, value in their.items():
            print(f"| {what} | {value:.3f} | {mine[what]:.3f} |")
        inside = item.pixels > -500
        rms, sampling = map_difference(peer[top], ours[top], inside)
        print(
            f"\nsd maps, smoothed over 5 mm, each over its median: rms difference {100 * rms:.1f} %, of which ", end=""
        )
        print(f"sampling {100 * sampling:.1f} %.")


if __name__ == "__main__":
    main()
