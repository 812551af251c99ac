"""Repeats of a slice that was scanned once: calibration, cut bodies, padding, real images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustkit.errors import DataError, UsageError
from robustkit.scanner import VirtualScanner, measured_sigma, simulate_repeats
from robustkit.scanner.filters import KERNELS
from robustkit.scanner.measure import window_share
from robustkit.scanner.patients import kernel_class
from robustkit.scanner.truncation import completed
from robustkit.types import Slice


@pytest.fixture(scope="module")
def trunk(painter: Callable[..., Slice]) -> Slice:
    """Paint a soft-tissue trunk of 40 HU with fat rim, spine and two lungs, 256 x 256 px of 1.5 mm."""
    return painter(
        (256, 256),
        (1.5, 1.5),
        [
            (0, 0, 170, 120, -90),
            (0, 0, 155, 105, 40),
            (-80, -10, 40, 60, -820),
            (80, -10, 40, 60, -820),
            (0, 75, 18, 18, 600),
        ],
    )


def scanned(item: Slice, mas: float, kernel: str = "standard") -> Slice:
    """Return one scan of a slice, as a patient's image would come."""
    pixels = VirtualScanner(kernel=kernel).repeats(item, mas, 2, seed=9).pixels[0]
    return replace(
        item, id="patient", pixels=pixels, mas=mas, kernel={"sharp": "B60f"}.get(kernel, "B30f"), synthetic=False
    )


@pytest.mark.parametrize("kernel", ["standard", "sharp"])
def test_noise_of_one_image_is_measured(trunk: Slice, kernel: str) -> None:
    image = scanned(trunk, 50, kernel)
    truth = VirtualScanner(kernel=kernel).sd_map(trunk, 50)
    soft = truth[110:140, 100:156].mean()
    # The mode finds one of the trunk's own levels, which differ by a third between its middle and its rim.
    assert 0.7 * soft < measured_sigma(image) < 1.15 * soft
    assert kernel_class(image.kernel) == kernel


def test_flat_and_empty_images_have_no_noise_to_measure(trunk: Slice, painter: Callable[..., Slice]) -> None:
    assert measured_sigma(trunk) is None
    assert measured_sigma(painter((64, 64), (3.0, 3.0), [(0, 0, 5, 5, -900)])) is None


def test_share_of_noise_in_a_window_is_what_windows_show(water: Slice) -> None:
    fine = Slice("fine", np.where(np.hypot(*np.mgrid[-100:100, -100:100]) < 90, 0.0, -1000.0).astype("f4"), (1.0, 1.0))
    from robustkit.seeding import draws

    for kernel in KERNELS:
        noise = VirtualScanner(kernel=kernel).noise(fine, 50, draws(0, "scan", "fine", range(32)))[:, 76:124, 76:124]
        blocks = noise.reshape(32, 6, 8, 6, 8).swapaxes(2, 3).reshape(32, 36, 64)
        seen = blocks.var(axis=2, ddof=1).mean() / noise.var()
        assert window_share(kernel, (1.0, 1.0)) == pytest.approx(seen, rel=0.03)


@pytest.mark.parametrize("mas", [40.0, None])
def test_simulated_repeats_have_the_noise_of_the_image(trunk: Slice, mas: float | None) -> None:
    image = scanned(trunk, 40)
    repeats = simulate_repeats(image, mas=mas, k=12)
    truth = VirtualScanner().sd_map(trunk, 40)
    body = trunk.pixels > -300
    ratio = np.sqrt(repeats.pixels[:, body].var(axis=0, ddof=1).mean()) / np.sqrt((truth[body] ** 2).mean())
    # One image's mode errs by about 3 %, four simulated ones by half of that, 12 repeats by 1 %.
    assert ratio == pytest.approx(1.0, abs=0.1)
    assert (repeats.id, repeats.synthetic) == (image.id, False)
    assert ("virtual-scanner mAs" in repeats.source) is (mas is None)
    assert repeats.mas == pytest.approx(40.0, rel=0.2)
    assert "not measured on this scanner" in repeats.source
    assert "standard kernel for 'B30f'" in repeats.source
    assert np.abs(repeats.clean - image.pixels)[body].mean() < truth[body].mean()


def test_simulated_repeats_do_not_depend_on_their_number(trunk: Slice) -> None:
    image = scanned(trunk, 40)
    few, many = (simulate_repeats(image, mas=40, k=k, seed=3, threads=t) for k, t in ((2, 1), (5, 2)))
    assert np.array_equal(few.pixels, many.pixels[:2])


def test_synthetic_slices_are_scanned_as_objects(trunk: Slice) -> None:
    repeats = simulate_repeats(trunk, mas=100, k=2)
    assert "not calibrated (a synthetic image), virtual-scanner mAs" in repeats.source
    direct = VirtualScanner().repeats(trunk, 100, 2, stream="fit")
    assert np.abs(repeats.pixels - direct.pixels).max() <= 1.0


