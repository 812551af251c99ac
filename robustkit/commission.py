"""Commissioning, as a treatment planning system is commissioned: predict, lock, measure, decide, and check monthly.

Noise is fitted at one dose; SAR is predicted at another; the prediction is written and hashed before any held-out scan
is opened; the held-out scans are scored; the verdict follows stated tolerances. Monthly, new scans at the fit dose say
whether noise and SAR are still those of the baseline.

A folder of commissioning holds `predicted/` and `measured/` (run directories), `clean/` (the mean images), `profiles/`,
`lock.json`, `baseline.json` (each with its SHA-256 beside it), `baseline.html`, and `constancy/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import agreement, cases, files, metrics, replay, results, run, rundir
from robustkit.acquisition import (
    SAME_DOSE,
    check_fresh,
    check_match,
    describe,
    dose_of,
    fit_records,
    fit_stacks,
    matched,
    same_dose,
)
from robustkit.engine import Progress
from robustkit.errors import DataError, ModelError, UsageError
from robustkit.gates import EXIT_CODES, parse_rate
from robustkit.models import hash_file, refer
from robustkit.plain import Record, plain
from robustkit.sealed import SCHEMA, check_files, hash_of, hashes_of, read_sealed, seal
from robustkit.types import Classifier, RepeatScans

if TYPE_CHECKING:
    import pandas as pd

    from robustkit.noise import Profile

DEFAULT_MARGIN = 0.05
CONSTANCY_CODES = {"within": 0, "drifted": 1, "cannot tell": 3}
_CONSTANCY_OF = {"within": "within", "drifted": "drifted", "inconclusive": "cannot tell"}


@dataclass(frozen=True)
class Commissioned:
    """What a step of commissioning found: the record that was written, where it lies, and the exit code."""

    record: Record
    folder: Path
    exit_code: int


def predict(
    model: str | Path | Classifier,
    repeats: str,
    out: str | Path,
    *,
    levels: Sequence[float] | None = None,
    margin: str | float = DEFAULT_MARGIN,
    max_sar: str | float | None = None,
    noise: str = "nps",
    settings: Mapping[str, Any] | None = None,
    n: int = run.DEFAULT_N,
    seed: int = 0,
    confidence: float = 0.95,
    total: bool = True,
    spec: Mapping[str, Any] | None = None,
    batch: int = 16,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Commissioned:
    """Fit noise to `repeats`, predict SAR at `levels`, and lock the prediction by its hash.

    Parameters are those of `robustkit.run.audit_model`; `margin` is the tolerance on SAR, an absolute difference.
    `levels` are mAs at which held-out scans will be compared, the usual ones without the fit's own by default.

    Returns
    -------
    Commissioned : `.record` is the lock; its hash stands in `lock.sha256`.

    Raises
    ------
    UsageError : a level that is the fit's own dose, or `out` in use. DataError, ModelError : as an audit raises them.
    """
    folder, tolerance = _new_folder(out), parse_rate(margin)
    stacks = cases.find_repeats(repeats)
    chosen = _levels(levels, stacks)
    outcome = run.audit_model(
        model,
        repeats=repeats,
        noise=noise,
        settings=settings,
        levels=chosen,
        n=n,
        seed=seed,
        confidence=confidence,
        max_sar=max_sar,
        total=total,
        spec=spec,
        batch=batch,
        out=folder / "predicted",
        command=command,
        progress=progress,
    )
    _keep_images_and_profiles(folder, repeats, stacks)
    plan = rundir.read_run(outcome.run_dir)["plan"]
    asked = {"margin": tolerance, "noise": noise, "settings": dict(settings or {}), "levels": chosen, "n": n}
    asked |= {"seed": seed, "confidence": confidence, "total": total, "batch": batch}
    asked |= {"max_sar": None if max_sar is None else parse_rate(max_sar)}
    lock = {
        "schema": SCHEMA,
        "kind": "robustkit lock",
        "written": _now(),
        "versions": plan["versions"],
        "model": plan["model"],
        "asked": asked,
        "fit": [describe(stack) for stack in stacks],
        "predicted": outcome.summary["sar"],
        "gate": outcome.summary["gate"],
        "warnings": outcome.summary["warnings"],
        "files": hashes_of(folder),
    }
    return Commissioned(seal(folder, "lock", lock), folder, 0)


def hold_out(
    model: str | Path | Classifier,
    scans: str,
    out: str | Path,
    *,
    spec: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
) -> Commissioned:
    """Score held-out scans, compare them with the locked prediction in `out`, and write the baseline.

    Returns
    -------
    Commissioned : `.record` is baseline.json; exit code 0 pass, 1 fail, 3 inconclusive.

    Raises
    ------
    UsageError : no lock in `out`, a baseline already there, or held-out scans at the fit's dose.
    DataError : a lock or prediction that was changed; scans of another protocol or object; scans used for the fit.
    ModelError : another model than the prediction's.
    """
    folder = Path(out)
    lock = read_sealed(folder, "lock")
    if (folder / "baseline.json").exists():
        raise UsageError(f"{folder} holds a baseline already; commission into another --out")
    check_files(folder, lock["files"])
    _same_model(model, spec, lock["model"])
    stacks = cases.find_repeats(scans)
    check_fresh(stacks, lock["fit"], "held-out")
    unstated = check_match(stacks, lock["fit"], folder, "held-out")
    nearest = _predicted_doses(stacks, lock)
    shutil.rmtree(folder / "measured", ignore_errors=True)  # of a comparison that was stopped
    measured = replay.replay_scans(
        model,
        scans,
        clean=str(folder / "clean"),
        spec=spec,
        batch=lock["asked"]["batch"],
        confidence=lock["asked"]["confidence"],
        out=folder / "measured",
        command=command,
    )
    baseline = judge(lock, results.read(folder / "predicted" / "results.parquet"), measured.table, nearest)
    baseline |= {
        "schema": SCHEMA,
        "kind": "robustkit baseline",
        "written": _now(),
        "versions": rundir.versions(),
        "lock_sha256": hash_file(folder / "lock.json"),
        "lock": lock,
        "held_out": [describe(stack) for stack in stacks],
        "unstated": unstated,
        "files": hashes_of(folder),
    }
    sealed = seal(folder, "baseline", baseline)
    rebuild(folder)
    return Commissioned(sealed, folder, EXIT_CODES[sealed["verdict"]])


def judge(
    lock: Mapping[str, Any], predicted: pd.DataFrame, measured: pd.DataFrame, doses: Mapping[float, float]
) -> Record:
    """Compare locked and measured answers under the tolerances that the lock states.

    Parameters
    ----------
    lock : of `predict`. predicted, measured : results tables. doses : measured mAs -> the predicted level it is.

    Returns
    -------
    dict : rows (class and level: predicted, measured, allowed span, verdict), agreement (Z, exact, equivalence), gate,
        tolerances, verdict, sentence.

    Notes
    -----
    Pass: every entry of the confusion matrix for robustness is shown to lie within the margin (two one-sided tests).
    Fail: some measured SAR, with its whole interval, lies outside the predicted total interval widened by the margin. A
    significant Z alone is no failure: the mean of K scans is no noise-free image, and Z does not know that.
    """
    margin = lock["asked"]["margin"]
    measured = measured.assign(level=measured["level"].map(dict(doses)))
    found = agreement.compare(predicted, measured, margin=margin)
    shares = plain(metrics.sar(measured, confidence=lock["asked"]["confidence"]).to_dict("records"))
    by_cell = {(row["class"], row["level"]): row for row in lock["predicted"]}
    rows = [
        _row(by_cell[share["class"], share["level"]], share, found["entries"], margin)
        for share in shares
        if share["n"] and (share["class"], share["level"]) in by_cell
    ]
    gate = lock["gate"]
    verdict = _worst([row["verdict"] for row in rows] + ([gate["verdict"]] if gate else []))
    judged = {
        "rows": rows,
        "agreement": {name: found[name] for name in ("verdict", "sentence", "entries", "columns", "alpha")},
        "gate": gate,
        "tolerances": {"margin": margin, "same_dose": SAME_DOSE, "sigma": 0.05, "texture": 0.05},
        "verdict": verdict,
        "sentence": _sentence(verdict, rows, gate, margin),
    }
    contract: Record = plain(judged)
    return contract


def constancy(
    model: str | Path | Classifier,
    repeats: str,
    baseline: str | Path,
    *,
    spec: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Commissioned:
    """Check new scans at the fit's dose against a baseline: noise region by region, SAR level by level.

    Returns
    -------
    Commissioned : `.record` is constancy.json of a new folder below `baseline/constancy`; exit code 0 within, 1
        drifted, 3 cannot tell.

    Raises
    ------
    UsageError : `baseline` holds none, or the scans are at another dose. DataError : it was changed since; scans of
        another protocol or object, or seen before. ModelError : another model than the baseline's.
    """
    folder = Path(baseline)
    record = read_sealed(folder, "baseline")
    lock = record["lock"]
    check_files(folder, record["files"])
    _same_model(model, spec, lock["model"])
    stacks = cases.find_repeats(repeats)
    check_fresh(stacks, [*lock["fit"], *record["held_out"]], "new")
    unstated = check_match(stacks, lock["fit"], folder, "new")
    _check_fit_dose(stacks, lock["fit"])
    place = _next_folder(folder / "constancy")
    asked = lock["asked"]
    names = ("noise", "settings", "levels", "n", "seed", "confidence", "total", "batch")
    outcome = run.audit_model(
        model,
        repeats=repeats,
        **{name: asked[name] for name in names},
        spec=spec,
        out=place / "audit",
        command=command,
        progress=progress,
    )
    noise = _compare_noise(folder, stacks, lock["fit"])
    rows = _compare_sar(lock["predicted"], outcome.summary["sar"], asked["margin"])
    verdict = _worst_constancy([item["verdict"] for item in noise] + [row["verdict"] for row in rows])
    found: Record = plain(
        {
            "schema": SCHEMA,
            "kind": "robustkit constancy",
            "written": _now(),
            "baseline_sha256": hash_file(folder / "baseline.json"),
            "model": lock["model"],
            "scans": [describe(stack) for stack in stacks],
            "unstated": unstated,
            "margin": asked["margin"],
            "noise": noise,
            "rows": rows,
            "verdict": verdict,
            "sentence": _constancy_sentence(verdict, noise, rows),
        }
    )
    files.write_json(place / "constancy.json", found)
    rebuild(place)
    return Commissioned(found, place, CONSTANCY_CODES[verdict])


def rebuild(folder: str | Path) -> Path | None:
    """Write the page of a baseline or of a monthly check from the record in its folder; None where there is neither.

    Raises
    ------
    DataError : a baseline that was changed after it was sealed, or a record that cannot be read.
    """
    from robustkit.report.commissioning import write_baseline, write_constancy

    place = Path(folder)
    try:
        if (place / "baseline.json").exists():
            record = read_sealed(place, "baseline")
            return write_baseline(record, hash_of(place, "baseline"), place / "baseline.html")
        if (place / "constancy.json").exists():
            record = json.loads((place / "constancy.json").read_text(encoding="utf-8"))
            return write_constancy(record, place / "constancy.html")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"the record in {place} is damaged ({type(error).__name__}); check anew") from error
    return None


def _same_model(model: str | Path | Classifier, spec: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    found = refer(model, spec or {})
    asked = json.loads(json.dumps(dict(found.spec), default=str))
    if found.sha256 != wanted["sha256"] or asked != wanted["spec"]:
        raise ModelError(
            f"{found.name} is not the model that was commissioned ({wanted['name']}, SHA-256 {wanted['sha256'][:12]}, "
            "and its input spec); commission the new one into another --out"
        )


def _new_folder(out: str | Path) -> Path:
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name another --out, or go on there with --hold-out alone")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _next_folder(parent: Path) -> Path:
    day, number = datetime.now(UTC).date().isoformat(), 1
    while (parent / f"{day}-{number}").exists():
        number += 1
    place = parent / f"{day}-{number}"
    place.mkdir(parents=True)
    return place


def _levels(levels: Sequence[float] | None, stacks: Sequence[RepeatScans]) -> list[float]:
    fitted = sorted({dose_of(stack) for stack in stacks})
    asked = levels or [m for m in run.DEFAULT_MAS if not any(same_dose(m, f) for f in fitted)]
    own = [level for level in asked if any(same_dose(level, f) for f in fitted)]
    if own:
        raise UsageError(
            f"{own[0]:g} mAs is a dose of the fit; a prediction is tested at another dose: leave it out of --mas"
        )
    return run.check_levels(asked, 1, 0, 1)


def _keep_images_and_profiles(folder: Path, repeats: str, stacks: Sequence[RepeatScans]) -> None:
    """Write the clean images that answers refer to, and a profile of every slice at its fit dose."""
    from robustkit import noise
    from robustkit.scans import save_images

    for number, source in enumerate(cases.gather(None, repeats, [], None)):
        clean, _ = cases.clean_image(source)
        (folder / "clean").mkdir(exist_ok=True)
        save_images(folder / "clean" / f"{number + 1:03d}.npz", [replace(source.slice, pixels=clean)])
    for number, stack in enumerate(fit_stacks(stacks)):
        (folder / "profiles").mkdir(exist_ok=True)
        noise.save_profile(noise.estimate(stack), folder / "profiles" / f"{number + 1:03d}.npz")


def _predicted_doses(stacks: Sequence[RepeatScans], lock: Mapping[str, Any]) -> dict[float, float]:
    """Return measured mAs -> predicted level; UsageError for a dose of the fit, DataError for one not predicted."""
    fitted = {record["mas"] for record in lock["fit"]}
    found = {}
    for mas in sorted({dose_of(stack) for stack in stacks}):
        if any(same_dose(mas, dose) for dose in fitted):
            raise UsageError(
                f"the held-out scans are at {mas:g} mAs, which is a dose of the fit; a prediction is tested at another"
            )
        level = min(lock["asked"]["levels"], key=lambda known: abs(known - mas))
        if not same_dose(level, mas):
            told = ", ".join(f"{known:g}" for known in lock["asked"]["levels"])
            raise DataError(
                f"the held-out scans are at {mas:g} mAs, the prediction was locked at {told}; nothing was compared: "
                f"predict with --mas {mas:g} into another --out"
            )
        found[mas] = level
    return found


def _check_fit_dose(stacks: Sequence[RepeatScans], fit: Sequence[Record]) -> None:
    for stack, record in zip(fit_stacks(stacks), fit_records(fit), strict=True):
        if not same_dose(dose_of(stack), record["mas"]):
            fitted, here = record["mas"], dose_of(stack)
            raise UsageError(
                f"the new scans are at {here:g} mAs, the baseline was fitted at {fitted:g}; scan at that dose"
            )


def _row(predicted: Mapping[str, Any], share: Mapping[str, Any], entries: Sequence[Record], margin: float) -> Record:
    low, high = _span(predicted)
    allowed = [max(0.0, low - margin), min(1.0, high + margin)]
    column = [e for e in entries if (e["clean"], e["level"]) == (share["class"], share["level"])]
    shown = [bool(e["equivalence"] and e["equivalence"]["equivalent"]) for e in column]
    if share["low"] > allowed[1] or share["high"] < allowed[0]:
        verdict = "fail"
    else:
        verdict = "pass" if shown and all(shown) else "inconclusive"
    flips = [e for e in column if e["clean"] != e["noisy"]]
    tested = max(flips, key=lambda e: abs(e["difference"] or 0.0), default={})
    return {
        "class": share["class"],
        "level": share["level"],
        "predicted": {name: predicted[name] for name in ("k", "n", "rate")} | {"low": low, "high": high},
        "measured": {name: share[name] for name in ("k", "n", "rate", "low", "high")},
        "allowed": allowed,
        "z": tested.get("z"),
        "p": tested.get("p"),
        "equivalence_p": max((e["equivalence"]["p"] for e in column if e["equivalence"]), default=None),
        "verdict": verdict,
    }


def _span(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the total interval of a SAR record where it has one, else the binomial one."""
    return row.get("total_low", row["low"]), row.get("total_high", row["high"])


