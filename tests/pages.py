"""Reads the documentation as its readers do: code blocks and commands, in order, and what is said about running them.

`<!-- not run: why -->` on the line above a block keeps it from being run; its commands are still held against the app.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
FENCE = re.compile(r"^( *)(```|~~~)\s*(\w*)")
SHELLS = ("console", "bash", "sh", "shell", "")


@dataclass(frozen=True)
class Block:
    """A block of a page: its language ("indented" without a fence), its text, its line, and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """Return the commands of a shell block, or those that a pipeline's YAML runs."""
        if self.language in ("yaml", "yml"):
            return re.findall(r"^\s*(?:- run: |- )(robustkit .+)$", self.text, re.MULTILINE)
        if self.language not in (*SHELLS, "indented"):
            return []
        whole = re.sub(r"\\\n\s*", " ", self.text)
        lines = [line.strip().removeprefix("$ ") for line in whole.splitlines()]
        named = [line for line in lines if line and not line.startswith("#")]
        if self.language in ("", "indented"):  # may be anything: only our own commands are read
            return [line for line in named if re.match(r"(robustkit|make) ", line)]
        return named


def pages() -> list[Path]:
    """Return README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    name, i = name_of(page), 0
    while i < len(lines):
        fence = FENCE.match(lines[i])
        said = NOT_RUN.search(lines[i - 1] if i and lines[i - 1].strip() else lines[i - 2] if i > 1 else "")
        why = said[1] if said else ""
        if fence:
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[2])
            text = "\n".join(line.removeprefix(fence[1]) for line in lines[i + 1 : end])
            yield Block(name, i + 1, fence[3], text + "\n", why)
            i = end + 1
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            end = next(
                (j for j in range(i, len(lines)) if lines[j].strip() and not lines[j].startswith("    ")), len(lines)
            )
            yield Block(name, i + 1, "indented", "\n".join(lines[i:end]) + "\n", why)
            i = end
        else:
            i += 1


def inline(page: Path) -> list[str]:
    """Return the commands of this project that stand in a sentence."""
    text = re.sub(r"^( *)(```|~~~).*?^\1\2", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`(robustkit [a-z][^`\n]*)`", text)


def words(command: str) -> list[str]:
    """Split a command as a shell does, comments and leading assignments left out."""
    found = shlex.split(command, comments=True)
    while found and re.match(r"[A-Z_]+=", found[0]):
        found = found[1:]
    return found
