"""Speed of noise synthesis and estimation, as ratios within one run. Prints a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/noise.py [--rounds 7] [--quick]

Every figure is CPU time of this thread, the median over interleaved rounds, beside numpy's
`Generator(SFC64).standard_normal(float32)` drawing one 512 x 512 field in the same rounds. "default" is what
`robustkit audit` runs: the regional fit, kernels on two grids. Peers are timed where they are installed:
`pip install dicaugment pylinac`. Two threads are timed by the wall clock, which needs a quiet machine. One more mAs
level is timed as an audit asks for it: 8 realizations a call, again and again, 16 levels beside one in turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import fft
from scipy.signal import fftconvolve

from robustkit.noise import estimate, fit_nps
from robustkit.noise.estimation import DEFAULT
from robustkit.noise.kernel import FilterBank, build, synthesise
from robustkit.noise.library import library_profile
from robustkit.noise.patch import fit_patch_nps
from robustkit.noise.patches import Axis, axis_patches
from robustkit.seeding import Draw, draws
from robustkit.types import RepeatScans

Case = tuple[str, int, Callable[[], object]]


def words(count: int) -> np.ndarray:
    return np.array([d.words for d in draws(0, "audit", "0" * 16, range(count))], dtype=np.uint32)


def patches(side: int, size: int, taps: int) -> tuple[Axis, np.ndarray, np.ndarray]:
    axis = axis_patches(side, size, max(1, round(0.3 * size)))
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((len(axis.starts), len(axis.starts), taps, taps)).astype(np.float32)
    return axis, kernels, np.full((side, side), 10, np.float32)


def bank(side: int, size: int, taps: int) -> FilterBank:
    axis, kernels, sigma = patches(side, size, taps)
    return build(axis, axis, kernels, sigma)


def naive(axis: Axis, kernels: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Loop over patches in Python, one FFT convolution each."""
    out = np.zeros((axis.length, axis.length))
    halo = kernels.shape[2] - 1
    for i, y in enumerate(axis.starts):
        for j, x in enumerate(axis.starts):
            cut = white[y : y + axis.size + halo, x : x + axis.size + halo]
            weight = np.outer(axis.weights[i], axis.weights[j])
            out[y : y + axis.size, x : x + axis.size] += weight * fftconvolve(cut, kernels[i, j], mode="valid")
    return out


def batched_fft(axis: Axis, spectra: np.ndarray, white: np.ndarray, plane: int, halo: int) -> np.ndarray:
    """All patches of a row in one FFT call, linear convolution."""
    out = np.zeros((axis.length, axis.length), np.float32)
    reach = np.arange(axis.size + halo)
    weights = axis.weights.astype(np.float32)
    for i, y in enumerate(axis.starts):
        cut = white[y + reach[:, None, None], axis.starts[None, :, None] + reach[None, None, :]].transpose(1, 0, 2)
        product = fft.irfft2(fft.rfft2(cut, s=(plane, plane)) * spectra[i], s=(plane, plane))
        piece = product[:, halo : halo + axis.size, halo : halo + axis.size] * weights[i][:, None] * weights[:, None, :]
        for j, x in enumerate(axis.starts):
            out[y : y + axis.size, x : x + axis.size] += piece[j]
    return out


def repeats(side: int, count: int = 20) -> RepeatScans:
    pixels = np.random.default_rng(1).normal(0, 10, (count, side, side)).astype(np.float32)
    return RepeatScans("0" * 16, pixels, (0.977, 0.977), 25.0)


