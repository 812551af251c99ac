"""Pages of training, variability, hardening and the reproduced paper: what they must say, and that they are sound."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from specimens import hardening, pictures, reproduction, training, variability

from robustkit import paper
from robustkit.report import bars, write_hardening, write_reproduction, write_training, write_variability
from robustkit.report.study import rate_heat

HOSTILE = "<script>alert(1)</script>"


def text_of(path: Path) -> str:
    html = path.read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert "style=" not in html.split("</style>", 1)[1].split("<script>", 1)[0]  # the policy would drop it
    return html


def test_table_one_is_there_with_every_number(tmp_path: Path) -> None:
    html = text_of(write_training(training(), tmp_path / "t.html"))
    assert "99.0\u202f±\u202f1.0" in html
    assert ">97.0<" in html  # a spread that is not known is left out, not written as 0
    assert "goes on" in html


def test_variability_page_tells_shares_spread_and_who_is_wrong_without_noise(tmp_path: Path) -> None:
    html = text_of(write_variability(variability(), tmp_path / "v.html"))
    assert "1/3 models change at least one answer on measured scans at 25" in html
    assert html.count('class="plot bars3"') == 4
    assert "seed 1: C called AP" in html
    assert "none to count" in html
    assert "−0.50" not in html
    assert "-0.50" in html


def test_hardening_page_tells_refused_rounds_and_bounds_of_zero(tmp_path: Path) -> None:
    html = text_of(write_hardening(hardening(), tmp_path / "h.html"))
    assert "refused because clean accuracy fell: round 1" in html
    assert "0 of 150 measured scans means at most 2.0\u202f%" in html
    assert "one patient" in html
    assert "SAR against rounds" in html


@pytest.mark.parametrize("write", ["training", "variability", "hardening"])
def test_hostile_names_stay_text(tmp_path: Path, write: str) -> None:
    made = {"training": (write_training, training), "variability": (write_variability, variability)}
    made["hardening"] = (write_hardening, hardening)
    function, specimen = made[write]
    html = text_of(function(specimen(HOSTILE), tmp_path / "x.html"))
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.parametrize("hardened", [True, False])
def test_reproduction_has_every_figure_beside_the_papers_values(tmp_path: Path, hardened: bool) -> None:
    html = text_of(write_reproduction(reproduction(hardened), pictures(), tmp_path / "r.html"))
    for title in ("Table 1", "Fig. 2", "Fig. 3", "Fig. 4", "Fig. 5", "Fig. 6", "Fig. 7"):
        assert f"{title}: " in html
    assert html.count("data:image/png") == 6
    assert "86/150, 57.3\u202f% (49.0" in html  # the paper's chest at 25 mAs, with an exact interval
    assert "14 of 100" in html
    assert ("nothing to harden" in html) is not hardened


def test_sentences_speak_plainly_of_agreement() -> None:
    told = {said["what"]: said for said in reproduction()["sentences"]}
    assert told["Table 1"]["verdict"] == "differs"  # 97.0 for AP against the paper's 99.7
    assert told["Fig. 2"]["verdict"] == "differs"  # -3 % in the fourth moment
    assert told["Fig. 5"]["verdict"] == "differs"
    assert "|Z| > 1.96 in 1 of 15 entries" in told["Fig. 5"]["sentence"]
    assert told["Fig. 6"]["verdict"] == "agrees"
    assert told["Fig. 7"]["verdict"] == "agrees"


def test_the_papers_numbers_are_consistent() -> None:
    assert round(100 * paper.MEASURED[25.0]["C"] / paper.SCANS, 1) == 57.3
    for level, table in paper.Z.items():
        assert len(table) == 4, level
        np.testing.assert_allclose(np.array(table)[:, 1].sum(), 0.0, atol=1e-9)  # C goes to AP alone


def test_bars_are_as_high_as_their_values() -> None:
    drawn = bars.draw("b", "t", ["a", "b"], [[1.0, 0.25], [0.0, None]], 1.0)
    assert len(drawn.bars) == 3
    heights = {}
    for bar in drawn.bars:
        ys = [float(y) for y in re.findall(r",(-?[\d.]+)", bar.left)]
        heights[bar.text.split(": ")[1]] = ys[0] - ys[3]
    assert heights["100\u202f%"] == pytest.approx(bars.RISE, abs=0.2)
    assert heights["25.0\u202f%"] == pytest.approx(bars.RISE / 4, abs=0.2)


def test_undefined_columns_of_a_heat_map_are_not_zero() -> None:
    found = rate_heat("t", ["a", "b"], [[0.9, None], [0.1, None]], [3, 0])
    assert found.undefined == ["b"]
    assert [cell.shade for cell in (row[1][1] for row in found.rows)] == ["undefined", "undefined"]
