"""From repeat scans of a phantom to an audit with its noise: DICOM in, profile, dose check, SAR.

    python examples/calibrate.py [FOLDER]

The virtual scanner makes the DICOM files; put your own in their place and leave out the first step.
"""

import sys
from pathlib import Path

from robustkit_ct_bodysite.phantom import phantom_slice

from robustkit import noise
from robustkit.run import audit_model
from robustkit.scanner import VirtualScanner
from robustkit.scans import load_repeats, save_repeats


def scan(folder: Path) -> None:
    """Twenty scans of the phantom's abdomen at each of three doses, as a scanner would export them."""
    scanner, item = VirtualScanner(), phantom_slice("AP")
    save_repeats(folder, [scanner.repeats(item, mas, 20, seed=seed) for seed, mas in enumerate((25.0, 50.0, 200.0))])


def main(folder: Path) -> None:
    scan(folder / "dicom")
    sets = load_repeats(str(folder / "dicom"))
    print("found:", ", ".join(f"{len(one.pixels)} scans at {one.mas:g} mAs" for one in sets))

    lowest = min(sets, key=lambda one: one.mas)
    profile = noise.estimate(lowest)
    noise.save_profile(profile, folder / "noise.npz")
    facts = profile.report
    print(f"sigma {facts['sigma_median_hu']:.1f} HU, mean frequency {facts['mean_frequency']:.2f} / mm")

    check = noise.check_dose(sets)
    print(f"dose law: {check.verdict}; {check.reason}")

    # the noise is fitted to the lowest dose, the law to all three, the clean image is the mean of the highest
    outcome = audit_model(
        "ct-bodysite", repeats=str(folder / "dicom"), levels=[6.25, 12.5, 25.0], n=64, out=folder / "audit"
    )
    print(outcome.summary["verdict_sentence"])
    print(outcome.run_dir / "report.html")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/calibrate")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
