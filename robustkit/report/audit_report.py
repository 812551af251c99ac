"""The report of one run: `report.html` from the files of its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustkit.errors import DataError
from robustkit.report import curves, gallery, grids, matrix, noise, page, png, provenance, sheet, words
from robustkit.report.source import Source, load


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Parameters
    ----------
    run_dir : a directory with `summary.json`, and as far as they exist `run.json`, `results.parquet`, `noise.json`,
        `noise.npz`, `gallery.json` and `gallery.npz`; a section whose file is missing says so.

    Raises
    ------
    DataError : when there is no readable `summary.json`, or what it holds is not what a run writes.
    """
    run_dir = Path(run_dir)
    source = load(run_dir)
    try:
        shown = parts(source)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise DataError(
            f"summary.json, noise.json or gallery.json of the run is damaged ({type(error).__name__}); "
            "make the run again, or ask `robustkit verify` which file was changed"
        ) from error
    return page.write(run_dir / "report.html", page.render("report.html", **shown))


def parts(source: Source) -> dict[str, Any]:
    """Return everything the template shows."""
    shown, every = matrix.matrices(source)
    return {
        "title": f"Noise robustness of {source.summary.get('model', 'a model')}",
        "kicker": "Noise robustness audit",
        "stamp": stamp(source),
        "verdict": words.verdict(source),
        "gate": gate_line(source),
        "facts": words.facts(source),
        "warnings": words.warnings(source),
        "lowest": curves.lowest(source.summary),
        "lowest_title": curves.lowest_title(source.summary),
        "unit": source.unit,
        "panels": curves.panels(source),
        "total": any("total_low" in record for record in source.summary.get("sar") or []),
        "at_once": any("low_simultaneous" in record for record in source.summary.get("sar") or []),
        "has_stars": bool(curves.stars(source)),
        "blocks": curves.table(source),
        "measured": curves.measured_table(source),
        "heats": shown,
        "every_heat": every,
        "entries": grids.entries(source.summary, {h.level for h in shown}),
        "undefined": sorted({name for h in every or shown for name in h.undefined}),
        "flips": gallery.flips(source),
        "flip_count": len(source.flips),
        "noise_cards": noise.cards(source),
        "noise_count": source.noise_count,
        "dose": grids.doses(source),
        "sheet": sheet.sheet(source),
        "colour_bar": png.colour_bar(),
        "evidence": grids.evidence(source.summary),
        "grids": further(source),
        "null_audit": provenance.null_audit(source),
        "command": provenance.command(source),
        "provenance": provenance.facts(source),
        "records": [grid for grid in (provenance.slices(source), provenance.files(source)) if grid],
        "limits": words.limits(source),
        "missing": source.missing,
    }


def stamp(source: Source) -> list[tuple[str, str]]:
    """Return what identifies this run on every page: its directory, when it was made, by which version."""
    run = source.run
    made = next((run[k] for k in ("finished", "created", "started", "date") if run.get(k)), None)
    versions = run.get("versions") or (run.get("plan") or {}).get("versions") or {}
    version = versions.get("robustkit") if isinstance(versions, dict) else None
    stated = [("run", source.name), ("made", made), ("robustkit", version)]
    return [(name, str(value)) for name, value in stated if value]


def gate_line(source: Source) -> str:
    """Say what the verdict was measured against, or that nothing was asked."""
    gate = source.summary.get("gate") or {}
    limit = curves.limit_of(source.summary)
    if limit is None:
        return "No limit was set for this run; `--max-sar` sets one."
    at = curves.gate_levels(source.summary)
    where = f"at {words.join(words.at_level(v, source.unit) for v in at)}" if at else "at every level"
    whom = f"class {gate['class']}" if gate.get("class") else "every class"
    return (
        f"Limit: at most {words.bound(limit)} of answers changed, for {whom}, {where}. It passes only when the upper "
        "confidence bound, not the observed share, is within the limit; ties count as changes."
    )


def further(source: Source) -> list[grids.Grid]:
    """Return the tables after the figures: thresholds, clusters, slices, and every plug-in metric."""
    stated = source.summary.get("metrics")
    metrics = stated if isinstance(stated, dict) else {}
    found = [
        grids.thresholds(source.summary),
        grids.clusters(source.summary),
        grids.any_records("Each slice", source.summary.get("by_slice")),
        *(grids.any_records(f"Metric {name}", value) for name, value in metrics.items()),
    ]
    return [grid for grid in found if grid]
