"""Reports in headless Chromium: silent, still, legible at three widths in both schemes, usable by keyboard, printable.

Screenshots go to $ROBUSTKIT_ARTIFACTS where it is set. $ROBUSTKIT_AXE may name an axe-core file to test with.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import specimens

from robustkit.report import (
    write_comparison,
    write_hardening,
    write_overlay,
    write_profile_page,
    write_report,
    write_reproduction,
    write_training,
    write_variability,
)
from robustkit.report.commissioning import write_baseline, write_constancy

pytestmark = pytest.mark.browser

Get = Callable[..., Path]
MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (480, 900, 1400)
SPECIMENS = (
    "usual", "three", "twelve", "one-level", "forty-levels", "twelve-forty", "all-zeros", "all-flips", "undefined",
    "sigma", "hostile",
)  # fmt: skip

OTHERS = (
    "profile", "overlay", "comparison", "baseline", "baseline-hostile", "constancy", "training", "variability",
    "hardening", "reproduction",
)  # fmt: skip
ALL = (*SPECIMENS, *OTHERS)

OVERLAPS = """() => [...document.querySelectorAll('svg.plot')].filter(s => s.clientWidth).flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  const found = [];
  boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
    const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (w > 0.5 && h > 2.5) found.push(`${svg.getAttribute('aria-label')}: ${a} | ${b}, ${w} x ${h}`);
  }));
  return found;
})"""
SMALL_TEXT = """() => [...document.querySelectorAll('svg.plot text')].filter(t => {
  const scale = t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width;
  return scale > 0 && parseFloat(getComputedStyle(t).fontSize) * scale < 10;
}).map(t => t.textContent)"""
OUTSIDE = """() => [...document.querySelectorAll('svg.plot text, main h2, main p, main dd, main img')]
  .map(e => [e.textContent || e.alt, e.getBoundingClientRect()])
  .filter(([_, r]) => r.width && (r.left < -1 || r.right > document.documentElement.clientWidth + 1))
  .filter(([_, r]) => r.width > 1.5)
  .map(([t]) => t.slice(0, 60))"""


@dataclass
class Opened:
    """A page with everything it said and asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def open_page(browser: Any) -> Callable[..., Any]:
    @contextmanager
    def open_(path: Path, width: int = 1000, scheme: str = "light") -> Iterator[Opened]:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(600_000)  # a busy machine is no failure
        opened = Opened(page)
        page.on("console", lambda message: opened.said.append(message.text))
        page.on("pageerror", lambda error: opened.said.append(str(error)))
        page.on("dialog", lambda dialog: opened.said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: opened.asked.append(request.url))
        page.on("requestfailed", lambda request: opened.failed.append(request.failure))
        try:
            page.goto(path.as_uri())
            yield opened
        finally:
            page.close()

    return open_


def keep(page: Any, name: str) -> None:
    folder = os.environ.get("ROBUSTKIT_ARTIFACTS")
    if folder:
        page.screenshot(path=Path(folder) / "report" / f"{name}.png", full_page=True)


def other_pages(specimen: Get, folder: Path) -> dict[str, Path]:
    """Write one page of each other kind from specimen runs."""
    import numpy as np

    from robustkit import agreement, results

    runs = [specimen("usual"), specimen("usual", scale=0.4, seed=1, measured=False)]
    tables = [results.read(run / "results.parquet") for run in runs]
    tables[0] = tables[0][tables[0]["noise"] != "measured"]
    radial = [{"region": "centre", "frequency": [0.0, 0.1, 0.2, 0.3], "nps": [0.0, 900.0, 500.0, 100.0]}]
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    sigma = np.where(x**2 + y**2 < 0.7, 30 - 12 * x**2, 0.0)
    write_profile_page({"method": "nps", "K": 20, "radial": radial}, {"sigma": sigma}, folder / "profile.html")
    write_overlay(runs, folder / "overlay.html")
    write_comparison(agreement.compare(*tables, margin=0.05), folder / "comparison.html")
    write_baseline(specimens.baseline_record(), "cd34" * 16, folder / "baseline.html")
    write_baseline(specimens.baseline_record(MARKUP, "fail"), "cd34" * 16, folder / "baseline-hostile.html")
    write_constancy(specimens.constancy_record(), folder / "constancy.html")
    write_training(specimens.training(), folder / "training.html")
    write_variability(specimens.variability(), folder / "variability.html")
    write_hardening(specimens.hardening(), folder / "hardening.html")
    write_reproduction(specimens.reproduction(), specimens.pictures(), folder / "reproduction.html")
    return {name: folder / f"{name}.html" for name in OTHERS}