def synthesis_cases(quick: bool) -> list[Case]:
    main = bank(512, 10, 10)
    cases: list[Case] = [(f"{n} a call, 512², 10 px", n, lambda n=n: synthesise(main, words(n))) for n in (16, 8, 4, 1)]
    for side in (256,) if quick else (256, 1024):
        other = bank(side, 10, 10)
        cases.append((f"8 a call, {side}², 10 px", 8, lambda b=other: synthesise(b, words(8))))
    for size in (7, 16) if quick else (7, 16, 24, 32):
        other = bank(512, size, size)
        cases.append((f"8 a call, 512², {size} px", 8, lambda b=other: synthesise(b, words(8))))
    measured = repeats(512)
    for method in ("regional", "paper", "lag-corrected"):
        model = fit_nps(measured, method=method)
        clean = measured.clean
        name = "default (regional)" if method == DEFAULT else f"method {method}"
        for count in (16, 8, 1) if method == DEFAULT else (8,):
            many = draws(0, "audit", "0" * 16, range(count))
            cases.append((f"{count} a call, 512², {name}", count, _sampler(model, clean, many)))
    many = draws(0, "audit", "0" * 16, range(8))
    cases.append(("8 a call, 512², library curve B30f", 8, _sampler(library(), measured.clean, many)))
    for method in ("paper", "lag-corrected"):
        model = fit_patch_nps(measured, method=method)
        cases.append((f"8 a call, 512², patch-nps {method}", 8, _sampler(model, measured.clean, many)))
    return cases


def library() -> Any:
    """Return noise with a published texture, one for the whole image."""
    profile = library_profile("B30f", 10.0, (0.977, 0.977), shape=(512, 512), mas=25.0, id="0" * 16)
    return fit_nps.from_profile(profile)  # type: ignore[attr-defined]


def _sampler(model: Any, clean: np.ndarray, many: list[Draw]) -> Callable[[], object]:
    return lambda: model.sample(clean, [25.0], many)


def peer_cases() -> list[Case]:
    axis, kernels, _ = patches(512, 10, 10)
    white = np.random.default_rng(0).standard_normal((521, 521)).astype(np.float32)
    plane = fft.next_fast_len(19)
    spectra = fft.rfft2(kernels, s=(plane, plane))
    return [
        ("batched FFT, white given", 1, lambda: batched_fft(axis, spectra, white, plane, 9)),
        ("Python loop over patches, white given", 1, lambda: naive(axis, kernels, white)),
    ]


def estimation_cases() -> list[Case]:
    measured = repeats(512)
    return [
        (f"estimate, K = 20, {m}", 1, lambda m=m: estimate(measured, method=m))
        for m in ("paper", "lag-corrected", "regional")
    ] + [("estimate and kernels, K = 20, default", 1, lambda: fit_nps(measured))]


def installed_peers() -> list[Case]:
    """Time other packages, where they are here: a stationary NPS field for one slice; the NPS of 20 regions."""
    cases: list[Case] = []
    if importlib.util.find_spec("dicaugment"):
        from dicaugment.augmentations.dicom import functional as peer

        volume = np.zeros((512, 512, 1), np.int16)
        table = peer._nps_radial_to_cartesian(peer._load_kernel("b30f"), (512, 512), 0.977, 0.977)
        cases += [
            ("DICaugment NPSNoise, one slice", 1, lambda: peer.add_noise_nps(volume, "b30f", 0.977, 0.977, 50)),
            ("DICaugment, its table cached", 1, lambda: peer._noise_to_3d(nps=table, slices=1, magnitude=50)),
        ]
    if importlib.util.find_spec("pylinac"):
        from pylinac.core.nps import noise_power_spectrum_2d

        rois = list(repeats(512).residuals[:, :64, :64])
        cases.append(("pylinac NPS of 20 regions, 64²", 1, lambda: noise_power_spectrum_2d(0.977, rois)))
    return cases


def two_threads(rounds: int) -> float:
    """Wall time of 2 x 16 default realizations in turn over that on two threads, the best of some rounds."""
    model = fit_nps(repeats(512))
    halves = [words(16), words(16)[::-1]]
    alone, together = [], []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for half in halves:
                synthesise(model.bank, half)
            middle = time.perf_counter()
            list(pool.map(lambda half: synthesise(model.bank, half), halves))
            alone.append(middle - start)
            together.append(time.perf_counter() - middle)
    return min(alone[1:]) / min(together[1:])


