import numpy as np
import pytest
from robustkit_ct_bodysite.names import phantom_images
from robustkit_ct_bodysite.painter import AIR, Scene, between, swell
from robustkit_ct_bodysite.patient import LANDMARKS, SITES, fixed_phantom, virtual_patient
from robustkit_ct_bodysite.phantom import View, central_slices, phantom_slice, render

from robustkit import Slice, UsageError, slice_id

FIXED = {
    "BN": "d50a5912a7472fe1",
    "C": "00bac32e51c63017",
    "AP": "636f98d45fc86a1c",
    "LF": "d168c9348b0416c1",
}
"""The slices on which robustness is judged; fixed before any model was trained."""


def test_central_slices_never_change() -> None:
    assert {item.label: item.id for item in central_slices()} == FIXED


def test_slice_carries_what_an_audit_needs() -> None:
    item = phantom_slice("C")
    assert item.id == slice_id(item.pixels, item.pixel_mm)
    assert item.pixels.dtype == np.float32
    assert item.pixels.shape == (512, 512)
    assert item.pixel_mm == (500 / 512, 500 / 512)
    assert item.synthetic
    assert item.storage is not None
    assert (item.storage.low, item.storage.high, item.storage.step) == (-1024.0, 3071.0, 1.0)
    np.testing.assert_array_equal(item.storage.apply(item.pixels), item.pixels)


@pytest.mark.parametrize("body", [fixed_phantom(), virtual_patient(0), virtual_patient(41)], ids=lambda p: p.name)
def test_same_body_same_pixels(body) -> None:
    again = type(body)(**{**{k: getattr(body, k) for k in body.__dataclass_fields__ if not k.startswith("_")}})
    z = 0.5 * sum(body.z_range)
    np.testing.assert_array_equal(render(body, z, size=128), render(again, z, size=128))


def test_virtual_patients_differ() -> None:
    bodies = [virtual_patient(n) for n in range(40)]
    assert len({body.landmarks for body in bodies}) == 40
    images = {render(body, body.z_of("dome"), size=64).tobytes() for body in bodies[:10]}
    assert len(images) == 10


def test_labels_change_at_the_landmarks() -> None:
    for body in (fixed_phantom(), virtual_patient(5)):
        for landmark, above, below in (("apex", "BN", "C"), ("base", "C", "AP"), ("hip", "AP", "LF")):
            z = body.z_of(landmark)
            assert body.site(z - 1e-6) == above
            assert body.site(z) == below


@pytest.mark.parametrize("number", [0, 3, 8, 20, 33])
def test_lungs_lie_in_the_chest_site_alone(number) -> None:
    body = virtual_patient(number)
    first, last = body.span("C")

    def lung(z: float) -> int:
        """Pixels of lung: aerated, and deep within the body."""
        from scipy import ndimage

        image = render(body, z, size=256)
        solid = ndimage.binary_fill_holes(image > -300)
        deep = ndimage.binary_erosion(solid, iterations=6)
        return int(((image > -970) & (image < -600) & deep).sum())

    assert lung(first + 0.3 * (last - first)) > 1500
    assert lung(first - 30) < 0.05 * lung(first + 0.3 * (last - first))
    assert lung(last + 12) < 0.05 * lung(first + 0.3 * (last - first))


@pytest.mark.parametrize("number", [1, 4, 9])
def test_thigh_bone_begins_at_the_hip_bound(number) -> None:
    body = virtual_patient(number)
    position = body.position(body.z_of("hip"))
    assert position == pytest.approx(LANDMARKS["hip"])


def test_neighbouring_slices_are_alike_and_far_ones_are_not() -> None:
    body = virtual_patient(2)
    z = 0.5 * (body.z_of("dome") + body.z_of("base"))
    here, near, far = (render(body, z + dz, size=128).clip(-200, 300) for dz in (0.0, 1.0, 60.0))
    assert np.abs(here - near).mean() < 0.3 * np.abs(here - far).mean()


def test_whole_body_is_painted_from_crown_to_toes() -> None:
    body = virtual_patient(6)
    first, last = body.z_range
    for z in np.linspace(first + 4, last - 4, 40):
        assert (render(body, float(z), size=128) > -200).mean() > 0.004


def test_view_moves_the_body_by_millimetres() -> None:
    body = fixed_phantom()
    z = body.z_of("knee")
    still = render(body, z, view=View(table=False), size=250)
    moved = render(body, z, view=View(centre=(20.0, -40.0), table=False), size=250)
    np.testing.assert_allclose(moved[20:, :-10], still[:-20, 10:], atol=1.0)


def test_disc_has_the_area_of_a_disc() -> None:
    scene = Scene(0.0)
    scene.add(3.3, -7.1, 40, 25, 1000.0, angle=31)
    share = (scene.paint(512, 200.0) - AIR) / 2000.0
    assert share.sum() * (200 / 512) ** 2 == pytest.approx(np.pi * 40 * 25, rel=2e-3)


def test_clipping_keeps_shapes_in_and_out() -> None:
    scene = Scene(0.0)
    room = scene.add(0, 0, 30, 30, 0.0)
    scene.add(20, 0, 30, 30, 500.0, within=room)
    scene.add(0, 0, 60, 60, 100.0, outside=room)
    image = scene.paint(256, 200.0)
    y, x = (np.mgrid[:256, :256] - 127.5) * (200 / 256)
    radius = np.hypot(x, y)
    assert (image[radius < 29].max(), image[(radius > 31) & (radius < 59)].max()) == (500.0, 100.0)
    assert image[radius > 61].max() == AIR


@pytest.mark.parametrize(
    "shape",
    [
        {"angle": 25.0},
        {"square": 0.6, "angle": -40.0},
        {"bend": 0.7},
        {"taper": 0.4, "angle": 70.0},
        {"bend": -1.2, "taper": -0.3, "square": 0.3, "rough": 3.0, "edge": 4.0},
    ],
    ids=str,
)
def test_tiles_change_nothing(shape) -> None:
    """The same field in a larger one has other tiles: one that is wrongly skipped or filled would show."""
    images = []
    for k in range(8):
        scene = Scene(5.0)
        floor = scene.add(0, 0, 80, 60, 0.0)
        scene.add(3, -2, 60, 24, 400.0, within=floor, **shape)
        images.append(scene.paint(200 - 2 * k, 200.0 - 2.0 * k)[20 - k : 180 - k, 20 - k : 180 - k])
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], atol=1e-2)


def test_key_frames_interpolate() -> None:
    assert between(5, (0, 0.0), (10, 20.0)) == 10.0
    assert between(-1, (0, 3.0), (10, 20.0)) == 3.0
    assert between(99, (0, 3.0), (10, 20.0)) == 20.0
    assert swell(5, 0, 10) == 1.0
    assert swell(10, 0, 10) == 0.0


def test_phantom_names() -> None:
    everything = phantom_images("phantom")
    assert everything is not None
    assert tuple(item.label for item in everything) == SITES
    below = phantom_images("phantom/AP+40")
    assert below is not None
    assert isinstance(below[0], Slice)
    assert below[0].id == phantom_slice("AP", 40.0).id
    assert phantom_images("phantom/LF-12.5")[0].id == phantom_slice("LF", -12.5).id
    assert phantom_images("phantoms") is None
    assert phantom_images("somewhere/phantom") is None


@pytest.mark.parametrize("name", ["phantom/X", "phantom/C+", "phantom/", "phantom/C/1", "phantom/LF+900"])
def test_wrong_phantom_names_are_refused(name) -> None:
    with pytest.raises(UsageError):
        phantom_images(name)
