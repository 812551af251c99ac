"""The page of many retrainings: who flips, how SAR is spread, mean and sd of the CMR as bars and as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustkit.plain import Record
from robustkit.report import bars, grids, study, words
from robustkit.report.source import records
from robustkit.report.study import Part, Section, kn
from robustkit.report.words import Fact, Verdict

BINS = ((0.0, "0"), (0.01, "to 1 %"), (0.05, "to 5 %"), (0.2, "to 20 %"), (0.5, "to 50 %"), (1.0, "above 50 %"))
"""Upper ends of the bins of SAR, and their names."""


def write_variability(summary: Record, path: Path) -> Path:
    """Write the page of `robustkit.variability.study`'s summary and return its path."""
    asked, count = summary["asked"], len(summary["models"])
    facts = [
        Fact("Models", str(count), f"{summary['recipe']}; they differ by their seed alone"),
        Fact("Simulated", f"{asked['n']} a slice and level", "realizations"),
        Fact("Measured", f"{asked['scans']} scans a slice and level", "by the virtual scanner"),
        Fact("Clean image", str(asked["centre"]), words.join(summary.get("clean_source") or [])),
        Fact("Intervals", words.bound(float(summary["confidence"])), "Clopper–Pearson, exact; models are the unit"),
        Fact("Noise", str(asked["noise"]), "; ".join(summary.get("noise_source") or [])),
    ]
    return study.write(
        path,
        title="Variability over retrainings",
        kicker="Retrainings",
        verdict=Verdict("none", "Measured", sentence(summary)),
        facts=facts,
        sections=sections(summary),
        notes=_notes(summary),
    )


def main_view(summary: Record) -> Record:
    """Return what the paper looks at: measured scans at the lowest level, else simulated images."""
    views = records(summary["views"])
    lowest = min(float(v["level"]) for v in views)
    at = [v for v in views if float(v["level"]) == lowest]
    return next((v for v in at if v["noise"] == "measured"), at[0])


def sentence(summary: Record) -> str:
    """Say how many models change any answer."""
    view = main_view(summary)
    kind = "measured scans" if view["noise"] == "measured" else f"images with {view['noise']} noise"
    good = view["flipping_good"]
    told = (
        f"{words.count(view['flipping']['k'], view['flipping']['n'])} models change at least one answer on {kind} at "
        f"{words.at_level(float(view['level']), 'mAs')}: {words.percent(view['flipping']['rate'])}, interval "
        f"{words.interval(view['flipping']['low'], view['flipping']['high'])}."
    )
    if good["n"]:
        told += f" Of those with a mean F1 of {words.bound(summary['good_f1'])} or more: {kn(good)}."
    return told


def _notes(summary: Record) -> list[str]:
    wrong = [f"{m['name']}: {words.join(m['clean_wrong'])}" for m in records(summary["models"]) if m["clean_wrong"]]
    if not wrong:
        return []
    return [f"Wrong already without noise, on slices audited here: {'; '.join(wrong)}. SAR does not count that."]


def sections(summary: Record) -> list[Section]:
    """Return the sections of the page."""
    classes = [str(c) for c in summary["classes"]]
    return [
        Section("flipping", "How many models change any answer", [], study.grid(flipping(summary))),
        Section(
            "cmr",
            "Mean and standard deviation of every entry of the CMR",
            ["Over the models that gave the column's answer without noise. Read numbers from the heat maps."],
            [part for view in records(summary["views"]) for part in matrices(view, classes)],
        ),
        Section(
            "sar", "SAR per class over the models", [], [*study.grid(_spread(summary)), *study.grid(_bins(summary))]
        ),
        Section("accuracy", "Does clean accuracy foretell it?", [], study.grid(_accuracy(summary))),
        Section("models", "Every model", [], study.grid(_models(summary))),
    ]


def _name(view: Record) -> str:
    return f"{view['noise']}, {words.at_level(float(view['level']), 'mAs')}"


