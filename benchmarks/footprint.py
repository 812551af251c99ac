"""What an installation of the core weighs, and under which licences: every package that `pip install robustkit` brings.

    python benchmarks/footprint.py [--markdown docs/benchmarks.md]

Read from the metadata of this environment; sizes are those of the installed files. Exit 1 where a licence is copyleft.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from sections import put, table

COPYLEFT = re.compile(r"\b[AL]?GPL|\bMPL\b|GNU|Mozilla|\bEPL\b|\bEUPL\b|CC-BY-SA|copyleft", re.IGNORECASE)


def closure(name: str) -> list[Distribution]:
    """Return a distribution and all that it requires without extras, by name."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        one = distribution(waiting.pop())
        key = one.metadata["Name"].lower().replace("_", "-")
        if key in found:
            continue
        found[key] = one
        for text in one.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return [found[key] for key in sorted(found)]


def licence(one: Distribution) -> str:
    """Return the licence as a package states it: expression, else classifiers, else the first words of its text."""
    said = one.metadata
    if said["License-Expression"]:
        return str(said["License-Expression"])
    classes = [c.rsplit(" :: ", 1)[-1] for c in said.get_all("Classifier") or () if c.startswith("License :: ")]
    named = [c for c in classes if c != "OSI Approved"]
    text = next((line.strip() for line in (said["License"] or "").splitlines() if line.strip()), "")
    return " or ".join(named) or text[:60] or "not stated"


def megabytes(one: Distribution) -> float:
    """Return the size of a distribution's installed files."""
    paths = (Path(str(one.locate_file(file))) for file in one.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown", type=Path)
    page = parser.parse_args().markdown
    packages = [one for one in closure("robustkit") if one.metadata["Name"] != "robustkit"]
    sizes = [megabytes(one) for one in packages]
    rows = [
        [one.metadata["Name"], one.version, licence(one), f"{size:.1f}"]
        for size, one in sorted(zip(sizes, packages, strict=True), key=lambda pair: -pair[0])
    ]
    rows.append(["**together**", "", "", f"**{sum(sizes):.0f}**"])
    text = table(["package", "version", "licence as stated", "MB"], rows)
    if page:
        put(page, "footprint", f"`python benchmarks/footprint.py`, Python {sys.version.split()[0]}:\n\n{text}")
    print(text)
    return 1 if any(COPYLEFT.search(licence(one)) for one in packages) else 0


if __name__ == "__main__":
    sys.exit(main())
