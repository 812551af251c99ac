"""How faithful noise fitted to 20 scans is, against 1,000 scans it never saw, on five slices.

python benchmarks/fidelity.py                   the whole table (about half an hour on two cores)
python benchmarks/fidelity.py --quick           one slice, two fits, 300 scans of truth
python benchmarks/fidelity.py --slices C,hips --methods 'nps;nps, paper' --json out.json

Truth: scans of the virtual scanner with seed 1. Each fit: 20 scans of seed 2, sets disjoint. Everything is measured in
the body and about the scans' known mean, so that only the noise is judged (the mean of low-dose scans is shifted by the
logarithm of few counts; that shift is the clean image's, and of the models `scanner` alone makes it):

sd bias, sd rms     the model's own sd map over the truth's, mean and rms of the ratio less one; rms net of the truth's
                    sampling error, sqrt(rms^2 - 1 / (2 (n - 1)))
NPS 7, NPS 32       ||S - S_true|| / ||S_true|| of local spectra in windows of 7 and 32 px, averaged over windows; net
                    of the sampling error of both, which is 1 / n_model + 1 / n_truth of the squared ratio
acf                 the worst error of the autocorrelation, lags to 16 px along rows, columns and the two diagonals, of
                    noise over the truth's sd, averaged over the body
block 4, 16         sd of means over 4 x 4 and 16 x 16 px, over the truth's
var, skew, 4th      pooled second and fourth moment over the truth's; pooled skewness less the truth's
SAR                 rms error in points of the probability that a linear probe passes 1 and 2 true sd; 30 probes each of
                    1, 4 and 16 px, binomial errors subtracted

Lines: `20 scans` is the floor, 20 further scans about their own mean taken as they are; `white x sd` is the negative
control, white noise times the truth's sd map: all moments right, all texture wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit import noise
from robustkit.scanner import VirtualScanner, fit_scanner
from robustkit.seeding import Draw, draws
from robustkit.types import RepeatScans, Slice, slice_id

Fields = NDArray[np.float32]
MAS = 25.0
K = 20
LAGS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
PROBE_PX = (1.0, 4.0, 16.0)
PROBES = 30
TAILS = (1.0, 2.0)
BATCH = 16
FLOOR = "20 scans (floor)"
COLUMNS = ("sd bias", "sd rms", "NPS 7", "NPS 32", "acf", "block 4", "block 16", "var", "skew", "4th", "SAR")


def slices(names: Sequence[str]) -> dict[str, Slice]:
    """Return the phantom's four central slices and its hips; without the plugin, plain ellipses of like attenuation."""
    from robustkit import registry

    found: dict[str, Slice] = {}
    for name in names:
        images = registry.default().load_images("phantom/LF-440" if name == "hips" else f"phantom/{name}")
        found[name] = images[0] if images else _ellipses()[name]
    return found


def _ellipses() -> dict[str, Slice]:
    soft, lung, bone = 40.0, -820.0, 900.0
    bodies = {
        "BN": [(0, 0, 78, 98, bone), (0, 0, 71, 91, soft)],
        "C": [(0, 0, 170, 115, soft), (-80, -5, 55, 80, lung), (80, -5, 55, 80, lung), (0, 75, 20, 20, bone)],
        "AP": [(0, 0, 165, 115, soft), (0, 65, 22, 20, bone)],
        "LF": [(-85, 0, 62, 65, soft), (85, 0, 62, 65, soft), (-85, 0, 15, 15, bone), (85, 0, 15, 15, bone)],
        "hips": [(0, 0, 185, 110, soft), (-95, 0, 26, 26, bone), (95, 0, 26, 26, bone)],
    }
    at = (np.arange(512) - 255.5) * 500 / 512
    found = {}
    for name, shapes in bodies.items():
        image = np.full((512, 512), -1000.0, np.float32)
        for x, y, a, b, hu in shapes:
            image[((at[None, :] - x) / a) ** 2 + ((at[:, None] - y) / b) ** 2 < 1] = hu
        spacing = (500 / 512, 500 / 512)
        found[name] = Slice(slice_id(image, spacing), image, spacing, label=name, synthetic=True)
    return found


@dataclass(frozen=True, eq=False)
class Window:
    """What is looked at: the body's bounding box, the body in it, its sd map, tiles that lie in the body, probes."""

    rows: slice
    columns: slice
    body: NDArray[np.bool_]
    sd: Fields
    tiles: dict[int, NDArray[np.intp]]
    probes: Fields

    def cut(self, fields: Fields) -> Fields:
        return np.ascontiguousarray(fields[..., self.rows, self.columns])


