"""The page of a hardening: SAR round by round, every judgement, and strategies side by side at equal training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustkit import stats
from robustkit.plain import Record
from robustkit.report import curves, grids, study, words
from robustkit.report.chart import Point, Series
from robustkit.report.source import records
from robustkit.report.study import Part, Section
from robustkit.report.words import Fact, Verdict

SETS = ("attacked", "held out")


def write_hardening(summary: Record, path: Path) -> Path:
    """Write the page of `robustkit.rounds.harden`'s summary and return its path."""
    plan = summary["plan"]
    slices = summary["slices"]
    levels = [float(v) for v in plan["levels"]]
    attack = plan["attack"]
    facts = [
        Fact("Strategy", str(summary["strategy"]), f"best: round {summary['best']}; stopped: {summary['stopped']}"),
        Fact("Attacked", words.many(slices["attacked"], "slice"), f"{attack['n']} realizations a slice and round"),
        Fact("Never attacked", words.many(slices["held out"], "slice"), "judged alone"),
        Fact(
            "Judged at",
            f"{words.number(levels[0])} to {words.at_level(levels[-1], 'mAs')}",
            f"{plan['n']} realizations a slice and level that no strategy sees; {plan['scans']} measured scans",
        ),
        Fact("Limit", words.bound(float(summary["limit"])), "one-sided exact bound, ties counted as changes"),
        Fact(
            "Guard",
            f"mean F1 ≥ −{100 * summary['allowed_loss']:.1f} points",
            "lower bound of the change, unseen patients drawn anew; without transition zones",
        ),
    ]
    robust = bool(summary["robust"])
    verdict = Verdict("pass" if robust else "fail", "Under the limit" if robust else "Not shown", summary["sentence"])
    return study.write(
        path,
        title="Hardening",
        kicker="Hardening",
        verdict=verdict,
        facts=facts,
        sections=sections(summary),
        notes=notes(summary),
    )


def notes(summary: Record) -> list[str]:
    """Return what a reader must be told first: refused rounds, and how little 0 of n says."""
    found = []
    for name, rounds in summary["rounds"].items():
        refused = [str(r["round"]) for r in records(rounds) if not r["accepted"]]
        if refused:
            found.append(f"{name}: refused because clean accuracy fell: round {words.join(refused)}")
    scans = int(summary["plan"]["scans"] or 0)
    if scans:
        found.append(f"0 of {scans} measured scans means at most {_upper(scans)}; 0 of {_simulated(summary)}.")
    return found


def _upper(n: int) -> str:
    return words.percent(float(stats.clopper_pearson(0, n, 0.95, "upper").high))


def _simulated(summary: Record) -> str:
    n = int(summary["plan"]["n"])
    return f"{n} realizations at most {_upper(n)} (one-sided, 95 %)"


def sections(summary: Record) -> list[Section]:
    """Return the sections of the page."""
    rounds = records(summary["rounds"][summary["strategy"]])
    parts: list[Part] = [course(rounds, "course")] if len(rounds) > 1 else []
    return [
        Section("course", "Round by round", [], [*parts, *study.grid(judged(rounds))]),
        Section("best", f"The best model, round {summary['best']}", [], study.grid(levels_of(_round(rounds, summary)))),
        Section(
            "strategies",
            "Strategies at equal training",
            ["Each trained further from the same model, on as many images (images times epochs)."],
            study.grid(side_by_side(summary)),
        ),
        Section("start", "The model before", [], study.grid(levels_of(rounds[0]))),
    ]


def _round(rounds: Sequence[Record], summary: Record) -> Record:
    return next(r for r in rounds if r["round"] == summary["best"])


def course(rounds: Sequence[Record], id_: str) -> Part:
    """Return the chart of SAR against rounds, averaged over classes, per set and kind of image at its worst level."""
    keys = list(dict.fromkeys((row["set"], row["noise"], float(row["level"])) for r in rounds for row in r["rows"]))
    shown = _worth_showing(keys)
    series = []
    for style, key in enumerate(shown):
        points = [_mean_point(r, key) for r in rounds]
        series.append(Series(_short_name(key), style, tuple(p for p in points if p is not None)))
    top = curves.rate_top(series, None)
    panel = curves.sar_panel(id_, "SAR against rounds", series, "rounds", top, None, [])
    caption = "SAR averaged over classes, at the lowest level and at the levels (mAs) of the measured scans."
    return study.panel(panel, f"{caption} * slices that were never attacked.")


