"""Adversarial Robustness Toolbox (ART): noise as an evasion attack, and estimators as classifiers to audit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

with warnings.catch_warnings():  # ART names every framework that it does not find
    warnings.simplefilter("ignore")
    from art.attacks import EvasionAttack

from numpy.typing import NDArray

from robustkit.adapters.spec import FileFacts, layout_of
from robustkit.errors import DataError, UsageError
from robustkit.interop.noise import Perturbation, channel_axis_of
from robustkit.interop.predict import PredictClassifier, from_predict


class NoiseAttack(EvasionAttack):  # type: ignore[misc]
    """Noise of one dose as an attack: it needs no gradients, and of the estimator only its answers.

    Parameters
    ----------
    estimator : may be None when `tries` is 1. mas : the dose; further settings are those of `Perturbation`.
    tries : realizations to try on each image; the first that changes the estimator's answer is returned, else the
        last. One try gives the noise itself, and its share of changed answers is the SAR.
    """

    attack_params = [*EvasionAttack.attack_params, "mas", "tries"]  # noqa: RUF012 (ART's own form)
    _estimator_requirements = ()

    def __init__(self, estimator: Any = None, mas: float = 25.0, tries: int = 1, **settings: Any) -> None:
        super().__init__(estimator=estimator)
        if tries < 1 or (tries > 1 and estimator is None):
            raise UsageError(f"an attack of {tries} tries needs an estimator to tell whether its answer changed")
        self.mas, self.tries, self.settings = mas, tries, settings

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[Any]:
        """Return images (N, H, W), (N, C, H, W) or (N, H, W, C) with noise, same shape and dtype; `y` is not used."""
        axis = None if x.ndim == 3 else channel_axis_of(x.shape[1:])
        if x.ndim not in (3, 4):
            raise DataError(f"images are (N, H, W) or have channels, got an array of shape {x.shape}")
        first = int(self.settings.get("realization", 0))
        found = self._noisy(x, axis, first)
        if self.tries == 1:
            return found
        clean = np.argmax(self.estimator.predict(x), axis=1)
        same = np.flatnonzero(np.argmax(self.estimator.predict(found), axis=1) == clean)
        for realization in range(first + 1, first + self.tries):
            if not len(same):
                break
            found[same] = self._noisy(x[same], axis, realization)
            same = same[np.argmax(self.estimator.predict(found[same]), axis=1) == clean[same]]
        return found

    def _noisy(self, x: NDArray[Any], axis: int | None, realization: int) -> NDArray[Any]:
        noise = Perturbation(self.mas, **{**self.settings, "realization": realization})
        return np.stack([noise(image, channel_axis=axis) for image in x])


def from_estimator(estimator: Any, spec: Mapping[str, Any]) -> PredictClassifier:
    """Return an ART estimator, or anything with `predict_proba(x)` or `predict(x)`, as a classifier to audit.

    Parameters
    ----------
    estimator : returns scores (N, C). One of flat input (scikit-learn's) is given flat images.
    spec : the input spec's flags by name. What the estimator says (`input_shape`, `clip_values`) need not be said.
    """
    shape = getattr(estimator, "input_shape", None) or ()
    dims = tuple(int(side) for side in shape) if len(shape) == 3 else (None, None, None)
    told = dict(spec)
    clip = getattr(estimator, "clip_values", None)
    if clip is not None and told.get("range") is None and told.get("window") not in (None, "none"):
        told["range"] = (float(np.min(clip[0])), float(np.max(clip[1])))
    if getattr(estimator, "channels_first", None) is not None and len(shape) == 3 and layout_of(dims) is None:
        told.setdefault("layout", "nchw" if estimator.channels_first else "nhwc")
    facts = FileFacts((dims[0], dims[1], dims[2]))
    return from_predict(_Scores(estimator), told, name=type(estimator).__name__, facts=facts)


class _Scores:
    """An estimator as a function of arrays."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __call__(self, inputs: NDArray[Any]) -> NDArray[Any]:
        flat = hasattr(self.estimator, "n_features_in_") or len(getattr(self.estimator, "input_shape", None) or ()) == 1
        predict = getattr(self.estimator, "predict_proba", None) or self.estimator.predict
        return np.asarray(predict(inputs.reshape(len(inputs), -1) if flat else inputs))
