"""A report page as PDF for the QA binder, by WeasyPrint: no browser, no network, no script.

WeasyPrint draws an inline SVG by the style sheet inside it and knows no CSS variables there, so each figure is given
the page's own rules with the colours of paper put in.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from robustkit import files
from robustkit.errors import DataError, MissingExtraError

_DRAWN = ("fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity")
_WRITTEN = ("font-weight",)
_COLOURS = 7
_OUTSIDE = re.compile(r"^(svg|\.badge svg|\.badge|\.bar(\.first)?)( |$)")
_FITTED = """
.stamp, .lowest ul, .chooser, .pairs { display: block; }
.stamp div, .pairs > div { display: inline-block; }
.stamp div { margin-left: 1.2em; } .stamp dt, .stamp dd { display: inline; } .stamp dd { margin-left: .4em; }
.pairs > div { width: 84mm; margin-right: 4mm; vertical-align: top; }
.pairs.sheet > div { display: block; width: auto; } .pairs.sheet dt { width: 30mm; } .pairs.sheet dd { width: 140mm; }
.pairs dt, .pairs dd { display: inline-block; vertical-align: top; width: 42mm; } .pairs dd { width: 40mm; }
.ledger > div { display: block; } .ledger dt, .ledger dd { display: inline-block; vertical-align: top; width: 45mm; }
.ledger dd { width: 128mm; }
.behind, .noise-figures, .triptych, .answers, .pictures, .signature { display: block; }
.noise-figures figure, .triptych figure, .answer, .pictures > div, .signature p { display: inline-block; }
.noise-figures figure, .triptych figure, .answer, .pictures > div { vertical-align: top; margin-right: 3mm; }
.noise-figures .sigma { width: 58mm; } .noise-figures .spectra { width: 112mm; } .pictures > div { width: 55mm; }
.triptych, .answers { max-width: none; }
.triptych figure { width: 37mm; } .answer { width: 57mm; } .signature p { width: 52mm; margin-right: 6mm; }
.legend li { display: inline-block; white-space: nowrap; margin-right: 3mm; } .legend { display: block; }
.legend svg { display: inline-block; vertical-align: middle; }
.bar { display: block; } .bar .who, .bar svg, .bar .value { display: inline-block; vertical-align: middle; }
.bar .who { width: 16mm; } .bar svg { width: 26mm; } .bar .value { width: 11mm; }
.lowest li { display: inline-block; width: 36mm; margin: 0 2mm 2mm 0; vertical-align: top; }
.choice { display: inline-block; width: 58mm; vertical-align: top; }
"""
"""What stands in for grids that fill themselves, which WeasyPrint does not lay out."""


def write_pdf(page: Path, path: Path) -> Path:
    """Write a page of this package (.html) as PDF on A4 and return its path.

    Raises
    ------
    MissingExtraError : WeasyPrint, or the Pango library it stands on, is not installed.
    DataError : `page` cannot be read, or laid out.
    """
    try:
        from weasyprint import HTML, URLFetcher
    except (ImportError, OSError) as error:
        raise MissingExtraError("writing PDF without a browser", "pdf") from error
    try:
        text = Path(page).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{page} cannot be read ({error.strerror}); write the report first") from error
    logging.getLogger("weasyprint").setLevel(logging.CRITICAL)  # it tells of every rule made for screens
    document = HTML(string=dressed(text), url_fetcher=URLFetcher(allowed_protocols=["data"]))
    try:
        pages = document.render()
    except Exception as error:  # its layout gives up by whatever its code meets
        raise DataError(
            f"WeasyPrint cannot lay {Path(page).name} out ({type(error).__name__}); print it from a browser instead"
        ) from error
    with files.atomic_path(Path(path)) as temporary:
        pages.write_pdf(temporary)
    return Path(path)


def write_as(path: Path, write: Callable[[Path], Path]) -> Path:
    """Have `write` write its page to `path`, as PDF where the name ends so, else as the HTML it is; return `path`."""
    if path.suffix.lower() != ".pdf":
        return write(path)
    with tempfile.TemporaryDirectory() as folder:
        return write_pdf(write(Path(folder) / "page.html"), path)


def dressed(html: str) -> str:
    """Return a page whose figures each hold the rules that draw them, in the colours of paper; scripts are dropped."""
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    if style is None:
        raise DataError("this is no page that robustkit wrote: it has no style sheet")
    rules = "".join(_rules(style[1], html))
    plain = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL).replace("</style>", f"{_FITTED}</style>", 1)
    return re.sub(r"(<svg\b[^>]*>)", lambda tag: f"{tag[1]}<style>{rules}</style>", plain)


def _rules(css: str, html: str) -> Iterator[str]:
    """Yield the rules that draw: variables replaced, one rule a colour where the colour follows the class."""
    colours = dict(re.findall(r"(--[\w-]+):\s*([^;]+);", css[css.index(":root") : css.index("}", css.index(":root"))]))
    outcome = re.search(r'<section class="verdict (\w+)"', html)
    kind = {"inconclusive": "maybe"}.get(outcome[1], outcome[1]) if outcome else "none"
    colours |= {"--v": colours[f"--{kind}"], "--v-bg": colours[f"--{kind}-bg"]}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", _top_level(css)):
        if ":" in selectors or not any(name in _DRAWN for name, _ in _declared(body)):
            continue
        names = [_OUTSIDE.sub("", selector.strip()) or "svg" for selector in selectors.split(",")]
        if "var(--c)" not in body:
            yield _rule(names, body, colours)
            continue
        yield _rule(names, body, colours | {"--c": colours["--faint"]})
        for number in range(_COLOURS):
            own = [re.sub(r"\.(?=[\w-]+$)", f".s{number}.", name) for name in names]
            yield _rule(own, body, colours | {"--c": colours[f"--c{number}"]})


def _declared(body: str) -> list[tuple[str, str]]:
    pairs = [declaration.partition(":") for declaration in body.split(";")]
    return [(name.strip(), value.strip()) for name, _, value in pairs if value]


def _rule(names: list[str], body: str, colours: dict[str, str]) -> str:
    kept = ";".join(f"{name}:{value}" for name, value in _declared(body) if name in (*_DRAWN, *_WRITTEN))
    return f"{','.join(names)}{{{re.sub(r'var[(](--[^)]+)[)]', lambda name: colours.get(name[1], 'black'), kept)}}}"


def _top_level(css: str) -> str:
    """Return a style sheet without its blocks for some media."""
    kept, depth, start = [], 0, 0
    for match in re.finditer(r"@media[^{]*\{|[{}]", css):
        if match[0].startswith("@media") and depth == 0:
            kept.append(css[start : match.start()])
            depth = 1
        elif depth and match[0].endswith("{"):
            depth += 1
        elif depth and match[0] == "}":
            depth -= 1
            start = match.end()
    return "".join(kept) + css[start:]
