"""From parts to one file: templates filled with escaped text, styles and script inside, a policy that admits no other.

The content-security policy names the hash of the one style sheet and the one script, so nothing that a name or a
label smuggles in could run, even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit import files
from robustkit.report.chart import shorten

if TYPE_CHECKING:
    from jinja2 import Environment

_NOTHING = ("–", "not stated", "none to count", "degenerate", "undefined", "not seen")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_MARKERS = (
    "M-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0Z",
    "M-3.8,-3.8H3.8V3.8H-3.8Z",
    "M0,-5L4.8,3.6H-4.8Z",
    "M0,-5.4L5,0L0,5.4L-5,0Z",
    "M0,5L4.8,-3.6H-4.8Z",
    "M-1.7,-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",
    "M0,-5L4.8,-1.5L2.9,4.1H-2.9L-4.8,-1.5Z",
    "M-4.5,-2.2L-2.2,-4.5L0,-2.2L2.2,-4.5L4.5,-2.2L2.2,0L4.5,2.2L2.2,4.5L0,2.2L-2.2,4.5L-4.5,2.2L-2.2,0Z",
)
_STAR = "M0,-7.5L1.9,-2.6L7.1,-2.3L3,0.9L4.4,6L0,3.1L-4.4,6L-3,0.9L-7.1,-2.3L-1.9,-2.6Z"


def printable(value: Any) -> Any:
    """Replace characters that cannot be seen or that turn text around, so that a name reads as what it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if c in _BIDI or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
        else c
        for c in value
    )


@cache
def environment() -> Environment:
    """Return the jinja2 environment of the templates beside this module: every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["brief"] = shorten
    made.filters["wordy"] = wordy
    made.globals.update(marker=marker, colour=colour, dash=dash)
    return made


def wordy(rows: Sequence[Sequence[Any]]) -> set[int]:
    """Return the columns of a table, but for the first, that hold words alone: they are read from the left."""
    columns = list(zip(*rows, strict=False)) if rows else []
    return {i for i, column in enumerate(columns) if i and _is_words([str(cell) for cell in column if cell != ""])}


def _is_words(cells: Sequence[str]) -> bool:
    told = [cell for cell in cells if cell not in _NOTHING]
    return bool(told) and all(cell[:1].isalpha() for cell in told)


def marker(style: int, star: bool = False) -> str:
    """Return the SVG path of a series' marker about the origin."""
    return _STAR if star else _MARKERS[style % len(_MARKERS)]


def colour(style: int) -> int:
    """Return which of the seven colours a series has."""
    return style % 7


def dash(style: int) -> int:
    """Return which of the dash patterns a series has: the first seven series are told apart by two of them already."""
    return (style + style // 7) % 4


def render(template: str, **parts: Any) -> str:
    """Return a whole page: `template` filled with `parts`, style sheet and script inlined under a strict policy."""
    style, script = _asset("style.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    from markupsafe import Markup

    page = environment().get_template(template)
    return page.render(style=Markup(style), script=Markup(script), policy=policy, **parts)


def write(path: Path, html: str) -> Path:
    """Write a page, whole or not at all, and return its path."""
    files.write_text(path, html)
    return path


def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
