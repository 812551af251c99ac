"""Noise measured on repeated scans, and made again: estimation, synthesis, dose laws, constancy.

Names are loaded when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.noise.constancy import Constancy, compare_profiles
    from robustkit.noise.dose import DoseCheck, DoseLaw, check_dose, fit_dose
    from robustkit.noise.draw import plot_profile
    from robustkit.noise.estimation import estimate
    from robustkit.noise.library import library_kernels, library_profile
    from robustkit.noise.nps import fit_nps
    from robustkit.noise.patch import fit_patch_nps
    from robustkit.noise.profile import Profile, load_profile, save_profile
    from robustkit.noise.residuals import fit_residuals
    from robustkit.noise.white import fit_white

_HOME = {
    "Constancy": "constancy",
    "compare_profiles": "constancy",
    "library_kernels": "library",
    "library_profile": "library",
    "plot_profile": "draw",
    "DoseCheck": "dose",
    "DoseLaw": "dose",
    "check_dose": "dose",
    "fit_dose": "dose",
    "estimate": "estimation",
    "fit_nps": "nps",
    "fit_patch_nps": "patch",
    "Profile": "profile",
    "load_profile": "profile",
    "save_profile": "profile",
    "fit_residuals": "residuals",
    "fit_white": "white",
}

__all__ = [
    "Constancy",
    "DoseCheck",
    "DoseLaw",
    "Profile",
    "check_dose",
    "compare_profiles",
    "estimate",
    "fit_dose",
    "fit_nps",
    "fit_patch_nps",
    "fit_residuals",
    "fit_white",
    "library_kernels",
    "library_profile",
    "load_profile",
    "plot_profile",
    "save_profile",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
