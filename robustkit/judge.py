"""One model judged: on labelled slices it never saw, and on stacks of noisy images. What it finds is counts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit import audit
from robustkit.bank import Stack
from robustkit.plain import Record
from robustkit.recipes import group_of
from robustkit.stats import accuracy
from robustkit.types import Classifier, Image, PixelSize, Slice

if TYPE_CHECKING:
    import pandas as pd

BATCH = 16
"""Images a call: small networks are fastest on few."""
ZONES = ("clear", "transition")


def answers(model: Classifier, items: Sequence[Slice], batch: int = BATCH) -> NDArray[np.int64]:
    """Return the index of the class (N,) that the model gives each slice."""
    found = np.empty(len(items), dtype=np.int64)
    for where, pixels, mm in _batches(items, batch):
        found[where] = audit.score(model, pixels, mm, batch).argmax(axis=1)
    return found


def _batches(items: Sequence[Slice], batch: int) -> Iterator[tuple[list[int], Image, PixelSize]]:
    alike: dict[Any, list[int]] = {}
    for i, item in enumerate(items):
        alike.setdefault((item.pixels.shape, item.pixel_mm), []).append(i)
    for (_, mm), where in alike.items():
        for start in range(0, len(where), batch):
            part = where[start : start + batch]
            yield part, np.stack([items[i].pixels for i in part]), mm


def confusions(
    model: Classifier, items: Sequence[Slice], transition: Callable[[Slice], bool] | None = None
) -> dict[str, dict[str, list[list[int]]]]:
    """Return {"clear": {group: counts (C, C)}, "transition": {...}}, [true class][class found], of labelled slices."""
    classes = list(model.classes)
    found = answers(model, items)
    told: dict[str, dict[str, NDArray[np.int64]]] = {zone: {} for zone in ZONES}
    for item, got in zip(items, found, strict=True):
        zone = ZONES[transition is not None and transition(item)]
        counts = told[zone].setdefault(group_of(item), np.zeros((len(classes), len(classes)), np.int64))
        counts[classes.index(str(item.label)), got] += 1
    return {zone: {name: counts.tolist() for name, counts in groups.items()} for zone, groups in told.items()}


def total(counted: Mapping[str, Mapping[str, Any]], *, transition: bool) -> NDArray[np.int64]:
    """Return the confusion matrix (C, C) over all groups, with the slices of the transition zones or without."""
    zones = ZONES if transition else ZONES[:1]
    each = np.array([counts for zone in zones for counts in counted[zone].values()], dtype=np.int64)
    return np.asarray(each.sum(axis=0))


def mean_f1(record: Mapping[str, Any], split: str = "test", *, transition: bool = False) -> float:
    """Return the mean F1 that a record holds for a split, without transition zones unless asked; NaN where unknown."""
    counted = (record.get("confusion") or {}).get(split)
    if not counted or not any(counted.values()):
        return float("nan")
    return accuracy(total(counted, transition=transition)).mean_f1


def score_stack(model: Classifier, stack: Stack, batch: int = BATCH) -> Record:
    """Return what a model answers to one stack, as counts.

    slice, label, noise, unit; clean: its class without noise; floor: of the null audit; cells: [level, noisy class,
    tied, count] for every answer that occurs.
    """
    mm = stack.slice.pixel_mm
    clean = stack.clean()
    index = int(audit.predict_clean(model, stack.slice, clean, batch).argmax())
    null = audit.null_audit(model, stack.slice, clean, batch)
    floor = audit.tie_limit(null)
    shape = (len(stack.levels), len(model.classes), 2)
    counts = np.zeros(shape, np.int64)
    for _, images in stack.parts():
        flat = np.asarray(images, dtype=np.float32).reshape(-1, *clean.shape)
        noisy, margin = audit.decide(audit.score(model, flat, mm, batch))
        level = np.tile(np.arange(len(stack.levels)), len(images))
        tied = (noisy != index) & (margin <= floor)
        np.add.at(counts, (level, noisy, tied.astype(np.int64)), 1)
    cells = [
        [stack.levels[i], model.classes[j], bool(t), int(counts[i, j, t])] for i, j, t in np.argwhere(counts).tolist()
    ]
    return {
        "slice": stack.slice.id,
        "label": stack.slice.label or "",
        "group": stack.slice.group or "",
        "noise": stack.noise,
        "unit": stack.unit,
        "clean": model.classes[index],
        "null": null,
        "cells": cells,
    }


def judge(
    model: Classifier,
    data: Mapping[str, Sequence[Slice]],
    stacks: Sequence[Stack],
    transition: Callable[[Slice], bool] | None = None,
) -> Record:
    """Return the record of one model: classes, `confusion` of each split in `data`, and its answers to each stack."""
    return {
        "classes": list(model.classes),
        "confusion": {name: confusions(model, items, transition) for name, items in data.items()},
        "stacks": [score_stack(model, stack) for stack in stacks],
    }


def table(records: Mapping[str, Mapping[str, Any]], run: str) -> pd.DataFrame:
    """Return the results table of many models' records, {model name: record}, one row per counted answer."""
    import pandas as pd

    from robustkit.results import COLUMNS, conform

    rows = [
        {
            "run": run,
            "model": name,
            "noise": stack["noise"],
            "slice": stack["slice"],
            "group": stack["group"],
            "label": stack["label"],
            "unit": stack["unit"],
            "level": level,
            "realization": -1,
            "clean": stack["clean"],
            "noisy": noisy,
            "margin": float("nan"),
            "tied": tied,
            "count": count,
        }
        for name, record in records.items()
        for stack in record["stacks"]
        for level, noisy, tied, count in stack["cells"]
    ]
    return conform(pd.DataFrame(rows, columns=list(COLUMNS)))
