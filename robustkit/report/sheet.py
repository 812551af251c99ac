"""The acquisition sheet, short: what to scan to measure noise, and to test a prediction made with it."""

from __future__ import annotations

from typing import NamedTuple

from robustkit.report.source import Source

ROWS = (
    ("Object", "one that does not move, wholly inside the field of view; table, height and position fixed"),
    ("To fit", "20 scans or more at one low dose; four times as many halve what fit and centre add to the interval"),
    ("To centre", "the mean of the fit scans, or 20 more at the highest dose"),
    ("To hold out", "150 scans or more at another dose for a margin of 10 %; none of them is ever used to fit"),
    ("Monthly", "20 new scans at the fit's dose"),
    ("Dose", "tube current modulation off, or its mAs recorded for every scan"),
    ("Start angle", "fixed, or all angles equally often; it moves streaks"),
    ("Copies", "no SOP Instance UID twice: a scan exported twice is one scan, and hides noise"),
    (
        "Must match",
        "scanner, kVp, filter, kernel, iterative strength, thickness, collimation, pitch, field of view, matrix",
    ),
)
"""What to scan and how, a row a question."""
_ELSEWHERE = ("virtual scanner", "not measured", "library curve", "stated settings")
"""Words by which the origin of noise says that no scan of this scanner lies behind it."""


class Sheet(NamedTuple):
    """The sheet with its headline and what it is good for in this report."""

    title: str
    lead: str
    rows: tuple[tuple[str, str], ...]


def sheet(source: Source) -> Sheet | None:
    """Return the acquisition sheet of an audit of CT: how to measure its noise, or how to test it; None for others."""
    if source.unit != "mAs":
        return None
    if is_measured(source):
        return Sheet(
            "What to scan next: acquisition sheet",
            "The noise was measured. Scans held out at another dose show whether these rates are right, new ones every "
            "month whether they still are (robustkit commission).",
            ROWS,
        )
    return Sheet(
        "What to scan to measure this noise: acquisition sheet",
        "None of this noise was measured on your scanner. With repeat scans taken so, the audit speaks of your scanner "
        "and its mAs (--repeats), and can be tested on others held out (robustkit commission).",
        ROWS,
    )


def is_measured(source: Source) -> bool:
    """Say whether every slice's noise stems from scans that a scanner made."""
    told = [str(record.get("source") or "").lower() for record in source.noise]
    return bool(told) and not any(word in text for text in told for word in _ELSEWHERE)
