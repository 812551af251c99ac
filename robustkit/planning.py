"""What a claim costs, before it is made: realizations, power, and time on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from robustkit import stats
from robustkit.errors import UsageError
from robustkit.gates import parse_rate

COMPARED_RATES = (0.02, 0.1, 0.3, 0.5)
"""Rates of SAR for which a comparison of two runs is planned."""
TIMED = 16
"""Realizations that are timed."""


def plan_claim(max_sar: str | float, confidence: float = 0.95, power: float | None = None) -> dict[str, Any]:
    """Return what "SAR is at most `max_sar`" needs, per slice and level, as plain data.

    `realizations` is the fewest with no flip at all, `flips` how many flips more of them allow, `until_decided` the
    draws after which a sequential run with no flip stops. With `power`, the sizes that have this chance of passing a
    model at half the limit, and for two runs at several rates of seeing that they lie `max_sar` apart (`differ`) and of
    showing that they lie within it where they are equal (`each`).
    """
    limit = parse_rate(max_sar)
    if power is not None and not 0.5 <= power < 1:
        raise UsageError(f"--power must lie in 50% .. 100%, got {power:g}")
    found: dict[str, Any] = {
        "max_sar": limit,
        "confidence": confidence,
        "realizations": stats.realizations_for(limit, confidence),
        "two_sided": stats.realizations_for(limit, confidence, side="two"),
        "flips": [{"flips": k, "realizations": n} for k, n in stats.flips_table(limit, confidence)],
        "until_decided": _sequential_draws(limit, 1 - confidence),
    }
    if power is not None:
        found["power"] = power
        found["for_true_rate_half"] = stats.realizations_for_power(limit / 2, limit, power, confidence)
        found["comparison"] = [
            {
                "rate": rate,
                "equivalent_within": limit,
                "each": stats.equivalence_size(rate, limit, power, 1 - confidence),
                "differ": stats.comparison_size(rate, rate + limit, power, 1 - confidence),
            }
            for rate in COMPARED_RATES
            if rate + limit < 1
        ]
    return found


def time_model(model: str, spec: Mapping[str, Any], levels: int, slices: int, n: int) -> dict[str, Any]:
    """Measure what an audit of `model` costs here: seconds_per_image, images and seconds for n realizations a slice.

    One slice of the built-in phantom is audited with few realizations; fitting the noise is not counted.
    """
    from robustkit import audit, cases, run
    from robustkit.models import refer

    reference = refer(model, spec)
    classifier = reference.load()
    source = cases.gather(None, None, [], None)[0]
    case = cases.prepare(source, cases.NoiseChoice("nps"))
    few = list(run.DEFAULT_MAS[: max(1, levels)])
    audit.score_realizations(classifier, case, few, range(8), seed=0)
    started = time.perf_counter()
    audit.score_realizations(classifier, case, few, range(TIMED), seed=0)
    per_image = (time.perf_counter() - started) / (TIMED * len(few))
    images = n * levels * slices
    return {"seconds_per_image": per_image, "images": images, "seconds": per_image * images}


def _sequential_draws(limit: float, alpha: float) -> int:
    from robustkit.stats.planning import first_true

    return first_true(lambda n: stats.decide(0, n, limit, alpha) == "pass", 1)
