"""What noiseless scans show, against objects of known HU and against independent implementations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from robustkit.scanner import VirtualScanner
from robustkit.scanner.filters import KERNELS, response, taps
from robustkit.scanner.geometry import MU_WATER
from robustkit.types import Slice

INSERTS = [(70.0, 0.0, 1000.0), (-70.0, 0.0, -100.0), (0.0, 70.0, -1000.0), (0.0, -70.0, 50.0)]


def inserts(painter: Callable[..., Slice], shape: tuple[int, int], pixel_mm: tuple[float, float]) -> Slice:
    discs = [(x, y, 22.0, 22.0, hu) for x, y, hu in INSERTS]
    return painter(shape, pixel_mm, [(0, 0, 150, 140, 0), *discs])


def distance(shape: tuple[int, int], pixel_mm: tuple[float, float], x: float, y: float) -> np.ndarray:
    rows, columns = ((np.arange(n) - 0.5 * (n - 1)) * mm for n, mm in zip(shape, pixel_mm, strict=True))
    return np.hypot(columns[None, :] - x, rows[:, None] - y)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
@pytest.mark.parametrize(
    ("shape", "pixel_mm"), [((256, 256), (1.4, 1.4)), ((200, 300), (1.7, 1.2)), ((181, 180), (2.0, 2.0))]
)
def test_flat_inserts_keep_their_hu(
    painter: Callable[..., Slice], kernel: str, shape: tuple[int, int], pixel_mm: tuple[float, float]
) -> None:
    item = inserts(painter, shape, pixel_mm)
    image = VirtualScanner(kernel=kernel).noiseless(item)
    for x, y, hu in [*INSERTS, (0.0, 0.0, 0.0)]:
        region = image[distance(shape, pixel_mm, x, y) < 13.0]
        assert abs(region.mean() - hu) < 1.0
        assert np.abs(region - hu).max() < 6.0
    air = image[distance(shape, pixel_mm, 0, 0) > 165.0]
    assert abs(air.mean() + 1000.0) < 1.0


def test_a_square_of_many_sizes_has_no_offset(painter: Callable[..., Slice]) -> None:
    # A wrong zero-frequency tap shifts the whole image by an amount that grows with the object.
    for radius in (20.0, 80.0, 190.0):
        item = painter((128, 128), (4.0, 4.0), [(0, 0, radius, radius, 40)])
        image = VirtualScanner(views=200).noiseless(item)
        inside = image[distance((128, 128), (4.0, 4.0), 0, 0) < 0.6 * radius]
        assert abs(inside.mean() - 40.0) < 1.5


def test_object_beyond_the_field_grows_the_detector(painter: Callable[..., Slice]) -> None:
    square = painter((160, 160), (3.0, 3.0), [(0, 0, 400, 400, 30)])
    scanner = VirtualScanner(views=200)
    assert scanner.project(square).geometry.detectors * 0.85 >= np.hypot(480, 480)
    image = scanner.noiseless(square)
    assert abs(image[20:140, 20:140].mean() - 30.0) < 3.0
    plain = painter((512, 512), (500 / 512, 500 / 512), [(0, 0, 150, 150, 0)])
    assert scanner.project(plain).geometry.detectors == 640


def test_line_integrals_of_a_disc_are_chords(painter: Callable[..., Slice]) -> None:
    item = painter((256, 256), (1.5, 1.5), [(20, -10, 100, 100, 0)])
    geometry, integrals, transmission = VirtualScanner().project(item)
    centre = 20 * np.cos(geometry.angles) - 10 * np.sin(geometry.angles)
    off = geometry.positions_mm[None, :] - centre[:, None]
    chord = 2 * np.sqrt(np.maximum(100.0**2 - off**2, 0.0)) * MU_WATER
    away_from_the_rim = np.abs(np.abs(off) - 100.0) > 4.0
    assert np.abs(integrals - chord)[away_from_the_rim].max() < 0.006 * chord.max()
    assert abs(integrals.mean() / chord.mean() - 1.0) < 1e-3
    assert np.allclose(transmission, np.exp(-integrals))


def test_skimage_reconstructs_the_same(painter: Callable[..., Slice]) -> None:
    # With 1 mm detectors skimage's Hann window, zero at Nyquist, is the standard kernel's.
    from skimage.transform import iradon, radon

    shape = (161, 161)
    item = painter(shape, (1.0, 1.0), [(0, 0, 65, 55, 0), (25, 10, 15, 15, 300), (-25, 0, 12, 18, -700)])
    ours = VirtualScanner(views=240, detector_mm=1.0).noiseless(item)
    angles = np.arange(240) * 180.0 / 240
    theirs = iradon(radon((item.pixels + 1000.0), angles, circle=True), angles, filter_name="hann", circle=True) - 1000
    inside = distance(shape, (1.0, 1.0), 0, 0) < 75
    difference = (ours - theirs)[inside]
    assert np.sqrt(np.mean(difference**2)) < 12.0  # edges, where skimage's rotated sampling blurs a little more
    flat = distance(shape, (1.0, 1.0), 0, -35) < 10
    assert np.abs((ours - theirs)[flat]).mean() < 3.0


def test_back_projection_is_the_plain_sum(painter: Callable[..., Slice]) -> None:
    item = painter((60, 44), (3.0, 4.0), [(8, -5, 60, 70, 200)])
    scanner = VirtualScanner(views=80, kernel="sharp")
    geometry, integrals, _ = scanner.project(item)
    weights = taps("sharp", geometry.detector_mm, 2048)
    padded = np.zeros((80, 2048))
    padded[:, geometry.pad : geometry.pad + geometry.detectors] = integrals
    filtered = np.fft.irfft(np.fft.rfft(padded) * np.fft.rfft(weights), 2048)[:, : geometry.width]
    positions = (np.arange(geometry.width) - 0.5 * (geometry.width - 1)) * geometry.detector_mm
    y, x = ((np.arange(n) - 0.5 * (n - 1)) * mm for n, mm in zip((60, 44), (3.0, 4.0), strict=True))
    image = np.zeros((60, 44))
    for angle, row in zip(geometry.angles, filtered, strict=True):
        image += np.interp(x[None, :] * np.cos(angle) + y[:, None] * np.sin(angle), positions, row)
    expected = image * np.pi / 80 / MU_WATER * 1000 - 1000
    assert np.abs(scanner.noiseless(item) - expected).max() < 0.1


def test_kernels_are_ramps_times_their_windows() -> None:
    frequency = np.fft.rfftfreq(4096, 0.85)
    gain = response("standard", 0.85, 4096)
    hann = np.where(frequency < 0.5, 0.5 + 0.5 * np.cos(2 * np.pi * frequency), 0.0)
    inner = (frequency > 0.02) & (frequency < 0.45)
    assert np.allclose(gain[inner], (frequency * hann)[inner], rtol=2e-3)
    assert gain[frequency > 0.5].max() < 1e-12
    assert (
        0 < gain[0] < 1e-3 * gain.max()
    )  # the sampled ramp's own small value at zero, not zero: that is what keeps HU


def test_fewer_pixels_are_the_same_pixels(painter: Callable[..., Slice]) -> None:
    item = painter((128, 96), (3.0, 3.5), [(0, 0, 120, 130, 20)])
    scanner = VirtualScanner(views=160)
    full = scanner.noiseless(item)
    assert np.array_equal(scanner.noiseless(item, every=4), full[2::4, 2::4])


def test_many_slices_projected_together_are_the_same(painter: Callable[..., Slice]) -> None:
    items = [painter((96, 80), (3.0, 3.5), [(r, 0, 90 - r, 100, 30), (0, r, 20, 20, 500)]) for r in (5, 20, 40)]
    scanner = VirtualScanner(views=160)
    for item, together in zip(items, scanner._project_each(items), strict=True):
        assert np.array_equal(scanner.project(item).integrals, together.integrals)
