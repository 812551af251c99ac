"""Images whose answer changed, made again from their rows: for the report, for a viewer, for verification."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit import audit, cases, files
from robustkit.models import ModelRef
from robustkit.seeding import draws
from robustkit.types import Image, Slice

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 6
"""Flips at most that a report shows."""
DROPPED = {
    "--mas": 1, "--levels": 1, "-n": 1, "--realizations": 1, "--seed": 1, "--out": 1, "--keep-noisy": 1, "--jobs": 1,
    "--dask": 1, "--max-sar": 1, "--at": 1, "--class": 1, "--until-decided": 0, "--total": 0, "--resume": 0,
    "--gallery": 0, "--quiet": 0, "-q": 0, "--json": 0, "--simultaneous": 0,
}  # fmt: skip
"""Options of an audit that do not decide what an image looks like or is called, and how many words follow each."""


def write_gallery(
    folder: Path,
    plan: Mapping[str, Any],
    sources: Sequence[cases.Source],
    choice: cases.NoiseChoice,
    model: ModelRef,
    flips: pd.DataFrame,
    *,
    patients: bool = False,
    command: Sequence[str] = (),
) -> None:
    """Write gallery.json and gallery.npz: of each slice the flip at its highest level, then the next, `SHOWN` in all.

    Images that show a patient are left out unless `patients`. `command` is the run's own: with other levels it makes
    each flip again.
    """
    shown = [source for source in sources if patients or source.slice.synthetic]
    chosen = _quietest_first(flips).drop_duplicates(["slice", "level"])
    chosen = chosen.iloc[chosen.groupby("slice", observed=True).cumcount().argsort(kind="stable")]
    records: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for record, case, noisy in _made_again(plan, shown, choice, model, chosen, SHOWN, command):
        arrays[f"clean_{len(records)}"] = case.clean.astype(np.float16)
        arrays[f"noisy_{len(records)}"] = noisy.astype(np.float16)
        records.append(record)
    files.write_json(folder / "gallery.json", records)
    files.write_npz(folder / "gallery.npz", arrays, compressed=True)


def keep_noisy(
    folder: Path,
    plan: Mapping[str, Any],
    sources: Sequence[cases.Source],
    choice: cases.NoiseChoice,
    model: ModelRef,
    flips: pd.DataFrame,
    most: int,
) -> int:
    """Write up to `most` images whose answer changed as derived DICOM into `folder`; return how many.

    For a radiologist to look at: no identity, deterministic UIDs, the derivation described in each file.
    """
    from robustkit.scans import write_noisy

    count = 0
    for record, case, noisy in _made_again(plan, sources, choice, model, _quietest_first(flips), most):
        name = f"{record['slice']}-{record['level']:g}-{record['realization']}.dcm"
        named = {key: record[key] for key in ("level", "unit", "realization")}
        write_noisy(folder / name, case.slice, noisy, noise=plan["noise"], seed=plan["seed"], **named)
        count += 1
    return count


def recreate(
    plan: Mapping[str, Any], case: audit.Case, model: ModelRef, row: Mapping[str, Any], command: Sequence[str] = ()
) -> tuple[dict[str, Any], Image]:
    """Rebuild the image of one row: (record with probabilities and `answer`, noisy image (H, W) HU)."""
    classifier = model.load()
    draw = draws(plan["seed"], "audit", row["slice"], [row["realization"]])
    noisy = audit.perturb(case, [row["level"]], draw)[0, 0]
    before, after = (audit.predict_clean(classifier, case.slice, image, plan["batch"]) for image in (case.clean, noisy))
    record = {
        **{name: row[name] for name in ("slice", "label", "clean", "noisy", "level", "unit", "realization")},
        "answer": classifier.classes[int(after.argmax())],
        "probabilities_clean": {c: float(p) for c, p in zip(classifier.classes, before, strict=True)},
        "probabilities_noisy": {c: float(p) for c, p in zip(classifier.classes, after, strict=True)},
        "command": _command(plan, case.slice, row, command),
    }
    return record, noisy


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts with text keys."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _made_again(
    plan: Mapping[str, Any],
    sources: Sequence[cases.Source],
    choice: cases.NoiseChoice,
    model: ModelRef,
    flips: pd.DataFrame,
    most: int,
    command: Sequence[str] = (),
) -> Iterator[tuple[dict[str, Any], audit.Case, Image]]:
    """Rebuild the first `most` rows that belong to `sources`, slice by slice: a slice's noise is fitted once."""
    known = {source.slice.id: source for source in sources}
    chosen = flips[flips["slice"].isin(list(known))].head(most)
    for name in dict.fromkeys(chosen["slice"]):
        case = cases.prepare(known[name], choice)
        for row in rows_of(chosen[chosen["slice"] == name]):
            record, noisy = recreate(plan, case, model, row, command)
            yield record, case, noisy


def _quietest_first(flips: pd.DataFrame) -> pd.DataFrame:
    return flips.sort_values(["level", "realization"], ascending=[False, True])


def _command(plan: Mapping[str, Any], item: Slice, row: Mapping[str, Any], command: Sequence[str]) -> str:
    """Return the command that makes this flip again: an audit at its level, of realizations up to its own."""
    again = ["--mas" if row["unit"] == "mAs" else "--levels", f"{row['level']:g}", "--seed", f"{plan['seed']}"]
    again += ["-n", f"{row['realization'] + 1}", "--keep-noisy", f"{row['realization'] + 1}"]
    if command[1:2] == ["audit"]:
        return shlex.join([*_without(command), *again])
    images = [] if item.synthetic else ["--images", "IMAGES"]
    settings = [word for key, value in plan["settings"].items() for word in ("--set", f"{key}={value}")]
    return shlex.join(
        ["robustkit", "audit", plan["model"]["name"], *images, "--noise", plan["noise"], *settings, *again]
    )


def _without(command: Sequence[str]) -> list[str]:
    """Return a command without the options that `DROPPED` names, and without their values."""
    kept: list[str] = []
    skip = 0
    for word in command:
        name, separator, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in DROPPED:
            skip = 0 if separator else DROPPED[name]
        else:
            kept.append(word)
    return kept
