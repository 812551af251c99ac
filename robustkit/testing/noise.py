"""What a noise model must do, checked: `check_noise_model`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.seeding import Draw, draws
from robustkit.testing.core import CheckResult, NotApplicableError, demand, describe, raise_first, run
from robustkit.testing.fakes import make_scans
from robustkit.types import Fit, Image, NoiseModel, RepeatScans

KIND = "noise model"
LEVELS = {"mAs": (25.0, 50.0, 100.0, 200.0)}
OTHER_LEVELS = (5.0, 10.0, 20.0, 40.0)
REALIZATIONS = 128
QUIETER = 1e4
"""How far beyond the listed levels the noise must have died away."""
BLOCK = 8


@dataclass
class NoiseBench:
    """A noise model on the bench, and what it is asked with; everything lazy, so that a check reports a failure."""

    given: Fit | NoiseModel
    repeats: RepeatScans
    given_clean: Image | None = None
    given_levels: Sequence[float] | None = None
    n: int = REALIZATIONS
    seed: int = 0
    sigma: float | None = None
    tolerance: float = 0.015

    @cached_property
    def model(self) -> NoiseModel:
        """Return the model given, or fit one to the repeats."""
        return self.fitted() if is_fit(self.given) else self.given  # type: ignore[return-value]

    def fitted(self) -> NoiseModel:
        """Fit once more."""
        return self.given(self.repeats)  # type: ignore[operator]

    @cached_property
    def clean(self) -> Image:
        """Return the clean image (H, W)."""
        return self.repeats.clean if self.given_clean is None else np.array(self.given_clean, dtype=np.float32)

    @cached_property
    def levels(self) -> list[float]:
        """Return the levels asked, ascending."""
        return sorted(self.given_levels or LEVELS.get(self.model.unit, OTHER_LEVELS))

    @property
    def limit(self) -> int | None:
        """Return how many different realizations the model has, where its report says so; None is without end."""
        report = getattr(self.model, "report", None)
        found = report.get("effective_n") if isinstance(report, dict) else None
        return found if isinstance(found, int) else None

    @cached_property
    def draws(self) -> list[Draw]:
        """Return the draws of the statistical checks."""
        return draws(self.seed, "audit", "conformance", range(min(self.n, self.limit or self.n)))

    @property
    def correction(self) -> float:
        """Return n/(n-1) for the variance of a sample; 1 where the draws are all the realizations there are."""
        return 1.0 if self.limit == len(self.draws) else len(self.draws) / (len(self.draws) - 1)

    @cached_property
    def noise(self) -> Image:
        """Return the noise of all draws (B, L, H, W), asked 16 at a time as an audit does."""
        parts = [self.draws[i : i + 16] for i in range(0, len(self.draws), 16)]
        return np.concatenate([self.sample(part) for part in parts])

    def sample(self, of: Sequence[Draw], levels: Sequence[float] | None = None) -> Image:
        """Ask the model once, on a fresh copy of the clean image."""
        return self.model.sample(self.clean.copy(), self.levels if levels is None else levels, list(of))

    @cached_property
    def loudest(self) -> int:
        """Return the index of the level with the most noise."""
        return int(np.argmax(_rms(self.noise)))


def is_fit(given: Any) -> bool:
    """Say whether this is a fit (a function or class to call with repeats) and not yet a noise model."""
    return isinstance(given, type) or not hasattr(given, "sample")


def _offers_unit_sample_and_sd(bench: NoiseBench) -> None:
    before = bench.repeats.pixels.copy()
    for part in ("unit", "sample", "sd"):
        demand(
            hasattr(bench.model, part),
            asked="a model with unit, sample(clean, levels, draws) and sd(clean, levels)",
            came=f"{type(bench.model).__name__} without {part}",
            why="An audit calls all three; sd may return None where nothing is claimed.",
        )
    demand(
        np.array_equal(before, bench.repeats.pixels),
        asked="a fit that leaves the repeat scans as they are",
        came="repeat scans changed in place",
        why="The next noise model is fitted to the same scans.",
    )


def _noise_has_shape_and_type(bench: NoiseBench) -> None:
    for count, levels in ((1, bench.levels[:1]), (3, bench.levels)):
        noise = bench.sample(bench.draws[:count], levels)
        expected = (min(count, len(bench.draws)), len(levels), *bench.clean.shape)
        demand(
            isinstance(noise, np.ndarray) and noise.shape == expected and noise.dtype == np.float32,
            asked=f"noise as ndarray of shape (draws, levels, H, W) = {expected} and type float32",
            came=describe(noise),
            why="One realization a draw, the same at every level, is what the audit adds to the clean image.",
        )


def _noise_is_finite(bench: NoiseBench) -> None:
    bad = int(bench.noise.size - np.isfinite(bench.noise).sum())
    demand(
        bad == 0,
        asked="finite noise",
        came=f"{bad} values that are NaN or infinite",
        why="A classifier's answer to them is void.",
    )


def _unit_is_a_name(bench: NoiseBench) -> None:
    unit: Any = bench.model.unit
    demand(
        isinstance(unit, str) and bool(unit) and unit == unit.strip(),
        asked='a unit that names the level axis, such as "mAs"',
        came=describe(unit),
        why="It heads every table and plot.",
    )


def _clean_image_is_left_alone(bench: NoiseBench) -> None:
    clean = bench.clean.copy()
    bench.model.sample(clean, bench.levels, bench.draws[:2])
    bench.model.sd(clean, bench.levels)
    demand(
        np.array_equal(clean, bench.clean),
        asked="a clean image that is only read",
        came="a clean image changed in place",
        why="Every further realization would be added to another image.",
    )


def _same_draw_gives_same_noise(bench: NoiseBench) -> None:
    first = bench.sample(bench.draws[:2])
    kept = first.copy()
    if first.flags.writeable:
        first += 1.0  # a model that hands out its own memory would now be spoilt
    demand(
        np.array_equal(kept, bench.sample(bench.draws[:2])),
        asked="the same noise from the same draws, whenever they are asked",
        came="other noise the second time",
        why="A row of the table must rebuild its image bit for bit; take all randomness from draw.generator().",
    )


def _order_and_batch_play_no_part(bench: NoiseBench) -> None:
    some = bench.draws[:5]
    together = bench.sample(some)
    alone = np.concatenate([bench.sample([draw]) for draw in some])
    backwards = bench.sample(some[::-1])[::-1]
    for other, how in ((alone, "one at a time"), (backwards, "in reverse order")):
        demand(
            np.array_equal(together, other),
            asked=f"the same noise for {len(some)} draws together and {how}",
            came=f"noise that differs by up to {np.abs(together - other).max():.3g}",
            why="Workers and resumed runs cut the draws anywhere.",
        )


def _levels_do_not_see_one_another(bench: NoiseBench) -> None:
    together = bench.sample(bench.draws[:2])
    for index, level in enumerate(bench.levels):
        alone = bench.sample(bench.draws[:2], [level])[:, 0]
        demand(
            np.array_equal(together[:, index], alone),
            asked=f"the same noise at {level:g} {bench.model.unit} whichever other levels are asked",
            came=f"noise that differs by up to {np.abs(together[:, index] - alone).max():.3g}",
            why="A level added to a later run must not change what was found at the others.",
        )


def _every_draw_is_another_realization(bench: NoiseBench) -> None:
    draw = bench.draws[0]
    others = {"realization": draws(draw.seed, draw.stream, draw.slice_id, [1])[0]}
    if bench.limit is None:
        others |= {
            "seed": Draw(draw.seed + 1, draw.stream, draw.slice_id, 0),
            "slice id": Draw(draw.seed, draw.stream, draw.slice_id + "x", 0),
            "stream": Draw(draw.seed, "fit", draw.slice_id, 0),
            "high realization": Draw(draw.seed, draw.stream, draw.slice_id, 2**40),
        }
    one = bench.noise[0, bench.loudest]
    for name, other in others.items():
        likeness = _correlation(one, bench.sample([other], [bench.levels[bench.loudest]])[0, 0])
        demand(
            abs(likeness) < 0.5,
            asked=f"independent noise for another {name}",
            came=f"noise with correlation {likeness:.2f} to the first",
            why="n realizations must be n independent trials; use the whole draw as the key.",
        )


def _all_levels_see_the_same_realization(bench: NoiseBench) -> None:
    rms = _rms(bench.noise)
    for index in range(len(bench.levels)):
        if rms[index] < 1e-6 * rms[bench.loudest] or index == bench.loudest:
            continue
        pairs = zip(bench.noise[:16, index], bench.noise[:16, bench.loudest], strict=True)
        likeness = float(np.mean([_correlation(a, b) for a, b in pairs]))
        demand(
            likeness > 0.5,
            asked="the same realization at every level, larger or smaller",
            came=f"correlation {likeness:.2f} between {bench.levels[index]:g} and {bench.levels[bench.loudest]:g} "
            f"{bench.model.unit}",
            why="Curves over the level are paired, and one synthesis serves all levels.",
        )


def _noise_is_monotone_in_level(bench: NoiseBench) -> None:
    steps = np.diff(_rms(bench.noise))
    slack = 1e-6 * float(_rms(bench.noise)[bench.loudest])
    falling, rising = bool((steps <= slack).all()), bool((steps >= -slack).all())
    mas = bench.model.unit == "mAs"
    demand(
        falling if mas else falling or rising,
        asked="less noise with every higher mAs" if mas else "noise that only rises or only falls with the level",
        came=f"rms {', '.join(f'{value:.3g}' for value in _rms(bench.noise))} at levels "
        f"{', '.join(f'{level:g}' for level in bench.levels)}",
        why="The lowest passing level has no meaning otherwise.",
    )


def _noise_dies_away_at_the_quiet_end(bench: NoiseBench) -> None:
    rms = _rms(bench.noise)
    falling = rms[-1] <= rms[0]
    quiet = bench.levels[-1] * QUIETER if falling else bench.levels[0] / QUIETER
    left = float(_rms(bench.sample(bench.draws[:4], [quiet]))[0])
    demand(
        left <= 0.05 * float(rms.max()),
        asked=f"noise that dies away at {quiet:g} {bench.model.unit}",
        came=f"rms {left:.3g}, against {float(rms.max()):.3g} at the loudest level asked",
        why="Without noise the answer must be the clean answer.",
    )


def _noise_has_zero_mean(bench: NoiseBench) -> None:
    if getattr(bench.model, "zero_mean", True) is False:
        raise NotApplicableError("the model says zero_mean = False")
    count = len(bench.draws)
    for index, level in enumerate(bench.levels):
        noise = bench.noise[:, index]
        rms = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))
        for per_draw, what in _regions(noise):
            mean = per_draw.mean(axis=0)
            slack = 7.0 * per_draw.std(axis=0, ddof=1) / np.sqrt(count) + 2e-3 * rms
            worst = int(np.argmax(np.abs(mean) - slack))
            demand(
                abs(mean[worst]) <= slack[worst],
                asked=f"noise of zero mean at {level:g} {bench.model.unit}",
                came=f"mean {mean[worst]:.3g} (at most {slack[worst]:.2g} by chance) over {what}",
                why="A shift of the image is not noise; a noise that shifts by nature says so with zero_mean = False.",
            )


def _variance_is_what_sd_claims(bench: NoiseBench) -> None:
    claimed = _claim(bench)
    for index, level in enumerate(bench.levels):
        spread = bench.noise[:, index] - bench.noise[:, index].mean(axis=0)
        square = np.square(spread, dtype=np.float64) * bench.correction
        claims = list(_regions(np.square(claimed[index : index + 1], dtype=np.float64)))
        for (per_draw, what), (claim, _), loose in zip(_regions(square), claims, (0.02, 0.15), strict=True):
            if not claim.any():
                continue
            seen = claim[0] > 1e-6 * claim[0].max()
            ratio = per_draw[:, seen] / claim[0, seen]
            slack = loose + 6.0 * ratio.std(axis=0, ddof=1) / np.sqrt(len(ratio))
            error = np.abs(ratio.mean(axis=0) - 1.0)
            worst = int(np.argmax(error - slack))
            demand(
                error[worst] <= slack[worst],
                asked=f"the variance that sd() claims at {level:g} {bench.model.unit}",
                came=f"{ratio.mean(axis=0)[worst]:.3f} times it over {what} (within {slack[worst]:.3f} by chance)",
                why="Reports print the claim; the audit applies the noise.",
            )


def _known_sd_is_recovered(bench: NoiseBench) -> None:
    if bench.sigma is None or bench.repeats.mas is None or not is_fit(bench.given):
        raise NotApplicableError("no known sd was given with the repeats")
    noise = bench.sample(bench.draws, [bench.repeats.mas])[:, 0]
    found = float(np.sqrt(np.var(noise, axis=0, dtype=np.float64).mean() * bench.correction))
    demand(
        abs(found / bench.sigma - 1.0) <= bench.tolerance,
        asked=f"noise of sd {bench.sigma:g} at the {bench.repeats.mas:g} mAs of the repeats",
        came=f"sd {found:.4g}, {found / bench.sigma - 1.0:+.1%}",
        why=f"Residuals of {len(bench.repeats.pixels)} scans are {np.sqrt(1 - 1 / len(bench.repeats.pixels)) - 1:.1%} "
        "too small; K/(K-1) belongs on their second moments, once.",
    )


def _fit_is_repeatable(bench: NoiseBench) -> None:
    if not is_fit(bench.given):
        raise NotApplicableError("a fitted model was given, not a fit")
    again = bench.fitted().sample(bench.clean.copy(), bench.levels, bench.draws[:2])
    demand(
        np.array_equal(again, bench.noise[:2]),
        asked="the same model from a second fit to the same repeats",
        came="other noise",
        why="Every worker fits for itself.",
    )


def _report_can_be_written(bench: NoiseBench) -> None:
    report = getattr(bench.model, "report", None)
    if report is None:
        raise NotApplicableError("the model has no report")
    try:
        json.dumps(report, allow_nan=False)
        problem = "" if isinstance(report, dict) else describe(report)
    except (TypeError, ValueError) as error:
        problem = str(error)
    demand(
        not problem,
        asked="a report that is a dict of plain numbers, texts and lists",
        came=problem,
        why="It is written to noise.json.",
    )


CHECKS = (
    _offers_unit_sample_and_sd,
    _noise_has_shape_and_type,
    _noise_is_finite,
    _unit_is_a_name,
    _clean_image_is_left_alone,
    _same_draw_gives_same_noise,
    _order_and_batch_play_no_part,
    _levels_do_not_see_one_another,
    _every_draw_is_another_realization,
    _all_levels_see_the_same_realization,
    _noise_is_monotone_in_level,
    _noise_dies_away_at_the_quiet_end,
    _noise_has_zero_mean,
    _variance_is_what_sd_claims,
    _known_sd_is_recovered,
    _fit_is_repeatable,
    _report_can_be_written,
)


def run_noise_model(
    fit_or_model: Fit | NoiseModel,
    *,
    repeats: RepeatScans | None = None,
    clean: Image | None = None,
    levels: Sequence[float] | None = None,
    n: int = REALIZATIONS,
    seed: int = 0,
    sigma: float | None = None,
    tolerance: float = 0.015,
) -> list[CheckResult]:
    """Run every check of `check_noise_model` and return what each found."""
    scans = make_scans(seed=seed) if repeats is None else repeats
    bench = NoiseBench(fit_or_model, scans, clean, levels, n, seed, sigma, tolerance)
    return run(KIND, CHECKS, bench, basic=3)


def check_noise_model(
    fit_or_model: Fit | NoiseModel,
    *,
    repeats: RepeatScans | None = None,
    clean: Image | None = None,
    levels: Sequence[float] | None = None,
    n: int = REALIZATIONS,
    seed: int = 0,
    sigma: float | None = None,
    tolerance: float = 0.015,
) -> None:
    """Check a noise model, or a fit together with the model it makes.

    Parameters
    ----------
    fit_or_model : what a plugin names in `robustkit_noise_models`, or a fitted model.
    repeats : what a fit is given; by default `make_scans()`: 20 scans of a water disc, white noise of 10 HU at 100 mAs.
    clean : (H, W) image the noise is asked for; by default the mean of the repeats.
    levels : in the model's unit; by default 25 to 200 for mAs, 5 to 40 for any other.
    n, seed : realizations of the statistical checks and their seed. A chance alarm is a matter of 6 standard errors.
    sigma, tolerance : the true sd of the repeats where it is known, and the relative error allowed to a fit.

    Notes
    -----
    A model may carry `zero_mean = False` (its noise shifts the image by nature) and, in its `report`, `effective_n`
    (how many different realizations it has); the checks heed both.

    Raises
    ------
    ConformanceError
        Naming the first check that failed: what was asked, what came, and why it matters.
    """
    raise_first(
        run_noise_model(
            fit_or_model,
            repeats=repeats,
            clean=clean,
            levels=levels,
            n=n,
            seed=seed,
            sigma=sigma,
            tolerance=tolerance,
        )
    )


def _rms(noise: Image) -> NDArray[np.float64]:
    """Return the rms of (B, L, H, W) noise at each level (L,)."""
    return np.asarray(np.sqrt(np.mean(np.square(noise, dtype=np.float64), axis=(0, 2, 3))))


def _correlation(one: Image, other: Image) -> float:
    a, b = (image.astype(np.float64).ravel() - image.mean(dtype=np.float64) for image in (one, other))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 1.0


def _regions(maps: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], str]]:
    """Yield the means of maps (B, H, W) over the whole image (B, 1) and over blocks (B, blocks)."""
    yield maps.mean(axis=(1, 2), dtype=np.float64)[:, None], "the image"
    rows, columns = (max(1, size // BLOCK) for size in maps.shape[1:])
    height, width = maps.shape[1] // rows, maps.shape[2] // columns
    cut = maps[:, : rows * height, : columns * width].reshape(len(maps), rows, height, columns, width)
    yield cut.mean(axis=(2, 4), dtype=np.float64).reshape(len(maps), -1), f"a block of {height} x {width} pixels"


def _claim(bench: NoiseBench) -> Image:
    claimed = bench.model.sd(bench.clean.copy(), bench.levels)
    if claimed is None:
        raise NotApplicableError("sd() returns None: the model claims nothing")
    expected = (len(bench.levels), *bench.clean.shape)
    demand(
        isinstance(claimed, np.ndarray) and claimed.shape == expected,
        asked=f"sd() of shape (levels, H, W) = {expected}, or None",
        came=describe(claimed),
        why="It is drawn as a map beside the image.",
    )
    demand(
        bool(np.isfinite(claimed).all() and (claimed >= 0).all()),
        asked="a standard deviation that is finite and not negative",
        came=f"values from {claimed.min():.3g} to {claimed.max():.3g}",
        why="It is drawn as a map beside the image.",
    )
    return claimed
