"""Docstrings of this project pack what numpydoc spreads: `name : text. other : text` on one line, types in signatures.

For the reference the sections are unpacked: each name on a line of its own, its text below.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(
    r"^(Parameters|Attributes|Raises|Returns|Yields)\n-+\n(.*?)(?=\n\n(?=\S+[^\n]*\n-+\n)|\Z)", re.M | re.S
)
INDICES = re.compile(r"(`[^`]*`)|\]\[")
ITEM = re.compile(r"(?:^|(?<=[.;] ))(\w+(?:(?:, |, \*| and )\w+)*) : ")


def unpacked(text: str) -> str:
    """Return a docstring whose sections have one item a line, and whose `x[a][b]` is no link."""
    text = INDICES.sub(lambda found: found[1] or "]\\[", text)
    return SECTION.sub(lambda found: f"{found[1]}\n{'-' * len(found[1])}\n{_items(found[2])}", text)


def _items(body: str) -> str:
    flat = re.sub(r"\s*\n\s*", " ", body.strip())
    parts = ITEM.split(flat)
    if len(parts) < 3 or parts[0].strip():
        return body  # written as numpydoc wants it, or free text
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return "\n".join(f"{names}\n    {text.strip()}" for names, text in pairs)


class Packed(griffe.Extension):
    """Unpack the docstring of everything that griffe reads."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = unpacked(obj.docstring.value)