def flipping(summary: Record) -> grids.Grid | None:
    """Return the share of models with any flip, one row a noise and level."""
    rows = [[_name(view), kn(view["flipping"]), kn(view["flipping_good"])] for view in records(summary["views"])]
    heads = ["images", "models with any flip", f"of models with F1 ≥ {words.bound(summary['good_f1'])}"]
    return grids.grid("Models that change at least one answer", heads, rows)


def matrices(view: Record, classes: Sequence[str]) -> list[Part]:
    """Return mean and sd of the CMR of one view: bars as in Fig. 6, and the heat map that can be read."""
    found, name = view["cmr"], _name(view)
    totals = [int(found["models"][0][j]) for j in range(len(classes))]
    key = f"{view['noise']}-{float(view['level']):g}".replace(".", "-")
    small = [[f"± {words.percent(sd)}" if sd is not None else "" for sd in row] for row in found["sd"]]
    return [
        study.bars(
            [
                bars.draw(f"mean-{key}", f"Mean, {name}", classes, found["mean"], 1.0),
                bars.draw(f"sd-{key}", f"Standard deviation, {name}", classes, found["sd"]),
            ],
            "Bars as in Fig. 6 of the paper: blue keeps the answer, orange changes it; each drawing has its own scale.",
        ),
        study.heats(
            [study.rate_heat(name, classes, found["mean"], totals, small, "mean ± sd over models")],
            "n is the number of models that gave the column's answer without noise.",
        ),
    ]


def _spread(summary: Record) -> grids.Grid | None:
    rows = [
        [
            _name(view),
            str(one["class"]),
            words.count(one["changed"], one["images"]) if one["images"] else "–",
            words.count(one["flipping"], one["models"]),
            words.percent(one["mean"]),
            words.percent(one["sd"]),
            *(words.percent(q) for q in one["quantiles"]),
        ]
        for view in records(summary["views"])
        for one in records(view["sar"])
    ]
    heads = ["images", "class", "changed / scored", "models that flip", "mean", "sd", "least", "25 %", "median", "75 %"]
    return grids.grid("SAR over models", [*heads, "most"], rows)


def _bins(summary: Record) -> grids.Grid | None:
    rows = []
    for view in records(summary["views"]):
        for one in records(view["sar"]):
            counts, low = [], -1.0
            for high, _ in BINS:
                counts.append(sum(low < rate <= high for rate in one["rates"]))
                low = high
            rows.append([_name(view), str(one["class"]), *(str(c) if c else "·" for c in counts)])
    return grids.grid("Models by their SAR", ["images", "class", *(name for _, name in BINS)], rows)


def _accuracy(summary: Record) -> grids.Grid | None:
    rows = [
        [
            _name(view),
            f"{found['spearman']:+.2f}" if found["spearman"] is not None else "–",
            f"{found['p']:.2g}" if found["p"] is not None else "–",
            str(found["n"]),
            str(found["reason"] or ""),
        ]
        for view in records(summary["views"])
        for found in [view["accuracy"]]
    ]
    heads = ["images", "Spearman, SAR with F1", "p", "models", "remark"]
    return grids.grid("Rank correlation of SAR over all slices with the clean mean F1", heads, rows)


def _models(summary: Record) -> grids.Grid | None:
    views = [(f"{v['noise']}|{float(v['level']):g}", _name(v)) for v in records(summary["views"])]
    rows = [
        [
            str(m["name"]),
            words.percent(m["f1"]),
            *(words.count(m["flips"][key]["k"], m["flips"][key]["n"]) for key, _ in views),
            words.join(m["clean_wrong"]) or "",
            f"{m['seconds']:.0f}",
        ]
        for m in records(summary["models"])
    ]
    heads = ["model", "mean F1", *(name for _, name in views), "wrong without noise", "seconds to train"]
    return grids.grid("Changed answers of every model, over all slices", heads, rows)
