"""Invented summaries of studies and commissionings, in the shape of real ones, for pages made of them."""

from __future__ import annotations

from typing import Any

import numpy as np

CLASSES = ["BN", "C", "AP", "LF"]


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


def pictures() -> dict[str, Any]:
    image = np.random.default_rng(0).normal(0, 20, (32, 32)).astype(np.float32)
    return {f"{a}_{b}": image for a in ("noise", "sd", "image") for b in ("measured", "simulated")}


def scans_record(k: int, mas: float) -> dict[str, Any]:
    protocol = {"manufacturer": "specimen", "kvp": 120.0, "thickness_mm": 5.0, "kernel": "B40", "matrix": [512, 512]}
    return {"k": k, "mas": mas, "ctdivol": 0.2 * mas if mas < 100 else None, "wed_mm": 312.5, "protocol": protocol}


def baseline_record(name: str = "specimen-net.onnx", verdict: str = "pass") -> dict[str, Any]:
    """Return an invented baseline.json."""
    share = {"k": 31, "n": 1000, "rate": 0.031, "low": 0.011, "high": 0.083}
    row = {"class": name if "<" in name else "AP", "level": 50.0, "predicted": share, "allowed": [0.0, 0.183]}
    row |= {"measured": {**share, "k": 4, "n": 150, "low": 0.007, "high": 0.067}, "z": -0.31, "p": 0.76}
    asked = {"noise": "nps", "n": 1000, "seed": 0, "margin": 0.1}
    lock = {"asked": asked, "model": {"name": name, "sha256": "9c1f" * 16}, "written": "2031-05-04T09:12:33Z"}
    lock |= {"fit": [scans_record(20, 25.0), scans_record(20, 200.0)], "versions": {"robustkit": "0.1.0"}}
    sentence = "Pass: at every dose compared, simulated and measured answers are shown to agree within 10.0%."
    return {
        "lock": lock, "lock_sha256": "ab12" * 16, "held_out": [scans_record(150, 50.0)], "verdict": verdict,
        "rows": [row | {"equivalence_p": p, "verdict": verdict} for p in (0.0004, None)], "sentence": sentence,
        "agreement": {"sentence": "No difference was found."}, "unstated": ["pitch", "filter"],
        "written": "2031-05-04T10:00:00Z",
    }  # fmt: skip


def constancy_record(verdict: str = "drifted") -> dict[str, Any]:
    """Return an invented constancy.json."""
    share = {"k": 31, "n": 1000, "rate": 0.031, "low": 0.011, "high": 0.083}
    row = {"class": "AP", "level": 50.0, "baseline": share, "allowed": [0.0, 0.183], "verdict": "within"}
    change = {"region": "row 1, column 2", "deviation": 0.081, "error": 0.011, "tolerance": 0.05, "drifted": True}
    noise = {"slice": 1, "changes": [change | {"quantity": what} for what in ("sigma", "texture")]}
    return {
        "model": {"name": "specimen-net.onnx", "sha256": "9c1f" * 16}, "written": "2031-06-04T10:00:00Z",
        "baseline_sha256": "ab12" * 16, "noise": [noise], "scans": [scans_record(20, 25.0)], "unstated": [],
        "rows": [row | {"new": share}, row | {"new": None, "reason": "not seen", "verdict": "cannot tell"}],
        "verdict": verdict, "sentence": "Drifted: sigma of slice 1 in row 1, column 2 by +8.1%.",
    }  # fmt: skip
