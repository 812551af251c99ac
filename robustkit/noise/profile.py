"""A measured noise profile: local spectra and a sigma map of one slice, how they were made, and their file."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import DataError
from robustkit.files import DAMAGES, write_npz
from robustkit.noise.patches import Axis, grid
from robustkit.types import Image, PixelSize

VERSION = 1
_LARGEST = 2**31  # bytes of all arrays together: refuses a decompression bomb before reading it
_TEXT = 2**20


@dataclass(frozen=True, eq=False)
class Profile:
    """Noise of one slice of one object, from K repeated scans.

    Attributes
    ----------
    id : the slice it was measured on (`RepeatScans.id`). pixel_mm : (row, column) spacing in mm.
    mas : mAs of the scans, None when unknown. repeats : K; 0 for a library curve. method : how it was estimated.
    patch, overlap : (rows, columns) of a patch and of its overlap, px.
    spectra : (Py, Px, Gy, Gx // 2 + 1) float32, HU^2 mm^2, zero frequency at [0, 0]: half of each patch's NPS on a
    frequency grid of (Gy, Gx) = `plane` points, as `numpy.fft.rfft2` orders it; the other half is its mirror image.
    sigma : (H, W) float32, HU: the standard deviation it claims at each pixel; 0 in padding.
    kernel, source, protocol : reconstruction kernel, where the scans come from, allow-listed acquisition facts.
    report : the fit report, JSON-able.
    """

    id: str
    pixel_mm: PixelSize
    mas: float | None
    repeats: int
    method: str
    patch: tuple[int, int]
    overlap: tuple[int, int]
    spectra: NDArray[np.float32]
    plane: tuple[int, int]
    sigma: Image
    kernel: str | None = None
    source: str = "measured"
    protocol: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.sigma.shape[0], self.sigma.shape[1]

    def axes(self) -> tuple[Axis, Axis]:
        """Return the patch geometry along rows and columns."""
        return grid(self.shape, self.patch, self.overlap)

    def kernels(self) -> NDArray[np.float32]:
        """(Py, Px, Gy, Gx) float32 filters, centred at (Gy // 2, Gx // 2), in HU.

        s = IDFT sqrt(S / (dx dy)): real and even, with sum s^2 = sum S df_x df_y, the variance of the patch.
        """
        from scipy import fft

        amplitude = np.sqrt(self.spectra / np.float32(self.pixel_mm[0] * self.pixel_mm[1]))
        taps = fft.irfft2(amplitude, s=self.plane)
        kernels: NDArray[np.float32] = fft.fftshift(taps, axes=(-2, -1)).astype(np.float32)
        return kernels

    @property
    def white_sigma(self) -> float:
        """Root mean square of the sigma map over pixels that carry noise, HU: one number for white noise."""
        used = self.sigma[self.sigma > 0]
        return float(np.sqrt(np.square(used, dtype=np.float64).mean())) if used.size else 0.0


def patch_variance(
    spectra: NDArray[np.floating[Any]], plane: tuple[int, int], pixel_mm: PixelSize
) -> NDArray[np.float64]:
    """Variance in HU^2 of half-plane spectra (..., Gy, Gx // 2 + 1): sum of S df_x df_y over the whole plane."""
    weights = half_plane_weights(plane[1])
    total = (np.asarray(spectra, dtype=np.float64) * weights).sum(axis=(-2, -1))
    variance: NDArray[np.float64] = total / (plane[0] * plane[1] * pixel_mm[0] * pixel_mm[1])
    return variance


def half_plane_weights(columns: int) -> NDArray[np.float64]:
    """How often each column of a half plane occurs in the whole plane: 1 for 0 and Nyquist, else 2."""
    weights = np.full(columns // 2 + 1, 2.0)
    weights[0] = 1.0
    if columns % 2 == 0:
        weights[-1] = 1.0
    return weights


def frequencies(plane: tuple[int, int], pixel_mm: PixelSize) -> NDArray[np.float64]:
    """Radial frequency |f| in 1/mm of each point of a half plane (Gy, Gx // 2 + 1)."""
    rows = np.fft.fftfreq(plane[0], pixel_mm[0])[:, None]
    columns = np.fft.rfftfreq(plane[1], pixel_mm[1])[None, :]
    radius: NDArray[np.float64] = np.hypot(rows, columns)
    return radius


def save_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile as `.npz` (arrays and one JSON text, no pickle), whole or not at all.

    Raises DataError when the file cannot be written.
    """
    facts = {
        "version": VERSION,
        "id": profile.id,
        "mas": profile.mas,
        "repeats": profile.repeats,
        "method": profile.method,
        "pixel_mm": list(profile.pixel_mm),
        "shape": list(profile.shape),
        "patch": list(profile.patch),
        "overlap": list(profile.overlap),
        "plane": list(profile.plane),
        "kernel": profile.kernel,
        "source": profile.source,
        "protocol": dict(profile.protocol),
        "report": dict(profile.report),
    }
    text = np.frombuffer(json.dumps(facts, allow_nan=False).encode(), dtype=np.uint8)
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    write_npz(path, {"robustkit_profile": text, "spectra": profile.spectra, "sigma": profile.sigma}, compressed=True)


def load_profile(path: str | Path) -> Profile:
    """Read a profile written by `save_profile`.

    Raises DataError for a missing, truncated, foreign, oversized or inconsistent file, and for a newer version; the
    file is not named, for its name may hold a patient's.
    """
    path = Path(path)
    try:
        facts, arrays = _read(path)
    except FileNotFoundError as error:
        raise DataError("no such profile; make one with `robustkit nps estimate`") from error
    except DAMAGES as error:
        raise DataError(f"the file is no noise profile, or is damaged: {_brief(error)}") from error
    version = facts.get("version")
    if version != VERSION:
        raise DataError(
            f"the profile has format {version!r:.40}, this robustkit reads format {VERSION}: "
            "estimate it again from its repeats, or upgrade robustkit"
        )
    try:
        return _profile(facts, arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the profile contradicts itself: {_brief(error)}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > _LARGEST:
            raise ValueError("it is larger than any profile")
        if archive.getinfo("robustkit_profile.npy").file_size > _TEXT:
            raise ValueError("its description is larger than any profile's")
    with np.load(path, allow_pickle=False) as data:
        facts = json.loads(bytes(data["robustkit_profile"].astype(np.uint8)).decode())
        arrays = {name: data[name] for name in ("spectra", "sigma")}
    if not isinstance(facts, dict):
        raise ValueError("its description is no object")
    return facts, arrays


def _profile(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Profile:
    pixel_mm = _pair(facts["pixel_mm"], float)
    patch, overlap, plane, shape = (_pair(facts[name], int) for name in ("patch", "overlap", "plane", "shape"))
    spectra, sigma = arrays["spectra"], arrays["sigma"]
    if spectra.dtype != np.float32 or sigma.dtype != np.float32 or spectra.ndim != 4 or sigma.ndim != 2:
        raise ValueError("its arrays have the wrong type")
    if sigma.shape != shape:
        raise ValueError(f"a sigma map of {sigma.shape} for an image of {shape}")
    if not all(0 <= o < n for o, n in zip(overlap, patch, strict=True)) or min(*pixel_mm, *plane) <= 0:
        raise ValueError("its patch geometry is impossible")
    rows, columns = grid((sigma.shape[0], sigma.shape[1]), patch, overlap)
    expected = (len(rows.starts), len(columns.starts), plane[0], plane[1] // 2 + 1)
    if spectra.shape != expected:
        raise ValueError(f"spectra of {spectra.shape} where the geometry needs {expected}")
    for name, array in arrays.items():
        if not np.isfinite(array).all() or (array.size and array.min() < 0):
            raise ValueError(f"{name} holds values that are negative or not finite")
    mas = facts["mas"]
    return Profile(
        id=str(facts["id"])[:64],
        pixel_mm=pixel_mm,
        mas=None if mas is None else _positive(mas),
        repeats=int(facts["repeats"]),
        method=str(facts["method"])[:64],
        patch=patch,
        overlap=overlap,
        spectra=spectra,
        plane=plane,
        sigma=sigma,
        kernel=None if facts["kernel"] is None else str(facts["kernel"])[:64],
        source=str(facts["source"])[:400],
        protocol=dict(facts["protocol"]),
        report=dict(facts["report"]),
    )


def _pair(values: Any, kind: type) -> Any:
    if not isinstance(values, list) or len(values) != 2:
        raise ValueError("a pair of numbers is missing")
    pair = (kind(values[0]), kind(values[1]))
    if not all(math.isfinite(value) for value in pair):
        raise ValueError("a number is not finite")
    return pair


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError("its mAs is not above 0")
    return number


def _brief(error: BaseException) -> str:
    if isinstance(error, OSError):  # its text names the file
        return error.strerror or type(error).__name__
    text = str(error).splitlines()
    return (text[0] if text else type(error).__name__)[:200]
