"""The run directory: a plan, shards written whole and named by what produced them, a lock, and the way back in.

`run.json` holds the plan (all that decides the bits) and the provenance. A shard is the scores of a range of
realizations of one case; a case record is its clean prediction, its null audit and its story. Both carry in their
name the hash of what produced them, so a shard that does not belong is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit import files
from robustkit.audit import Scores
from robustkit.errors import DataError, RobustkitError, UsageError
from robustkit.plain import plain

VERSION = 1
SHARD = 64
"""Realizations in a shard."""
NUMERICAL = ("numpy", "numba", "scipy", "onnxruntime")


def digest(*parts: Any) -> str:
    """16 hex digits of anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def versions(names: Sequence[str] = NUMERICAL) -> dict[str, str]:
    """Return the installed versions of robustkit and of the libraries that decide its bits."""
    from importlib.metadata import PackageNotFoundError, version

    from robustkit import __version__

    found = {"robustkit": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Names:
    """Names of shards and case records, each by the hash in it: eight bytes a name, in order."""

    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Return the names, as they come."""
        return cls(np.sort(np.fromiter(map(_key, names), np.uint64)))

    def __contains__(self, name: object) -> bool:
        key = np.uint64(_key(str(name)))
        at = int(np.searchsorted(self.keys, key))
        return at < len(self.keys) and bool(self.keys[at] == key)


ENDING = ".npz"
_HEX = 16


def _key(name: str) -> int:
    """Return the number that the hash in the name of a shard or case record is; 0 where there is none."""
    digits = name.removesuffix(ENDING)[-_HEX:]
    try:
        return int(digits, 16)
    except ValueError:
        return 0


@dataclass(frozen=True)
class RunDir:
    """A run directory and the plan it was made for."""

    path: Path
    plan: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Return the hash of the plan: the `run` column of the table."""
        return digest(self.plan)[:12]

    @property
    def shards(self) -> Path:
        """Return the folder of unfinished work."""
        return self.path / "shards"

    def shard_path(self, case: Mapping[str, Any], start: int, stop: int) -> Path:
        """Return where the scores of realizations [start, stop) of a case belong."""
        key = digest(self._what_decides(case), start, stop)
        return self.shards / f"{case['slice']}-{start:08d}-{stop:08d}-{key}.npz"

    def case_path(self, case: Mapping[str, Any]) -> Path:
        """Return where the record of a case belongs."""
        return self.shards / f"{case['slice']}-case-{digest(self._what_decides(case))}.npz"

    def _what_decides(self, case: Mapping[str, Any]) -> list[Any]:
        names = ("version", "model", "noise", "settings", "levels", "seed", "batch", "versions")
        return [{name: self.plan[name] for name in names}, case]

    def names(self) -> Iterator[str]:
        """Yield the names of the shards and case records on disk, by one listing."""
        with os.scandir(self.shards) as entries:
            yield from (e.name for e in entries if e.name.endswith(ENDING) and not e.name.startswith("."))

    def done(self) -> Names:
        """Return the names of the shards and case records on disk, by one listing."""
        return Names.of(self.names())

    def missing(self, case: Mapping[str, Any], n: int, done: Container[str] | None = None) -> list[tuple[int, int]]:
        """Return the ranges of realizations below `n` that are not on disk yet (not among `done`, if given)."""
        there = self.done() if done is None else done
        return [r for r in ranges(n) if self.shard_path(case, *r).name not in there]

    def light(self) -> RunDir:
        """Return the same directory as it travels with a task: absolute, without the list of cases."""
        return RunDir(self.path.absolute(), {name: value for name, value in self.plan.items() if name != "cases"})


def ranges(n: int, start: int = 0) -> list[tuple[int, int]]:
    """Cut realizations [start, n) into shards."""
    return [(a, min(a + SHARD, n)) for a in range(start, n, SHARD)]


def write_scores(path: Path, scores: Scores) -> None:
    """Write a shard, whole or not at all."""
    files.write_npz(path, {"realization": scores.realization, "noisy": scores.noisy, "margin": scores.margin})


def read_scores(path: Path) -> Scores:
    """Read a shard; DataError when it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return Scores(archive["realization"], archive["noisy"], archive["margin"])
    except files.DAMAGES as error:
        raise DataError(f"shard {path.name} is damaged ({error}); delete it and run again with --resume") from error


def write_case(path: Path, probabilities: Any, null: Mapping[str, Any], story: Mapping[str, Any], sd: Any) -> None:
    """Write a case record: clean probabilities (C,), null audit, story, and the claimed sd map (h, w) or None."""
    told = np.array(json.dumps(plain({"null": null, "story": story})))
    claimed = np.zeros((0, 0), np.float16) if sd is None else sd
    files.write_npz(path, {"probabilities": probabilities, "told": told, "sd": claimed})


def read_case(path: Path) -> dict[str, Any]:
    """Return {"probabilities", "null", "story"} of a case record; DataError when it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            told = json.loads(str(archive["told"]), object_pairs_hook=_shared)
            return {"probabilities": archive["probabilities"], **told}
    except files.DAMAGES as error:
        raise DataError(
            f"case record {path.name} is damaged ({error}); delete it and run again with --resume"
        ) from error


def _shared(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose texts are kept once for all case records: they say much the same."""
    return {sys.intern(name): sys.intern(value) if isinstance(value, str) else value for name, value in pairs}


def read_sd(path: Path) -> NDArray[np.float16] | None:
    """Return the claimed sd map (h, w) of a case record, None when its noise claims nothing."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        found: NDArray[np.float16] = archive["sd"]
        return found if found.size else None


def start(path: Path, plan: Mapping[str, Any], *, resume: bool) -> RunDir:
    """Open a run directory for writing: a new one, or with `resume` one whose plan is the same.

    What a writer that was killed left half-written is cleared away; the caller holds the lock.
    Raises UsageError for a directory in use, and for a resume whose plan differs, naming every difference.
    """
    if (path / "run.json").exists():
        if not resume:
            raise UsageError(f"{path} already holds a run; add --resume to finish it, or name another --out")
        told = differences(read_run(path)["plan"], json.loads(json.dumps(plan, default=str)))
        if told:
            raise UsageError(f"{path} was made for another run: {'; '.join(told)}. Name another --out")
    elif path.exists() and not _untouched(path):
        raise UsageError(f"{path} is not empty and holds no run; name another --out")
    directory = RunDir(path, plan)
    try:
        directory.shards.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RobustkitError(f"cannot write to {path}: {error.strerror}; name another --out") from error
    for folder in (path, directory.shards):
        files.clear_temporaries(folder)
    return directory


def _untouched(path: Path) -> bool:
    """Say whether a folder holds nothing but what a run killed before its first file leaves."""
    return all(p.name.startswith(".") or (p.name == "shards" and not any(p.iterdir())) for p in path.iterdir())


RECORDED: dict[str, type | tuple[type, ...]] = {
    "files": dict,
    "command": list,
    "finished": (str, type(None)),
}
PLANNED: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "noise": str,
    "settings": dict,
    "levels": list,
    "n": int,
    "seed": int,
    "batch": int,
    "cases": list,
}

CASE = {"slice": str, "from": str}


def read_run(path: Path) -> dict[str, Any]:
    """Return run.json of a run directory; DataError when there is none, or it is of another version."""
    recorded = path / "run.json"
    try:
        found: dict[str, Any] = json.loads(recorded.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is no run directory, it holds no run.json; name the --out of a run") from None
    except (OSError, ValueError) as error:
        raise DataError(f"run.json in {path} cannot be read ({type(error).__name__}); make the run again") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise DataError(
            f"the run in {path} has version {repr(found.get('version') if isinstance(found, dict) else None)[:40]}, "
            f"this robustkit reads version {VERSION}; use the robustkit that made it"
        )
    if not isinstance(found.get("plan"), dict):
        raise DataError(f"run.json in {path} is damaged (it holds no plan); make the run again")
    return found


def read_audit(path: Path) -> dict[str, Any]:
    """Return run.json of an audit or replay; DataError when the directory holds a study of many models."""
    found = read_run(path)
    study = found["plan"].get("study")
    if study:
        raise DataError(
            f"{path} holds a study (`robustkit {study}`), not an audit of one model; name an audit's folder"
        )
    wrong = _wrong(found, RECORDED) or _wrong(found["plan"], PLANNED)
    if wrong or any(not isinstance(case, dict) or _wrong(case, CASE) for case in found["plan"]["cases"]):
        raise DataError(f"run.json in {path} is damaged (its {wrong or 'cases'} cannot be read); make the run again")
    return found


def _wrong(record: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    """Return the first name whose value is missing or of another type."""
    return next((name for name, kind in kinds.items() if not isinstance(record.get(name, ...), kind)), "")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run directory alone; the operating system releases it when the process ends, however it ends."""
    import fcntl

    try:
        path.mkdir(parents=True, exist_ok=True)
        stream = (path / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}; name another --out") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another run is writing to {path}; wait for it, or name another --out") from None
        yield


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return what differs between two plans, a phrase each."""
    return list(_differences(there, asked))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted({*old, *new}):
        there, asked = old.get(name), new.get(name)
        if there == asked:
            continue
        if isinstance(there, dict) and isinstance(asked, dict):
            yield from _differences(there, asked, f"{prefix}{name}.")
        elif name == "cases":
            yield from _other_cases(there or [], asked or [])
        else:
            yield f"{prefix}{name} is {there} there, {asked} asked"


FACTS = {"from": "what its noise is fitted to", "clean": "its clean image", "label": "its label", "group": "its group"}
TOLD = 3
"""Slices named of each kind of difference."""


def _other_cases(there: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    old, new = ({str(case.get("slice")): case for case in cases} for cases in (there, asked))
    gone, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    for names, words in ((gone, "there and not asked"), (added, "asked and not there")):
        if names:
            yield f"{len(names)} slices are {words} ({_some(names)})"
    both = [name for name in old if name in new]
    for fact, words in FACTS.items():
        changed = [name for name in both if old[name].get(fact) != new[name].get(fact)]
        if changed:
            yield f"{words} differs for {len(changed)} slices ({_some(changed)})"
    if old.keys() == new.keys() and list(old) != list(new):
        yield "the slices are the same in another order"
    elif len(there) != len(asked) and old.keys() == new.keys():
        yield f"{len(there)} cases there, {len(asked)} asked"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:TOLD]) + (", ..." if len(names) > TOLD else "")
