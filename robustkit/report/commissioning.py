"""The pages of a commissioning: the baseline with its signature block and acquisition sheet, and the monthly check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.plain import Record
from robustkit.report import grids, page, sheet, words
from robustkit.report.source import records
from robustkit.report.words import Fact, Verdict

_BADGES = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}
_CHECKED = {
    "within": ("pass", "Within"),
    "drifted": ("fail", "Drifted"),
    "cannot tell": ("inconclusive", "Cannot tell"),
}
_FACTS = {
    "manufacturer": ("Scanner manufacturer", ""),
    "kvp": ("Tube voltage", "kV"),
    "filter": ("Filter", ""),
    "kernel": ("Kernel", ""),
    "ir": ("Iterative reconstruction", ""),
    "thickness_mm": ("Slice thickness", "mm"),
    "collimation_mm": ("Collimation", "mm"),
    "pitch": ("Pitch", ""),
    "fov_mm": ("Field of view", "mm"),
    "matrix": ("Matrix", ""),
    "pixel_mm": ("Pixel", "mm"),
}
SIGNED = ("Medical physicist", "Responsible for the model", "Approved by")
"""Whose hands the page leaves lines for; names are written by hand, on paper."""


class Page(NamedTuple):
    """What either page shows, from top to bottom; protocol and seals (name, SHA-256) are pairs."""

    title: str
    verdict: Verdict
    facts: list[Fact]
    notes: list[str]
    grids: list[grids.Grid | None]
    protocol: list[tuple[str, str]]
    seals: list[tuple[str, str]]


def write_baseline(record: Record, sha256: str, path: Path) -> Path:
    """Write the page of a baseline (`robustkit.commission.hold_out`'s record, its hash) and return its path."""
    lock = record["lock"]
    asked = lock["asked"]
    verdict = Verdict(record["verdict"], _BADGES[record["verdict"]], _told(record))
    facts = [
        Fact("Model", lock["model"]["name"], "answers predicted, then measured"),
        Fact("Noise", asked["noise"], f"{words.many(asked['n'], 'image')} a slice and level, seed {asked['seed']}"),
        Fact("Margin", words.bound(asked["margin"]), "absolute difference of SAR that is still agreement"),
        Fact("Prediction locked", _when(lock["written"]), "before any scan held out was opened"),
        Fact("Baseline sealed", _when(record["written"]), "the verdict and all it rests on"),
        Fact("Scans", _counted(lock["fit"], record["held_out"]), "fitted to, and held out"),
    ]
    seals = [
        ("baseline.json", sha256),
        ("lock.json", record["lock_sha256"]),
        (f"model {lock['model']['name']}", lock["model"]["sha256"]),
    ]
    notes = [words.unbroken(record["agreement"]["sentence"]), *_unstated(record)]
    shown = [_rows(record, asked["margin"]), _acquisitions(record)]
    page_ = Page("Baseline of a commissioned model", verdict, facts, notes, shown, _protocol(lock["fit"]), seals)
    return _write(path, page_, lock["versions"])


def write_constancy(record: Record, path: Path) -> Path:
    """Write the page of a monthly check (`robustkit.commission.constancy`'s record) and return its path."""
    kind, badge = _CHECKED[record["verdict"]]
    facts = [
        Fact("Model", record["model"]["name"], "as it was commissioned"),
        Fact("Checked", _when(record["written"]), "noise region by region, SAR level by level"),
        Fact("New scans", _counted(record["scans"]), "at the dose of the fit"),
    ]
    seals = [
        ("baseline.json", record["baseline_sha256"]),
        (f"model {record['model']['name']}", record["model"]["sha256"]),
    ]
    shown = [_noise(record), _changes(record), _scans(records(record["scans"]), "New scans")]
    verdict = Verdict(kind, badge, _told(record))
    title = "Constancy of a commissioned model"
    page_ = Page(title, verdict, facts, _unstated(record), shown, _protocol(record["scans"]), seals)
    return _write(path, page_, {})


def _write(path: Path, shown: Page, versions: Record) -> Path:
    stamp = [("robustkit", str(versions["robustkit"]))] if versions.get("robustkit") else []
    html = page.render(
        "commissioning.html",
        title=shown.title,
        kicker="Commissioning",
        stamp=stamp,
        verdict=shown.verdict,
        facts=shown.facts,
        notes=shown.notes,
        grids=[grid for grid in shown.grids if grid],
        protocol=shown.protocol,
        seals=shown.seals,
        sheet=sheet.ROWS,
        signed=SIGNED,
    )
    return page.write(Path(path), html)


def _told(record: Record) -> str:
    return words.unbroken(words.without_badge(str(record["sentence"])))


def _when(written: str) -> str:
    """Write a time as people do: 2031-05-04 09:12 UTC."""
    day, _, clock = written.partition("T")
    return f"{day} {clock[:5]} UTC" if clock else written


def _counted(*sets: Sequence[Record]) -> str:
    return " + ".join(str(sum(int(scan["k"]) for scan in records(scans))) for scans in sets)


def _protocol(scans: Sequence[Record]) -> list[tuple[str, str]]:
    """Return the protocol of the first set of scans, a name and a value each; the others matched it."""
    stated = records(scans)[0]["protocol"] if scans else {}
    found = []
    for key, value in stated.items():
        name, unit = _FACTS.get(key, (str(key).replace("_", " "), ""))
        told = " × ".join(words.plain(v) for v in value) if isinstance(value, list) else words.plain(value)
        found.append((name, f"{told}{words.THIN}{unit}" if unit else told))
    return found


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
            _p_value(row["equivalence_p"]),
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


_SCAN_HEADS = ["scans", "mAs", "CTDIvol, mGy", "water-equivalent diameter, mm"]
_SCAN_NOTE = "Water-equivalent diameter after AAPM Report 220, from the mean image; the table counts where it is seen."


def _scan(item: Record) -> list[str]:
    dose = words.plain(item["ctdivol"]) if item.get("ctdivol") is not None else "not stated"
    return [str(item["k"]), words.number(float(item["mas"])), dose, words.number(float(item["wed_mm"]))]


def _noise(record: Record) -> grids.Grid | None:
    rows = [
        [
            str(item["slice"]),
            str(change["region"]),
            str(change["quantity"]),
            f"{100 * change['deviation']:+.1f}{words.THIN}%",
            f"{100 * change['error']:.1f}{words.THIN}%",
            words.bound(change["tolerance"]),
            "drifted" if change["drifted"] else "within",
        ]
        for item in records(record["noise"])
        for change in records(item["changes"])
    ]
    heads = ["slice", "region", "quantity", "change", "sampling error", "tolerance", "verdict"]
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
    return grids.grid(
        "SAR, new against baseline", ["class", "mAs", "baseline", "new (total)", "allowed", "verdict"], rows
    )


def _share(share: Record) -> str:
    return f"{words.count(share['k'], share['n'])} ({words.interval(share['low'], share['high'])})"


def _p_value(value: Any) -> str:
    return "< 0.0001" if isinstance(value, int | float) and value < 1e-4 else _number(value)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "–"
