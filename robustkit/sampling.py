"""Realizations of a profile's noise, to keep: `robustkit nps sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robustkit import files, noise
from robustkit.audit import draws_per_call
from robustkit.errors import UsageError
from robustkit.seeding import draws
from robustkit.types import Image, NoiseModel, RepeatScans


def sample_profile(profile_path: Path, out: Path, *, n: int, mas: float | None, seed: int) -> str:
    """Write `n` realizations (n, H, W) float32 HU of a profile at `mas`, and return a sentence about them.

    `out` ending in .npz holds them under the key `noise`; any other name is a folder of derived DICOM whose images
    are the noise itself. Raises UsageError for n < 1, DataError for a profile that cannot be read.
    """
    if n < 1:
        raise UsageError(f"-n must be at least 1, got {n}")
    profile = noise.load_profile(profile_path)
    fit: Any = noise.fit_nps
    model: NoiseModel = fit.from_profile(profile)
    level = mas if mas is not None else float(model.reference_mas)  # type: ignore[attr-defined]
    fields = _sample_all(model, np.zeros(profile.shape, np.float32), level, profile.id, n, seed)
    if out.suffix == ".npz":
        with files.atomic_stream(out) as stream:
            np.savez_compressed(stream, noise=fields, pixel_mm=np.asarray(profile.pixel_mm), mas=level, seed=seed)
    else:
        from robustkit.scans import save_repeats

        told = "noise alone, sampled from a profile"
        out = save_repeats(out, [RepeatScans(profile.id, fields, profile.pixel_mm, level, source=told)])
    return f"{n} realizations of {profile.shape[0]} x {profile.shape[1]} px at {level:g} {model.unit} in {out}"


def _sample_all(model: NoiseModel, clean: Image, level: float, slice_id: str, n: int, seed: int) -> Image:
    step = draws_per_call(1, clean.shape)
    parts = [
        model.sample(clean, [level], draws(seed, "audit", slice_id, range(a, min(a + step, n))))[:, 0]
        for a in range(0, n, step)
    ]
    return np.concatenate(parts)
