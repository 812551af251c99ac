"""The page of the reproduced paper: Table 1 and Fig. 2-7, each beside the paper's own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from robustkit import paper, stats
from robustkit.plain import Record
from robustkit.report import comparison, curves, grids, hardening, png, study, training, variability, words
from robustkit.report.chart import Axis, Point, Series, Size, draw, nice_ticks
from robustkit.report.source import records
from robustkit.report.study import Part, Picture, Section
from robustkit.report.words import Fact, Verdict

_SHOWN = 384
_FIG_2 = {"noise": "noise", "image": "image", "sd": "sd of 20"}
_KINDS = {"agrees": "agrees with the paper", "differs": "differs from the paper", "says nothing": "says nothing"}


def write_reproduction(summary: Record, pictures: Mapping[str, NDArray[Any]], path: Path) -> Path:
    """Write the page of `robustkit.reproduce.reproduce`'s summary, with the images of Fig. 2, and return its path."""
    said = records(summary["sentences"])
    agrees = sum(s["verdict"] == "agrees" for s in said)
    size = summary["size"]
    sentence = f"{agrees} of {len(said)} findings agree with the paper; each is told below with its numbers."
    cohort = summary["cohort"]
    facts = [
        Fact("Recipe", str(summary["recipe"]), str(summary.get("backend") or "")),
        Fact(
            "Cohort",
            words.many(cohort["train"]["slices"] + cohort["validation"]["slices"], "training slice"),
            f"of {cohort['train']['groups'] + cohort['validation']['groups']} bodies; "
            f"{cohort['test']['slices']} test slices of {cohort['test']['groups']}",
        ),
        Fact("Models", f"{size['folds']} folds, {size['retrainings']} retrainings", f"seed {summary['seed']}"),
        Fact("Simulated", f"{size['n']} images a slice and level", "NPS noise fitted to 20 scans at 25 mAs"),
        Fact("Measured", f"{size['scans']} scans a slice and level", "by the virtual scanner: its own mAs"),
        Fact("Time", f"{summary['wall_seconds'] / 60:.1f} min", _seconds(summary["seconds"])),
    ]
    return study.write(
        path,
        title="Peng et al. 2023, reproduced",
        kicker="Reproduction",
        verdict=Verdict("none", "Reproduced", sentence),
        facts=facts,
        sections=sections(summary, pictures),
        notes=[
            "Everything here is virtual: bodies, phantom, scanner and its mAs. What is compared with the paper is how "
            "models behave, not the numbers of one model or one phantom."
        ],
    )


def _seconds(each: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.0f} s" for name, value in each.items())


def sections(summary: Record, pictures: Mapping[str, NDArray[Any]]) -> list[Section]:
    """Return the sections of the page."""
    return [
        _findings(summary),
        Section("table-1", "Table 1: how good the models are", [], study.grid(_table_one(summary))),
        Section("fig-2", "Fig. 2: measured and simulated noise", [], _fig_2(summary["noise"], pictures)),
        Section("fig-3", "Fig. 3: SAR against dose", [], _fig_3(summary)),
        Section("fig-4", "Fig. 4: confusion matrices for robustness", [], _fig_4(summary)),
        Section("fig-5", "Fig. 5: do simulation and measurement agree?", [], _fig_5(summary)),
        Section("fig-6", "Fig. 6: the same training, other seeds", [], _fig_6(summary)),
        Section("fig-7", "Fig. 7: adaptive training", [], _fig_7(summary)),
    ]


def _findings(summary: Record) -> Section:
    told = [
        (str(s["what"]), str(s["verdict"]).replace(" ", "-"), _KINDS[str(s["verdict"])], _told(str(s["sentence"])))
        for s in records(summary["sentences"])
    ]
    return Section("findings", "Where it agrees, and where not", [], [Part("findings", told)])


def _told(sentence: str) -> str:
    return words.unbroken(sentence[:1].upper() + sentence[1:])


def _is_papers(summary: Record) -> bool:
    return tuple(summary["classes"]) == paper.CLASSES


def _table_one(summary: Record) -> grids.Grid | None:
    return training.table_one(summary["training"], paper.TABLE_1 if _is_papers(summary) else None)


def _fig_2(noise: Record, pictures: Mapping[str, NDArray[Any]]) -> list[Part]:
    mas = words.at_level(float(noise["mas"]), "mAs")
    shown = [
        Picture(f"{_FIG_2[what]}, {kind}", _picture(what, pictures[f"{what}_{kind}"]))
        for kind in ("measured", "simulated")
        for what in _FIG_2
        if f"{what}_{kind}" in pictures
    ]
    caption = (
        f"{noise['label']} at {mas}. Noise −80 to 80 HU, image −200 to 200 HU, sd 0 (dark) to 40 HU (bright), as in "
        "the paper."
    )
    return [
        study.pictures(shown, caption),
        study.panel(_histogram(noise), "Histogram of noise in the body."),
        *study.grid(_moments(noise)),
    ]


