"""CT noise of a random dose as a transform of a training pipeline: a callable from dictionary to dictionary.

    python examples/training_noise.py [FOLDER]

writes four noisy copies of the phantom's chest. MONAI's `Compose`, TorchIO's `Lambda` and a plain loop take the
transform as it is:

    Compose([LoadImaged(keys=["image"]), RandomDose(["image"], lowest=25.0, highest=200.0, seed=0), ...])

The stream is `train`, whose draws never meet those of an audit.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.interop import Perturbation


class RandomDose:
    """Add the noise of a dose between two, log-uniform, to images (1, H, W) or (H, W) in HU."""

    def __init__(self, keys: Sequence[str], *, lowest: float, highest: float, seed: int, **settings: Any) -> None:
        self.keys, self.ends, self.seed, self.settings = tuple(keys), (lowest, highest), seed, settings
        self.count = 0

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, self.count])
        dose = float(np.exp(rng.uniform(*np.log(self.ends))))
        noise = Perturbation(dose, stream="train", seed=self.seed, realization=self.count, **self.settings)
        self.count += 1
        images = {key: np.asarray(data[key]) for key in self.keys}
        return {
            **data,
            **{key: noise(image, channel_axis=0 if image.ndim == 3 else None) for key, image in images.items()},
            "mas": dose,
        }


def main(folder: Path) -> None:
    from robustkit_ct_bodysite.phantom import phantom_slice

    item = phantom_slice("C")
    transform = RandomDose(["image"], lowest=25.0, highest=200.0, seed=0, pixel_mm=item.pixel_mm)
    sample = {"image": item.pixels, "label": item.label}
    copies = [transform(sample) for _ in range(4)]
    for copy in copies:
        added = copy["image"] - item.pixels
        print(f"{copy['label']} at {copy['mas']:.0f} mAs: noise of {added.std():.0f} HU")
    np.savez_compressed(folder / "copies.npz", images=np.stack([copy["image"] for copy in copies]))


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/training-noise")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
