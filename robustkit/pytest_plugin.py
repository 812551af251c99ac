"""Gate a model's robustness in a test suite: the fixture and the marker `robustness`.

Loaded in every pytest run of whoever installed robustkit, so it imports pytest and the standard library alone.

    @pytest.mark.robustness(model="net.onnx", noise="nps", mas=25, max_sar=0.02)
    def test_low_dose(): ...

    def test_by_hand(robustness):
        outcome = robustness("net.onnx", mas=[25, 50])
        assert all(row["rate"] < 0.02 for row in outcome.summary["sar"])
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from robustkit.run import Outcome

PROPERTY = "robustkit"
GATED = pytest.StashKey[bool]()
PATHS = ("model", "images", "repeats", "profile", "clean", "out")
OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "model": (str, "model file, or the name of a plugin's model"),
    "images": (str, "images to audit: DICOM, .npz, or a name such as phantom"),
    "repeats": (str, "repeat scans that the noise is fitted to"),
    "profile": (str, "noise profile, as `robustkit nps estimate` writes it"),
    "noise": (str, "noise model (default nps)"),
    "mas": (lambda text: [float(part) for part in text.split(",")], "levels, as 25 or 12.5,25,50"),
    "n": (int, "realizations a slice and level (default 1000)"),
    "seed": (int, "same seed, same flips (default 0)"),
    "max-sar": (str, "limit of the successful attack rate, as 2%% or 0.02"),
    "out": (str, "folder that keeps the run directories (default: pytest's temporary folder)"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--robustkit-*` and the ini values `robustkit_*` that they override; a test's own words beat both."""
    group = parser.getgroup("robustkit", "robustness of image classifiers against noise")
    for name, (_, text) in OPTIONS.items():
        group.addoption(f"--robustkit-{name}", default=None, help=text)
        parser.addini(f"robustkit_{name.replace('-', '_')}", text.replace("%%", "%"), default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "robustness(model, noise='nps', mas=25, max_sar=0.02, ...): audit a model before the test's body and fail "
        "when its answers change with noise more often than max_sar; arguments are those of robustkit.run.audit_model",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a marked test that does not ask for the fixture be gated before its body."""
    names = getattr(item, "fixturenames", None)
    if names is not None and item.get_closest_marker("robustness") and "robustness" not in names:
        names.append("robustness")
        item.stash[GATED] = True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Audit before the body of a marked test."""
    if item.stash.get(GATED, False):
        item.funcargs["robustness"]()  # type: ignore[attr-defined]


@pytest.fixture
def robustness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    """Audit a model: `robustness(model, mas=25, max_sar=0.02, ...)`, by the names of `robustkit.run.audit_model`.

    What is left out comes from the marker `robustness`, then from the command line, then from the ini file. Returns
    the `Outcome`; with `max_sar` the test fails unless the verdict is pass, and tells the first flip.
    """
    item: pytest.Item = request.node

    def audit(model: Any = None, **asked: Any) -> Outcome:
        marker = item.get_closest_marker("robustness")
        stated = dict(marker.kwargs) if marker else {}
        if marker and marker.args:
            stated["model"] = marker.args[0]
        words = _configured(request.config) | stated | asked | ({} if model is None else {"model": model})
        return _audit(item, _found(words, request.config.rootpath), tmp_path_factory)

    return audit


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the SAR of every audited test: k/n with its interval."""
    rows = list(_rows(terminalreporter.stats))
    if not rows:
        return
    terminalreporter.section("robustness: SAR, k/n with its interval")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _configured(config: pytest.Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (read, _) in OPTIONS.items():
        flag = f"--robustkit-{name}"
        text = config.getoption(flag) or config.getini(f"robustkit_{name.replace('-', '_')}")
        if not text:
            continue
        try:
            found[name.replace("-", "_")] = read(text)
        except ValueError:
            pytest.fail(f"{flag} wants {OPTIONS[name][1]}; got {text!r}", pytrace=False)
    return found


def _found(words: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Take relative paths from pytest's root folder, wherever pytest was called; names stay names."""
    return {
        name: str(root / value)
        if name in PATHS and isinstance(value, str | Path) and (name == "out" or (root / value).exists())
        else value
        for name, value in words.items()
    }


def _audit(item: pytest.Item, words: dict[str, Any], temporary: pytest.TempPathFactory) -> Outcome:
    from robustkit.errors import RobustkitError
    from robustkit.run import audit_model

    if "mas" in words:
        mas = words.pop("mas")
        words["levels"] = list(mas) if isinstance(mas, Sequence) else [mas]
    known = inspect.signature(audit_model).parameters
    strange = sorted(set(words) - set(known))
    if strange:
        pytest.fail(f"robustness knows no {', '.join(strange)}; there is: mas, {', '.join(known)}", pytrace=False)
    if words.get("model") is None:
        pytest.fail("robustness: no model; name it in the test, or with --robustkit-model", pytrace=False)
    words["out"] = _fresh(words.get("out"), item, temporary)
    try:
        outcome = audit_model(words.pop("model"), **words)
    except RobustkitError as error:
        pytest.fail(f"robustness: {error}", pytrace=False)
    _record(item, outcome)
    told = "\n".join(_told(outcome, words))
    if outcome.exit_code:
        pytest.fail(told, pytrace=False)
    item.add_report_section("call", "robustkit", told)  # shown when the test's own words fail
    return outcome


def _fresh(folder: str | None, item: pytest.Item, temporary: pytest.TempPathFactory) -> Path:
    """Return a folder for one run that is not there yet."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", item.nodeid).strip("-")[-80:]
    above = Path(folder) if folder else temporary.mktemp("robustkit")
    number = 1
    while (above / f"{name}-{number}").exists():
        number += 1
    return above / f"{name}-{number}"


def _record(item: pytest.Item, outcome: Outcome) -> None:
    """Record what was found as properties: plain text survives xdist and JUnit."""
    summary = outcome.summary
    gate = summary.get("gate") or {}
    kept = {name: summary.get(name) for name in ("model", "noise", "unit", "sar")}
    item.user_properties.append((PROPERTY, json.dumps(kept | {"verdict": gate.get("verdict", "")})))
    item.user_properties.append((f"{PROPERTY}_sar", "; ".join(_line(row, summary) for row in summary["sar"])))


def _line(row: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    return f"{row['class']} at {row['level']:g} {summary['unit']}: {_share(row)}"


def _share(row: Mapping[str, Any]) -> str:
    if not row["n"]:
        return "0/0"
    tied = f", {row['tied']} tied" if row.get("tied") else ""
    return f"{row['k']}/{row['n']} = {row['rate']:.1%} ({row['low']:.1%} - {row['high']:.1%}{tied})"


def _told(outcome: Outcome, words: Mapping[str, Any]) -> Iterator[str]:
    summary = outcome.summary
    verdict = (summary.get("gate") or {}).get("verdict", "no limit asked")
    yield f"robustness: {summary['model']}, noise {summary['noise']}: {verdict}"
    if summary.get("verdict_sentence"):
        yield summary["verdict_sentence"]
    yield from (_line(row, summary) for row in summary["sar"] if row["n"])
    yield from _first_flip(outcome, words)
    yield f"run directory: {outcome.run_dir}"


def _first_flip(outcome: Outcome, words: Mapping[str, Any]) -> Iterator[str]:
    from robustkit.results import flipped

    table, unit = outcome.table, outcome.summary["unit"]
    flips = table[flipped(table) & (table["realization"] >= 0)]
    if flips.empty:
        return
    first = flips.sort_values(["realization", "level"]).iloc[0]
    yield (
        f"first flip: slice {first['slice']}, realization {first['realization']}, {first['level']:g} {unit}: "
        f"{first['clean']} became {first['noisy']} (margin {first['margin']:.3g})"
    )
    yield f"reproduce: {_command(outcome.summary, words, dict(first))}"


def _command(summary: Mapping[str, Any], words: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Return the shortest audit that ends with this flip; paths that could name somebody are left to the reader."""
    from robustkit.cli.options import command_line

    command = ["robustkit", "audit", str(summary["model"]), "--noise", str(summary["noise"])]
    for name in ("images", "repeats", "profile", "clean"):
        if words.get(name):
            command += [f"--{name}", str(words[name])]
    for name, value in (words.get("settings") or {}).items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    command += ["--levels", f"{first['level']:g}", "-n", str(first["realization"] + 1), "--seed", str(summary["seed"])]
    return shlex.join(command_line(command))


def _rows(stats: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, ...]]:
    for reports in stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name == PROPERTY:
                    kept = json.loads(value)
                    for row in kept["sar"]:
                        level = f"{row['level']:g} {kept['unit']}"
                        yield (
                            report.nodeid,
                            kept["model"],
                            kept["noise"],
                            row["class"],
                            level,
                            _share(row),
                            kept["verdict"],
                        )
