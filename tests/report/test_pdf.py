"""Pages as PDF: figures drawn by the page's own rules, on A4, and nothing fetched."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from robustkit.errors import DataError
from robustkit.report import write_as, write_pdf, write_report
from robustkit.report.pdf import dressed

Get = Callable[..., Path]


@pytest.fixture(scope="module")
def html(specimen: Get) -> str:
    return write_report(specimen("one-level", maps=False, flips=0)).read_text(encoding="utf-8")


def inflated(pdf: bytes) -> bytes:
    """Return a PDF with what its compressed streams hold."""
    found = [pdf]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        with contextlib.suppress(zlib.error):
            found.append(zlib.decompress(stream))
    return b"\n".join(found)


def test_every_figure_holds_its_rules_and_no_variable(html: str) -> None:
    page = dressed(html)
    styles = re.findall(r"<svg\b[^>]*><style>(.*?)</style>", page)
    assert len(styles) == html.count("<svg") > 3
    assert "var(" not in "".join(styles)
    assert ".s1.line{stroke:#c94f00" in styles[0]
    assert ".line{stroke:#8a96a1" in styles[0]
    assert "<script" not in page


def test_badge_has_the_colour_of_its_outcome(html: str) -> None:
    assert 'class="verdict fail"' in html
    assert "svg{fill:#a83300}" in dressed(html)


def test_a_page_of_others_is_refused() -> None:
    with pytest.raises(DataError, match="no page that robustkit wrote"):
        dressed("<html><body>hello</body></html>")


def test_pdf_is_on_a4_and_loads_nothing(html: str, tmp_path: Path) -> None:
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"no WeasyPrint: {error}")
    page = tmp_path / "report.html"
    page.write_text(html.replace("<main", '<img src="https://example.invalid/x.png"><main'), encoding="utf-8")
    written = write_pdf(page, tmp_path / "report.pdf").read_bytes()
    assert written.startswith(b"%PDF")
    objects = inflated(written)
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", objects)
    assert {tuple(round(float(side)) for side in box) for box in boxes} == {(595, 842)}
    assert b"example.invalid" not in objects


def test_a_whole_report_is_laid_out_without_waste(specimen: Get, tmp_path: Path) -> None:
    pytest.importorskip("weasyprint", exc_type=(ImportError, OSError))
    written = write_pdf(write_report(specimen("usual")), tmp_path / "report.pdf").read_bytes()
    assert 8 <= len(re.findall(rb"/Type\s*/Page\b", inflated(written))) <= 16  # a flip a page would be more


def test_a_name_that_ends_in_pdf_asks_for_one(html: str, tmp_path: Path) -> None:
    pytest.importorskip("weasyprint", exc_type=(ImportError, OSError))

    def page(path: Path) -> Path:
        path.write_text(html, encoding="utf-8")
        return path

    assert write_as(tmp_path / "a.html", page).read_text(encoding="utf-8") == html
    assert write_as(tmp_path / "a.pdf", page).read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.pdf"]


def test_missing_page_is_a_data_error(tmp_path: Path) -> None:
    pytest.importorskip("weasyprint", exc_type=(ImportError, OSError))
    with pytest.raises(DataError, match="write the report first"):
        write_pdf(tmp_path / "report.html", tmp_path / "report.pdf")
