"""The pictures of the documentation: `python docs/pictures.py [NAME ...]` writes docs/img/.

overview   clean image, noise of the scanner's kind, white noise, SAR on the dose axis
nps        sd map and local spectra of many scans, and as fitted to twenty
flow       from a slice to a row
report     the top of a report (needs chromium)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from robustkit_ct_bodysite.phantom import phantom_slice

from robustkit import draws, metrics
from robustkit.noise import estimate, fit_nps, fit_white
from robustkit.run import Outcome, audit_model
from robustkit.scanner import VirtualScanner

OUT = Path(__file__).parent / "img"
INK, QUIET = "#1b2a33", "#5c6b73"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
LEVELS = [6.25, 9.0, 12.5, 18.0, 25.0, 37.5, 50.0, 75.0, 100.0]


def overview() -> None:
    item = phantom_slice("AP")
    repeats = VirtualScanner().repeats(item, 25.0, 20, seed=1)
    one = draws(0, "audit", item.id, range(1))
    fields = [fit(repeats).sample(repeats.clean, [12.5], one)[0, 0] for fit in (fit_nps, fit_white)]
    figure = Figure(figsize=(13, 3.5), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.25])
    shown = [(item.pixels, (-160, 240), "one slice"), (fields[0], (-120, 120), "noise of a scan at 12.5 mAs")]
    shown.append((fields[1], (-120, 120), "white noise, equally strong"))
    for axis, (image, (low, high), title) in zip(axes, shown, strict=False):
        axis.imshow(image[110:400, 60:450], cmap="gray", vmin=low, vmax=high)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=10, color=INK)
    _sar(axes[3], audited().table)
    figure.savefig(OUT / "overview.png", dpi=110)


def _sar(axis, table) -> None:
    for colour, (name, rows) in zip(COLOURS, metrics.sar(table).groupby("class"), strict=False):
        axis.fill_between(rows["level"], 100 * rows["low"], 100 * rows["high"], color=colour, alpha=0.15, lw=0)
        axis.plot(rows["level"], 100 * rows["rate"], marker="o", ms=3, color=colour, label=name)
    axis.set(xscale="log", xlabel="virtual-scanner mAs", ylim=(-3, 103))
    axis.set_title("answers changed by noise alone, %", fontsize=10, color=INK)
    axis.legend(fontsize=8, frameon=False, title="answer without noise", title_fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def nps() -> None:
    item, scanner = phantom_slice("AP"), VirtualScanner()
    many = estimate(scanner.repeats(item, 25.0, 200, seed=5), method="lag-corrected")
    few = {name: estimate(scanner.repeats(item, 25.0, 20, seed=6), method=name) for name in ("paper", "regional")}
    exact = scanner.sd_map(item, 25.0)
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    titles = ("sd, exact", "sd, paper's recipe, 20 scans", "sd, default, 20 scans")
    for axis, image, title in zip(
        top.subplots(1, 3), (exact, few["paper"].sigma, few["regional"].sigma), titles, strict=True
    ):
        drawn = axis.imshow(image, cmap="viridis", vmin=0, vmax=float(np.percentile(exact, 99.5)))
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=10, color=INK)
    top.colorbar(drawn, ax=axis, label="HU", shrink=0.8)
    places = {"centre": (256, 256), "left hip": (300, 110), "front": (150, 256)}
    for axis, (name, place) in zip(bottom.subplots(1, 3), places.items(), strict=True):
        for label, profile in {"200 scans, each patch by itself": many, "default, 20 scans": few["regional"]}.items():
            axis.plot(*_column_spectrum(profile, place), label=label)
        axis.set(xlabel="frequency along a row, 1/mm", yticks=[], ylim=(0, None))
        axis.set_title(f"local NPS, {name}", fontsize=10, color=INK)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    figure.savefig(OUT / "nps.png", dpi=100)


def _column_spectrum(profile, place):
    """Return NPS of unit variance at the patch nearest to a pixel, along the row frequency axis."""
    rows, columns = profile.axes()
    y = int(np.argmin(np.abs(rows.starts + rows.size / 2 - place[0])))
    x = int(np.argmin(np.abs(columns.starts + columns.size / 2 - place[1])))
    half = profile.spectra[y, x]
    frequency = np.fft.rfftfreq(profile.plane[1], profile.pixel_mm[1])
    return frequency, half.sum(axis=0) / half.sum() / frequency[1]


BOXES = (
    ("slice", "HU, native matrix"),
    ("clean answer", "once"),
    ("realization r", "key (seed, stream, slice)"),
    ("every dose", "one field, scaled"),
    ("stored", "rounded, clipped"),
    ("noisy answers", "fixed batches"),
    ("row", "k, n, interval"),
)


def flow() -> None:
    """Write the seven steps as an SVG whose text follows the page's colour."""
    step, width, height = 150, 132, 58
    box = f"0 0 {step * len(BOXES)} {height + 4}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif">']
    for i, (name, detail) in enumerate(BOXES):
        x, middle = i * step + 2, height / 2 + 2
        parts.append(f'<rect x="{x}" y="2" width="{width}" height="{height}" rx="8" fill="#e0f2f1" stroke="#00796b"/>')
        centre = x + width / 2
        parts.append(
            f'<text x="{centre}" y="{middle - 4}" text-anchor="middle" font-size="14" fill="{INK}">{name}</text>'
        )
        parts.append(
            f'<text x="{centre}" y="{middle + 14}" text-anchor="middle" font-size="10" fill="{QUIET}">{detail}</text>'
        )
        if i + 1 < len(BOXES):
            tip = x + step - 2
            arrow = f"M{x + width + 2} {middle}H{tip - 4}m-5 -5l5 5l-5 5"
            parts.append(f'<path d="{arrow}" fill="none" stroke="#00796b" stroke-width="2"/>')
    (OUT / "flow.svg").write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


@cache
def audited() -> Outcome:
    """Audit the reference model on the phantom, as `robustkit audit ct-bodysite --max-sar 5% --at 25` does."""
    folder = Path(tempfile.mkdtemp()) / "run"
    return audit_model("ct-bodysite", levels=LEVELS, n=200, max_sar="5%", at=25.0, out=folder)


def report() -> None:
    folder = audited().run_dir
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--window-size=1100,1250", f"--user-data-dir={folder.parent / 'browser'}"]
    page = (folder / "report.html").resolve().as_uri()
    subprocess.run([*command, f"--screenshot={OUT / 'report.png'}", page], check=True, capture_output=True)


PICTURES = {"overview": overview, "nps": nps, "flow": flow, "report": report}

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
        print(OUT / name)