def _worst(verdicts: Sequence[str]) -> str:
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if "inconclusive" in verdicts or not verdicts else "pass"


def _sentence(verdict: str, rows: Sequence[Record], gate: Mapping[str, Any] | None, margin: float) -> str:
    if not rows:
        return "Nothing could be compared: no class of the prediction was seen in the held-out scans."
    within = agreement.percent(margin)
    if gate and gate["verdict"] == "fail":
        return f"Fail: the predicted SAR is above the limit of {gate['max_sar']:.3g}, whatever the agreement."
    if verdict == "pass":
        return f"Pass: at every dose compared, simulated and measured answers are shown to agree within {within}."
    worst = next((row for row in rows if row["verdict"] == verdict), None)
    if worst is None:
        return "Inconclusive: agreement is shown, but the limit on SAR is not decided at this n; raise -n."
    told = (
        f"class {worst['class']} at {worst['level']:g} mAs: predicted {_percent(worst['predicted'])}, "
        f"measured {_percent(worst['measured'])}"
    )
    if verdict == "fail":
        return f"Fail: {told}, further apart than {within} and both uncertainties explain."
    return f"Inconclusive: {told}; agreement within {within} is neither shown nor refuted. Hold out more scans."


def _percent(share: Mapping[str, Any]) -> str:
    return f"{share['k']}/{share['n']} ({100 * share['low']:.1f} to {100 * share['high']:.1f} %)"


