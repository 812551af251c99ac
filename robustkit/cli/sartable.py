"""SAR on a terminal: a row a level, a column a class, and over each column its curve in one line of blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robustkit import stats

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = 16
"""Most blocks of a curve; more levels than this are drawn by their worst neighbours."""
_GAP = 2
Row = Mapping[str, Any]


def spark(rates: Sequence[float | None], top: float) -> str:
    """Return one block a rate, on a scale from 0 to `top`: the lowest means none, a gap that nothing was scored."""
    return "".join(" " if rate is None else _block(rate, top) for rate in _thinned(rates))


def _block(rate: float, top: float) -> str:
    if rate <= 0 or top <= 0:
        return BLOCKS[0]
    return BLOCKS[min(max(math.ceil(rate / top * (len(BLOCKS) - 1) - 1e-9), 1), len(BLOCKS) - 1)]


def _thinned(rates: Sequence[float | None]) -> list[float | None]:
    """Return at most `CURVE` rates: the highest of each run of neighbours."""
    size = -(-len(rates) // CURVE)
    parts = [rates[i : i + size] for i in range(0, len(rates), size or 1)]
    return [max((rate for rate in part if rate is not None), default=None) for part in parts]


def interval(low: float, high: float) -> str:
    """Write an interval in percent with two digits an end: 0-1.8%, 20-32%."""
    return f"{_percent(low)}-{_percent(high)}%"


def _percent(rate: float) -> str:
    value = 100 * rate
    return f"{value:.{1 if value < 0.1 else 2 if value < 99.5 else 3}g}"


def sar_tables(summary: Mapping[str, Any], width: int, *, curves: bool = True) -> list[Any]:
    """Return a title and rich tables of k/n and intervals that fit `width` columns; classes never seen are left out.

    The curve runs from the lowest level to the highest; all share one scale, whose top the title tells. Over the
    limit of a gate a cell is red.
    """
    cells = {(row["class"], row["level"]): row for row in summary["sar"]}
    shown = [name for name in summary["classes"] if any(cells.get((name, v), {}).get("n") for v in summary["levels"])]
    if not shown:
        return []
    top = max(row["rate"] for row in summary["sar"] if row["n"])
    texts = {key: _cell(row) for key, row in cells.items()}
    columns = {name: _column(summary, cells, name, top if curves else None) for name in shown}
    wide = {
        name: max(
            [*map(len, columns[name]), *(len(line) for v in summary["levels"] for line in _lines(texts, name, v))]
        )
        for name in shown
    }
    rule = max(len(summary["unit"]), *(len(f"{v:g}") for v in summary["levels"]))
    blocks: list[list[str]] = [[]]
    for name in shown:
        if blocks[-1] and rule + sum(wide[other] + _GAP for other in [*blocks[-1], name]) > width:
            blocks.append([])
        blocks[-1].append(name)
    return [_title(summary, top, curves), *(_table(summary, block, columns, texts, cells) for block in blocks)]


def _lines(texts: Mapping[tuple[str, float], str], name: str, level: float) -> list[str]:
    return texts.get((name, level), "").split("\n")


def _column(
    summary: Mapping[str, Any], cells: Mapping[tuple[str, float], Row], name: str, top: float | None
) -> list[str]:
    """Return the lines of a column's head: the class, and its curve unless `top` is None."""
    rates = [cells[name, v]["rate"] if cells.get((name, v), {}).get("n") else None for v in summary["levels"]]
    return [str(name)] if top is None or len(rates) < 2 else [str(name), spark(rates, top)]


def _title(summary: Mapping[str, Any], top: float, curves: bool) -> str:
    total = "; total: fit and clean image too" if "total" in summary else ""
    scale = f"; curves from {'quiet to noisy' if stats.noise_rises(summary['unit']) else 'noisy to quiet'}, "
    scale += "all 0" if top == 0 else f"0 to {_percent(top)}%"
    told = scale if curves and len(summary["levels"]) > 1 else ""
    return f"SAR, changed/scored and {summary.get('confidence', 0.95):.0%} interval{total}{told}"


def _table(
    summary: Mapping[str, Any],
    block: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    texts: Mapping[tuple[str, float], str],
    cells: Mapping[tuple[str, float], Row],
) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, _GAP - 1), show_edge=False)
    table.add_column(Text(summary["unit"]), justify="right", no_wrap=True)
    for name in block:
        table.add_column(Text("\n".join(columns[name])), justify="right", no_wrap=True, overflow="ellipsis")
    gate = summary.get("gate") or {}
    for level in summary["levels"]:
        gated = bool(gate) and gate["at"] in (None, level)
        styles = ["red" if gated and _over(cells.get((name, level)), gate["max_sar"]) else "" for name in block]
        told = [Text(texts.get((name, level), "-"), style) for name, style in zip(block, styles, strict=True)]
        table.add_row(Text(f"{level:g}", "bold" if gated else ""), *told)
    return table


def _over(row: Row | None, limit: float) -> bool:
    return bool(row and row["n"] and row["rate"] > limit)


def _cell(row: Row) -> str:
    if not row["n"]:
        return "-"
    tied = f" ({row['tied']} tied)" if row.get("tied") else ""
    further = (("total", "total_low", "total_high"), ("all at once", "low_simultaneous", "high_simultaneous"))
    more = "".join(f"\n{name} {interval(row[low], row[high])}" for name, low, high in further if low in row)
    return f"{row['k']}/{row['n']}{tied} {interval(row['low'], row['high'])}{more}"
