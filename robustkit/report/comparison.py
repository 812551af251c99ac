"""The page of a comparison of two runs: verdict, Z as in the paper, differences with intervals, every test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.plain import Record
from robustkit.report import forest, grids, page, words
from robustkit.report.source import records
from robustkit.report.words import Fact, Verdict

CRITICAL = 1.959963984540054
"""Two-sided 5 % point of the standard normal distribution, the paper's Z*."""
SHOWN = 40
"""Differences drawn; all are in the table."""
_KINDS = {"equivalent": "pass", "agree": "none", "disagree": "fail", "not shown equivalent": "inconclusive"}
_BADGES = {
    "equivalent": "Equivalent",
    "agree": "No difference found",
    "disagree": "Disagreement",
    "not shown equivalent": "Not shown equivalent",
}


class ZTable(NamedTuple):
    """Z of one level, [predicted with noise][predicted without]: (text, colour class) per entry."""

    number: str
    level: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    footnote: str


def write_comparison(result: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a comparison and return its path.

    Parameters
    ----------
    result : the dictionary that `robustkit.agreement.compare` returns. path : the HTML file.
    """
    return page.write(Path(path), page.render("comparison.html", **_parts(dict(result))))


def _parts(result: Record) -> dict[str, Any]:
    verdict = str(result.get("verdict") or "")
    unit = str(result.get("unit") or "level")
    entries = records(result.get("entries"))
    differences = _differences(entries, unit, float(result.get("alpha") or 0.05))
    margin = result.get("margin")
    shown = differences[:SHOWN]
    tables = [_z_table(t, result, unit) for t in records(result.get("tables"))]
    return {
        "title": "Do the two runs agree?",
        "kicker": "Comparison of two runs",
        "stamp": [],
        "unit": unit,
        "verdict": Verdict(
            _KINDS.get(verdict, "none"),
            _BADGES.get(verdict, verdict),
            words.unbroken(str(result.get("sentence") or "")),
        ),
        "facts": _facts(result, unit),
        "notes": [str(n) for n in result.get("notes") or []],
        "tables": tables,
        "footnote": next((table.footnote for table in tables if table.footnote), ""),
        "critical": f"{CRITICAL:.2f}",
        "forests": forest.both(shown, margin if isinstance(margin, int | float) else None) if shown else [],
        "forest_left_out": len(differences) - len(shown),
        "margin": words.bound(margin) if isinstance(margin, int | float) else "",
        "grids": [g for g in (_pairs(result, unit), _columns(result, unit), _entries(entries, unit)) if g],
    }


def _facts(result: Record, unit: str) -> list[Fact]:
    found = [Fact(name, *_case(result.get(key))) for name, key in (("Run A", "a"), ("Run B", "b"))]
    levels = [words.number(float(v)) for v in result.get("levels") or []]
    apart = [
        f"{words.join(words.number(float(v)) for v in result.get(key) or [])} only in {name}"
        for name, key in (("A", "only_in_a"), ("B", "only_in_b"))
        if result.get(key)
    ]
    margin = result.get("margin")
    told = f"equivalence within ±{words.bound(margin)}" if isinstance(margin, int | float) else "no margin was set"
    paired = "the same noise in both runs, tested in pairs" if result.get("paired") else "independent noise"
    return [
        *found,
        Fact(f"Levels in common, {unit}", words.join(levels), "; ".join(apart)),
        Fact("Error rate", words.bound(float(result.get("alpha") or 0.05)), told),
        Fact("Pairing", "paired" if result.get("paired") else "unpaired", paired),
    ]


def _case(value: Any) -> tuple[str, str]:
    case = value if isinstance(value, dict) else {}
    return words.plain(case.get("model")), f"{words.plain(case.get('noise'))}, run {words.plain(case.get('run'))}"


def _z_table(table: Record, result: Record, unit: str) -> ZTable:
    classes = [str(c) for c in result.get("classes") or []]
    marked = {tuple(str(v) for v in place) for place in table.get("footnoted") or []}
    rows = [
        (noisy, [_z_cell(z, (noisy, clean) in marked) for clean, z in zip(classes, row, strict=False)])
        for noisy, row in zip(classes, table.get("z") or [], strict=False)
    ]
    level = float(table["level"])
    return ZTable(words.number(level), words.at_level(level, unit), classes, rows, str(table.get("footnote") or ""))


def _z_cell(z: Any, footnoted: bool) -> tuple[str, str]:
    if not isinstance(z, int | float):
        return "–", "undefined"
    if footnoted:
        return "0*", "o0"
    size = abs(float(z))
    shade = "o6" if size > CRITICAL else "z2" if size > 1 else "z1"
    return f"{z:+.2f}".replace("-", "−").replace("+0.00", "0.00"), shade


def _differences(entries: Sequence[Record], unit: str, alpha: float) -> list[forest.Difference]:
    """Return the entries that some image fell into, other than the kept answer, largest difference first."""
    found = []
    for e in entries:
        if e.get("difference") is None or e["clean"] == e["noisy"] or not (e["k_a"] or e["k_b"]):
            continue
        name = f"{e['clean']} → {e['noisy']}, {words.at_level(float(e['level']), unit)}"
        same = (e.get("equivalence") or {}).get("equivalent")
        kind = "apart" if e.get("differs") else "within" if same else ""
        text = (
            f"{name}: A {words.count(e['k_a'], e['n_a'])}, B {words.count(e['k_b'], e['n_b'])}, difference "
            f"{_points(e['difference'])} points, {words.bound(1 - alpha)} interval {_points(e['low'])} to "
            f"{_points(e['high'])}"
        )
        found.append(forest.Difference(name, e["difference"], e["low"], e["high"], kind, text))
    return sorted(found, key=lambda d: -abs(d.value))


def _points(rate: Any) -> str:
    return f"{100 * rate:+.1f}".replace("-", "−") if isinstance(rate, int | float) else "–"


def _p(value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def column_tests(result: Record) -> grids.Grid | None:
    """Return the homogeneity test of every column of a comparison."""
    return _columns(result, str(result.get("unit") or "level"))


def _columns(result: Record, unit: str) -> grids.Grid | None:
    rows = [
        [
            str(c["class"]),
            words.number(float(c["level"])),
            f"{c['n_a']} / {c['n_b']}",
            f"{c['statistic']:.3g}" if isinstance(c.get("statistic"), int | float) else str(c.get("reason") or "–"),
            _p(c.get("p")),
            _p(c.get("p_holm")),
            "yes" if c.get("differs") else "no",
        ]
        for c in records(result.get("columns"))
    ]
    heads = ["class", unit, "n of A / B", "chi-square", "p", "p after Holm", "differs"]
    note = "One test a class and level of all answers together; Holm over all of them."
    return grids.Grid("One test a column", heads, rows, note=note) if rows else None


def _pairs(result: Record, unit: str) -> grids.Grid | None:
    rows = [
        [
            str(p["class"]),
            words.number(float(p["level"])),
            *(f"{p[key]}" for key in ("n", "both", "only_a", "only_b")),
            _p(p.get("p")),
            _p(p.get("p_holm")),
        ]
        for p in records(result.get("pairs"))
    ]
    heads = ["class", unit, "pairs", "changed in both", "only in A", "only in B", "p (McNemar)", "p after Holm"]
    return grids.Grid("The same noise in both runs", heads, rows) if rows else None


def _entries(entries: Sequence[Record], unit: str) -> grids.Grid | None:
    rows = [
        [
            f"{e['clean']} → {e['noisy']}",
            words.number(float(e["level"])),
            words.count(e["k_a"], e["n_a"]),
            words.count(e["k_b"], e["n_b"]),
            f"{_points(e.get('difference'))} ({_points(e.get('low'))} to {_points(e.get('high'))})",
            f"{e['z']:.3f}" if isinstance(e.get("z"), int | float) else str(e.get("reason") or "–"),
            _p(e.get("p")),
            _p(e.get("p_holm")),
            _equivalence(e.get("equivalence")),
            _detectable(e.get("detectable")),
        ]
        for e in entries
    ]
    heads = [
        "without → with noise",
        unit,
        "A",
        "B",
        "A − B, points",
        "Z",
        "p",
        "p after Holm",
        "equivalence",
        "detectable",
    ]
    note = (
        "p: exact where counts are small, else from Z. Equivalence: p of two one-sided tests against the margin. "
        "Detectable: the difference, in points up and down, that these counts would have shown with 80 % power."
    )
    return grids.grid("Every entry", heads, rows, note) if rows else None


def _equivalence(value: Any) -> str:
    if not isinstance(value, dict):
        return "–"
    return f"{'shown' if value.get('equivalent') else 'not shown'} ({_p(value.get('p'))})"


def _detectable(value: Any) -> str:
    if not isinstance(value, dict):
        return "–"
    ends = [value.get("up"), value.get("down")]
    return " / ".join(f"{100 * v:.1f}" if isinstance(v, int | float) else "–" for v in ends)
