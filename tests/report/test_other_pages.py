"""Overlays, comparisons, profile pages and figures for papers, from specimen runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustkit import agreement, results
from robustkit.errors import DataError, MissingExtraError, UsageError
from robustkit.report import figures, write_comparison, write_overlay, write_profile_page
from robustkit.report.forest import Difference, both
from robustkit.report.words import unbroken

Get = Callable[..., Path]
HOSTILE = "<script>alert(1)</script>"


def text_of(path: Path) -> str:
    html = path.read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert "default-src &#39;none&#39;" in html
    return html


def test_overlay_shows_every_run_and_class(specimen: Get, tmp_path: Path) -> None:
    runs = [specimen("usual"), specimen("usual", scale=0.3, measured=False), specimen("hostile")]
    html = text_of(write_overlay(runs, tmp_path / "overlay.html"))
    assert html.count('<svg class="plot wide') == 5  # BN, C, AP, LF and the hostile name
    assert "usual (1)" in html
    assert "usual (2)" in html
    assert "hostile" in html


def test_overlay_tables_hold_the_counts(specimen: Get, tmp_path: Path) -> None:
    runs = [specimen("usual"), specimen("one-level")]
    html = text_of(write_overlay(runs, tmp_path / "overlay.html"))
    for run in runs:
        for record in json.loads((run / "summary.json").read_text())["sar"]:
            assert f">{record['k']}/1\u202f000<" in html


def test_measured_runs_are_stars_only_beside_others(specimen: Get, tmp_path: Path) -> None:
    scans = specimen("usual", noise="measured", n=150, levels=(25.0, 200.0), measured=False)
    beside = text_of(write_overlay([specimen("usual"), scans], tmp_path / "a.html"))
    alone = text_of(write_overlay([scans], tmp_path / "b.html"))
    assert ' star"' in beside
    assert ' star"' not in alone


def test_runs_on_different_axes_are_refused(specimen: Get, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mAs and sigma"):
        write_overlay([specimen("usual"), specimen("sigma")], tmp_path / "overlay.html")
    with pytest.raises(UsageError, match="none at all"):
        write_overlay([], tmp_path / "overlay.html")


@pytest.fixture(scope="module")
def compared(specimen: Get) -> Callable[..., dict[str, Any]]:
    """Return a function that compares the usual run with another specimen."""

    def get(name: str, margin: float | None = None, **changes: Any) -> dict[str, Any]:
        tables = [results.read(run / "results.parquet") for run in (specimen("usual"), specimen(name, **changes))]
        tables = [table[table["noise"] != "measured"] for table in tables]
        return agreement.compare(*tables, margin=margin, classes=["BN", "C", "AP", "LF"])

    return get


@pytest.mark.parametrize(
    ("margin", "scale", "kind"),
    [(None, 1.0, "none"), (0.2, 1.0, "pass"), (None, 0.3, "fail"), (0.001, 1.0, "inconclusive")],
)
def test_comparison_page_shows_the_verdict(
    compared: Any, tmp_path: Path, margin: float | None, scale: float, kind: str
) -> None:
    result = compared("usual", margin, scale=scale, seed=3, measured=False)
    html = text_of(write_comparison(result, tmp_path / "comparison.html"))
    assert f'<section class="verdict {kind}"' in html
    assert unbroken(result["sentence"].split("(")[0].strip())[:60] in html


def test_comparison_page_shows_every_z_and_its_footnote(compared: Any, tmp_path: Path) -> None:
    result = compared("usual", seed=3, measured=False)
    html = text_of(write_comparison(result, tmp_path / "comparison.html"))
    for entry in result["entries"]:
        assert f">{entry['z']:.3f}<" in html if entry["z"] is not None else "degenerate" in html
    assert "0*" in html
    assert "shown as 0, as in the paper" in html


def test_comparison_page_escapes_names(specimen: Get, tmp_path: Path) -> None:
    table = results.read(specimen("hostile") / "results.parquet")
    table = table[table["noise"] != "measured"]
    html = text_of(write_comparison(agreement.compare(table, table), tmp_path / "comparison.html"))
    assert "<img src=x" not in html


def test_forest_rows_show_their_intervals() -> None:
    plots = both([Difference("a", 0.1, 0.05, 0.2, "apart", ""), Difference("b", -0.02, -0.04, 0.0, "", "")], 0.05)
    for _, plot in plots:
        assert plot.margins is not None
        assert plot.margins[0] < plot.zero < plot.margins[1]
        first, second = plot.rows
        assert plot.zero < first.low < first.x < first.high < plot.size.width
        assert second.low < second.x < second.high == pytest.approx(plot.zero)
        assert first.y < second.y


def test_profile_page_shows_map_spectra_and_report(tmp_path: Path) -> None:
    report = {
        "method": "nps", "K": 20, "reference_mas": 25.0, "patch_mm": 6.8, "sampling_floor": 0.123,
        "warnings": [HOSTILE],
        "radial": [{"region": "centre", "frequency": [0.0, 0.1, 0.2], "nps": [0.0, 900.0, 300.0]}],
    }  # fmt: skip
    sigma = np.full((40, 50), 12.0, np.float32)
    html = text_of(write_profile_page(report, {"sigma": sigma}, tmp_path / "profile.html"))
    assert "median 12 HU" in html
    assert "centre: 900 HU² mm² at 0.1 per mm" in html
    assert "0.123" in html
    assert "&lt;script&gt;alert(1)" in html


def test_profile_page_of_nothing_says_so(tmp_path: Path) -> None:
    html = text_of(write_profile_page({"method": "nps"}, {}, tmp_path / "profile.html"))
    assert "holds no sigma map" in html
    assert "holds no radial spectra" in html


def test_figures_for_papers_come_in_three_formats(specimen: Get, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[report]'")
    written = figures(specimen("usual"), tmp_path)
    names = {path.name for path in written}
    assert names == {f"usual-{f}.{k}" for f in ("sar", "cmr", "noise") for k in ("svg", "pdf", "png")} | {
        "usual-captions.txt"
    }
    assert (tmp_path / "usual-sar.pdf").read_bytes().startswith(b"%PDF")
    captions = (tmp_path / "usual-captions.txt").read_text(encoding="utf-8")
    assert "n = 1000 realizations" in captions
    assert "virtual scanner" in captions
    svg = (tmp_path / "usual-cmr.svg").read_text(encoding="utf-8")
    cmr = next(m for m in json.loads((specimen("usual") / "summary.json").read_text())["cmr"] if m["level"] == 25.0)
    assert {str(c) for row in cmr["counts"] for c in row} <= set(re.findall(r">(\d+)</text>", svg))


@pytest.mark.parametrize("name", ["undefined", "one-level", "sigma", "hostile"])
def test_figures_of_odd_runs_are_drawn(specimen: Get, tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[report]'")
    assert all(path.stat().st_size for path in figures(specimen(name), tmp_path))


def test_figures_without_matplotlib_name_the_extra(
    specimen: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"robustkit\[report\]"):
        figures(specimen("usual"), tmp_path)


def test_figures_need_a_summary(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[report]'")
    with pytest.raises(DataError, match=r"summary\.json"):
        figures(tmp_path, tmp_path / "out")
