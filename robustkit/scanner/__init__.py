"""The virtual CT scanner: projection, counting noise, filtered back-projection; repeats of any slice, and its noise.

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.scanner.measure import measured_sigma
    from robustkit.scanner.model import ScannerNoise, fit_scanner
    from robustkit.scanner.patients import simulate_repeats
    from robustkit.scanner.scanner import VirtualScanner

__all__ = ["ScannerNoise", "VirtualScanner", "fit_scanner", "measured_sigma", "simulate_repeats"]

_HOME = {
    "VirtualScanner": "scanner",
    "ScannerNoise": "model",
    "fit_scanner": "model",
    "measured_sigma": "measure",
    "simulate_repeats": "patients",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
