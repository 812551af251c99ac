"""Sections of a documentation page that a script writes: between `<!-- NAME -->` and `<!-- /NAME -->`."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path


def write(name: str, text: Callable[[], str], told: str) -> None:
    """Print the section `name` that `text` makes, and write it into the page of `--markdown PAGE`; `told` is --help."""
    parser = argparse.ArgumentParser(description=told.splitlines()[0])
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    found = text()
    print(found)
    if asked.markdown:
        put(asked.markdown, name, found)


def put(page: Path, name: str, text: str) -> None:
    """Replace the section `name` of a page; ValueError when the page has none."""
    whole = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(whole):
        raise ValueError(f"{page} has no section {name!r}: write <!-- {name} --> and <!-- /{name} --> into it")
    page.write_text(
        pattern.sub(lambda found: "{}\n{}\n\n{}".format(found[1], text.strip("\n"), found[2]), whole), encoding="utf-8"
    )


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
