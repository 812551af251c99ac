"""The numbers of a reproduced study as a page: `python benchmarks/reproduced.py RUN` writes docs/reproduction.md.

RUN is the folder of `robustkit reproduce --scale paper`; that of `--scale small` has docs/reproduction-small.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sections import table

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"paper": "reproduction.md", "small": "reproduction-small.md"}
TITLES = {"paper": "The paper, reproduced", "small": "The paper, reproduced in a quarter of an hour"}
OTHERS = {
    "paper": "[The small study](reproduction-small.md) takes a quarter of an hour, and has more to harden.",
    "small": "[The whole study](reproduction.md) retrains the paper's own recipe a hundred times.",
}
TEXT = """# {title}

What `robustkit reproduce --scale {scale}` found (recipe `{recipe}`, seed {seed}, clean image: {centre}); this page is
written from its summary by `python benchmarks/reproduced.py RUN`. Values of the paper are those of Peng et al. 2023.
Bodies, phantom, scanner and mAs are virtual: how models behave can be compared with the paper, the rates of one model
on one phantom cannot. {other}

{sentences}

## Table 1: how good the models are

Testing 2 (without 3 cm about each boundary), mean and standard deviation over {folds} folds, %:

{table_one}

## Fig. 3: SAR against dose

{sar}

Changed answers of {n:,} simulated and {scans} measured images of the central slice whose class it is, with the 95 %
Clopper-Pearson interval; classes and levels without any change are left out.

## Fig. 6: the same training, other seeds

{retrainings}

Share of models that change any answer, {n:,} simulated and {scans} measured images a slice.

## Fig. 7: adaptive training, beside its rivals

{hardened}

Each strategy trains on from the same model, on as many images as the first one or the next round more. Changed
answers of attacked and of never attacked slices, simulated and measured. The change is that of mean F1 in points,
without transition zones, {groups} patients that no training saw; in brackets its one-sided lower bound. The best
model was audited anew on noise and scans that nothing before had drawn, at all {levels} levels: {last}.
"""


def page(s: Mapping[str, Any]) -> str:
    """Return the page of a summary."""
    last = s["last_audit"]["rows"]
    most = max(row["upper"] for row in last if row["noise"] != "measured")
    return TEXT.format(
        title=TITLES[s["scale"]],
        other=OTHERS[s["scale"]],
        scale=s["scale"],
        recipe=s["recipe"],
        seed=s["seed"],
        centre=s["centre"],
        folds=s["size"]["folds"],
        n=s["size"]["n"],
        scans=s["size"]["scans"],
        levels=len(s["size"]["levels"]),
        groups=max(row["guard"]["groups"] for row in s["hardening"]["strategies"]),
        sentences="\n".join(f"- **{said['what']}** ({said['verdict']}): {said['sentence']}" for said in s["sentences"]),
        table_one=table(["", *s["classes"]], accuracy(s["training"]["table"])),
        sar=table(["model", "images", "mAs", "class", "changed", "SAR"], rates(s["audit"])),
        retrainings=table(["images", "mAs", "all models", "those of F1 >= 99 %"], shares(s["retrainings"]["views"])),
        hardened=table(["strategy", "changed", "worst bound", "mean F1", "change", "robust"], sides(s["hardening"])),
        last=f"{sum(row['k'] for row in last)} of {sum(row['n'] for row in last):,} answers changed, worst bound "
        f"{100 * most:.2f} % in simulation",
    )


def accuracy(rows: Sequence[Mapping[str, Any]]) -> Iterable[list[str]]:
    """Yield precision, recall and F1 of Testing 2."""
    for row in rows:
        if row["data"] == "Testing 2":
            cells = zip(row["mean"], row["sd"], strict=True)
            yield [row["measure"], *(f"{100 * mean:.1f} ± {100 * sd:.1f}" for mean, sd in cells)]


def rates(audit: Mapping[str, Any]) -> Iterable[list[str]]:
    """Yield every class and level at which an answer changed."""
    for model in audit["models"]:
        for row in sorted(audit["sar"][model], key=lambda row: (row["noise"], row["class"], row["level"])):
            if row["k"]:
                ends = f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %"
                told = [model, row["noise"], f"{row['level']:g}", row["class"], f"{row['k']}/{row['n']}"]
                yield [*told, f"{100 * row['rate']:.1f} % ({ends})"]


def shares(views: Sequence[Mapping[str, Any]]) -> Iterable[list[str]]:
    """Yield the share of models that change an answer."""
    for view in views:
        cells = [
            f"{one['k']} of {one['n']} ({100 * one['low']:.1f} to {100 * one['high']:.1f} %)"
            for one in (view["flipping"], view["flipping_good"])
        ]
        yield [view["noise"], f"{view['level']:g}", *cells]


def sides(hardening: Mapping[str, Any]) -> Iterable[list[str]]:
    """Yield the model that was hardened, then each strategy."""
    start = hardening["rounds"][hardening["strategy"]][0]
    for name, row in [("before", start), *((row["strategy"], row) for row in hardening["strategies"])]:
        changed = f"{row['flips']} of {sum(cell['n'] for cell in row['rows']):,}"
        guard = row["guard"]
        change = "" if row is start else f"{100 * guard['change']:+.2f} ({100 * guard['lower']:+.2f})"
        robust = "yes" if row["robust"] and row["accepted"] else "no" if row["accepted"] else "refused by the guard"
        yield [name, changed, f"{100 * row['worst']:.2f} %", f"{100 * row['f1']:.2f} %", change, robust]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of `robustkit reproduce`")
    recorded = parser.parse_args().run / "summary.json"
    if not recorded.is_file():
        parser.error(f"there is no {recorded}; run `robustkit reproduce` first")
    summary = json.loads(recorded.read_text(encoding="utf-8"))
    (DOCS / PAGES[summary["scale"]]).write_text(page(summary), encoding="utf-8")


if __name__ == "__main__":
    main()
