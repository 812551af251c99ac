"""The pages of a commissioning: the baseline with its signature block and acquisition sheet, and the monthly check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustkit.report import grids, page, words
from robustkit.report.source import Record, records
from robustkit.report.words import Fact, Verdict

_BADGES = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}
_CHECKED = {
    "within": ("pass", "Within"),
    "drifted": ("fail", "Drifted"),
    "cannot tell": ("inconclusive", "Cannot tell"),
}
SIGNED = ("Medical physicist", "Responsible for the model", "Approved by")
"""Whose hands the page leaves lines for; names are written by hand, on paper."""
SHEET = (
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
"""The acquisition sheet, short."""


def write_baseline(record: Record, sha256: str, path: Path) -> Path:
    """Write the page of a baseline (`robustkit.commission.hold_out`'s record, its hash) and return its path."""
    lock = record["lock"]
    asked = lock["asked"]
    verdict = Verdict(record["verdict"], _BADGES[record["verdict"]], _told(record))
    facts = [
        Fact("Model", lock["model"]["name"], f"SHA-256 {lock['model']['sha256'][:16]}…"),
        Fact("Prediction locked", lock["written"], f"SHA-256 {record['lock_sha256']}"),
        Fact("Noise", asked["noise"], f"n = {asked['n']}, seed {asked['seed']}"),
        Fact("Margin", words.bound(asked["margin"]), "absolute difference of SAR that is still agreement"),
        Fact("Baseline", record["written"], f"SHA-256 {sha256}"),
    ]
    notes = [record["agreement"]["sentence"], *_unstated(record)]
    shown = [_rows(record, asked["margin"]), _acquisitions(record)]
    return _write(path, "Baseline of a commissioned model", verdict, facts, notes, shown, lock["versions"])


def write_constancy(record: Record, path: Path) -> Path:
    """Write the page of a monthly check (`robustkit.commission.constancy`'s record) and return its path."""
    kind, badge = _CHECKED[record["verdict"]]
    facts = [
        Fact("Model", record["model"]["name"], f"SHA-256 {record['model']['sha256'][:16]}…"),
        Fact("Checked", record["written"]),
        Fact("Against the baseline", f"SHA-256 {record['baseline_sha256'][:16]}…"),
    ]
    shown = [_noise(record), _changes(record), _scans(records(record["scans"]), "New scans")]
    title = "Constancy of a commissioned model"
    return _write(path, title, Verdict(kind, badge, _told(record)), facts, _unstated(record), shown, {})


def _write(
    path: Path,
    title: str,
    verdict: Verdict,
    facts: Sequence[Fact],
    notes: Sequence[str],
    shown: Sequence[grids.Grid | None],
    versions: Record,
) -> Path:
    stamp = [("robustkit", str(versions["robustkit"]))] if versions.get("robustkit") else []
    html = page.render(
        "commissioning.html",
        title=title,
        kicker="Commissioning",
        stamp=stamp,
        verdict=verdict,
        facts=list(facts),
        notes=list(notes),
        grids=[grid for grid in shown if grid],
        sheet=SHEET,
        signed=SIGNED,
    )
    return page.write(Path(path), html)


def _told(record: Record) -> str:
    return words.unbroken(words.without_badge(str(record["sentence"])))


def _unstated(record: Record) -> list[str]:
    silent = [str(name) for name in record.get("unstated") or []]
    return [f"The files do not state {words.join(silent)}: check by hand that they match."] if silent else []


def _rows(record: Record, margin: float) -> grids.Grid | None:
    rows = [
        [
            f"{row['class']}",
            words.number(float(row["level"])),
            _share(row["predicted"]),
            _share(row["measured"]),
            words.interval(*row["allowed"]),
            _number(row["z"]),
            _number(row["equivalence_p"]),
            str(row["verdict"]),
        ]
        for row in records(record["rows"])
    ]
    heads = ["class", "mAs", "predicted (total)", "measured", "allowed", "Z", "p (equivalence)", "verdict"]
    note = (
        f"Pass: agreement within {words.bound(margin)} is shown by two one-sided tests. Fail: the measured interval "
        "lies outside the allowed span, the predicted total interval widened by the margin. Z is the paper's pooled "
        "two-proportion test; it takes the mean of the fit scans for noise-free, and alone fails nobody."
    )
    return grids.grid("Predicted and measured", heads, rows, note)


def _acquisitions(record: Record) -> grids.Grid | None:
    fit, held = records(record["lock"]["fit"]), records(record["held_out"])
    named = [("fit", item) for item in fit] + [("held out", item) for item in held]
    return grids.grid("Scans", ["set", *_SCAN_HEADS], [[what, *_scan(item)] for what, item in named], _SCAN_NOTE)


def _scans(items: Sequence[Record], title: str) -> grids.Grid | None:
    return grids.grid(title, _SCAN_HEADS, [_scan(item) for item in items], _SCAN_NOTE)


_SCAN_HEADS = ["scans", "mAs", "CTDIvol, mGy", "water-equivalent diameter, mm", "protocol"]
_SCAN_NOTE = "Water-equivalent diameter after AAPM Report 220, from the mean image; the table counts where it is seen."


def _scan(item: Record) -> list[str]:
    facts = ", ".join(f"{name.replace('_', ' ')} {words.plain(value)}" for name, value in item["protocol"].items())
    dose = words.plain(item["ctdivol"]) if item.get("ctdivol") is not None else "not stated"
    return [str(item["k"]), words.number(float(item["mas"])), dose, words.number(float(item["wed_mm"])), facts]


def _noise(record: Record) -> grids.Grid | None:
    rows = [
        [
            str(item["slice"]),
            str(change["region"]),
            str(change["quantity"]),
            f"{100 * change['deviation']:+.1f} %",
            f"{100 * change['error']:.1f} %",
            f"{100 * change['tolerance']:g} %",
            "drifted" if change["drifted"] else "–",
        ]
        for item in records(record["noise"])
        for change in records(item["changes"])
    ]
    heads = ["slice", "region", "quantity", "change", "sampling error", "tolerance", ""]
    return grids.grid("Noise, new against baseline", heads, rows)


def _changes(record: Record) -> grids.Grid | None:
    rows = [
        [
            str(row["class"]),
            words.number(float(row["level"])),
            words.count(row["baseline"]["k"], row["baseline"]["n"]),
            _share(row["new"]) if row["new"] else str(row["reason"]),
            words.interval(*row["allowed"]),
            str(row["verdict"]),
        ]
        for row in records(record["rows"])
    ]
    return grids.grid("SAR, new against baseline", ["class", "mAs", "baseline", "new (total)", "allowed", ""], rows)


def _share(share: Record) -> str:
    return f"{words.count(share['k'], share['n'])} ({words.interval(share['low'], share['high'])})"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "–"