def _compare_noise(folder: Path, stacks: Sequence[RepeatScans], fit: Sequence[Record]) -> list[Record]:
    from robustkit import noise

    found = []
    records = fit_records(fit)
    fitted = fit_stacks(stacks)
    for number, (stack, record) in enumerate(zip(fitted, matched([[s] for s in fitted], records), strict=True), 1):
        old = noise.load_profile(folder / "profiles" / f"{records.index(record) + 1:03d}.npz")
        changed = noise.compare_profiles(old, _at_dose(noise.estimate(stack), record["mas"])).as_dict()
        found.append({"slice": number, **changed, "verdict": _CONSTANCY_OF[changed["verdict"]]})
    return found


def _at_dose(profile: Profile, mas: float) -> Profile:
    """Return a profile measured at nearly `mas` as the square-root law has it at exactly `mas`."""
    share = np.float32((profile.mas or mas) / mas)
    return replace(profile, mas=mas, sigma=profile.sigma * np.sqrt(share), spectra=profile.spectra * share)


def _compare_sar(old: Sequence[Record], new: Sequence[Record], margin: float) -> list[Record]:
    by_cell = {(row["class"], row["level"]): row for row in new}
    return [_sar_change(row, by_cell[row["class"], row["level"]], margin) for row in old if row["n"]]


