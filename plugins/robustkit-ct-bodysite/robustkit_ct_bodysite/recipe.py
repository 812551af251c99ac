"""The recipes, which differ in what is scanned for training.

`ct-bodysite` is as close to the paper as a virtual cohort comes; `ct-bodysite-stress` leaves the phantom out, on which
models are audited; `ct-bodysite-clinic` trains on targeted reconstructions too: the shipped model comes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from robustkit import Slice
from robustkit_ct_bodysite.cohort import CLINIC, PAPER, STRESS, Cohort, Split
from robustkit_ct_bodysite.data import Images, scanned
from robustkit_ct_bodysite.network import Settings, SiteNet, untrained
from robustkit_ct_bodysite.phantom import central_slices


@dataclass(frozen=True)
class SiteRecipe:
    """How a body-site model is made: network and training settings, the cohort, and which fold of ten validates."""

    name: str
    settings: Settings
    cohort: Cohort
    fold: int = 0

    def build(self, seed: int) -> SiteNet:
        """Return an untrained network whose weights depend on `seed` alone."""
        return untrained(self.settings, seed)

    def data(self) -> Mapping[str, Sequence[Slice]]:
        """Return the labelled splits "train", "validation" and "test"; no body is in two of them."""
        return {split: slices(self.cohort, split, self.fold) for split in ("train", "validation", "test")}

    def cases(self) -> Sequence[Slice]:
        """Return the fixed phantom's four central slices."""
        return central_slices()

    def images(self, split: Split, progress: Callable[[int, int], None] | None = None) -> Images:
        """Return one split as scanned images with their shots, from the cache or scanned now."""
        return scanned(self.cohort.shots(split, self.fold), progress)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        SiteRecipe("ct-bodysite", Settings(), PAPER),
        SiteRecipe("ct-bodysite-stress", Settings(), STRESS),
        SiteRecipe("ct-bodysite-clinic", Settings(), CLINIC),
    )
}


@lru_cache(maxsize=6)
def slices(cohort: Cohort, split: Split, fold: int) -> tuple[Slice, ...]:
    """Return one split of a cohort as labelled slices (kept in memory once made)."""
    return tuple(scanned(cohort.shots(split, fold)).slices())
