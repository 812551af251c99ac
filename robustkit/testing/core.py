"""How a conformance check is written, run and told: what was asked, what came, and why it matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from robustkit.containment import contained

Bench = TypeVar("Bench")
Part = TypeVar("Part")
ALONE = "leaves the process alone"


class ConformanceError(AssertionError):
    """A part breaks the protocol; the message names the check, what was asked, what came, and why it matters."""


class NotApplicableError(Exception):
    """A check does not apply to this part; the text says why."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found: `kind` and `check` name it; `message` says what failed, or why it was not asked."""

    kind: str
    check: str
    passed: bool
    message: str = ""


def made(given: Part | Callable[[], Part], by: str) -> Part:
    """Return a part, or have it made where a class or function was given; `by` names what a part has."""
    if hasattr(given, by) and not isinstance(given, type):
        return given  # type: ignore[return-value]
    return given()  # type: ignore[operator]


@contextmanager
def disturbed() -> Iterator[None]:
    """Set numpy's global random state, to which no part may listen; it is put back."""
    with contained():
        np.random.seed(7)  # noqa: NPY002 - the global state is what is disturbed
        yield


def demand(holds: bool, *, asked: str, came: str, why: str) -> None:
    """Raise a ConformanceError unless `holds`."""
    if not bool(holds):
        raise ConformanceError(f"asked for {asked}; got {came}. {why}")


def run(kind: str, checks: Sequence[Callable[[Bench], None]], bench: Bench, *, basic: int = 1) -> list[CheckResult]:
    """Run every check on a bench; when one of the first `basic` fails, the rest would say the same and is not run."""
    results: list[CheckResult] = []
    did: list[str] = []
    for index, check in enumerate(checks):
        with contained() as notes:
            result = _one(kind, check, bench)
        results.append(result)
        did += [note for note in notes if note not in did]
        if not result.passed and index < basic:
            break
    return [_left_alone(kind, did), *results]


def raise_first(results: Sequence[CheckResult]) -> None:
    """Raise a ConformanceError for the first check that failed, with the number of the others."""
    failed = [result for result in results if not result.passed]
    if failed:
        more = f" ({len(failed) - 1} more checks failed)" if len(failed) > 1 else ""
        raise ConformanceError(f"{failed[0].kind}, {failed[0].check}: {failed[0].message}{more}")


def describe(value: Any) -> str:
    """Return a short text for what came: type, shape and dtype of an array, the start of anything else."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{type(value).__name__} of shape {tuple(shape)} and type {dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def _one(kind: str, check: Callable[[Bench], None], bench: Bench) -> CheckResult:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        check(bench)
    except ConformanceError as error:
        return CheckResult(kind, name, False, str(error))
    except NotApplicableError as reason:
        return CheckResult(kind, name, True, f"not asked: {reason}")
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        first = (str(error).splitlines() or [""])[0]
        return CheckResult(kind, name, False, f"it raised {type(error).__name__}: {first}")
    return CheckResult(kind, name, True)


def _left_alone(kind: str, did: Sequence[str]) -> CheckResult:
    if not did:
        return CheckResult(kind, ALONE, True)
    return CheckResult(
        kind,
        ALONE,
        False,
        f"asked for nothing but the answer; it {', '.join(did)}. Other plugins, other workers and `--json` share "
        "this process: take randomness from the draw or the seed given, and print nothing",
    )