def on_device(device: str) -> None:
    """Print the wall time of the default realization by numba and through torch, and how far the fields are apart."""
    measured = repeats(512)
    own, other = fit_nps(measured), fit_nps(measured, device=device)
    print("| per 512² realization | ms |\n|---|---|")
    for name, model, count in (("numba, one thread", own, 16), (device, other, 16), (device, other, 64)):
        work = _sampler(model, measured.clean, draws(0, "audit", "0" * 16, range(count)))
        work()
        start = time.perf_counter()
        for _ in range(4):
            work()
        print(f"| {name}, {count} a call | {1e3 * (time.perf_counter() - start) / 4 / count:.2f} |")
    fields = [m.sample(measured.clean, [25.0], draws(0, "audit", "0" * 16, range(4))) for m in (own, other)]
    print(f"\nlargest difference: {np.abs(fields[0] - fields[1]).max() / fields[0].std():.1e} sigma")


def one_more_level(rounds: int) -> float:
    """CPU time of one mAs level more over that of a realization, 8 a call: the median over some rounds."""
    measured = repeats(512)
    model, many = fit_nps(measured), draws(0, "audit", "0" * 16, range(8))
    levels = [list(np.geomspace(12.5, 500, 16)), [25.0]]
    shares = []
    for _ in range(rounds + 1):
        sixteen, one = (
            min(timed(lambda asked=asked: model.sample(measured.clean, asked, many), 8) for _ in range(3))
            for asked in levels
        )
        shares.append((sixteen - one) / 15 / one)
    return statistics.median(shares[1:])


def timed(work: Callable[[], object], share: int) -> float:
    start = time.thread_time()
    work()
    return (time.thread_time() - start) / share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", action="store_true", help="the default beside other packages that are installed")
    parser.add_argument("--device", help="the default by numba beside the same through torch there: cuda")
    options = parser.parse_args()
    if options.device:
        on_device(options.device)
        return
    numpy_white = np.random.Generator(np.random.SFC64(0))
    field = np.empty((512, 512), np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if options.peers:
        measured = repeats(512)
        sampler = _sampler(fit_nps(measured), measured.clean, draws(0, "audit", "0" * 16, range(8)))
        cases = [("8 a call, 512², default (regional)", 8, sampler), *installed_peers()]
        cases.append(("estimate, K = 20, paper", 1, lambda: estimate(measured, method="paper")))
    else:
        cases = synthesis_cases(options.quick) + peer_cases() + estimation_cases()
    for _, share, work in cases:
        timed(work, share)  # compile, and touch memory
    own: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    ratio: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    for _ in range(options.rounds):
        for name, share, work in cases:
            white = timed(lambda: [numpy_white.standard_normal(dtype=np.float32, out=field) for _ in range(4)], 4)
            own[name].append(timed(work, share))
            ratio[name].append(own[name][-1] / white)
    print("| per 512² realization unless said | ms | × numpy white (SFC64, float32) |\n|---|---|---|")
    for name, _, _ in cases:
        print(f"| {name} | {1e3 * statistics.median(own[name]):.2f} | {statistics.median(ratio[name]):.2f} |")
    if options.peers:
        return
    usual = statistics.median(ratio["8 a call, 512², default (regional)"])
    loop = statistics.median(ratio["Python loop over patches, white given"])
    print(f"\nOne more mAs level: {one_more_level(options.rounds):.2f} of a realization. ", end="")
    print(f"The default is {loop / usual:.0f} times as fast as the loop over patches. ", end="")
    print(f"Two threads: {two_threads(options.rounds):.2f} times one.")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\nPeak memory of all of the above together: {peak:.0f} MiB over the imports.")


if __name__ == "__main__":
    main()
