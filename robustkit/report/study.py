"""Pages made of sections: what training, variability, hardening and the reproduced paper share.

A section is a title, paragraphs, and parts; a part is one of the kinds below, and the template draws each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.report import curves, grids, page, words
from robustkit.report.bars import Bars
from robustkit.report.matrix import Heat, HeatCell, shade
from robustkit.report.words import Fact, Verdict


class Picture(NamedTuple):
    """One image: what it shows, and its data URI."""

    caption: str
    uri: str


class Part(NamedTuple):
    """One thing on a page: a panel, heats, bars, grid, pictures, findings or note; `body` is what that kind takes."""

    kind: str
    body: Any
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A numbered part of a page."""

    id: str
    title: str
    text: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


def write(
    path: Path,
    *,
    title: str,
    kicker: str,
    verdict: Verdict,
    facts: Sequence[Fact],
    sections: Sequence[Section],
    notes: Sequence[str] = (),
    stamp: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write one page of sections and return its path."""
    html = page.render(
        "study.html",
        title=title,
        kicker=kicker,
        stamp=list(stamp),
        verdict=verdict,
        facts=list(facts),
        notes=list(notes),
        sections=list(sections),
    )
    return page.write(Path(path), html)


def panel(shown: curves.Panel, caption: str) -> Part:
    """Return a chart."""
    return Part("panel", shown, caption)


def grid(shown: grids.Grid | None) -> list[Part]:
    """Return a table, or nothing."""
    return [Part("grid", shown)] if shown else []


def heats(shown: Sequence[Heat], caption: str) -> Part:
    """Return matrices side by side."""
    return Part("heats", list(shown), caption)


def bars(shown: Sequence[Bars], caption: str) -> Part:
    """Return three-dimensional bars side by side."""
    return Part("bars", list(shown), caption)


def pictures(shown: Sequence[Picture], caption: str) -> Part:
    """Return images side by side."""
    return Part("pictures", list(shown), caption)


def note(text: str) -> Part:
    """Return a remark."""
    return Part("note", text)


def rate_heat(
    title: str,
    classes: Sequence[str],
    rates: Sequence[Sequence[float | None]],
    totals: Sequence[int],
    small: Sequence[Sequence[str]] | None = None,
    remark: str = "",
) -> Heat:
    """Return a matrix of rates [answer with noise][answer without]; `small` is the second line of each cell."""
    rows = []
    for i, noisy in enumerate(classes):
        cells = []
        for j in range(len(classes)):
            rate = rates[i][j]
            if rate is None:
                cells.append(HeatCell("–", "undefined", "undefined", 0))
            else:
                second = small[i][j] if small else ""
                cells.append(HeatCell(words.percent(rate), second, shade(rate, diagonal=i == j), 0))
        rows.append((noisy, cells))
    undefined = [name for name, total in zip(classes, totals, strict=True) if not total]
    return Heat("", title, remark, list(zip(classes, totals, strict=True)), rows, undefined, 0, len(classes) > 6)


def kn(record: dict[str, Any]) -> str:
    """Return a share as k/n, rate and interval."""
    if not record.get("n"):
        return "none to count"
    return (
        f"{words.count(record['k'], record['n'])}, {words.percent(record['rate'])} "
        f"({words.interval(record['low'], record['high'])})"
    )


def pm(mean: float | None, sd: float | None) -> str:
    """Return mean ± standard deviation of rates, in per cent with one digit as the paper has it."""
    if mean is None:
        return "–"
    return f"{100 * mean:.1f}" + (f"{words.THIN}±{words.THIN}{100 * sd:.1f}" if sd is not None else "")
