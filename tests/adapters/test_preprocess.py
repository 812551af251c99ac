from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import downscale_local_mean

from robustkit.adapters.preprocess import apply_window, prepare, resample
from robustkit.adapters.spec import INTERPOLATIONS, InputSpec
from robustkit.errors import DataError, UsageError

PLAIN = InputSpec(window=None)
RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(-1000, 1500, (2, 48, 64)).astype(np.float32)


def disc(shape: tuple[int, int], pixel_mm: tuple[float, float], radius_mm: float) -> np.ndarray:
    """Make a disc of 0 HU in air about the image centre, each pixel the mean of 8 x 8 subpixels."""
    rows, columns = ((np.arange(8 * n) + 0.5) / 8 - n / 2 for n in shape)
    inside = np.hypot(rows[:, None] * pixel_mm[0], columns[None, :] * pixel_mm[1]) < radius_mm
    return (downscale_local_mean(inside.astype(float), (8, 8)) * 1000 - 1000)[None].astype(np.float32)


def test_identity_when_nothing_is_asked() -> None:
    assert resample(IMAGES, (0.7, 0.7), PLAIN) is IMAGES
    assert np.array_equal(prepare(IMAGES, (0.7, 0.7), PLAIN), IMAGES[:, None])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_identity_when_the_grid_is_already_right(interpolation: str) -> None:
    spec = replace(PLAIN, size=(48, 64), interpolation=interpolation)
    assert np.array_equal(resample(IMAGES, (0.7, 0.7), spec), IMAGES)
    square = IMAGES[:, :, :48]
    exact = replace(PLAIN, size=(48, 48), fov_mm=48 * 0.7, interpolation=interpolation)
    assert np.array_equal(resample(square, (0.7, 0.7), exact), square)


def test_area_by_whole_factors_is_the_block_mean() -> None:
    found = resample(IMAGES, (1.0, 1.0), replace(PLAIN, size=(12, 16)))
    oracle = np.stack([downscale_local_mean(image.astype(np.float64), (4, 4)) for image in IMAGES])
    assert np.abs(found - oracle).max() < 1e-3


@pytest.mark.parametrize("size", [(5, 7), (31, 33), (100, 130)])
def test_area_average_of_a_ramp_is_closed_form(size: tuple[int, int]) -> None:
    # a pixel holds the mean of the ramp over itself, so the mean over any union of shares of pixels is known from
    # the integral of a staircase
    stairs = np.arange(48.0) * 10
    edges = np.linspace(0, 48, size[0] + 1)
    integral = np.concatenate([[0.0], np.cumsum(stairs)])
    at = np.interp(edges, np.arange(49), integral)
    oracle = np.diff(at) / np.diff(edges)
    image = np.repeat(stairs[:, None], 64, axis=1)[None].astype(np.float32)
    found = resample(image, (1.0, 1.0), replace(PLAIN, size=size))
    assert np.abs(found[0] - oracle[:, None]).max() < 1e-3