def _sar_change(old: Record, new: Record, margin: float) -> Record:
    low, high = _span(old)
    allowed = [max(0.0, low - margin), min(1.0, high + margin)]
    row = {"class": old["class"], "level": old["level"], "baseline": {"k": old["k"], "n": old["n"]}, "allowed": allowed}
    if not new["n"]:
        return row | {"new": None, "verdict": "drifted", "reason": "the answer without noise is another"}
    ends = _span(new)
    inside = allowed[0] <= ends[0] and ends[1] <= allowed[1]
    apart = ends[1] < allowed[0] or ends[0] > allowed[1]
    share = {"k": new["k"], "n": new["n"], "low": ends[0], "high": ends[1]}
    return row | {"new": share, "verdict": "within" if inside else "drifted" if apart else "cannot tell", "reason": ""}


def _worst_constancy(verdicts: Sequence[str]) -> str:
    for verdict in ("drifted", "cannot tell"):
        if verdict in verdicts:
            return verdict
    return "within"


def _constancy_sentence(verdict: str, noise: Sequence[Record], rows: Sequence[Record]) -> str:
    about_noise = next((f"noise of slice {i['slice']}: {i['reason']}" for i in noise if i["verdict"] == verdict), "")
    about_sar = next((_told_change(row) for row in rows if row["verdict"] == verdict), "")
    told = "; ".join(text for text in (about_noise, about_sar) if text)
    head = {"within": "Within", "drifted": "Drifted", "cannot tell": "Cannot tell"}[verdict]
    if verdict == "within":
        return f"{head}: noise and SAR are those of the baseline ({told})."
    return f"{head}: {told}."


def _told_change(row: Mapping[str, Any]) -> str:
    where = f"SAR of class {row['class']} at {row['level']:g} mAs"
    if row["new"] is None:
        return f"{where}: {row['reason']}"
    low, high = (100 * end for end in row["allowed"])
    return f"{where} is {_percent(row['new'])}, the baseline allows {low:.1f} to {high:.1f} %"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
