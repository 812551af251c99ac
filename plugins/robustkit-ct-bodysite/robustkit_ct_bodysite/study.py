"""The recipes as studies take them: in torch or Keras, thinned to the pixels the network reads, kept and exported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import Classifier, DataError, MissingExtraError, Slice, UsageError
from robustkit_ct_bodysite import data
from robustkit_ct_bodysite.cohort import TRANSITION_MM, Cohort, Split
from robustkit_ct_bodysite.network import KEPT, Settings, SiteNet, picked, training_device
from robustkit_ct_bodysite.patient import SITES, fixed_phantom, virtual_patient
from robustkit_ct_bodysite.phantom import central_slices, phantom_slice
from robustkit_ct_bodysite.recipe import SiteRecipe, slices

FINE_TUNING: Mapping[str, Any] = {"epochs": 4, "rate": 3e-4}
"""A round of hardening: short, and gentler than the training that made the model."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT_SHARE = 0.125
"""Slices never attacked lie this share of a site's length below its middle."""


@dataclass(frozen=True)
class Study:
    """A recipe with all that `train`, `variability`, `harden` and `reproduce` can use of it."""

    recipe: SiteRecipe
    backend: str = "torch"

    @property
    def name(self) -> str:
        """Return the recipe's name."""
        return self.recipe.name

    def build(self, seed: int) -> Any:
        """Return an untrained network whose weights depend on `seed` alone, the same in both frameworks."""
        network = self.recipe.build(seed)
        if self.backend == "torch":
            return network
        from robustkit_ct_bodysite.keras_network import KerasNet

        return KerasNet(network.settings, network.weights)

    def data(self) -> Mapping[str, Sequence[Slice]]:
        """Return the labelled splits; no body is in two of them."""
        return self.recipe.data()

    def cases(self) -> Sequence[Slice]:
        """Return the fixed phantom's four central slices, fixed before any model was trained."""
        return self.recipe.cases()

    def guard(self) -> Sequence[Slice]:
        """Return slices of patients besides those that test, by whom hardening sees whether accuracy suffers."""
        return slices(self.recipe.cohort, "guard", self.recipe.fold)

    def with_backend(self, name: str) -> Study:
        """Return the same recipe in torch or Keras."""
        if name not in ("torch", "keras"):
            raise UsageError(f"recipe {self.name!r} comes in torch and keras, not in {name!r}")
        return replace(self, backend=name)

    def signature(self) -> str:
        """Return what decides the models besides the seed: network, device, cohort, the code that paints it."""
        where = training_device() if self.backend == "torch" else "cpu"
        return f"{self.backend} {where} {self.recipe!r} {data.painters()}"

    def every(self, item: Slice, *, training: bool = False) -> int:
        """Return which pixels of a slice the network reads: every one of 512 over 500 mm is 8 for 64 pixels."""
        size = KEPT if training else self.recipe.settings.size
        steps = {
            _step(picked(count, mm, size), count) for count, mm in zip(item.pixels.shape, item.pixel_mm, strict=True)
        }
        return steps.pop() if len(steps) == 1 else 1

    def in_transition(self, item: Slice) -> bool:
        """Say whether a slice of the cohort lies within 15 mm of a boundary between two sites."""
        cohort, fold = self.recipe.cohort, self.recipe.fold
        parts: tuple[Split, ...] = ("guard",) if str(item.group) in _guards(cohort) else SPLITS
        return _distances(cohort, fold, parts).get(item.id, np.inf) < TRANSITION_MM

    def make_share(self, number: int, of: int) -> None:
        """Scan one share of the cohort's bodies into the cache, so that several workers may share the work."""
        shots = [shot for split in SPLITS for shot in self.recipe.cohort.shots(split, self.recipe.fold)]
        bodies = list(dict.fromkeys((shot.scan.patient, shot.scan.number) for shot in shots))
        mine = set(bodies[number::of])
        data.scanned([shot for shot in shots if (shot.scan.patient, shot.scan.number) in mine])

    def fine_tuning(self) -> Mapping[str, Any]:
        """Return how a round of hardening trains."""
        return FINE_TUNING

    def attacked(self) -> Sequence[Slice]:
        """Return the slices that hardening attacks: the central ones."""
        return central_slices()

    def held_out(self) -> Sequence[Slice]:
        """Return the slices that hardening never attacks: one a site, an eighth of its length below its middle."""
        p = fixed_phantom()
        lengths = {site: p.span(site)[1] - p.span(site)[0] for site in SITES}
        return tuple(phantom_slice(site, round(HELD_OUT_SHARE * lengths[site], 1)) for site in SITES)

    def scorer(self, model: Any) -> Classifier:
        """Return the model by onnxruntime, four times as fast; itself where the package to write it is missing."""
        try:
            return _as_onnx(model)
        except MissingExtraError:
            found: Classifier = model
            return found

    def save(self, model: Any, path: Path) -> None:
        """Write settings and weights."""
        settings = np.array(json.dumps(asdict(model.settings)))
        with Path(path).open("wb") as stream:
            np.savez(stream, settings=settings, history=np.array(model.history), **model.weights)

    def load(self, path: Path) -> Any:
        """Read what `save` wrote."""
        try:
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                told = json.loads(str(archive["settings"]))
                history = tuple(float(value) for value in archive["history"])
                weights = {name: archive[name] for name in Settings().shapes()}
            read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in told.items()}
            settings = Settings(**read)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{Path(path).name} holds no body-site network ({type(error).__name__}); train it again"
            ) from error
        if self.backend == "torch":
            return SiteNet(settings, weights, history)
        from robustkit_ct_bodysite.keras_network import KerasNet

        return KerasNet(settings, weights, history)

    def export(self, model: Any, folder: Path, stem: str) -> Sequence[Path]:
        """Write the same weights as ONNX, Torch state dict and, where Keras is installed, a Keras file."""
        from robustkit_ct_bodysite.export import save

        plain = SiteNet(model.settings, model.weights, model.history)
        path = Path(folder) / f"{stem}.onnx"
        save(plain, path)
        written = [path, path.with_suffix(".pt")]
        try:
            from robustkit_ct_bodysite.keras_network import save_keras

            written.append(save_keras(plain, path.with_suffix(".keras")))
        except MissingExtraError:
            pass
        return written


