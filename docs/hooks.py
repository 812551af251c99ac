"""What MkDocs does beside reading Markdown: the CLI reference, the project's own pages, equations as MathML.

`python docs/hooks.py` prints the CLI reference.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
log = logging.getLogger("mkdocs.robustkit")
PROJECT_PAGES = {
    "architecture.md": ROOT / "ARCHITECTURE.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
}
EXIT_CODES = """
| exit | meaning |
|---|---|
| 0 | pass, or no gate was asked |
| 1 | a gate failed, or two things disagree |
| 2 | a mistake in the command |
| 3 | inconclusive: the output says how many more realizations are needed |
| 4 | model or data cannot be used |
| 130 | interrupted; `--resume` goes on |
"""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(?:#[^)]*)?\)")
MATH = re.compile(r'<(span|div) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not written in docs/."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "cli.md", content=cli_reference()))
    for name, source in PROJECT_PAGES.items():
        text = source.read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the repository, which the site does not hold, into their words; warn where none is."""
    folder = (DOCS / page.file.src_uri).parent

    def said(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        if "://" in found[2] or target.is_relative_to(DOCS):
            return found[0]
        if not target.exists():
            log.warning("Doc file %r links to %r, which the repository does not hold", page.file.src_uri, found[2])
        return found[1]

    return LINK.sub(said, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Turn TeX into MathML, which browsers draw without asking anybody for a script."""
    import html as entities

    from latex2mathml.converter import convert

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return str(convert(entities.unescape(found[2]), display=display))

    return MATH.sub(drawn, html)


def cli_reference() -> str:
    """Return the reference of every command of the app, in Markdown."""
    import typer.main

    from robustkit.cli.main import app

    lines = ["# Command line", "", "Written from the commands themselves.", EXIT_CODES]
    for name, command in _commands(typer.main.get_command(app), "robustkit"):
        lines += [f"## `{name}`", "", *_described(name, command), ""]
    return "\n".join(lines)


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for child in sorted(inner):
        yield from _commands(inner[child], f"{name} {child}")


def _described(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = [_placeholder(p) if p.required else f"[{_placeholder(p)}]" for p in arguments]
    rows = [_row(f"`{_placeholder(p)}`", p) for p in arguments]
    rows += [_row(", ".join(f"`{flag}`" for flag in (*p.opts, *p.secondary_opts)), p) for p in options]
    told = [(command.help or "").strip(), "", f"    {' '.join([name, *usage, '[OPTIONS]'])}", ""]
    return [*told, "| | | default |", "|---|---|---|", *rows] if rows else told


def _placeholder(argument: Any) -> str:
    return str(argument.name).upper()


def _row(name: str, parameter: Any) -> str:
    default = getattr(parameter, "default", None)
    hidden = default is None or isinstance(default, bool | tuple) or parameter.required or callable(default)
    shown = "" if hidden else f"`{default}`"
    text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| {name} | {text} | {shown} |"


if __name__ == "__main__":
    print(cli_reference())
