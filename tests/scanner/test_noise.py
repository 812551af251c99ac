"""The noise of scans: its size, its law, its texture, its keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid

from robustkit.errors import UsageError
from robustkit.scanner import VirtualScanner, kernels
from robustkit.scanner.counting import log_moments
from robustkit.scanner.filters import KERNELS
from robustkit.scanner.geometry import MU_WATER
from robustkit.seeding import Draw, draws
from robustkit.types import Slice


def centre(item: Slice, radius_mm: float) -> np.ndarray:
    rows, columns = (
        (np.arange(n) - 0.5 * (n - 1)) * mm for n, mm in zip(item.pixels.shape, item.pixel_mm, strict=True)
    )
    return np.hypot(columns[None, :], rows[:, None]) < radius_mm


def cylinder_sigma(scanner: VirtualScanner, diameter_mm: float, mas: float) -> float:
    """HU at the centre of a water cylinder, by the continuous theory of parallel-beam FBP.

    sigma^2 = (1000 / mu)^2 (pi^2 / V) v a  integral f^2 A(f)^2 (2 + cos 2 pi a f) / 3 df over +- Nyquist, with a ray's
    variance v = 1 / lambda + s^2 / lambda^2; the cosine is linear interpolation, averaged over where pixels fall.
    """
    a = scanner.detector_mm
    f = np.linspace(-0.5 / a, 0.5 / a, 20001)
    zero = {"standard": 0.50, "smooth": 0.33}.get(scanner.kernel)
    if zero is None:
        window = 0.5 + 0.5 * np.cos(np.pi * np.clip((np.abs(f) - 0.40) / 0.22, 0, 1))
    else:
        window = np.where(np.abs(f) < zero, 0.5 + 0.5 * np.cos(np.pi * f / zero), 0.0)
    integral = trapezoid(f**2 * window**2 * (2 + np.cos(2 * np.pi * a * f)) / 3, f)
    counts = scanner.photons * mas / 200 * np.exp(-MU_WATER * diameter_mm)
    ray = 1 / counts + scanner.electronic**2 / counts**2
    return float(1000 / MU_WATER * np.pi * np.sqrt(ray * a * integral / scanner.views))


@pytest.mark.parametrize("kernel", ["smooth", "standard", "sharp"])
@pytest.mark.parametrize("mas", [25.0, 200.0])
def test_water_has_the_sigma_of_theory(water: Slice, kernel: str, mas: float) -> None:
    scanner = VirtualScanner(kernel=kernel, electronic=5.0)
    expected = cylinder_sigma(scanner, 300.0, mas)
    middle = centre(water, 20.0)
    assert scanner.sd_map(water, mas, every=2)[middle[1::2, 1::2]].mean() == pytest.approx(expected, rel=0.01)
    noise = scanner.noise(water, mas, draws(1, "scan", water.id, range(48)))[:, middle]
    # 48 fields of ~314 correlated pixels: the relative error of sigma is about 1 %; 4 % is beyond four of them.
    assert noise.std() == pytest.approx(expected, rel=0.04)


def test_water_sigma_of_an_earlier_scanner(water: Slice) -> None:
    # Measured in an independent C implementation of the same geometry, counts and kernel.
    scanner = VirtualScanner(electronic=5.0)
    middle = centre(water, 20.0)
    for sigma, expected in zip(scanner.sd_at(water, [200, 25]), (12.2, 36.7), strict=True):
        assert sigma[middle].mean() == pytest.approx(expected, rel=0.03)


def test_variance_goes_with_one_over_mas(water: Slice) -> None:
    middle = centre(water, 20.0)

    def ratio(scanner: VirtualScanner, high: float, low: float) -> float:
        few, many = scanner.sd_at(water, [low, high], every=2)[:, middle[1::2, 1::2]].mean(axis=1)
        return float(few / many)

    assert ratio(VirtualScanner(electronic=0.0), 20_000, 2_500) == pytest.approx(np.sqrt(8), rel=3e-4)
    # 191 photons at 25 mAs, 1528 at 200: the logarithm's own variance is 1 / n + 3 / (2 n^2), electronics add 25 / n^2.
    few = 5e5 / 8 * np.exp(-MU_WATER * 300)
    for electronic, second in ((0.0, 1.5), (5.0, 26.5)):
        expected = np.sqrt(8 * (1 + second / few) / (1 + second / (8 * few)))
        assert ratio(VirtualScanner(electronic=electronic), 200, 25) == pytest.approx(expected, rel=0.004)


def test_dose_does_not_depend_on_the_views(water: Slice) -> None:
    middle = centre(water, 20.0)
    many, few = (VirtualScanner(electronic=0.0, views=v).sd_map(water, 100)[middle].mean() for v in (600, 200))
    assert many == pytest.approx(few, rel=0.005)


@pytest.mark.parametrize("mas", [100.0, 1.5])
def test_sd_map_is_what_scans_show(hips: Slice, mas: float) -> None:
    # At 1.5 mAs rays through both heads bring about one photon: the logarithm and its floor are part of the map.
    item = replace(hips, pixels=hips.pixels.copy(), id="sd-map")
    scanner = VirtualScanner(views=200)
    claimed = scanner.sd_map(item, mas, every=6)
    scans = scanner.noise(item, mas, draws(3, "scan", item.id, range(400)), every=6)
    ratio = scans.std(axis=0, ddof=1) / claimed
    centred = scans.mean(axis=0) - scanner.bias_map(item, mas, every=6)
    # One pixel's sd from 400 scans errs by 3.5 %, its mean by a twentieth of its sd.
    assert np.sqrt(np.mean((centred / claimed) ** 2)) < 0.06
    assert np.sqrt(np.mean((ratio - 1) ** 2)) < 0.042
    assert abs(np.mean(ratio**2) - 1) < 0.02


def test_noise_is_gaussian_and_centred(water: Slice) -> None:
    scanner = VirtualScanner(views=200)
    noise = scanner.noise(water, 50, draws(5, "scan", water.id, range(480)), every=8)
    inside = np.asarray([plane[centre(water, 130)[4::8, 4::8]] for plane in noise])
    z = inside / inside.std(axis=0)
    assert abs(stats.skew(z, axis=None)) < 0.02
    assert abs(stats.kurtosis(z, axis=None)) < 0.05
    # Mean over 480 scans errs by sigma / 22; the bias of the logarithm here is a few tenths of a HU.
    assert np.sqrt(np.mean((inside.mean(axis=0) / inside.std(axis=0)) ** 2)) < 1.5 / np.sqrt(480)


def test_hips_show_horizontal_streaks(hips: Slice) -> None:
    noise = VirtualScanner(views=304).noise(hips, 25, draws(2, "scan", hips.id, range(48)))
    between = noise[:, 84:108, 66:126]
    power = (between**2).mean()
    lag = 3  # 6.6 mm
    along = (between[:, :, :-lag] * between[:, :, lag:]).mean() / power
    across = (between[:, :-lag] * between[:, lag:]).mean() / power
    assert along > across + 0.25
    round_water = VirtualScanner(views=304)
    disc = replace(hips, pixels=np.where(centre(hips, 140), 0.0, -1000.0).astype(np.float32), id="disc")
    even = round_water.noise(disc, 25, draws(2, "scan", "disc", range(48)))[:, 66:126, 66:126]
    along, across = (even[:, :, :-lag] * even[:, :, lag:]).mean(), (even[:, :-lag] * even[:, lag:]).mean()
    assert abs(along - across) / (even**2).mean() < 0.05


def test_spectra_are_those_of_theory(painter: Callable[..., Slice]) -> None:
    # S(f) ~ f A(f)^2 sinc(a f)^4 (ramp and window squared, over f for the back-projection, linear interpolation), seen
    # through a taper: covariance times the taper's own correlation. Zero at f = 0 up to the taper's width.
    disc = painter((256, 256), (0.7, 0.7), [(0, 0, 80, 80, 0)])
    size, cells = 96, 512
    taper = np.outer(np.hanning(size), np.hanning(size))
    grid = np.hypot(*np.meshgrid(np.fft.fftfreq(cells, 0.7), np.fft.fftfreq(cells, 0.7)))
    own = np.fft.ifft2(np.abs(np.fft.fft2(taper, (cells, cells))) ** 2).real
    means = []
    for kernel, last in (("smooth", 9), ("standard", 14), ("sharp", 17)):
        scanner = VirtualScanner(kernel=kernel)
        patch = scanner.noise(disc, 50, draws(4, "scan", disc.id, range(32)))[:, 80:176, 80:176]
        power = (np.abs(np.fft.fft2(patch * taper, (cells, cells))) ** 2).mean(axis=0)
        spectrum = grid * KERNELS[kernel](grid) ** 2 * np.sinc(0.85 * grid) ** 4
        expected = np.fft.fft2(np.fft.ifft2(spectrum).real * own).real
        coarse = np.rint(grid / 0.03).astype(int).ravel()
        curves = [np.bincount(coarse, p.ravel()) / np.bincount(coarse) for p in (power, expected)]
        seen, theory = (curve[: last + 1] / curve[: last + 1].sum() for curve in curves)
        # A ring of radius f holds pi f 0.03 (size 0.7)^2 / 1.5^2 independent cells (Hann's bandwidth, half by symmetry)
        # of 32 fields; four standard errors, and 2 % for what theory leaves out.
        cells_in_ring = np.pi * np.arange(1, last + 1) * 0.03**2 * (size * 0.7) ** 2 / 1.5**2
        assert (np.abs(seen / theory - 1)[1:] < 0.02 + 4 / np.sqrt(32 * cells_in_ring)).all()
        assert seen[0] / seen.max() < theory[0] / theory.max() * 1.7
        means.append(0.03 * float((np.arange(last + 1) * seen).sum() / seen.sum()))
    assert means[0] + 0.02 < means[1] < means[2] - 0.06


def test_bowtie_evens_out_its_cylinder(water: Slice) -> None:
    plain, shaped = (VirtualScanner(bowtie_mm=b, views=200).sd_map(water, 100) for b in (None, 300.0))
    rim = centre(water, 145.0) & ~centre(water, 135.0)
    middle = centre(water, 20.0)
    assert shaped[rim].mean() / shaped[middle].mean() > 1.3 * plain[rim].mean() / plain[middle].mean()
    assert shaped[middle].mean() == pytest.approx(plain[middle].mean(), rel=0.02)


def test_any_batch_order_and_thread_gives_the_same_bits(hips: Slice) -> None:
    one = VirtualScanner(views=160, threads=1)
    keys = draws(7, "scan", hips.id, range(20))
    together = one.noise(hips, 12.5, keys)
    assert np.array_equal(together[7], one.noise(hips, 12.5, [keys[7]])[0])
    assert np.array_equal(together[::-1], one.noise(hips, 12.5, keys[::-1]))
    assert np.array_equal(together, replace(one, threads=3).noise(hips, 12.5, keys))
    assert np.array_equal(together[:, 2::5, 2::5], one.noise(hips, 12.5, keys, every=5))
    levels = one.noise_at(hips, [50.0, 12.5], keys[3:6])
    assert np.array_equal(levels[:, 1], together[3:6])
    first, second = (one.repeats(hips, 12.5, k, seed=7, first=f) for k, f in ((12, 0), (8, 12)))
    whole = one.repeats(hips, 12.5, 20, seed=7)
    assert np.array_equal(whole.pixels, np.concatenate([first.pixels, second.pixels]))
    assert np.abs(one.scan_each([hips], 12.5, seed=7, realization=4)[0] - whole.pixels[4]).max() <= 1.0


def test_streams_seeds_and_slices_never_share_noise(hips: Slice) -> None:
    scanner = VirtualScanner(views=160)
    keys = [
        Draw(0, "scan", hips.id, 0),
        Draw(0, "fit", hips.id, 0),
        Draw(1, "scan", hips.id, 0),
        Draw(0, "scan", "x", 0),
    ]
    noise = scanner.noise(hips, 50, keys).reshape(4, -1)
    # 20,000 effective pixels: independent fields correlate by 0.007; 0.05 is beyond any chance.
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.05


def test_few_photons_are_poisson_to_the_digit() -> None:
    for mean in (0.02, 0.7, 5.0, 59.0, 150.0):
        for z in np.linspace(-4.5, 4.5, 37):
            expected = stats.poisson.ppf(stats.norm.cdf(z), mean)
            assert kernels.poisson_quantile(mean, float(z)) == expected


def test_counts_of_a_ray_follow_poisson() -> None:
    rays = np.full((40, 640), 5.0, np.float32)
    out = np.empty((40, 640), np.float32)
    words = np.asarray(Draw(0, "scan", "rays", 0).words, np.uint32)
    kernels.sinogram_noise(rays, np.float32(1.0), 0.0, words, 0, 0, out)
    counts = np.rint(5.0 * np.exp(-out.astype(np.float64))).astype(int).ravel()
    observed = np.bincount(np.clip(counts, 1, 14), minlength=15)[1:]  # a count of 0 reads as 1
    chance = stats.poisson.pmf(np.arange(1, 15), 5.0)
    chance[0] += stats.poisson.pmf(0, 5.0)
    chance[-1] += stats.poisson.sf(14, 5.0)
    assert stats.chisquare(observed, chance * counts.size).pvalue > 1e-4


@pytest.mark.parametrize("mean", [60.0, 100.0, 1000.0, 1e5])
@pytest.mark.parametrize("electronic", [0.0, 3.0])
def test_many_photons_have_the_moments_of_poisson(mean: float, electronic: float) -> None:
    z = np.linspace(-6.4, 6.4, 4001)
    weight = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    log = np.empty(z.size, np.float32)
    kernels.log_noise(z.astype(np.float32), np.full(z.size, mean, np.float32), electronic, log)
    counts = mean * np.exp(-log.astype(np.float64))
    centred = counts - (counts * weight).sum()
    variance = (centred**2 * weight).sum()
    assert (counts * weight).sum() == pytest.approx(mean, rel=1e-4)
    assert variance == pytest.approx(mean + electronic**2, rel=2e-3)
    assert (centred**3 * weight).sum() == pytest.approx(mean, rel=0.06)


def test_log_moments_are_those_of_brute_force() -> None:
    generator = np.random.default_rng(11)
    for mean, electronic in ((0.5, 3.0), (8.0, 3.0), (55.0, 5.0), (400.0, 3.0)):
        counts = generator.poisson(mean, 400_000) + electronic * generator.standard_normal(400_000)
        log = -np.log(np.maximum(counts, 1.0) / mean)
        bias, variance = log_moments(np.asarray([mean]), electronic)
        # 400,000 draws: mean to 0.0016 sd, variance to about 0.5 %; five of each.
        assert bias[0] == pytest.approx(log.mean(), abs=0.008 * log.std())
        assert variance[0] == pytest.approx(log.var(), rel=0.025)


def test_levels_of_a_draw_move_together(hips: Slice) -> None:
    rays = np.broadcast_to(np.geomspace(2.0, 2000.0, 640, dtype=np.float32), (8, 640))
    words = np.asarray(Draw(0, "audit", "rays", 1).words, np.uint32)
    counts = []
    for photons in (1.0, 2.0, 8.0):
        out = np.empty((8, 640), np.float32)
        kernels.sinogram_noise(rays, np.float32(photons), 0.0, words, 0, 0, out)
        counts.append(photons * rays * np.exp(-out.astype(np.float64)))
    assert (counts[0] <= counts[1] * 1.0001).all()
    assert (counts[1] <= counts[2] * 1.0001).all()
    noise = VirtualScanner(views=160).noise_at(hips, [25.0, 100.0], draws(0, "audit", hips.id, range(4)))
    assert np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1] > 0.95


def test_repeats_are_stored_as_a_scanner_stores_them(painter: Callable[..., Slice]) -> None:
    metal = painter((96, 96), (3.0, 3.0), [(0, 0, 100, 100, 0), (40, 0, 15, 15, 3300)])
    mask = np.ones((96, 96), bool)
    mask[:5] = False
    item = replace(metal, mask=mask, label="AP", group="one", pixels=np.where(mask, metal.pixels, -2000.0).astype("f4"))
    repeats = VirtualScanner(views=160).repeats(item, 50, 3)
    seen = repeats.pixels[:, mask]
    assert np.array_equal(seen, np.rint(seen))
    assert seen.min() >= -1024
    assert seen.max() == 3071
    assert (repeats.pixels[:, ~mask] == -2000).all()
    assert (repeats.id, repeats.label, repeats.group, repeats.synthetic, repeats.mas) == (
        item.id,
        "AP",
        "one",
        True,
        50,
    )
    assert "virtual-scanner mAs" in repeats.source


@pytest.mark.parametrize("mas", [0.0, -5.0, float("nan"), float("inf")])
def test_impossible_mas_is_refused(water: Slice, mas: float) -> None:
    with pytest.raises(UsageError, match="mAs must be greater than 0"):
        VirtualScanner().noise(water, mas, [Draw(0, "scan", "a", 0)])


def test_impossible_scanners_are_refused() -> None:
    for settings, named in (
        ({"kernel": "b99"}, "standard, smooth, sharp"),
        ({"views": 601}, "multiple of 8"),
        ({"photons": 0.0}, "photons"),
        ({"electronic": -1.0}, "electronic"),
        ({"detector_mm": float("nan")}, "detector_mm"),
    ):
        with pytest.raises(UsageError, match=named):
            VirtualScanner(**settings)  # type: ignore[arg-type]
