"""Any function of a batch of images as a classifier: what lets the models of other toolkits be audited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustkit.adapters.classifier import answer, first_line, settle_answer
from robustkit.adapters.spec import FileFacts, InputSpec, read_flags, settle
from robustkit.errors import ModelError, RobustkitError
from robustkit.types import Image, PixelSize

Predict = Callable[[NDArray[Any]], Any]
"""Prepared input (B, channels, h, w) or (B, h, w, channels) -> scores (B, C)."""


@dataclass(frozen=True, eq=False)
class PredictClassifier:
    """A function as a classifier.

    Attributes
    ----------
    function : takes the prepared input, returns scores (B, C). spec : the settled input spec. name : for messages.
    source : what is known of it; it has no file, so it has no hash.
    """

    function: Predict
    spec: InputSpec
    name: str
    source: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.spec.classes

    def predict(self, batch: Image, pixel_mm: PixelSize) -> NDArray[np.float32]:
        """Return probabilities (B, C) of images (B, H, W) in HU; ModelError for an output that is not finite."""
        return answer(self.forward, batch, pixel_mm, self.spec, self.name)

    def forward(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the raw scores (B, C) of prepared input; ModelError in one line for whatever the function raises."""
        try:
            return np.asarray(self.function(inputs))
        except RobustkitError:
            raise
        except Exception as error:  # a stranger's function may raise anything
            raise ModelError(f"{self.name} failed on input of shape {inputs.shape}: {first_line(error)}") from None


def from_predict(
    function: Predict,
    spec: Mapping[str, Any],
    *,
    name: str = "predict function",
    facts: FileFacts | None = None,
    classes: tuple[str, ...] | None = None,
) -> PredictClassifier:
    """Return a function as a classifier that robustkit audits.

    Parameters
    ----------
    function : takes the prepared input (B, ...), returns scores (B, C): logits or probabilities.
    spec : the input spec's flags by name (window, range, size, layout, channels, classes, kind, ...).
    name : for messages. facts : what is known of its input. classes : names where `spec` gives none.

    Raises
    ------
    UsageError
        What is missing in the spec, the HU window first. ModelError for a function that is no classifier of images.
    """
    told = read_flags(spec)
    if classes is not None:
        told.setdefault("classes", classes)
    preliminary = settle(told, facts or FileFacts(), name)
    model = PredictClassifier(function, preliminary, name, {"format": "function", "unsafe": False})
    return replace(model, spec=settle_answer(model.forward, preliminary, told, name))