def test_padding_keeps_its_value(trunk: Slice) -> None:
    image = scanned(trunk, 40)
    mask = np.hypot(*np.mgrid[-127.5:128, -127.5:128]) < 126
    padded = replace(image, mask=mask, pixels=np.where(mask, image.pixels, -2048.0).astype(np.float32))
    repeats = simulate_repeats(padded, mas=40, k=2)
    assert (repeats.pixels[:, ~mask] == -2048).all()
    assert np.array_equal(repeats.mask, mask)


def test_whole_body_is_not_cut(trunk: Slice) -> None:
    assert completed(trunk).cut == 0.0
    assert completed(trunk).told == ()


def test_cut_body_is_completed_and_said(trunk: Slice) -> None:
    whole = scanned(trunk, 40)
    crop = replace(whole, pixels=np.ascontiguousarray(whole.pixels[:, 30:200]))
    body = completed(crop)
    assert 0.1 < body.cut < 0.5
    added = body.object.pixels.copy()
    added[body.rows, body.columns] = -1000.0
    assert (added > -300).sum() * 1.5**2 > 1000
    repeats = simulate_repeats(crop, mas=40, k=2)
    assert f"cuts the body on {body.cut:.0%} of its border: completed" in repeats.source
    # With its missing side rounded off, the rays' attenuation is within a fifth of the whole trunk's.
    scanner = VirtualScanner(views=160)
    entire, rounded, bare = (scanner.project(s).integrals.max() for s in (trunk, body.object, crop))
    assert abs(rounded - entire) < abs(bare - entire)
    assert rounded > 0.8 * entire


def test_cut_by_a_circle_is_seen(trunk: Slice) -> None:
    image = scanned(trunk, 40)
    mask = np.hypot(*np.mgrid[-127.5:128, -127.5:128]) < 95
    crop = replace(image, mask=mask, pixels=np.where(mask, image.pixels, -1024.0).astype(np.float32))
    whole = completed(crop)
    assert 0.05 < whole.cut < 0.5
    assert (whole.object.pixels[128, :60] > -300).any()


def test_cut_body_can_be_refused(trunk: Slice) -> None:
    crop = replace(trunk, pixels=np.ascontiguousarray(trunk.pixels[:, 30:200]))
    with pytest.raises(
        DataError, match=r"cuts the body on \d+% of its border.*--repeats or --profile.*truncated=complete"
    ):
        simulate_repeats(crop, mas=40, truncated="refuse")


def test_inside_of_a_body_is_refused(trunk: Slice) -> None:
    inside = replace(trunk, pixels=np.full((100, 100), 40.0, np.float32))
    with pytest.raises(DataError, match=r"cuts the body on \d+% of its border.*whole body"):
        simulate_repeats(inside, mas=40)


def test_air_is_refused(trunk: Slice) -> None:
    with pytest.raises(DataError, match="nothing but air"):
        simulate_repeats(replace(trunk, pixels=np.full((64, 64), -1000.0, np.float32)), mas=40)


def test_bad_settings_are_refused(trunk: Slice) -> None:
    for settings, named in (
        ({"mas": 0.0}, "mAs must be greater than 0"),
        ({"mas": 40, "k": 1}, "k of at least 2"),
        ({"mas": 40, "kernel": "B30"}, "standard, smooth, sharp"),
        ({"mas": 40, "truncated": "maybe"}, "complete or refuse"),
    ):
        with pytest.raises(UsageError, match=named):
            simulate_repeats(trunk, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("B10f", "smooth"), ("B30f", "standard"), ("B40f", "standard"), ("B60f", "sharp"), ("Br36d", "standard"),
        ("SOFT", "smooth"), ("STANDARD", "standard"), ("STD+", "standard"), ("LUNG", "sharp"), ("BONE", "sharp"),
        ("FC13", "standard"), ("FC03", "smooth"), ("FC51", "sharp"), ("B", "standard"), ("D", "sharp"), ("A", "smooth"),
        ("smooth", "smooth"), (None, "standard"), ("", "standard"), ("something new", "standard"),
    ],
)  # fmt: skip
def test_kernel_names_have_a_class(name: str | None, kind: str) -> None:
    assert kernel_class(name) == kind


REAL = (
    "C/cptac_pda_chest_siemens",
    "C/tcga_thca_neck_philips",
    "BN/ge_hispeed_head",
    "LF/tcga_ov_abdomen_toshiba",
    "LF/ibsi_sts/STS_013",
)


@pytest.mark.parametrize("group", REAL)
def test_real_slices_get_repeats_with_an_honest_sentence(group: str) -> None:
    root = os.environ.get("ROBUSTKIT_TEST_DATA")
    if not root or not (Path(root) / group).exists():
        pytest.skip("real CT images are not here: set ROBUSTKIT_TEST_DATA")
    from robustkit.scans import load_images

    images = load_images(str(Path(root) / group))
    for item in images[len(images) // 2 :][:1]:
        repeats = simulate_repeats(item, mas=100, k=2)
        noise = repeats.residuals.std()
        assert 1.0 < noise < 120.0
        assert "noise calibrated to the" in repeats.source
        assert ("completed with soft tissue" in repeats.source) is (completed(item).cut > 0)
        assert 2.0 < (measured_sigma(item) or 0.0) < 40.0
