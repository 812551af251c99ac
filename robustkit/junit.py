"""junit.xml: one test case a class and level, so that a CI system shows the verdict beside the other tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from robustkit.files import atomic_path
from robustkit.gates import EXIT_CODES, judged

SUITE = "robustkit"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {
    "fail": "failure",
    "inconclusive": "error",
    "missing": "error",
    "untested": "skipped",
    "not judged": "skipped",
}


def write(summary: Mapping[str, Any], path: Path) -> None:
    """Write the verdict of a summary as JUnit XML, whole or not at all.

    Each class and level is a test case. Under a gate, one above the limit is a failure and one undecided an
    error, each with k/n, the bound, and the command that reproduces it. Skipped are levels and classes that the
    gate does not speak of, with their k/n, and classes that no image was called; where the gate asks for such a
    class alone, it is an error. Without a gate nothing is judged and all pass. The form is the one that Jenkins,
    GitLab and GitHub actions read.
    """
    tree = ET.ElementTree(_suites(summary))
    ET.indent(tree)
    with atomic_path(path) as temporary:
        tree.write(temporary, encoding="utf-8", xml_declaration=True)


def _suites(summary: Mapping[str, Any]) -> ET.Element:
    root = ET.Element("testsuites", name=SUITE)
    suite = ET.SubElement(root, "testsuite", name=_text(f"{SUITE}: {summary['model']}, noise {summary['noise']}"))
    _properties(suite, summary)
    cases = [_case(suite, item, summary) for item in _items(summary)]
    elements = [_ELEMENTS.get(verdict) for verdict in cases]
    counts = {"tests": len(cases), "failures": elements.count("failure"), "errors": elements.count("error")}
    for element in (root, suite):
        element.attrib |= {name: str(number) for name, number in counts.items()}
        element.set("time", "0")
    suite.set("skipped", str(elements.count("skipped")))
    return root


def _properties(suite: ET.Element, summary: Mapping[str, Any]) -> None:
    holder = ET.SubElement(suite, "properties")
    for name in ("model", "noise", "unit", "n", "seed", "confidence", "verdict_sentence"):
        ET.SubElement(holder, "property", name=name, value=_text(summary.get(name, "")))


def _items(summary: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield every judged item, then every class and level that the gate does not speak of."""
    gate = summary.get("gate") or {}
    listed = gate.get("evidence", [])
    yield from listed
    yield from _unlisted(gate)
    seen = {(part["class"], part["level"]) for part in judged(gate)["parts"]} if gate else set()
    for row in summary["sar"]:
        if (row["class"], row["level"]) not in seen:
            yield {**row, "verdict": _unjudged(row, gate)}


def _unlisted(gate: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield for each class, level and verdict how many slices more a gate judged than its evidence lists."""
    listed = Counter((item["class"], item["level"], item["verdict"]) for item in gate.get("evidence", []))
    for part in judged(gate)["parts"] if gate else []:
        for verdict in EXIT_CODES:
            more = part[verdict] - listed[part["class"], part["level"], verdict]
            if more:
                yield {"class": part["class"], "level": part["level"], "verdict": verdict, "more": more}


def _unjudged(row: Mapping[str, Any], gate: Mapping[str, Any]) -> str:
    if not row["n"]:
        asked = gate and gate["class"] == row["class"] and gate["at"] in (None, row["level"])
        return "missing" if asked else "untested"
    return "not judged" if gate else "reported"


def _case(suite: ET.Element, item: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Append one test case; returns its verdict."""
    unit = summary["unit"]
    where = f", slice {item['slice']}" if item.get("slice") else ""
    where = f", {item['more']} more slices: {item['verdict']}" if "more" in item else where
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_text(f"{SUITE}.{summary['model']}.{summary['noise']}"),
        name=_text(f"SAR of class {item['class']} at {item['level']:g} {unit}{where}"),
        time="0",
    )
    verdict = str(item["verdict"])
    if verdict in _ELEMENTS:
        told = ET.SubElement(case, _ELEMENTS[verdict], message=_text(_message(item, summary)))
        if _ELEMENTS[verdict] != "skipped":
            told.set("type", f"{SUITE}.{verdict}")
            told.text = _text(f"{_message(item, summary)}\nReproduce: {_command(item, summary)}")
    else:
        ET.SubElement(case, "system-out").text = _text(_counts(item))
    return verdict


def _message(item: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    if item["verdict"] in ("untested", "missing"):
        return f"no image was called {item['class']} without noise"
    if item["verdict"] == "not judged":
        return f"{_counts(item)}; reported only, the gate does not speak of it"
    limit = f"limit {summary['gate']['max_sar']:.4g}"
    if "more" in item:
        return f"{_counts(item)}: {'above' if item['verdict'] == 'fail' else 'undecided at'} the {limit}"
    if item["verdict"] == "fail":
        return f"{_counts(item)}: lower bound {item['lower']:.4g} above the {limit}"
    more = item.get("more_needed")
    cure = f"; about {more} more realizations would decide it" if more else ""
    return f"{_counts(item)}: undecided, upper bound {item['upper']:.4g} above the {limit}{cure}"


def _counts(item: Mapping[str, Any]) -> str:
    if "more" in item:
        return f"{item['more']} slices less clear than those that are listed one by one"
    tied = f", {item['tied']} tied" if item.get("tied") else ""
    return f"SAR {item['k']}/{item['n']} = {item['rate']:.4g}{tied}"


def _command(item: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    given = summary.get("command")
    if given:
        return given if isinstance(given, str) else " ".join(map(str, given))
    return (
        f"robustkit audit {summary['model']} --noise {summary['noise']} --levels {item['level']:g} -n {summary['n']} "
        f"--seed {summary['seed']} --max-sar {summary['gate']['max_sar']:g}, with the images and repeats of this run"
    )


def _text(value: Any) -> str:
    """Return text that XML 1.0 can hold: control characters and lone surrogates become a question mark."""
    return _NOT_XML.sub("?", str(value))
