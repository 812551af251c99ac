"""What reproduces a run: its command, inputs by hash, versions, machine, and the hash of every file it left."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from robustkit.plain import Record
from robustkit.report import grids, words
from robustkit.report.source import Source, records

_SHOWN_APART = {"command", "files", "version", "plan", "hardware"}
_NULL_AUDIT = {
    "n": "images scored again",
    "changed": "answers that changed",
    "floor": "largest change of a probability",
}
_PLAN_APART = {"cases", "versions", "version", "levels", "model"}


def command(source: Source) -> str:
    """Return the command of the run as one types it; empty where it was called from Python."""
    told = source.run.get("command")
    return shlex.join(map(str, told)) if isinstance(told, list) else str(told or "")


def facts(source: Source) -> list[tuple[str, str]]:
    """Return (name, value) of everything on record but the command, slices and files, the important first."""
    run, plan = source.run, _mapping(source.run.get("plan"))
    model, machine = _mapping(plan.get("model")), _mapping(run.get("hardware"))
    told = [("model", str(model.get("name") or "")), ("model SHA-256", str(model.get("sha256") or ""))]
    told += [(f"input: {name}", text) for name, text in words.flatten(_mapping(model.get("spec")))]
    told += [
        (_spoken(key), text) for key, text in words.flatten({k: v for k, v in plan.items() if k not in _PLAN_APART})
    ]
    told += list(_other(run))
    told += [("versions", _versions(_mapping(plan.get("versions") or run.get("versions"))))]
    told += [("machine", ", ".join(f"{_spoken(k)} {words.plain(v)}" for k, v in machine.items()))]
    return [(name, text) for name, text in told if text not in ("", "–")]


def null_audit(source: Source) -> list[tuple[str, str]]:
    """Return what scoring the clean images again showed, known names in words."""
    told = words.flatten(_mapping(source.summary.get("null_audit")))
    return [(_NULL_AUDIT.get(name, _spoken(name)), text) for name, text in told]


def slices(source: Source) -> grids.Grid | None:
    """Return the audited slices by the hash that names them; `inputs` is the hash of what their noise was made from."""
    cases = records(_mapping(source.run.get("plan")).get("cases"))
    heads = {"slice": "slice", "label": "label", "group": "patient or object", "clean": "clean image", "from": "inputs"}
    used = {key: head for key, head in heads.items() if any(case.get(key) for case in cases)}
    rows = [[words.plain(case.get(key)) for key in used] for case in cases[: grids.LONG]]
    note = "A slice is named by the hash of its pixels and spacing; inputs: the hash of what its noise was made from."
    return grids.grid("Slices", list(used.values()), rows, note, len(cases)) if rows else None


def files(source: Source) -> grids.Grid | None:
    """Return the files of the run with their SHA-256, which `robustkit verify` checks."""
    hashes = _mapping(source.run.get("files"))
    rows = [[str(name), words.plain(value)] for name, value in hashes.items()]
    note = "`robustkit verify RUN_DIR` checks them; with model and images it also makes a sample of the rows again."
    return grids.grid("Files", ["file", "SHA-256"], rows, note.replace("`", "")) if rows else None


def _mapping(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {words.plain(version)}" for name, version in versions.items())


def _other(run: Record) -> Iterator[tuple[str, str]]:
    rest = {name: value for name, value in run.items() if name not in (*_SHOWN_APART, "versions")}
    seconds = rest.pop("wall_seconds", None)
    yield from ((_spoken(name), text) for name, text in words.flatten(rest))
    if isinstance(seconds, int | float):
        yield "wall time", f"{seconds:.3g} s"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