def window_of(item: Slice, sd: Fields, seed: int = 5) -> Window:
    from scipy import ndimage

    body = ndimage.binary_opening(item.pixels > -300, iterations=3)
    body = np.asarray(ndimage.binary_fill_holes(body), bool)
    rows, columns = (slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(body))
    body, sd = body[rows, columns], sd[rows, columns]
    tiles = {size: _tiles(body, size) for size in (4, 7, 16, 32)}
    generator = np.random.default_rng(seed)
    places = np.argwhere(ndimage.binary_erosion(body, iterations=12))
    y, x = np.ogrid[: body.shape[0], : body.shape[1]]
    probes = np.empty((len(PROBE_PX) * PROBES, *body.shape), np.float32)
    for i in range(len(probes)):
        wide = PROBE_PX[i // PROBES]
        for _ in range(3):  # a probe has three blobs of either sign
            cy, cx = places[generator.integers(len(places))]
            blob = np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / wide**2) * generator.choice((-1.0, 1.0))
            probes[i] = blob if _ == 0 else probes[i] + blob
    probes *= body
    return Window(rows, columns, body, sd, tiles, probes.reshape(len(probes), -1))


def _tiles(body: NDArray[np.bool_], size: int) -> NDArray[np.intp]:
    """Flat index (tiles, size, size) of the tiles that lie in the body altogether."""
    height, width = (n // size * size for n in body.shape)
    index = np.arange(body.size).reshape(body.shape)[:height, :width]
    index = index.reshape(height // size, size, width // size, size).swapaxes(1, 2).reshape(-1, size, size)
    return index[body.ravel()[index].all(axis=(1, 2))]


@dataclass
class Tally:
    """Sums over noise fields of one slice, from which every figure follows."""

    window: Window
    n: int = 0
    square: Any = 0.0
    moments: Any = 0.0
    spectra: dict[int, Any] = field(default_factory=lambda: {7: 0.0, 32: 0.0})
    blocks: dict[int, Any] = field(default_factory=lambda: {4: 0.0, 16: 0.0})
    lags: Any = 0.0
    logits: list[Fields] = field(default_factory=list)

    def add(self, fields: Fields) -> None:
        """Add noise fields (B, h, w) cut to the window."""
        from scipy import fft

        w = self.window
        flat = fields.reshape(len(fields), -1)
        inside = flat[:, w.body.ravel()].astype(np.float64)
        squared = inside**2
        self.square = self.square + squared.sum(axis=0)
        self.moments = self.moments + np.array(
            [squared.mean(1).sum(), (squared * inside).mean(1).sum(), (squared**2).mean(1).sum()]
        )
        for size in self.spectra:
            power = np.abs(fft.rfft2(flat[:, w.tiles[size]])) ** 2
            self.spectra[size] = self.spectra[size] + power.sum(axis=0, dtype=np.float64)
        for size in self.blocks:
            self.blocks[size] = self.blocks[size] + (flat[:, w.tiles[size]].mean(axis=(2, 3)) ** 2).sum(
                axis=0, dtype=np.float64
            )
        self.lags = self.lags + self._lagged(fields)
        self.logits.append(flat @ w.probes.T)
        self.n += len(fields)

    def _lagged(self, fields: Fields) -> NDArray[np.float64]:
        w = self.window
        z = np.where(w.body, fields / np.maximum(w.sd, 1e-3), 0).astype(np.float32)
        found = np.empty((len(DIRECTIONS), len(LAGS) + 1))
        for i, (dy, dx) in enumerate(DIRECTIONS):
            for j, lag in enumerate((0, *LAGS)):
                pairs = _shifted(w.body, dy * lag, dx * lag)
                a, b = _shifted_pair(z, dy * lag, dx * lag)
                found[i, j] = np.einsum("bij,bij->", a, b, dtype=np.float64) / pairs
        return found

    def merge(self, other: Tally) -> None:
        """Add the sums of other fields of the same slice."""
        self.square, self.moments, self.lags = (
            self.square + other.square,
            self.moments + other.moments,
            self.lags + other.lags,
        )
        for size in self.spectra:
            self.spectra[size] = self.spectra[size] + other.spectra[size]
        for size in self.blocks:
            self.blocks[size] = self.blocks[size] + other.blocks[size]
        self.logits += other.logits
        self.n += other.n

    @property
    def sd_map(self) -> NDArray[np.float64]:
        return np.sqrt(self.square / self.n)

    @property
    def acf(self) -> NDArray[np.float64]:
        lags = self.lags / self.n
        return np.asarray(lags[:, 1:] / lags[:, :1])


def _shifted_pair(z: Any, dy: int, dx: int) -> tuple[Any, Any]:
    height, width = z.shape[-2:]
    a = z[..., : height - dy, max(0, -dx) : width - max(0, dx)]
    b = z[..., dy:, max(0, dx) : width - max(0, -dx)]
    return a, b


def _shifted(body: NDArray[np.bool_], dy: int, dx: int) -> float:
    a, b = _shifted_pair(body, dy, dx)
    return float((a & b).sum())


Maker = Callable[[RepeatScans], tuple[Callable[[list[Draw]], Fields], Fields | None]]


def methods(truth_sd: Fields) -> dict[str, Maker]:
    """Return how each line of the table is made from 20 scans: a sampler of noise fields and a claimed sd map."""

    def fitted(fit: Callable[..., Any], **settings: Any) -> Maker:
        def make(repeats: RepeatScans) -> tuple[Callable[[list[Draw]], Fields], Fields | None]:
            model = fit(repeats, **settings)
            clean = repeats.clean
            sd = model.sd(clean, [MAS])
            return lambda keys: model.sample(clean, [MAS], keys)[:, 0], None if sd is None else sd[0]

        return make

    def control(repeats: RepeatScans) -> tuple[Callable[[list[Draw]], Fields], Fields | None]:
        def sample(keys: list[Draw]) -> Fields:
            fields = [key.generator().standard_normal(truth_sd.shape, np.float32) for key in keys]
            return np.stack(fields) * truth_sd

        return sample, truth_sd

    return {
        "nps": fitted(noise.fit_nps),
        "nps, lag-corrected": fitted(noise.fit_nps, method="lag-corrected"),
        "nps, paper": fitted(noise.fit_nps, method="paper"),
        "patch-nps": fitted(noise.fit_patch_nps),
        "white": fitted(noise.fit_white),
        "residuals": fitted(noise.fit_residuals),
        "scanner": fitted(fit_scanner),
        "white x sd (control)": control,
    }


def batches(sample: Callable[[list[Draw]], Fields], keys: list[Draw]) -> Iterator[Fields]:
    for start in range(0, len(keys), BATCH):
        yield sample(keys[start : start + BATCH])


def judge(tally: Tally, claimed: Fields | None, truth: Tally, ddof: int = 0) -> dict[str, float]:
    """Return the figures of one fit; `ddof` 1 where the fields are about their own mean."""
    scale = tally.n / (tally.n - ddof)
    ratio = (claimed if claimed is not None else tally.sd_map * np.sqrt(scale)) / truth.sd_map
    found = {"sd bias": float(ratio.mean() - 1)}
    found["sd rms"] = float(np.mean((ratio - 1) ** 2) - 0.5 / (truth.n - 1))
    for size in (7, 32):
        difference = tally.spectra[size] * scale / tally.n - truth.spectra[size] / truth.n
        squares = (difference**2).sum(axis=(1, 2)) / ((truth.spectra[size] / truth.n) ** 2).sum(axis=(1, 2))
        found[f"NPS {size}"] = float(squares.mean() - 1 / tally.n - 1 / truth.n)
    found["acf"] = float(np.abs(tally.acf - truth.acf).max())
    for size in (4, 16):
        found[f"block {size}"] = float(
            np.sqrt(tally.blocks[size].mean() * scale / tally.n / (truth.blocks[size].mean() / truth.n))
        )
    second, third, fourth = tally.moments / tally.n * np.array([scale, scale**1.5, scale**2])
    true = truth.moments / truth.n
    found |= {"var": float(second / true[0]), "4th": float(fourth / true[2])}
    found["skew"] = float(third / second**1.5 - true[1] / true[0] ** 1.5)
    found["SAR"] = _probe_error(np.concatenate(tally.logits) * np.sqrt(scale), np.concatenate(truth.logits))
    return found


def _probe_error(logits: Fields, true: Fields) -> float:
    """Mean squared error of tail probabilities (draws, probes), less the binomial errors of both."""
    errors = []
    sd = true.std(axis=0)
    for tail in TAILS:
        p, q = (logits > tail * sd).mean(axis=0), (true > tail * sd).mean(axis=0)
        errors.append((p - q) ** 2 - p * (1 - p) / max(1, len(logits) - 1) - q * (1 - q) / (len(true) - 1))
    return float(np.mean(errors))


def average(figures: list[dict[str, float]]) -> dict[str, float]:
    """Mean over fits; squares become roots here, so that sampling errors cancel on average."""
    mean = {name: float(np.mean([f[name] for f in figures])) for name in COLUMNS}
    for name in ("sd rms", "NPS 7", "NPS 32", "SAR"):
        mean[name] = float(np.sqrt(max(mean[name], 0.0)))
    return mean


@dataclass(frozen=True, eq=False)
class Ground:
    """A slice, what its noise is held against, and the mean shift of its scans by the logarithm, cut to the window."""

    item: Slice
    sd: Fields
    shift: Fields
    truth: Tally


_grounds: dict[str, Ground] = {}
"""By name of the slice; workers are forked when it is full."""
SCANNER = VirtualScanner(threads=1)


def ground(name: str, item: Slice) -> Ground:
    """Return a slice whose truth is still empty."""
    sd = SCANNER.sd_map(item, MAS)
    window = window_of(item, sd)
    shift = window.cut(SCANNER.bias_map(item, MAS))
    told = np.sqrt(np.mean((shift / window.sd)[window.body] ** 2))
    print(f"{name}: mean shift by the logarithm, rms over the sd: {told:.3f}", flush=True)
    return Ground(item, sd, shift, Tally(window))


def truth_part(task: tuple[str, int, int]) -> Tally:
    """Return the sums over scans first .. stop of one slice."""
    name, first, stop = task
    one, tally = _grounds[name], Tally(_grounds[name].truth.window)
    for fields in batches(
        lambda keys: SCANNER.noise(one.item, MAS, keys), draws(1, "scan", one.item.id, range(first, stop))
    ):
        tally.add(tally.window.cut(fields) - one.shift)
    return tally


def fit_part(task: tuple[str, str, int, int]) -> dict[str, float]:
    """Return the figures of one line of one slice, from one set of 20 scans and `sims` realizations."""
    name, line, fit, sims = task
    one = _grounds[name]
    tally = Tally(one.truth.window)
    repeats = SCANNER.repeats(one.item, MAS, K, seed=2, first=fit * K)
    if line == FLOOR:
        tally.add(tally.window.cut(repeats.residuals))
        return judge(tally, None, one.truth, ddof=1)
    sample, claimed = methods(one.sd)[line](repeats)
    for fields in batches(sample, draws(3, "audit", one.item.id, range(fit * sims, (fit + 1) * sims))):
        tally.add(tally.window.cut(fields) - (one.shift if line == "scanner" else 0.0))
    sd = None if claimed is None else tally.window.cut(claimed)[tally.window.body]
    return judge(tally, sd, one.truth)


def compare(
    items: dict[str, Slice], wanted: list[str] | None, fits: int, truth_n: int, sims: int, jobs: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return {slice: {line: figures}}; the same figures whatever `jobs`."""
    _grounds.update({name: ground(name, item) for name, item in items.items()})
    with _pool(jobs) as pool:
        parts = [(name, i, min(i + 4 * BATCH, truth_n)) for name in items for i in range(0, truth_n, 4 * BATCH)]
        for (name, *_), tally in zip(parts, pool.map(truth_part, parts), strict=True):
            _grounds[name].truth.merge(tally)
    lines = [FLOOR, *(line for line in methods(np.empty(0)) if wanted is None or line in wanted)]
    tasks = [(name, line, fit, sims) for name in items for line in lines for fit in range(fits)]
    with _pool(jobs) as pool:
        found = dict(zip(tasks, pool.map(fit_part, tasks), strict=True))
    return {
        name: {line: average([found[name, line, fit, sims] for fit in range(fits)]) for line in lines} for name in items
    }


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork"))


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a Markdown table of the mean over slices, then one of each slice."""
    text = []
    names = list(next(iter(results.values())))
    mean = {n: {c: float(np.mean([r[n][c] for r in results.values()])) for c in COLUMNS} for n in names}
    for title, lines in (({"mean over slices": mean} if len(results) > 1 else {}) | results).items():
        text += [f"\n**{title}**\n", "| noise | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        text += [f"| {n} | " + " | ".join(_shown(c, v[c]) for c in COLUMNS) + " |" for n, v in lines.items()]
    return "\n".join(text)


def _shown(column: str, value: float) -> str:
    if column == "sd bias":
        return f"{100 * value:+.1f} %"
    if column in ("sd rms", "NPS 7", "NPS 32"):
        return f"{100 * value:.1f} %"
    return f"{100 * value:.2f}" if column == "SAR" else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="slice C, 2 fits, 300 scans of truth")
    parser.add_argument("--slices", default="BN,C,AP,LF,hips")
    parser.add_argument("--methods", help="lines of the table, separated by ;")
    parser.add_argument("--fits", type=int, default=10)
    parser.add_argument("--truth", type=int, default=1000)
    parser.add_argument("--sims", type=int, default=112, help="realizations of each fit")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; they change no figure")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    asked = parser.parse_args()
    if asked.quick:
        asked.fits, asked.truth, asked.slices = 2, 304, "C"
    chosen = slices(asked.slices.split(","))
    wanted = asked.methods.split(";") if asked.methods else None
    start = time.perf_counter()
    results = compare(chosen, wanted, asked.fits, asked.truth, asked.sims, asked.jobs)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))
    print(f"{time.perf_counter() - start:.0f} s on {asked.jobs} processes")
    print(table(results))


if __name__ == "__main__":
    main()
