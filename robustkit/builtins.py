"""What ships with robustkit, registered through the very hooks that strangers use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustkit.hookspecs import hookimpl
from robustkit.types import Classifier, Fit, Hardener, Metric, RepeatScans, Slice


@hookimpl
def robustkit_noise_models() -> Mapping[str, Fit]:
    """Offer white, patch-nps, nps, residuals (fitted to repeats) and scanner (noise made in the sinogram)."""
    from robustkit.noise import fit_nps, fit_patch_nps, fit_residuals, fit_white
    from robustkit.scanner import fit_scanner

    return {
        "white": fit_white,
        "patch-nps": fit_patch_nps,
        "nps": fit_nps,
        "residuals": fit_residuals,
        "scanner": fit_scanner,
    }


@hookimpl
def robustkit_metrics() -> Mapping[str, Metric]:
    """Offer SAR and CMR, the two metrics of Peng et al. 2023."""
    from robustkit.metrics import cmr, sar

    return {"sar": sar, "cmr": cmr}


@hookimpl
def robustkit_hardeners() -> Mapping[str, Hardener]:
    """Offer adaptive (attack, add what succeeded, train on), augmentation by white and NPS noise, and their control."""
    from robustkit.hardening import adaptive, augment_nps, augment_white, control

    return {"adaptive": adaptive, "augment-white": augment_white, "augment-nps": augment_nps, "control": control}


@hookimpl(trylast=True)
def robustkit_load_model(path: Path, spec: Mapping[str, Any]) -> Classifier | None:
    """Open ONNX, Torch and Keras files by what they hold, not by their name."""
    from robustkit.adapters import load_model

    return load_model(path, spec)


@hookimpl(trylast=True)
def robustkit_load_images(path: str) -> Sequence[Slice] | None:
    """Read DICOM and .npz images."""
    from robustkit.scans import load_images

    return load_images(path)


@hookimpl(trylast=True)
def robustkit_load_repeats(path: str) -> Sequence[RepeatScans] | None:
    """Read DICOM and .npz repeat scans."""
    from robustkit.scans import load_repeats

    return load_repeats(path)