def _worth_showing(keys: Sequence[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    measured = [key for key in keys if key[1] == "measured"]
    lowest = min(level for _, _, level in keys)
    simulated = [key for key in keys if key[1] != "measured" and key[2] == lowest]
    return sorted([*simulated, *measured], key=lambda key: (key[0], key[1], key[2]))[:7]


def _series_name(key: tuple[str, str, float]) -> str:
    kind = "scans" if key[1] == "measured" else key[1]
    return f"{kind} {key[2]:g} {key[0]}"


def _short_name(key: tuple[str, str, float]) -> str:
    """Return a name that tells the series apart even where a narrow page leaves eleven letters."""
    kind = "scans" if key[1] == "measured" else key[1]
    return f"{kind} {key[2]:g}{'' if key[0] == 'attacked' else ' *'}"


def _mean_point(record: Record, key: tuple[str, str, float]) -> Point | None:
    mine = [row for row in record["rows"] if (row["set"], row["noise"], float(row["level"])) == key]
    if not mine:
        return None
    rate = sum(row["k"] / row["n"] for row in mine) / len(mine)
    k, n = sum(row["k"] for row in mine), sum(row["n"] for row in mine)
    text = f"{_series_name(key)} mAs after round {record['round']}: {words.percent(rate)} ({words.count(k, n)})"
    return Point(float(record["round"]), rate, None, None, text)


def judged(rounds: Sequence[Record]) -> grids.Grid | None:
    """Return one row a round: changed answers per set and kind of image, bound, clean F1 and the guard."""
    rows = []
    for r in rounds:
        cells = [_sum(r, where, measured) for where in SETS for measured in (False, True)]
        rows.append(
            [
                str(r["round"]),
                *cells,
                words.percent(r["worst"]),
                words.percent(r["f1"]),
                _change(r),
                "accepted" if r["accepted"] else "refused",
                words.join(r["wrong"]) or "",
            ]
        )
    heads = [
        "round",
        "attacked, simulated",
        "attacked, measured",
        "never attacked, simulated",
        "never attacked, measured",
        "worst bound",
        "mean F1",
        "change (lower bound)",
        "guard",
        "wrong without noise",
    ]
    return grids.grid("Changed answers of every round", heads, rows)


def _sum(record: Record, where: str, measured: bool) -> str:
    mine = [row for row in record["rows"] if row["set"] == where and (row["noise"] == "measured") is measured]
    if not mine:
        return "–"
    return words.count(sum(row["k"] + row["tied"] for row in mine), sum(row["n"] for row in mine))


def _change(record: Record) -> str:
    guard = record["guard"]
    if not record["round"]:
        return "–"
    lower = "one patient" if guard["lower"] is None else f"{100 * guard['lower']:+.2f}"
    return f"{100 * guard['change']:+.2f} ({lower})".replace("-", "−")


def levels_of(record: Record) -> grids.Grid | None:
    """Return every class and level of one round: k/n and the bound up to which SAR is not excluded."""
    rows = record["rows"]
    classes = list(dict.fromkeys(row["class"] for row in rows))
    keys = list(dict.fromkeys((row["set"], row["noise"], float(row["level"])) for row in rows))
    cells = {(row["set"], row["noise"], float(row["level"]), row["class"]): row for row in rows}
    shown = [
        [where, noise, words.number(level), *(_bound(cells.get((where, noise, level, name))) for name in classes)]
        for where, noise, level in sorted(keys)
    ]
    heads = ["slices", "images", "mAs", *classes]
    note = "Changed answers of all, and the one-sided upper bound of SAR. Classes are answers without noise."
    return grids.grid(f"Round {record['round']}", heads, shown, note)


def _bound(row: Record | None) -> str:
    if row is None:
        return "–"
    return f"{words.count(row['k'] + row['tied'], row['n'])} (≤ {words.percent(row['upper'])})"


def side_by_side(summary: Record) -> grids.Grid | None:
    """Return the strategies in one table."""
    rows = []
    for s in records(summary["strategies"]):
        rows.append(
            [
                str(s["strategy"]),
                str(s["round"]),
                f"{s['passes']:,}".replace(",", words.THIN),
                *(_sum(s, where, measured) for where in SETS for measured in (False, True)),
                words.percent(s["worst"]),
                words.percent(s["f1"]),
                _change(s),
                "yes" if s["robust"] and s["accepted"] else "no",
            ]
        )
    heads = ["strategy", "rounds", "images trained on", "attacked, simulated", "attacked, measured"]
    heads += ["never attacked, simulated", "never attacked, measured", "worst bound", "mean F1", "change (lower bound)"]
    return grids.grid("Side by side", [*heads, "robust"], rows)
