"""Images whose answer changed, made again from their rows: for the report, for a viewer, for verification."""

from __future__ import annotations

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
"""Flips at most that a report shows: one a slice."""


def write_gallery(
    folder: Path,
    plan: Mapping[str, Any],
    sources: Sequence[cases.Source],
    choice: cases.NoiseChoice,
    model: ModelRef,
    flips: pd.DataFrame,
    *,
    patients: bool = False,
) -> None:
    """Write gallery.json and gallery.npz: of each slice the flip at its highest level, in `SHOWN` slices at most.

    Images that show a patient are left out unless `patients`.
    """
    shown = [source for source in sources if patients or source.slice.synthetic]
    chosen = _quietest_first(flips).drop_duplicates("slice")
    records: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for record, case, noisy in _made_again(plan, shown, choice, model, chosen, SHOWN):
        arrays[f"clean_{len(records)}"] = case.clean.astype(np.float16)
        arrays[f"noisy_{len(records)}"] = noisy.astype(np.float16)
        records.append(record)
    files.write_json(folder / "gallery.json", records)
    with files.atomic_path(folder / "gallery.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


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
    plan: Mapping[str, Any], case: audit.Case, model: ModelRef, row: Mapping[str, Any]
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
        "command": _command(plan, case.slice, row),
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
) -> Iterator[tuple[dict[str, Any], audit.Case, Image]]:
    """Rebuild the first `most` rows that belong to `sources`, slice by slice: a slice's noise is fitted once."""
    known = {source.slice.id: source for source in sources}
    chosen = flips[flips["slice"].isin(list(known))].head(most)
    for name in dict.fromkeys(chosen["slice"]):
        case = cases.prepare(known[name], choice)
        for row in rows_of(chosen[chosen["slice"] == name]):
            record, noisy = recreate(plan, case, model, row)
            yield record, case, noisy


def _quietest_first(flips: pd.DataFrame) -> pd.DataFrame:
    return flips.sort_values(["level", "realization"], ascending=[False, True])


def _command(plan: Mapping[str, Any], item: Slice, row: Mapping[str, Any]) -> str:
    """Return the command that makes this flip again: an audit of its slice, level and realizations up to its own."""
    images = "" if item.synthetic else " --images IMAGES"
    settings = "".join(f" --set {key}={value}" for key, value in plan["settings"].items())
    return (
        f"robustkit audit {plan['model']['name']}{images} --noise {plan['noise']}{settings} --mas {row['level']:g} "
        f"--seed {plan['seed']} -n {row['realization'] + 1} --keep-noisy {row['realization'] + 1}"
    )