@pytest.fixture(scope="module")
def pages(specimen: Get, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return every kind of page by name."""
    made = {name: write_report(specimen(name)) for name in SPECIMENS}
    return made | other_pages(specimen, tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("name", ALL)
def test_page_is_silent_and_stays_in_its_file(pages: dict[str, Path], open_page: Any, name: str) -> None:
    with open_page(pages[name]) as opened:
        opened.page.mouse.wheel(0, 20_000)
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [pages[name].as_uri()]


def problems(page: Any, width: int) -> dict[str, Any]:
    """Return what keeps a reader from reading the page at this width; empty when nothing does."""
    found = {
        "wider than the window": page.evaluate("document.documentElement.scrollWidth") - width,
        "overlapping labels": page.evaluate(OVERLAPS),
        "text below 10 px": page.evaluate(SMALL_TEXT),
        "cut off": page.evaluate(OUTSIDE),
        "pictures that do not show": page.evaluate("[...document.images].filter(i => !i.naturalWidth).length"),
    }
    return {what: value for what, value in found.items() if value}


@pytest.mark.parametrize("name", ALL)
def test_figures_are_legible(pages: dict[str, Path], open_page: Any, name: str) -> None:
    with open_page(pages[name]) as opened:
        page = opened.page
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                keep(page, f"{name}-{width}-{scheme}")
                assert problems(page, width) == {}, (width, scheme)


def test_schemes_differ(pages: dict[str, Path], open_page: Any) -> None:
    colours = []
    for scheme in ("light", "dark"):
        with open_page(pages["usual"], 900, scheme) as opened:
            colours.append(opened.page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor"))
    assert colours[0] == "rgb(255, 255, 255)"
    assert colours[1] != colours[0]


def test_a_chart_is_walked_with_the_keyboard(pages: dict[str, Path], open_page: Any) -> None:
    with open_page(pages["usual"]) as opened:
        page = opened.page
        said = "document.activeElement.getAttribute('aria-label')"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.classList.contains('pt')"):
                break
        first = page.evaluate(said)
        assert first.startswith("BN at 12.5")
        assert page.inner_text("#tip") == first
        page.keyboard.press("ArrowRight")
        assert page.evaluate(said).startswith("BN at 25")
        page.keyboard.press("ArrowDown")
        assert page.evaluate(said).startswith("C at 25")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(said) == first
        page.keyboard.press("Escape")
        assert page.is_hidden("#tip")


def test_every_table_of_a_baseline_is_reached_by_keyboard(pages: dict[str, Path], open_page: Any) -> None:
    with open_page(pages["baseline"]) as opened:
        page = opened.page
        reached = []
        for _ in range(3):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        assert [label for label in reached if label] == ["Predicted and measured", "Scans"]


def test_the_tooltip_stays_on_the_page(pages: dict[str, Path], open_page: Any) -> None:
    with open_page(pages["usual"], 480) as opened:
        page = opened.page
        points = page.query_selector_all("svg.narrow .pt")
        for point in (points[0], points[12]):
            point.evaluate("p => p.focus()")
            box = page.query_selector("#tip").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 480


def test_one_matrix_at_a_time_is_chosen(pages: dict[str, Path], open_page: Any) -> None:
    with open_page(pages["usual"]) as opened:
        page = opened.page
        page.click("details.levels summary")
        assert page.locator(".choice:visible").count() == 1
        page.select_option(".chooser select", label="200 mAs")
        assert page.locator(".choice:visible").get_attribute("data-level") == "200"
        page.click(".chooser button:last-of-type")
        assert page.locator(".choice:visible").get_attribute("data-level") == "225"


def test_a_command_is_copied_or_selected(pages: dict[str, Path], open_page: Any) -> None:
    with open_page(pages["usual"]) as opened:
        page = opened.page
        page.locator(".command button").first.click()
        expected = page.locator(".command code").first.inner_text()
        assert page.evaluate("getSelection().toString()").split() == expected.split()


@pytest.mark.parametrize("name", ["hostile", "baseline-hostile"])
def test_names_full_of_markup_are_inert(pages: dict[str, Path], open_page: Any, name: str) -> None:
    with open_page(pages[name]) as opened:
        page = opened.page
        assert page.title() != "owned"
        assert "<script>" in page.inner_text("main")
        assert page.evaluate("document.querySelectorAll('script').length") == 1
        assert page.evaluate("[...document.images].every(i => i.src.startsWith('data:'))")


def test_the_policy_is_enforced(pages: dict[str, Path], open_page: Any) -> None:
    with open_page(pages["usual"]) as opened:
        opened.page.evaluate(
            """() => { const s = document.createElement('script'); s.textContent = 'window.owned = 1';
            document.body.append(s); const i = new Image(); i.src = 'https://example.invalid/x.png';
            document.body.append(i); }"""
        )
        assert opened.page.evaluate("window.owned === undefined")
        assert any("Content Security Policy" in text for text in opened.said)
        assert opened.failed == ["csp"]


@pytest.mark.parametrize("name", ["usual", *OTHERS])
def test_paper_shows_everything(pages: dict[str, Path], open_page: Any, name: str) -> None:
    with open_page(pages[name], 680, "dark") as opened:
        page = opened.page
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("document.documentElement.scrollWidth") <= 680
        hidden = "[...document.querySelectorAll('details table')].filter(t => !t.getBoundingClientRect().height).length"
        assert page.evaluate(hidden) == 0
        assert page.evaluate("[...document.querySelectorAll('nav, .command button')].every(e => !e.offsetHeight)")
        assert page.evaluate(OVERLAPS) == []


@pytest.mark.parametrize(("name", "fewest", "most"), [("usual", 5, 16), ("baseline", 1, 2), ("constancy", 1, 2)])
def test_it_prints_on_a4(pages: dict[str, Path], open_page: Any, name: str, fewest: int, most: int) -> None:
    with open_page(pages[name]) as opened:
        pdf = opened.page.pdf(prefer_css_page_size=True)
        assert fewest <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= most
        box = re.search(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf)
        assert box is not None
        assert [round(float(v)) for v in box.groups()] == [595, 842]
        folder = os.environ.get("ROBUSTKIT_ARTIFACTS")
        if folder:
            (Path(folder) / "report").mkdir(parents=True, exist_ok=True)
            (Path(folder) / "report" / f"{name}.pdf").write_bytes(pdf)


@pytest.mark.parametrize("name", ["usual", "undefined", "twelve", *OTHERS])
def test_axe_finds_nothing_serious(pages: dict[str, Path], open_page: Any, name: str) -> None:
    axe = os.environ.get("ROBUSTKIT_AXE", "")
    if not Path(axe).is_file():
        pytest.skip("ROBUSTKIT_AXE names no axe-core file (npm install axe-core; `make test` does it)")
    with open_page(pages[name], 900) as opened:
        page = opened.page
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        page.evaluate(Path(axe).read_text(encoding="utf-8"))
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate("axe.run(document)")["violations"]
            assert [told for violation in found for told in serious(violation)] == [], scheme


def serious(violation: dict[str, Any]) -> list[str]:
    """Return the first places of a violation that axe calls serious or critical."""
    nodes = violation["nodes"][:4] if violation["impact"] in ("serious", "critical") else []
    return [f"{violation['id']}: {node['target']} {node['failureSummary']}" for node in nodes]
