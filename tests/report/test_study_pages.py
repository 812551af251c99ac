"""Pages of training, variability, hardening and the reproduced paper: what they must say, and that they are sound."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustkit import paper
from robustkit.report import bars, write_hardening, write_reproduction, write_training, write_variability
from robustkit.report.study import rate_heat

CLASSES = ["BN", "C", "AP", "LF"]
HOSTILE = "<script>alert(1)</script>"


def text_of(path: Path) -> str:
    html = path.read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert "style=" not in html.split("</style>", 1)[1].split("<script>", 1)[0]  # the policy would drop it
    return html


def table_rows() -> list[dict[str, Any]]:
    return [
        {"data": data, "measure": measure, "mean": [0.99, 0.98, 0.97, 1.0], "sd": [0.01, 0.0, None, 0.0]}
        | {"images": [100, 120], "confusion": []}
        for data in ("Training", "Validation", "Testing 1", "Testing 2")
        for measure in ("precision", "recall", "f1")
    ]


def training(name: str = "ct") -> dict[str, Any]:
    folds = [{"name": f"fold {i + 1}", "fold": i, "f1": 0.99, "f1_all": 0.98, "seconds": 60.0} for i in range(2)]
    best = {"place": 1, "name": "fold 2", "fold": 1, "f1": 0.9912}
    return {"recipe": name, "backend": "torch", "seed": 0, "classes": CLASSES, "folds": folds, "best": best} | {
        "table": table_rows(),
        "files": ["model.onnx"],
    }


def share(k: int, n: int) -> dict[str, Any]:
    return {"k": k, "n": n, "rate": k / n if n else None, "low": 0.01 if n else None, "high": 0.5 if n else None}


def view(noise: str, level: float) -> dict[str, Any]:
    mean = np.eye(4) * 0.9
    mean[2, 1] = 0.1
    spread = [
        {"class": c, "models": 3, "flipping": 1, "images": 450, "changed": 12, "mean": 0.02, "sd": 0.01}
        | {"quantiles": [0.0, 0.0, 0.0, 0.04, 0.06], "rates": [0.0, 0.0, 0.06]}
        for c in CLASSES
    ]
    cmr = {"mean": mean.tolist(), "sd": (mean / 10).tolist(), "models": [[3, 3, 0, 3]] * 4}
    cmr["mean"][0][2] = None
    return {"noise": noise, "level": level, "flipping": share(1, 3), "flipping_good": share(0, 0), "sar": spread} | {
        "cmr": cmr,
        "accuracy": {"spearman": -0.5, "p": 0.6, "n": 3, "reason": ""},
    }


def variability(name: str = "ct") -> dict[str, Any]:
    flips = {"measured|25": {"k": 9, "n": 600, "tied": 0}, "nps|25": {"k": 40, "n": 4000, "tied": 0}}
    models = [
        {"name": f"seed {i}", "f1": 0.99, "f1_all": 0.98, "seconds": 60.0, "clean_wrong": [], "flips": flips}
        for i in range(3)
    ]
    models[1]["clean_wrong"] = ["C called AP"]
    asked = {"n": 1000, "noise": "nps", "scans": 150, "centre": "low-noise", "levels": [25.0]}
    return {"recipe": name, "models": models, "classes": CLASSES, "confidence": 0.95, "asked": asked} | {
        "good_f1": 0.99,
        "views": [view("measured", 25.0), view("nps", 25.0)],
        "noise_source": ["scans"],
        "clean_source": ["mean of 20 repeats"],
    }


def round_(number: int, k: int, *, accepted: bool = True) -> dict[str, Any]:
    rows = [
        {
            "set": where,
            "noise": noise,
            "class": c,
            "level": level,
            "k": k,
            "tied": 0,
            "n": n,
            "upper": 0.1,
            "lower": 0.0,
        }
        for where in ("attacked", "held out")
        for noise, n in (("nps", 1000), ("measured", 150))
        for c in CLASSES
        for level in (25.0, 200.0)
    ]
    guard = {"accepted": accepted, "change": -0.001, "lower": None if number == 2 else -0.004, "groups": 9}
    return {"strategy": "adaptive", "round": number, "passes": 1000 * number, "rows": rows, "wrong": []} | {
        "worst": 0.1,
        "flips": 16 * k,
        "robust": k == 0,
        "accepted": accepted,
        "guard": guard,
        "f1": 0.99,
        "f1_all": 0.98,
    }


def hardening(name: str = "adaptive") -> dict[str, Any]:
    rounds = [round_(0, 20), round_(1, 30, accepted=False), round_(2, 0)]
    side = {"strategy": name, **{k: rounds[2][k] for k in rounds[2] if k != "strategy"}}
    return {"strategy": name, "plan": {"levels": [25.0, 200.0], "attack": {"n": 500}, "n": 1000, "scans": 150}} | {
        "classes": CLASSES,
        "slices": {"attacked": 4, "held out": 4},
        "limit": 0.01,
        "allowed_loss": 0.002,
        "rounds": {name: rounds},
        "best": 2,
        "robust": True,
        "stopped": "robust",
        "sentence": "After 2 rounds the bound of SAR is under the limit.",
        "strategies": [side],
        "model": "seed 3",
    }


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


def reproduction(hardened: bool = True) -> dict[str, Any]:
    sar = [
        {"noise": noise, "class": c, "level": level, "k": k, "n": n, "rate": k / n, "low": 0.0, "high": 0.1, "tied": 0}
        for noise, n in (("nps", 1000), ("measured", 150))
        for c, k in zip(CLASSES, (3, 20, 0, 0), strict=True)
        for level in (25.0, 200.0)
    ]
    counts = (np.eye(4) * 150).tolist()
    cmr = [
        {"noise": noise, "level": level, "counts": counts, "rates": np.eye(4).tolist()}
        for noise in ("nps", "measured")
        for level in (25.0, 200.0)
    ]
    z = {"level": 25.0, "z": [[0.0] * 4] * 3 + [[0.4, -2.1, None, 0.0]], "footnoted": [], "footnote": ""}
    agreement = {"classes": CLASSES, "tables": [z], "columns": [], "entries": [], "unit": "mAs"}
    agreement |= {"sentence": "No difference was found.", "verdict": "agree"}
    values = {str(i): float(i) for i in (1, 2, 3, 4)}
    noise = {"label": "C", "mas": 25.0, "scans": 100, "moments": {"measured": values, "simulated": values}}
    noise |= {"difference": {"2": 0.01, "4": -0.03}, "bins": [-120.0, 0.0, 120.0]}
    noise |= {"histogram": {"measured": [0.4, 0.6], "simulated": [0.5, 0.5]}}
    counted = {"slices": 100, "groups": 10}
    found: dict[str, Any] = {
        "recipe": "ct",
        "backend": None,
        "seed": 0,
        "classes": CLASSES,
        "size": {"folds": 10, "retrainings": 3, "n": 1000, "scans": 150},
        "cohort": {"train": counted, "validation": counted, "test": counted},
        "wall_seconds": 61.0,
        "seconds": {"cohort": 1.0},
        "training": training(),
        "retrainings": variability(),
        "noise": noise,
        "audit": {"models": ["seed 0"], "went_on": "seed 0", "sensitive": None, "sar": {"seed 0": sar}}
        | {"cmr": {"seed 0": cmr}, "agreement": {"low-noise": {"seed 0": agreement}}},
        "hardening": hardening() if hardened else None,
        "last_audit": {"rows": round_(2, 0)["rows"], "seed": 1, "n": 1000, "scans": 150} if hardened else None,
    }
    from robustkit.reproduce import sentences

    found["sentences"] = [said._asdict() for said in sentences(found)]
    return found


@pytest.mark.parametrize("hardened", [True, False])
def test_reproduction_has_every_figure_beside_the_papers_values(tmp_path: Path, hardened: bool) -> None:
    image = np.random.default_rng(0).normal(0, 20, (32, 32)).astype(np.float32)
    pictures = {f"{a}_{b}": image for a in ("noise", "sd", "image") for b in ("measured", "simulated")}
    html = text_of(write_reproduction(reproduction(hardened), pictures, tmp_path / "r.html"))
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