def _step(at: np.ndarray[Any, Any], count: int) -> int:
    """Return the step of a regular choice of pixels [step // 2 :: step]; 1 where it is none."""
    if len(at) < 2 or at.min() < 0:
        return 1
    step = int(at[1] - at[0])
    regular = step >= 1 and np.array_equal(at, np.arange(step // 2, count, step))
    return step if regular else 1


@lru_cache(maxsize=4)
def _guards(cohort: Cohort) -> frozenset[str]:
    return frozenset(virtual_patient(number).name for number in cohort.guard)


@lru_cache(maxsize=8)
def _distances(cohort: Cohort, fold: int, parts: tuple[Split, ...]) -> dict[str, float]:
    """Return slice id -> distance in mm from the nearest boundary, of every slice of some splits."""
    found: dict[str, float] = {}
    for split in parts:
        shots = cohort.shots(split, fold)
        images = slices(cohort, split, fold)
        found |= {item.id: shot.from_boundary_mm for item, shot in zip(images, shots, strict=True)}
    return found


def _as_onnx(model: Any) -> Classifier:
    import tempfile

    from robustkit.adapters import load_model
    from robustkit_ct_bodysite.export import input_spec, to_onnx

    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("scoring by onnxruntime", "onnx") from error
    plain = SiteNet(model.settings, model.weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scorer.onnx"
        onnx.save(to_onnx(plain), str(path))
        path.with_suffix(".robustkit.toml").write_text(input_spec(plain), encoding="utf-8")
        loaded = load_model(path, {})
    if loaded is None:  # pragma: no cover
        raise RuntimeError("the exported network was not recognised as ONNX")
    return loaded
