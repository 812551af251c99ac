"""Numbers and findings in words: what a reader must be told, and how a rate is written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from robustkit import stats
from robustkit.plain import Record
from robustkit.report.source import WHOLE, Source, warnings_of

THIN = "\u202f"
"""Narrow no-break space: keeps a number and its unit on one line."""
JOINER = "\u2060"
"""Nothing to see: keeps what stands on both sides of a dash on one line."""


class Fact(NamedTuple):
    """A name, its value, and a remark in smaller type."""

    name: str
    value: str
    remark: str = ""


class Verdict(NamedTuple):
    """The outcome as a word for the badge, a kind for its colour and shape, and the sentence that carries it."""

    kind: str
    badge: str
    sentence: str


WARNINGS = WHOLE
"""Warnings that a page tells; the rest is counted."""
_METHODS = {"wilson": "Wilson, for reading; the verdict uses exact bounds"}
_BADGES = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}


def number(value: float) -> str:
    """Write a number with at most six digits: 25, 37.5, 0.0125."""
    return f"{value:.6g}"


def short(value: float) -> str:
    """Write a number with three digits, without powers of ten up to a million: 1 930, 0.0042."""
    text = f"{float(f'{value:.3g}'):,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace(",", THIN)


def percent(rate: float | None) -> str:
    """Write a rate: 5.7 %, 0.37 %, 0 %; an undefined one is a dash. A rate below 1 is never written as 100 %."""
    if rate is None or not math.isfinite(rate):
        return "–"
    value = 100 * rate
    if value in (0.0, 100.0):
        return f"{value:.0f}{THIN}%"
    digits = 1 if 1 <= value < 99.9 else 2
    text = f"{value:.{digits}f}"
    if float(text) in (0.0, 100.0):
        return f"{'<' if value < 1 else '>'}{THIN}{'0.01' if value < 1 else '99.99'}{THIN}%"
    return f"{text}{THIN}%"


def bound(rate: float) -> str:
    """Write a rate that somebody chose, such as a limit: 2 %, 0.5 %, 95 %."""
    return f"{100 * rate:.6g}{THIN}%"


def interval(low: float | None, high: float | None) -> str:
    """Write an interval of rates: 4.3 – 7.3 %."""
    if low is None or high is None:
        return "–"
    return f"{percent(low).removesuffix(f'{THIN}%')}{THIN}–{THIN}{percent(high)}"


def count(k: Any, n: Any) -> str:
    """Write k of n with thousands apart: 57 / 1 000."""
    return f"{int(k):,}/{int(n):,}".replace(",", THIN)


def many(n: int, one: str, more: str | None = None) -> str:
    """Write a number with its noun: 1 slice, 4 slices."""
    return f"{n:,} ".replace(",", THIN) + (one if n == 1 else more or one + "s")


def confidence(summary: Mapping[str, Any]) -> float:
    """Return the two-sided confidence of a summary as a fraction, 0.95 unless it says otherwise."""
    value = summary.get("confidence", 0.95)
    try:
        number_ = float(value)
    except (TypeError, ValueError):
        return 0.95
    return number_ / 100 if number_ > 1 else number_


def at_level(level: float, unit: str) -> str:
    """Write a level with its unit; "sigma" stands before its number."""
    return f"{unit} {number(level)}" if stats.noise_rises(unit) else f"{number(level)}{THIN}{unit}"


def verdict(source: Source) -> Verdict:
    """Return the outcome of a run: its own sentence where it has one, else one made from gate and rates."""
    gate = source.summary.get("gate") or {}
    kind = str(gate.get("verdict") or "none").lower()
    kind = kind if kind in _BADGES else "none"
    sentence = source.summary.get("verdict_sentence") or _sentence(source, kind)
    return Verdict(kind, _BADGES.get(kind, "No limit set"), unbroken(without_badge(str(sentence))))


def unbroken(text: str) -> str:
    """Return a sentence whose numbers keep their units on one line."""
    return re.sub(r"(?<=\d) ?(?=%)|(?<=\d) (?=mAs\b|HU\b)", THIN, text)


def without_badge(sentence: str) -> str:
    """Return a sentence without the word that the badge above it already says."""
    for word in ("Pass: ", "Fail: ", "Undecided: ", "Inconclusive: ", "Within: ", "Drifted: ", "Cannot tell: "):
        rest = sentence.removeprefix(word)
        if rest != sentence:
            return rest[:1].upper() + rest[1:]
    return sentence


def _sentence(source: Source, kind: str) -> str:
    gate = source.summary.get("gate") or {}
    scored = records_with_counts(source.summary)
    judged = [r for r in scored if gate.get("at") in (None, r["level"]) and gate.get("class") in (None, r["class"])]
    worst = max(judged or scored, key=lambda r: r["rate"], default=None)
    if worst is None:
        return "Nothing was scored in this run."
    told = (
        f"Noise alone changed the answer for {percent(worst['rate'])} of images of class {worst['class']} at "
        f"{at_level(worst['level'], source.unit)} ({count(worst['k'], worst['n'])})"
    )
    if worst["k"] == 0:
        told = f"Noise alone changed none of {sum(int(r['n']) for r in judged or scored):,} answers".replace(",", THIN)
    limit = gate.get("max_sar")
    endings = {
        "pass": f", and the upper bound is within the limit of {bound(limit or 0)}.",
        "fail": f", above the limit of {bound(limit or 0)}.",
        "inconclusive": f"; too few realizations to decide on the limit of {bound(limit or 0)}.",
    }
    return told + endings.get(kind, "; no limit was set.")


def records_with_counts(summary: Mapping[str, Any]) -> list[Record]:
    """Return the SAR records that rest on at least one image, rates filled in from their counts."""
    found = []
    for record in summary.get("sar") or []:
        if record.get("n"):
            rate = record.get("rate")
            found.append({**record, "rate": record["k"] / record["n"] if rate is None else rate})
    return found


def facts(source: Source) -> list[Fact]:
    """Return what a reader must know before any figure."""
    s = source.summary
    levels = sorted(float(v) for v in s.get("levels") or [])
    span = f"{number(levels[0])} to {at_level(levels[-1], source.unit)}" if len(levels) > 1 else ""
    span = span or (at_level(levels[0], source.unit) if levels else "–")
    slices = slice_count(source)
    return [
        Fact("Model", str(s.get("model", "–"))),
        Fact("Noise", str(s.get("noise", "–")), origin(source)),
        Fact("Level axis", span, axis_meaning(source)),
        Fact("Realizations", f"{int(s.get('n') or 0):,}".replace(",", THIN), "per slice and level"),
        Fact("Slices", str(slices) if slices else "–", _slice_remark(source)),
        Fact("Seed", str(s.get("seed", "–")), "the same seed gives the same table"),
        Fact(
            "Intervals",
            f"{bound(confidence(s))} two-sided",
            _METHODS.get(str(s.get("interval")), "Clopper–Pearson, exact"),
        ),
    ]


def slice_count(source: Source) -> int:
    """Return how many slices were audited, as far as the files say."""
    if source.slices is not None:
        return source.slices
    by_slice = source.summary.get("by_slice") or []
    if by_slice:
        return len({record.get("slice") for record in by_slice})
    return source.noise_count


def _slice_remark(source: Source) -> str:
    classes = len(source.summary.get("classes") or [])
    return f"for {many(classes, 'class', 'classes')} of the model"


def origin(source: Source) -> str:
    """Say where the noise came from, each source once."""
    told = dict.fromkeys(str(r["source"]) for r in source.noise if r.get("source"))
    if not told:
        return "its origin is not recorded"
    shown = list(told)[:2]
    rest = len(told) - len(shown)
    return "; ".join(shown) + (f"; and {many(rest, 'other source')}" if rest else "")


def axis_meaning(source: Source) -> str:
    """Say what a level means, and to which protocol it is tied."""
    stated = source.summary.get("level_meaning") or source.run.get("level_meaning")
    if stated:
        return str(stated)
    if source.unit != "mAs":
        return f"in units of {source.unit}; larger levels mean what the noise model says they mean"
    if is_virtual(source):
        return "virtual-scanner mAs: not the mAs of any real scanner"
    reference = {r["report"].get("reference_mas") for r in source.noise if isinstance(r.get("report"), dict)}
    values = sorted(float(v) for v in reference if isinstance(v, int | float))
    anchor = f", noise measured at {at_level(values[0], 'mAs')}" if len(values) == 1 else ""
    return f"mAs of this one protocol{anchor}; other scanners and protocols differ"


def is_virtual(source: Source) -> bool:
    """Say whether the noise stems from the virtual scanner."""
    return any("virtual" in str(r.get("source", "")).lower() for r in source.noise)


def warnings(source: Source) -> list[str]:
    """Return every warning of the run once, in order: the summary's, then the noise models'."""
    found = [str(w) for w in source.summary.get("warnings") or []]
    found += [str(text) for story in source.noise for text in warnings_of(story)]
    each = list(dict.fromkeys(found))
    more = [f"and {len(each) - WARNINGS:,} more warnings: summary.json and noise.json have them all"]
    return each if len(each) <= WARNINGS else each[:WARNINGS] + more


def limits(source: Source) -> list[str]:
    """Return what this report does not say, each point with its number where it has one."""
    return [*_scope(source), *_interval_limits(source), *_dose_limits(source)]


def _scope(source: Source) -> Iterator[str]:
    yield (
        "Only noise was varied. Positioning, motion, artefacts, contrast, other scanners and other patients were "
        "not; a model that withstands noise may still fail on any of them."
    )
    yield (
        "A changed answer is counted, not a wrong one: the answer to the clean image is the reference, right or "
        "wrong. Accuracy must be shown elsewhere."
    )
    slices = slice_count(source)
    if slices:
        level = confidence(source.summary)
        share = 1 - (1 - level) ** (1 / slices)
        few = f"the share of all such slices that behave otherwise may still be {percent(share)}"
        yield (
            f"The intervals cover the randomness of noise on the {many(slices, 'slice')} audited here, not the "
            f"choice of slices. Even if none of them had changed its answer, {few} (at {bound(level)})."
        )


def _interval_limits(source: Source) -> Iterator[str]:
    zero = [r for r in records_with_counts(source.summary) if r["k"] == 0]
    if zero:
        worst = max((r["high"] for r in zero if r.get("high") is not None), default=None)
        if worst is not None:
            yield f"No change seen does not mean no change: the upper end of such an interval reaches {percent(worst)}."
    repeats = _smallest_k(source)
    if repeats:
        yield (
            f"The intervals hold for the fitted noise and the clean image as they are. From {repeats} scans the "
            f"strength of one noise component is itself uncertain by {100 / math.sqrt(2 * (repeats - 1)):.0f}{THIN}%, "
            "which more realizations do not reduce."
        )
    yield from _centre_limits(source)
    if source.summary.get("lowest_passing_level"):
        yield "The lowest passing level speaks of the levels tested, not of those between or below them."


def centre_ratio(record: Record, level: float) -> float | None:
    """Return the clean image's own noise over the noise added at `level` mAs: sqrt(level / (k mAs of the clean image)).

    None where the clean image's scans are not on record, or only the missing noise was added.
    """
    clean, report = record.get("clean"), record.get("report")
    if not isinstance(clean, dict) or (isinstance(report, dict) and report.get("add_to_source")):
        return None
    k, mas = clean.get("k"), clean.get("mas")
    if not isinstance(k, int | float) or not isinstance(mas, int | float) or k * mas <= 0:
        return None
    return math.sqrt(level / (k * mas))


def _centre_limits(source: Source) -> Iterator[str]:
    levels = [float(v) for v in source.summary.get("levels") or [] if v > 0]
    if source.unit != "mAs" or not levels:
        return
    ratios = [centre_ratio(record, max(levels)) for record in source.noise]
    worst = max((r for r in ratios if r is not None), default=None)
    if worst is not None and worst > 0.1:
        yield (
            f"The image called clean has noise of its own: {percent(worst)} of what is added at "
            f"{at_level(max(levels), source.unit)}. It is the same in every realization, so the rates here may differ "
            "from those of repeated scans by more than their intervals."
        )


def _smallest_k(source: Source) -> int:
    found = [r["report"].get("K") for r in source.noise if isinstance(r.get("report"), dict)]
    return min((int(k) for k in found if isinstance(k, int | float) and k >= 2), default=0)


def _dose_limits(source: Source) -> Iterator[str]:
    if source.unit != "mAs":
        return
    if is_virtual(source):
        yield (
            "The noise comes from a virtual scanner. Its mAs rank images by dose; they must not be set on a real "
            "scanner. Repeat scans of your own give your own mAs."
        )
    else:
        yield (
            "mAs belongs to one protocol: scanner, tube voltage, filter, kernel, thickness, field of view and "
            "object must match before a level here means a level there."
        )
    yield (
        "Noise follows mAs as filtered back-projection does. Iterative and learned reconstruction do not, and need "
        "repeats at every level."
    )


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of every leaf of nested dictionaries and lists; short plain lists stay one leaf."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flatten(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, inner in enumerate(value):
            yield from flatten(inner, f"{prefix}.{index}")
    else:
        yield prefix, plain(value)


def plain(value: Any) -> str:
    """Write a JSON value for a reader: yes and no, short numbers, lists with commas."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "–"
    return str(value)


def join(parts: Iterable[str]) -> str:
    """Join names with commas and a final "and"."""
    names = list(parts)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
