"""Figures for papers: SVG, PDF and PNG by matplotlib, with captions that state what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import files
from robustkit.errors import MissingExtraError
from robustkit.report import curves, matrix, words
from robustkit.report.chart import Series, shorten, thin
from robustkit.report.source import Source, load, records

FORMATS = ("svg", "pdf", "png")
# Okabe and Ito (2008): told apart with every common colour deficiency; markers and dashes tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "p", "X")
_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 1.6, 1.2, 1.6)))
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "robustkit",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}
_METHODS = {"wilson": "Wilson"}
WIDTH_IN = 3.5
"""Width of one journal column."""


def figures(run_dir: Path, out_dir: Path) -> list[Path]:
    """Draw the figures of a run for a paper and return the files, captions last.

    Writes `<run>-sar`, `<run>-cmr` and, where the run says what its noise was, `<run>-noise`, each as SVG, PDF and
    PNG, and `<run>-captions.txt`.

    Raises
    ------
    MissingExtraError : matplotlib is not installed. DataError : no readable `summary.json` in `run_dir`.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing figures for papers", "report") from error
    source = load(Path(run_dir))
    written: list[Path] = []
    captions: list[str] = []
    drawings: list[tuple[str, Callable[[Any, Source], str]]] = [("sar", _sar), ("cmr", _cmr), ("noise", _noise)]
    for name, draw in drawings:
        with mpl.rc_context(_STYLE):
            figure = Figure()
            caption = draw(figure, source)
            if caption:
                captions.append(f"{source.name}-{name}. {caption}")
                written += _save(figure, Path(out_dir), f"{source.name}-{name}")
    told = Path(out_dir) / f"{source.name}-captions.txt"
    files.write_text(told, "\n\n".join(captions) + "\n")
    return [*written, told]


def _save(figure: Any, folder: Path, stem: str) -> list[Path]:
    paths = [folder / f"{stem}.{kind}" for kind in FORMATS]
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    for path, kind in zip(paths, FORMATS, strict=True):
        with files.atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=400, metadata=dateless[kind])
    return paths


def _style(index: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)],
    }


def _text(value: str) -> str:
    """Return a name that matplotlib draws as it stands, not as mathematics, cut to what a figure holds."""
    return shorten(value, 24).replace("$", r"\$")


def _sar(figure: Any, source: Source) -> str:
    series = curves.class_series(source)
    if not series:
        return ""
    figure.set_size_inches(WIDTH_IN, 2.5 + 0.1 * max(len(series) - 6, 0))
    axes = figure.add_subplot()
    for one in series:
        _draw_series(axes, one)
    measured = curves.stars(source)
    for one in measured:
        _draw_stars(axes, one)
    limit = curves.limit_of(source.summary)
    if limit is not None:
        axes.axhline(100 * limit, color="0.25", linewidth=0.8, linestyle=(0, (4, 3)))
    levels = sorted({p.x for s in series for p in s.points})
    if levels[0] > 0 and len(levels) > 1:
        axes.set_xscale("log")
    axes.set_xticks(levels, _tick_labels(levels))
    axes.minorticks_off()
    axes.set_xlabel(_text(source.unit))
    axes.set_ylabel("SAR (%)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7)
    return _sar_caption(source, limit, bool(measured))


def _tick_labels(levels: list[float]) -> list[str]:
    """Name the levels that leave room for their labels along a logarithmic axis; the ends come first."""
    low, high = levels[0], levels[-1]
    warp = np.log if low > 0 else np.asarray
    places = (warp(levels) - warp(low)) / ((warp(high) - warp(low)) or 1.0)
    ticks = thin(
        [(float(at), words.number(v)) for at, v in zip(places, levels, strict=True)], 0.022, [0, len(levels) - 1]
    )
    return [tick.text for tick in ticks]


def _draw_series(axes: Any, s: Series) -> None:
    points = sorted(s.points, key=lambda p: p.x)
    x, y = [p.x for p in points], [100 * p.y for p in points]
    style = _style(s.style)
    low = [100 * (p.y if p.low is None else p.low) for p in points]
    high = [100 * (p.y if p.high is None else p.high) for p in points]
    if len(points) == 1:  # a band over one level has no width
        axes.vlines(x, low, high, color=style["color"], linewidth=1)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, y, markersize=3, linewidth=1, clip_on=False, label=_text(s.name), **style)


def _draw_stars(axes: Any, s: Series) -> None:
    x, y = np.array([p.x for p in s.points]), np.array([100 * p.y for p in s.points])
    ends = np.array([[p.y if p.low is None else p.low, p.y if p.high is None else p.high] for p in s.points]) * 100
    spread = np.abs(ends.T - y)
    colour = _COLOURS[s.style % len(_COLOURS)]
    axes.errorbar(x, y, yerr=spread, fmt="*", color=colour, markersize=8, markeredgecolor="k", markeredgewidth=0.4)


