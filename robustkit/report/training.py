"""The page of a cross-validation: Table 1 of the paper, every fold, and which one goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from robustkit.plain import Record
from robustkit.report import grids, study, words
from robustkit.report.source import records
from robustkit.report.study import Section, pm
from robustkit.report.words import Fact, Verdict

_MEASURES = {"precision": "Precision", "recall": "Recall", "f1": "F1-score"}
_MEANINGS = "Testing 1 holds every test image; Testing 2 leaves out the transition zones about the boundaries."


def write_training(summary: Record, path: Path) -> Path:
    """Write the page of `robustkit.training.train_recipe`'s summary and return its path."""
    best = summary["best"]
    folds = records(summary["folds"])
    sentence = (
        f"{best['name'].capitalize()} goes on, with a mean F1 of {100 * best['f1']:.2f} % without transition zones"
        f" ({words.many(len(folds), 'fold')} by patient)."
    )
    facts = [
        Fact("Recipe", str(summary["recipe"]), str(summary.get("backend") or "")),
        Fact("Seed", str(summary["seed"]), "of weights, order and dropout, in every fold"),
        Fact("Files", ", ".join(summary.get("files") or []) or "none", "the model that goes on"),
    ]
    return study.write(
        path,
        title="Training",
        kicker="Cross-validation",
        verdict=Verdict("none", "Trained", sentence),
        facts=facts,
        sections=sections(summary),
    )


def sections(summary: Record) -> list[Section]:
    """Return Table 1 and the folds."""
    table, folds = table_one(summary), _folds(summary)
    return [
        Section("table-1", "Precision, recall and F1", [_MEANINGS], study.grid(table)),
        Section("folds", "The folds", [], study.grid(folds)),
    ]


def table_one(summary: Record, paper: Mapping[tuple[str, str], Sequence[str]] | None = None) -> grids.Grid | None:
    """Return Table 1, each cell mean ± sd over the folds in per cent, beside the paper's where it is given."""
    classes = [str(c) for c in summary["classes"]]
    rows = []
    for row in records(summary["table"]):
        key = (str(row["data"]), str(row["measure"]))
        cells = [pm(m, s) for m, s in zip(row["mean"], row["sd"], strict=True)]
        theirs = [text.replace(" ", words.THIN) for text in paper[key]] if paper and key in paper else []
        images = row["images"]
        count = f"{min(images)}" if min(images) == max(images) else f"{min(images)} – {max(images)}"
        rows.append([key[0], _MEASURES[key[1]], *cells, *theirs, count])
    heads = ["data", "measure", *classes, *(f"{c} (paper)" for c in classes if paper), "images a fold"]
    return grids.grid("Table 1. Mean ± sd over the folds, %", heads, rows)


def _folds(summary: Record) -> grids.Grid | None:
    rows = [
        [
            str(fold["name"]),
            words.percent(fold["f1"]),
            words.percent(fold["f1_all"]),
            f"{fold['seconds']:.0f}",
            "goes on" if fold["name"] == summary["best"]["name"] else "",
        ]
        for fold in records(summary["folds"])
    ]
    heads = ["fold", "mean F1, Testing 2", "mean F1, Testing 1", "seconds to train (CPU)", ""]
    return grids.grid("Every fold", heads, rows)