def _picture(what: str, image: NDArray[Any]) -> str:
    small = png.shrink(image, _SHOWN)
    if what == "sd":
        return png.coloured(small, 0.0, 40.0)
    low, high = (-80.0, 80.0) if what == "noise" else (-200.0, 200.0)
    return png.grey(small, low, high, shades=64)


def _histogram(noise: Record) -> curves.Panel:
    middles = [(a + b) / 2 for a, b in zip(noise["bins"], noise["bins"][1:], strict=False)]
    series = [
        Series(
            name,
            style,
            tuple(
                Point(x, share, None, None, f"{name}, {x:.0f} HU: {words.percent(share)}")
                for x, share in zip(middles, noise["histogram"][name], strict=True)
            ),
        )
        for style, name in enumerate(("measured", "simulated"))
    ]
    top = max(p.y for s in series for p in s.points)
    ticks = nice_ticks(0.0, top)
    ends = (noise["bins"][0], noise["bins"][-1])
    x = Axis("noise, HU", ends[0], ends[1], (-120.0, -80.0, -40.0, 0.0, 40.0, 80.0, 120.0))
    y = Axis("share of pixels", 0.0, ticks[-1], ticks, unit=f"{words.THIN}%", scale=100)
    plots = [
        (name, draw(series, x, y, size))
        for name, size in (("wide", Size(920, 300, 13.5, 20)), ("narrow", Size(440, 280, 13, 11)))
    ]
    return curves.Panel("histogram", "Histogram of noise", "Two curves that nearly coincide.", plots)


def _moments(noise: Record) -> grids.Grid | None:
    names = {"1": "mean, HU", "2": "variance, HU²", "3": "third central, HU³", "4": "fourth central, HU⁴"}
    rows = []
    for key, name in names.items():
        both = [noise["moments"][kind][key] for kind in ("measured", "simulated")]
        change = noise["difference"].get(key)
        told = f"{100 * change:+.1f}{words.THIN}%" if change is not None else "–"
        rows.append([name, *(_moment(v) for v in both), told])
    note = f"Over the body, {noise['scans']} scans and as many simulations; the paper: all within 2 %."
    return grids.grid("Moments of the noise", ["moment", "measured", "simulated", "difference"], rows, note)


def _moment(value: float) -> str:
    """Write a moment with four digits and thousands apart; what is nearly nothing as 0."""
    size = abs(value)
    text = f"{value:,.0f}" if size >= 1000 else "0" if size < 5e-4 else f"{value:.4g}"
    return text.replace(",", words.THIN)


def _names(summary: Record) -> list[tuple[str, str]]:
    audited = summary["audit"]
    told = {audited["went_on"]: "the model that went on"}
    return [(name, told.get(name, "the most sensitive retraining")) for name in audited["models"]]


def _fig_3(summary: Record) -> list[Part]:
    found: list[Part] = []
    for number, (name, what) in enumerate(_names(summary)):
        rows = records(summary["audit"]["sar"][name])
        classes = [str(c) for c in summary["classes"]]
        series = _series(rows, classes)
        if series:
            top = curves.rate_top(series, None)
            levels = [p.x for s in series for p in s.points]
            title = curves.level_title("mAs", levels)
            shown = curves.sar_panel(f"sar-{number}", f"SAR, {what}", series, title, top, None, [])
            caption = f"{what.capitalize()} ({name}). Curves: simulation; stars: measured scans; bands: 95 % intervals."
            found.append(study.panel(shown, caption))
        found += study.grid(_sar_table(rows, classes, f"SAR of {what}"))
    found += study.grid(_papers_sar(summary))
    return found


def _series(rows: Sequence[Record], classes: Sequence[str]) -> list[Series]:
    found = []
    for star in (False, True):
        for style, name in enumerate(classes):
            mine = [r for r in rows if r["class"] == name and r["n"] and (r["noise"] == "measured") is star]
            if mine:
                what = f"{name}, measured," if star else ""
                found.append(Series(name, style, tuple(curves.point(r, "mAs", what) for r in mine), star=star))
    return found


def _sar_table(rows: Sequence[Record], classes: Sequence[str], title: str) -> grids.Grid | None:
    cells = {(r["noise"], float(r["level"]), r["class"]): r for r in rows}
    keys = sorted({(r["noise"], float(r["level"])) for r in rows})
    shown = [
        [noise, words.number(level), *(study.kn(cells.get((noise, level, name), {})) for name in classes)]
        for noise, level in keys
    ]
    return grids.grid(title, ["images", "mAs", *classes], shown)


def _papers_sar(summary: Record) -> grids.Grid | None:
    if not _is_papers(summary):
        return None
    rows = []
    for level, counts in paper.MEASURED.items():
        rows.append(["measured", words.number(level), *(_papers_share(k, paper.SCANS) for k in counts.values())])
    for level, rates in paper.SIMULATED_SAR.items():
        rows.append(["simulated", words.number(level), *(_papers_rate(r) for r in rates.values())])
    return grids.grid("SAR in the paper", ["images", "mAs", *paper.CLASSES], rows, "A dash: the text gives no number.")