def _sar_caption(source: Source, limit: float | None, measured: bool) -> str:
    s = source.summary
    told = [
        f"Successful attack rate (SAR) of {s.get('model')} against {source.unit} under {s.get('noise')} noise, "
        f"n = {s.get('n')} realizations per slice and level, {words.many(words.slice_count(source), 'slice')}. Bands: "
        f"{words.bound(words.confidence(s))} intervals ({_METHODS.get(str(s.get('interval')), 'Clopper-Pearson')})."
    ]
    if measured:
        told.append("Stars: measured scans with their intervals.")
    if limit is not None:
        told.append(f"Dashed line: limit of {words.bound(limit)}.")
    return " ".join([*told, f"Noise: {words.origin(source)}. Level axis: {words.axis_meaning(source)}."])


def _cmr(figure: Any, source: Source) -> str:
    shown, _ = matrix.matrices(source)
    if not shown:
        return ""
    by_level = {words.number(float(r["level"])): r for r in records(source.summary.get("cmr"))}
    size = max(1.7, 0.42 * len(shown[0].columns))
    figure.set_size_inches((size + 0.5) * len(shown), size + 0.5)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, heat in zip(panels, shown, strict=True):
        _draw_matrix(axes, heat, np.array(by_level[heat.level]["counts"], dtype=float))
    levels = words.join(heat.title for heat in shown)
    return (
        f"Confusion matrices for robustness (CMR) of {source.summary.get('model')} at {levels}. Columns: answer "
        "without noise; rows: answer with noise; entries: counts, shaded by the share of their column on a square-root "
        "scale. Hatched: never answered without noise, undefined."
    )


def _draw_matrix(axes: Any, heat: matrix.Heat, counts: np.ndarray[Any, Any]) -> None:
    totals = counts.sum(axis=0)
    shares = np.sqrt(np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_text(name) for name, _ in heat.columns]
    axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 5 else 60)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=6.5)
    axes.set_title(heat.title, fontsize=8)
    axes.set_xlabel("answer without noise")
    axes.set_ylabel("answer with noise")
    for i in range(len(names)):
        for j in range(len(names)):
            if totals[j]:
                axes.text(
                    j,
                    i,
                    f"{counts[i, j]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="w" if shares[i, j] > 0.6 else "k",
                )
            else:
                axes.add_patch(_hatch(i, j))


def _hatch(i: int, j: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", edgecolor="0.7", linewidth=0)


def _noise(figure: Any, source: Source) -> str:
    usable = [r for r in source.noise if f"sd_{r.get('slice')}" in source.noise_maps][:4]
    if not usable:
        return ""
    wide = max(1.75 * len(usable), 3.5)
    figure.set_size_inches(wide, 3.4)
    grid = figure.subplots(2, len(usable), squeeze=False)
    maps = [np.asarray(source.noise_maps[f"sd_{r['slice']}"], dtype=float) for r in usable]
    top = max(float(np.nanpercentile(m, 99.5)) for m in maps)
    grid[1][0].set_ylabel("NPS (HU² mm²)")
    for axes, below, record, sd in zip(grid[0], grid[1], usable, maps, strict=True):
        image = axes.imshow(sd, cmap="viridis", vmin=0, vmax=top)
        axes.set_title(_text(str(record.get("label") or record["slice"])), fontsize=8)
        axes.set_axis_off()
        _draw_spectra(below, record)
    figure.colorbar(image, ax=list(grid[0]), shrink=0.8, label="sigma (HU)")
    if grid[1][0].lines:
        handles, names = grid[1][0].get_legend_handles_labels()
        columns = max(1, min(len(names), 5, int(wide / 1.15)))
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=7)
    reference = (usable[0].get("report") or {}).get("reference_mas")
    at = f" at {words.at_level(float(reference), 'mAs')}" if isinstance(reference, int | float) else ""
    return (
        f"Noise added{at}: standard deviation (top, one scale) and radial noise power spectra by region (bottom). "
        f"Noise: {words.origin(source)}."
    )


def _draw_spectra(axes: Any, record: dict[str, Any]) -> None:
    for style, r in enumerate(records((record.get("report") or {}).get("radial"))):
        drawn = _style(style) | {"marker": ""}
        axes.plot(r["frequency"], r["nps"], linewidth=0.9, label=_text(str(r.get("region", ""))), **drawn)
    axes.set_xlabel("1/mm")
