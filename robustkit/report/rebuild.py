"""The report of any run directory, made again from its files: an audit's, or a study's of many models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from robustkit.errors import DataError
from robustkit.plain import Record
from robustkit.report.audit_report import write_report
from robustkit.report.hardening import write_hardening
from robustkit.report.reproduction import write_reproduction
from robustkit.report.source import load
from robustkit.report.training import write_training
from robustkit.report.variability import write_variability

_PAGES: dict[str, Callable[[Record, Path], Path]] = {
    "train": write_training,
    "variability": write_variability,
    "harden": write_hardening,
}


def rebuild(run_dir: Path) -> Path:
    """Write `report.html` of a run directory anew and return its path.

    Raises
    ------
    DataError : no readable `summary.json`, or one of a study that this robustkit does not know.
    """
    source = load(Path(run_dir))
    study, path = source.summary.get("study"), Path(run_dir) / "report.html"
    if not study:
        return write_report(Path(run_dir))
    if study == "reproduce":
        return write_reproduction(source.summary, source.noise_maps, path)
    if study not in _PAGES:
        raise DataError(
            f"{run_dir} holds a study {study!r} that this robustkit does not know; use the one that made it"
        )
    return _PAGES[study](source.summary, path)