def _papers_share(k: int | None, n: int) -> str:
    if k is None:
        return "–"
    ends = stats.clopper_pearson(k, n)
    return study.kn({"k": k, "n": n, "rate": k / n, "low": float(ends.low), "high": float(ends.high)})


def _papers_rate(rate: float | None) -> str:
    return "–" if rate is None else words.percent(rate)


def _fig_4(summary: Record) -> list[Part]:
    found = []
    classes = [str(c) for c in summary["classes"]]
    for name, what in _names(summary):
        shown = []
        for one in sorted(records(summary["audit"]["cmr"][name]), key=lambda m: (m["level"], m["noise"])):
            totals = [sum(int(row[j]) for row in one["counts"]) for j in range(len(classes))]
            small = [[f"{int(v)}" for v in row] for row in one["counts"]]
            title = f"{one['noise']}, {words.at_level(float(one['level']), 'mAs')}"
            shown.append(study.rate_heat(title, classes, one["rates"], totals, small))
        found.append(
            study.heats(shown, f"{what.capitalize()} ({name}): rate and count; n images called so without noise.")
        )
    return found


def _fig_5(summary: Record) -> list[Part]:
    found: list[Part] = []
    audited = summary["audit"]
    shown = audited["sensitive"] or audited["went_on"]
    for centre, each in audited["agreement"].items():
        if not each.get(shown):
            continue
        result = each[shown]
        rows = [
            [words.number(float(t["level"])), noisy, *(_z(z) for z in row)]
            for t in records(result["tables"])
            for noisy, row in zip(result["classes"], t["z"], strict=True)
        ]
        heads = ["mAs", "with noise", *(f"{c} without" for c in result["classes"])]
        note = f"Measured minus simulated. {_told(result['sentence'])}"
        found += study.grid(grids.grid(f"Z of {shown}, clean image: {centre}", heads, rows, note))
        tested = comparison.column_tests(result)
        found += study.grid(tested)
    if _is_papers(summary):
        rows = [
            [words.number(level), noisy, *(f"{v:.4f}" if v else "0" for v in row)]
            for level, table in paper.Z.items()
            for noisy, row in zip(paper.CLASSES, table, strict=True)
        ]
        heads = ["mAs", "with noise", *(f"{c} without" for c in paper.CLASSES)]
        found += study.grid(grids.grid("Z in the paper (Fig. 5)", heads, rows))
    return found


def _z(value: Any) -> str:
    return "–" if not isinstance(value, int | float) else f"{value:.3f}" if value else "0"


def _fig_6(summary: Record) -> list[Part]:
    retrained = summary["retrainings"]
    classes = [str(c) for c in summary["classes"]]
    found = study.grid(variability.flipping(retrained))
    for view in records(retrained["views"]):
        if view["noise"] == "measured" or not any(v["noise"] == "measured" for v in retrained["views"]):
            found += variability.matrices(view, classes)
    if _is_papers(summary):
        rows = [
            [words.number(level), *(words.percent(v) for v in sar.values())] for level, sar in paper.MEAN_SAR.items()
        ]
        note = "14 of 100 models changed an answer at 25 mAs: 7.9–22.4 % (Clopper–Pearson, 95 %)."
        found += study.grid(grids.grid("Mean SAR of 100 models in the paper", ["mAs", *paper.CLASSES], rows, note))
    return found


def _fig_7(summary: Record) -> list[Part]:
    hardened = summary["hardening"]
    if hardened is None:
        return [study.note("No model changed any answer, so there was nothing to harden.")]
    rounds = records(hardened["rounds"][hardened["strategy"]])
    found: list[Part] = [study.note(f"Hardened: {hardened['model']}. {_told(hardened['sentence'])}")]
    found += [study.note(text) for text in hardening.notes(hardened)]
    if len(rounds) > 1:
        found.append(hardening.course(rounds, "fig-7-course"))
    found += study.grid(hardening.judged(rounds))
    found += study.grid(hardening.side_by_side(hardened))
    last = summary.get("last_audit")
    if last is not None:
        named = {"round": f"{hardened['best']}, audited anew", "rows": last["rows"]}
        found += study.grid(hardening.levels_of(named))
        found.append(
            study.note(
                f"The last audit draws noise and scans (seed {last['seed']}) that no stage before has drawn: "
                f"{last['n']} simulations and {last['scans']} scans a slice and level."
            )
        )
    if _is_papers(summary):
        rows = [
            [words.number(level), str(number), *(words.percent(v) for v in sar.values())]
            for level, rounds_ in paper.HARDENED.items()
            for number, sar in enumerate(rounds_)
        ]
        found += study.grid(
            grids.grid("Fig. 7 in the paper, measured scans", ["mAs", "iteration", *paper.CLASSES], rows)
        )
    return found
