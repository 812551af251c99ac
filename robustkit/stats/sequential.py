"""Looking at the result while it grows, and looking at many levels, without paying for it in false passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import lgamma, log, log1p
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustkit.stats.intervals import Interval

Decision: TypeAlias = Literal["pass", "fail"]
MIXTURE = (0.5, 50.0)
"""Beta mixture of the confidence sequence, made for limits near 1 %."""


def log_evidence(k: int, n: int, rate: float, mixture: tuple[float, float] = MIXTURE) -> float:
    """Log of the evidence that k flips in n draws give against a true rate strictly between 0 and 1.

    Beta-mixture likelihood ratio B(a+k, b+n-k) / (B(a, b) rate^k (1-rate)^(n-k)): under the true rate a
    martingale of mean 1, so that it ever exceeds 1/alpha with probability at most alpha (Ville 1939; Robbins
    1970, Ann Math Stat 41:1397).
    """
    a, b = mixture
    return _log_beta(a + k, b + n - k) - _log_beta(a, b) - k * log(rate) - (n - k) * log1p(-rate)


def decide(k: int, n: int, limit: float, alpha: float = 0.05, *, tied: int = 0) -> Decision | None:
    """Say whether k flips in n draws decide that the rate is below or above `limit`; None: draw on.

    May be asked after every draw of one slice and level, as often as one likes: over all looks together the chance of a
    wrong answer is at most alpha. `tied` changes (below the numerical floor) count as flips against a pass and as none
    for a fail. 0 flips pass a limit of 1 % after 409 draws.
    """
    if _decided(k + tied, n, limit, alpha) and k + tied < limit * n:
        return "pass"
    if _decided(k, n, limit, alpha) and k > limit * n:
        return "fail"
    return None


def confidence_sequence(k: int, n: int, alpha: float = 0.05) -> Interval:
    """All rates that k flips in n draws do not rule out: valid at every n at once, whenever one stops."""
    if n == 0:
        return Interval(0.0, 1.0)
    threshold = log(1 / alpha)
    mode = k / n
    low = 0.0 if k == 0 else _crossing(lambda p: log_evidence(k, n, p) < threshold, mode, 0.0)
    high = 1.0 if k == n else _crossing(lambda p: log_evidence(k, n, p) < threshold, mode, 1.0)
    return Interval(low, high)


class Operation(NamedTuple):
    """What a sequential gate does at one true rate, exactly: chances of each end and the mean number of draws."""

    passed: float
    failed: float
    undecided: float
    mean_draws: float


def sequential_operation(
    rate: float, limit: float, alpha: float = 0.05, draws: int = 10_000, looks: Collection[int] | None = None
) -> Operation:
    """Compute exactly how `decide`, asked after each of up to `draws` draws, ends when the true rate is `rate`.

    `looks` : ask after these numbers of draws only. Dynamic programming over the number of flips of the runs still
    undecided.
    """
    passes, fails = decision_bounds(limit, alpha, draws)
    asked = None if looks is None else frozenset(looks)
    alive = np.zeros(int(fails.max()) + 2 if asked is None else draws + 2)
    alive[0] = 1.0
    passed = failed = mean = 0.0
    for n in range(1, draws + 1):
        mean += alive.sum()
        alive[1:] = alive[1:] * (1 - rate) + alive[:-1] * rate
        alive[0] *= 1 - rate
        if asked is not None and n not in asked:
            continue
        passed += alive[: passes[n] + 1].sum()
        alive[: passes[n] + 1] = 0.0
        failed += alive[fails[n] :].sum()
        alive[fails[n] :] = 0.0
    return Operation(float(passed), float(failed), float(alive.sum()), float(mean))


def false_pass_probability(limit: float, alpha: float = 0.05, draws: int = 10_000) -> float:
    """Probability that `decide` ever says "pass" in `draws` looks although the true rate equals `limit`, exactly."""
    return sequential_operation(limit, limit, alpha, draws).passed


def decision_bounds(limit: float, alpha: float, draws: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Most flips that pass (-1: none) and fewest that fail (n+1: none) after n = 0 .. draws draws, (draws+1,) each."""
    passes = np.full(draws + 1, -1, dtype=np.int64)
    fails = np.arange(1, draws + 2, dtype=np.int64)
    for n in range(1, draws + 1):

        def passed(k: int, n: int = n) -> bool:
            return decide(k, n, limit, alpha) == "pass"

        def kept(k: int, n: int = n) -> bool:
            return decide(k, n, limit, alpha) != "fail"

        passes[n] = _last(passed, int(passes[n - 1]), n)
        fails[n] = _last(kept, int(fails[n - 1]), n) + 1
    return passes, fails


def fixed_sequence(passed: Sequence[bool]) -> int | None:
    """Index of the last level passed before the first failure, levels in their order of trust; None when none passes.

    From the quietest level on, each is tested at the full alpha and the first that does not pass ends the sequence: the
    chance of any false claim stays at alpha whatever the dependence between levels (Maurer, Hothorn and Lehmacher
    1995). Levels after the first failure are not claimed even where their own bound is under the limit.
    """
    last = None
    for index, ok in enumerate(passed):
        if not ok:
            break
        last = index
    return last


def _last(holds: Callable[[int], bool], guess: int, n: int) -> int:
    """Return the last k in 0 .. n up to which `holds` is true (-1: nowhere), searched from a guess nearby."""
    last = min(guess, n)
    while last >= 0 and not holds(last):
        last -= 1
    while last < n and holds(last + 1):
        last += 1
    return last


def _decided(k: int, n: int, limit: float, alpha: float) -> bool:
    return n > 0 and log_evidence(k, n, limit) >= log(1 / alpha)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _crossing(kept: Callable[[float], bool], inside: float, end: float) -> float:
    """Bisect between a rate that is kept and an end of [0, 1] that is not, to the last bit."""
    outside = end
    while True:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            return outside
        if kept(middle):
            inside = middle
        else:
            outside = middle
