"""Model format: logistic regression on pixels, a .npz with `weights` (C, H, W) per HU, `bias` (C,), `classes` (C,)."""

import zipfile
from typing import NamedTuple

import numpy as np

import robustkit


class Linear(NamedTuple):
    weights: np.ndarray
    bias: np.ndarray
    classes: tuple

    def predict(self, batch, pixel_mm):
        if batch.shape[1:] != self.weights.shape[1:]:
            raise robustkit.ModelError(f"made for {self.weights.shape[1:]} pixels, got {batch.shape[1:]}")
        logits = np.einsum("bhw,chw->bc", batch, self.weights) + self.bias
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (power / power.sum(axis=1, keepdims=True)).astype(np.float32)


@robustkit.hookimpl
def robustkit_load_model(path, spec):
    if not zipfile.is_zipfile(path):
        return None  # not ours: the next reader is asked
    with np.load(path, allow_pickle=False) as file:
        if not {"weights", "bias", "classes"} <= set(file.files):
            return None
        if spec:
            raise robustkit.UsageError(f"a linear model takes HU as they are; drop --{', --'.join(spec)}")
        return Linear(file["weights"], file["bias"], tuple(str(name) for name in file["classes"]))
