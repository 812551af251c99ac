"""NRTK: CT noise as a PerturbImage, found by its plugin discovery and swept in mAs by its own factories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from nrtk.interfaces import PerturbImage
from numpy.typing import NDArray

from robustkit.interop.noise import Perturbation, channel_axis_of


class CtNoisePerturber(PerturbImage):  # type: ignore[misc]
    """The noise of one dose on an image (H, W) or (H, W, channels); the same realization at every mAs.

    Parameters are those of `robustkit.interop.Perturbation`; all are plain values, so that a configuration travels as
    JSON. Images of uint8 need `window`, the HU that 0 and 255 stand for.
    """

    def __init__(
        self,
        mas: float = 25.0,
        noise: str = "nps",
        profile: str | None = None,
        repeats: str | None = None,
        seed: int = 0,
        realization: int = 0,
        pixel_mm: Sequence[float] | None = None,
        window: Sequence[float] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        spacing = (1.0, 1.0) if pixel_mm is None else (float(pixel_mm[0]), float(pixel_mm[1]))
        self._config = {
            "mas": float(mas),
            "noise": noise,
            "profile": profile,
            "repeats": repeats,
            "seed": int(seed),
            "realization": int(realization),
            "pixel_mm": list(spacing),
            "window": None if window is None else [float(end) for end in window],
            "settings": dict(settings or {}),
        }
        self._noise = Perturbation(
            float(mas),
            noise=noise,
            profile=profile,
            repeats=repeats,
            seed=seed,
            realization=realization,
            pixel_mm=spacing,
            window=None if window is None else (float(window[0]), float(window[1])),
            settings=dict(settings or {}),
        )

    def perturb(
        self, *, image: NDArray[Any], boxes: Iterable[Any] | None = None, **kwargs: Any
    ) -> tuple[NDArray[Any], Iterable[Any] | None]:
        """Return the image with noise, same shape and dtype, and the boxes as they were."""
        given = np.asarray(image)
        axis = None if given.ndim == 2 else channel_axis_of(given.shape)
        return self._noise(given, channel_axis=axis), deepcopy(boxes)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, ready for JSON."""
        return deepcopy(self._config)
