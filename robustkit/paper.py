"""What Peng et al. 2023 report, as numbers, and plain sentences on where a reproduction agrees with them.

Counts are given where the paper's rates and sizes determine them (150 scans, 1,000 simulations, 100 models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustkit import stats

CLASSES = ("BN", "C", "AP", "LF")
SCANS, MODELS = 150, 100
TABLE_1: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("Training", "precision"): ("99.8 ± 0.3", "99.5 ± 0.4", "99.8 ± 0.2", "99.9 ± 0.0"),
    ("Training", "recall"): ("99.8 ± 0.2", "99.6 ± 0.4", "99.9 ± 0.1", "100 ± 0.0"),
    ("Training", "f1"): ("99.8 ± 0.1", "99.5 ± 0.2", "99.9 ± 0.0", "100 ± 0.0"),
    ("Validation", "precision"): ("97.9 ± 1.9", "95.9 ± 2.4", "98.1 ± 1.2", "99.4 ± 0.7"),
    ("Validation", "recall"): ("98.5 ± 1.3", "96.8 ± 1.7", "98.1 ± 1.5", "99.2 ± 0.9"),
    ("Validation", "f1"): ("98.2 ± 1.1", "96.3 ± 1.2", "98.1 ± 0.9", "99.3 ± 0.4"),
    ("Testing 1", "precision"): ("99.3 ± 0.7", "96.0 ± 1.2", "98.1 ± 0.6", "99.7 ± 0.2"),
    ("Testing 1", "recall"): ("98.5 ± 0.6", "95.8 ± 1.7", "98.8 ± 0.4", "99.5 ± 0.2"),
    ("Testing 1", "f1"): ("98.9 ± 0.2", "95.9 ± 0.5", "98.5 ± 0.2", "99.6 ± 0.1"),
    ("Testing 2", "precision"): ("99.7 ± 0.5", "99.7 ± 0.3", "99.5 ± 0.4", "100 ± 0.0"),
    ("Testing 2", "recall"): ("100 ± 0.0", "98.0 ± 1.1", "100 ± 0.0", "100 ± 0.0"),
    ("Testing 2", "f1"): ("99.8 ± 0.3", "98.8 ± 0.5", "99.7 ± 0.2", "100 ± 0.0"),
}
MEASURED: Mapping[float, Mapping[str, int | None]] = {
    25.0: {"BN": 27, "C": 86, "AP": 0, "LF": 43},
    200.0: {"BN": 2, "C": 2, "AP": 0, "LF": 0},
}
"""Scans of 150 whose answer changed (18, 57.3, 0 and 28.7 % at 25 mAs; the text gives 1.25 % for BN and C at 200 mAs,
the figure 1.33 %: two of 150)."""
SIMULATED_SAR: Mapping[float, Mapping[str, float | None]] = {
    12.5: {"BN": 0.886, "C": 0.725, "AP": 0.0, "LF": 0.412},
    25.0: {"BN": None, "C": 0.596, "AP": 0.0, "LF": None},
    200.0: {"BN": None, "C": 0.0125, "AP": 0.0, "LF": 0.0},
}
"""SAR in simulation, where the text gives a number."""
Z: Mapping[float, Sequence[Sequence[float]]] = {
    200.0: [[0.5194, 0, 0, 0], [0, -0.0819, 0, 0], [-0.5194, 0.0819, 0, 0], [0, 0, 0, 0]],
    25.0: [[0.1473, 0, 0, 0], [0, 0.5227, 0, -0.2826], [0, -0.5227, 0, 0], [-0.8679, 0, 0, 0.2826]],
}
"""Fig. 5, experiment minus simulation: [answer with noise][answer without]."""
FLIPPING = 14
"""Models of 100 with any changed answer on measured scans at 25 mAs."""
MEAN_SAR: Mapping[float, Mapping[str, float]] = {
    25.0: {"BN": 0.0521, "C": 0.0123, "AP": 0.0, "LF": 0.0336},
    200.0: {"BN": 0.0237, "C": 0.0, "AP": 0.0, "LF": 0.0159},
}
"""Fig. 6: SAR averaged over the 100 models, measured scans."""
HARDENED: Mapping[float, Sequence[Mapping[str, float]]] = {
    25.0: (
        {"BN": 0.18, "C": 0.573, "AP": 0.0, "LF": 0.287},
        {"BN": 0.0, "C": 0.153, "AP": 0.0, "LF": 0.0},
        {"BN": 0.0, "C": 0.0, "AP": 0.0, "LF": 0.0},
    ),
    200.0: (
        {"BN": 0.0133, "C": 0.0133, "AP": 0.0, "LF": 0.0},
        dict.fromkeys(CLASSES, 0.0),
        dict.fromkeys(CLASSES, 0.0),
    ),
}
"""Fig. 7: SAR of measured scans before adaptive training and after one and two iterations."""
MOMENTS = 0.02
"""Fig. 2: moments of measured and simulated noise differ by less than this."""
CRITICAL = 1.96


class Said(NamedTuple):
    """One finding: which part of the paper, "agrees", "differs" or "says nothing", and the sentence."""

    what: str
    verdict: str
    sentence: str


def about_table(summary: Mapping[str, Any]) -> Said:
    """Compare F1 without transition zones with Table 1."""
    row = next(r for r in summary["table"] if (r["data"], r["measure"]) == ("Testing 2", "f1"))
    ours = dict(zip(summary["classes"], row["mean"], strict=True))
    told = ", ".join(f"{name} {_pc(value)}" for name, value in ours.items())
    count = len(summary["folds"])
    if tuple(summary["classes"]) != CLASSES:
        return Said("Table 1", "says nothing", f"F1 without transition zones over {count} folds, %: {told}.")
    theirs = {name: float(text.split()[0]) for name, text in zip(CLASSES, TABLE_1["Testing 2", "f1"], strict=True)}
    worst = min(100 * (value or 0.0) - theirs[name] for name, value in ours.items())
    verdict = "agrees" if worst >= -1.0 else "differs"
    ending = "none more than 1 point under the paper's" if verdict == "agrees" else f"one {-worst:.1f} points under it"
    paper = ", ".join(f"{value:.1f}" for value in theirs.values())
    sentence = f"F1 without transition zones over {count} folds, %: {told} (paper {paper}); {ending}."
    return Said("Table 1", verdict, sentence)


def about_noise(noise: Mapping[str, Any]) -> Said:
    """Compare measured with simulated noise, as Fig. 2 does."""
    second, fourth = noise["difference"]["2"], noise["difference"]["4"]
    verdict = "agrees" if max(abs(second), abs(fourth)) <= MOMENTS else "differs"
    return Said(
        "Fig. 2",
        verdict,
        f"Second and fourth moment of simulated noise differ from measured noise by {100 * second:+.1f} % and "
        f"{100 * fourth:+.1f} % (paper: all within 2 %); the measured ones stem from {noise['scans']} scans.",
    )


def about_curve(name: str, rows: Sequence[Mapping[str, Any]]) -> Said:
    """Say how SAR goes with dose, as in Fig. 3."""
    simulated = [r for r in rows if r["noise"] != "measured" and r["n"]]
    flipping = sorted({r["class"] for r in simulated if r["k"]})
    levels = sorted({r["level"] for r in simulated})
    total = sum(r["k"] for r in simulated)
    if not flipping:
        sizes = sum(r["n"] for r in simulated)
        return Said(
            "Fig. 3",
            "differs",
            f"{name}: noise changes none of {sizes} answers from {levels[0]:g} to {levels[-1]:g} mAs. The paper's "
            "model flips in three classes; models differ (see Fig. 6), and the paper shows one that does.",
        )
    lowest = {r["class"]: r["k"] / r["n"] for r in simulated if r["level"] == levels[0]}
    highest = {r["class"]: r["k"] / r["n"] for r in simulated if r["level"] == levels[-1]}
    falls = all(highest.get(c, 0.0) <= lowest.get(c, 0.0) for c in flipping)
    told = ", ".join(f"{c} {100 * lowest[c]:.1f} %" for c in flipping if c in lowest)
    course = "falls with dose, as in the paper" if falls else "does not fall with dose"
    return Said(
        "Fig. 3",
        "agrees" if falls else "differs",
        f"{name}: {total} answers change; at {levels[0]:g} mAs {told} (paper: BN 88.6, C 72.5, LF 41.2, AP 0 %). SAR "
        f"{course}; which class flips is a matter of the model.",
    )


def about_agreement(found: Mapping[str, Any], centre: str) -> Said:
    """Say whether simulated and measured CMRs agree, as Fig. 5 does."""
    values = [z for table in found["tables"] for row in table["z"] for z in row if z is not None]
    beyond = sum(abs(z) > CRITICAL for z in values)
    trivial = sum(1 for e in found["entries"] if e["reason"])
    return Said(
        "Fig. 5",
        "agrees" if beyond == 0 else "differs",
        f"Clean image {centre}: |Z| > 1.96 in {beyond} of {len(values)} entries ({trivial} of them 0/0; paper: 0 of "
        f"32); all columns together: {found['verdict']}. {found['sentence']}",
    )


def about_models(view: Mapping[str, Any]) -> Said:
    """Compare the share of retrained models that flip with the paper's 14 of 100."""
    share = view["flipping"]
    theirs = stats.clopper_pearson(FLIPPING, MODELS)
    p = stats.fisher(share["k"], share["n"], FLIPPING, MODELS).p
    overlap = share["low"] <= float(theirs.high) and share["high"] >= float(theirs.low)
    return Said(
        "Fig. 6",
        "agrees" if overlap else "differs",
        f"{share['k']} of {share['n']} models change an answer on {view['noise']} images at {view['level']:g} mAs "
        f"({100 * share['low']:.1f}–{100 * share['high']:.1f} %); paper 14 of 100 (7.9–22.4 %); Fisher p = {p:.2g}.",
    )


def about_hardening(summary: Mapping[str, Any] | None) -> Said:
    """Compare the rounds that it takes to reach zero with the paper's two."""
    if summary is None:
        return Said("Fig. 7", "says nothing", "No model changed any answer, so there was nothing to harden.")
    best = summary["best"]
    agrees = summary["robust"] and 0 < best <= 2
    return Said(
        "Fig. 7",
        "agrees" if agrees else "differs",
        f"{summary['sentence']} Paper: SAR of every class is zero after two iterations.",
    )


def moments(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return mean and the second to fourth central moments of noise values."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    centred = flat - flat.mean()
    return {"1": float(flat.mean())} | {str(k): float((centred**k).mean()) for k in (2, 3, 4)}


def _pc(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