@pytest.mark.parametrize("size", [(12, 16), (17, 23), (96, 128)])
def test_linear_against_scipy(size: tuple[int, int]) -> None:
    found = resample(IMAGES, (1.0, 1.0), replace(PLAIN, size=size, interpolation="linear"))
    rows = (np.arange(size[0]) + 0.5) * 48 / size[0] - 0.5
    columns = (np.arange(size[1]) + 0.5) * 64 / size[1] - 0.5
    oracle = np.stack(
        [
            ndimage.map_coordinates(image, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")
            for image in IMAGES
        ]
    )
    assert np.abs(found - oracle).max() < 2e-3


def test_decimate_is_every_kth_pixel() -> None:
    found = resample(IMAGES, (1.0, 1.0), replace(PLAIN, size=(12, 16), interpolation="decimate"))
    assert np.array_equal(found, IMAGES[:, ::4, ::4])


def test_decimate_of_a_field_of_view_skips_its_rim() -> None:
    spec = replace(PLAIN, size=(8, 8), fov_mm=32 * 0.7, interpolation="decimate")
    assert np.array_equal(resample(IMAGES, (0.7, 0.7), spec), IMAGES[:, 8:40:4, 16:48:4])


def test_decimate_cannot_make_pixels() -> None:
    with pytest.raises(UsageError, match="every k-th pixel"):
        resample(IMAGES, (1.0, 1.0), replace(PLAIN, size=(96, 128), interpolation="decimate"))


def test_nearest_takes_the_pixel_at_the_centre() -> None:
    found = resample(IMAGES, (1.0, 1.0), replace(PLAIN, size=(16, 16), interpolation="nearest"))
    assert np.array_equal(found, IMAGES[:, 1::3, 2::4])
    doubled = resample(IMAGES, (1.0, 1.0), replace(PLAIN, size=(96, 128), interpolation="nearest"))
    assert np.array_equal(doubled, IMAGES.repeat(2, axis=1).repeat(2, axis=2))


@given(
    value=st.floats(-1000, 3000, width=32),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    interpolation=st.sampled_from(["area", "linear", "nearest"]),
)
@settings(deadline=None, max_examples=60)
def test_constant_image_stays_constant(value, size, shape, interpolation) -> None:
    image = np.full((1, *shape), value, dtype=np.float32)
    found = resample(image, (1.3, 0.4), replace(PLAIN, size=size, interpolation=interpolation))
    assert found.shape == (1, *size)
    assert np.abs(found - value).max() <= 1e-3 + 2e-6 * abs(value)


@given(
    shape=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    size=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fov=st.none() | st.floats(3.0, 120.0),
    interpolation=st.sampled_from(["area", "linear", "nearest"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_resampling_is_linear_in_hu(shape, size, fov, interpolation, seed) -> None:
    """What is added to the image is added to the input: R(a + b) - R(air) = R(a) - R(air) + R(b) - R(air)."""
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(-1000, 1000, (1, *shape)).astype(np.float32) for _ in range(2))
    spec = replace(PLAIN, size=size, fov_mm=fov, interpolation=interpolation)
    zero, of_a, of_b, of_sum = (resample(x, (0.9, 1.4), spec).astype(np.float64) for x in (0 * a, a, b, a + b))
    assert np.abs((of_sum - zero) - (of_a - zero) - (of_b - zero)).max() < 5e-3


@pytest.mark.parametrize("interpolation", ["area", "linear", "nearest"])
@pytest.mark.parametrize(
    ("shape", "pixel_mm"),
    [((256, 256), (1.0, 1.0)), ((400, 400), (0.5, 0.5)), ((200, 400), (1.0, 0.5)), ((300, 180), (0.7, 1.3))],
)
def test_disc_keeps_its_area_in_mm(shape, pixel_mm, interpolation: str) -> None:
    # 60 mm radius seen in a 180 mm field at 90 x 90: cells of 2 mm, whatever pixels it was measured with
    image = disc(shape, pixel_mm, 60.0)
    found = resample(image, pixel_mm, replace(PLAIN, size=(90, 90), fov_mm=180.0, interpolation=interpolation))
    area = ((found[0] + 1000.0) / 1000.0).sum() * 4.0
    assert area == pytest.approx(np.pi * 60.0**2, rel=0.005 if interpolation == "area" else 0.02)
    rows, columns = np.mgrid[:90, :90]
    weight = found[0] + 1000.0
    shift = 0.5 * max(pixel_mm) / 2.0 if interpolation == "nearest" else 0.0  # half a pixel, in cells of 2 mm
    assert (weight * rows).sum() / weight.sum() == pytest.approx(44.5, abs=0.05 + shift)
    assert (weight * columns).sum() / weight.sum() == pytest.approx(44.5, abs=0.05 + shift)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_outside_the_image_is_air(interpolation: str) -> None:
    image = np.zeros((1, 20, 20), dtype=np.float32)
    found = resample(image, (1.0, 1.0), replace(PLAIN, size=(20, 20), fov_mm=40.0, interpolation=interpolation))
    assert np.array_equal(found[0, 5:15, 5:15], np.zeros((10, 10)))
    found[0, 5:15, 5:15] = -1000
    assert np.array_equal(found[0], np.full((20, 20), -1000.0))


def test_area_mixes_air_by_its_share() -> None:
    image = np.zeros((1, 10, 10), dtype=np.float32)
    found = resample(image, (1.0, 1.0), replace(PLAIN, size=(5, 5), fov_mm=15.0))  # cells of 3, image from 2.5
    assert found[0, 0] == pytest.approx([-1000 + 1000 * (0.5 * w) / 9 for w in (0.5, 3, 3, 3, 0.5)], abs=1e-3)


def test_field_of_view_at_native_size_crops() -> None:
    found = resample(IMAGES, (0.5, 0.5), replace(PLAIN, fov_mm=16.0))
    assert np.array_equal(found, IMAGES[:, 8:40, 16:48])


def test_window_maps_and_clips() -> None:
    values = np.array([-2000.0, -160.0, 40.0, 240.0, 5000.0], dtype=np.float32)
    spec = replace(PLAIN, window=(-160.0, 240.0), range=(-1.0, 1.0))
    assert apply_window(values, spec) == pytest.approx([-1, -1, 0, 1, 1], abs=1e-6)
    assert apply_window(values, replace(spec, range=(1.0, 0.0))) == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-6)


def test_input_is_left_untouched() -> None:
    before = IMAGES.copy()
    prepare(IMAGES, (0.7, 0.7), replace(PLAIN, window=(-1000.0, 1000.0)))
    prepare(IMAGES, (0.7, 0.7), replace(PLAIN, window=(-1000.0, 1000.0), size=(20, 20), fov_mm=90.0))
    assert np.array_equal(IMAGES, before)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8"])
@pytest.mark.parametrize(("layout", "shape"), [("nchw", (2, 3, 48, 64)), ("nhwc", (2, 48, 64, 3))])
def test_layout_channels_and_dtype(layout: str, shape, dtype: str) -> None:
    top = 255.0 if dtype == "uint8" else 1.0
    spec = InputSpec((-1000.0, 1500.0), (0.0, top), layout=layout, channels=3, dtype=dtype)
    found = prepare(IMAGES, (1.0, 1.0), spec)
    assert found.shape == shape
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    channels = np.moveaxis(found, 1 if layout == "nchw" else 3, 0)
    assert all(np.array_equal(channels[0], other) for other in channels[1:])
    oracle = (IMAGES.astype(np.float64) + 1000) / 2500 * top
    assert np.abs(channels[0].astype(np.float64) - oracle).max() <= {"uint8": 0.5001, "float16": 5e-4}.get(dtype, 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_not_finite_pixels_are_refused(bad: float, dtype: str) -> None:
    images = IMAGES.copy()
    images[1, 20, 30] = bad
    spec = InputSpec((-1000.0, 1500.0), (0.0, 200.0), size=(12, 16), dtype=dtype)
    with pytest.raises(DataError, match="NaN or infinite"):
        prepare(images, (1.0, 1.0), spec)


def test_stack_of_images_is_wanted() -> None:
    with pytest.raises(DataError, match=r"\(B, H, W\)"):
        prepare(IMAGES[0], (1.0, 1.0), PLAIN)


def test_bits_depend_on_no_batch() -> None:
    spec = InputSpec((-1000.0, 1500.0), size=(13, 17), fov_mm=40.0)
    together = prepare(IMAGES, (0.7, 0.9), spec)
    assert np.array_equal(together, np.concatenate([prepare(IMAGES[i : i + 1], (0.7, 0.9), spec) for i in range(2)]))
