"""Two scanners, one model: their noise side by side, and whether the model is as robust on one as on the other.

    python examples/compare_scanners.py [FOLDER]

A soft-tissue scanner and one with a sharp kernel look at the same phantom slice at the same mAs.
"""

import sys
from pathlib import Path

from robustkit_ct_bodysite.phantom import phantom_slice

from robustkit import noise
from robustkit.replay import compare_runs
from robustkit.run import audit_model
from robustkit.scanner import VirtualScanner
from robustkit.scans import save_repeats

MAS = 25.0


def audit_on(kernel: str, folder: Path) -> Path:
    """Measure the noise of a scanner and audit the model with it; return the run directory."""
    repeats = VirtualScanner(kernel=kernel).repeats(phantom_slice("C"), MAS, 20, seed=1)
    facts = noise.estimate(repeats).report
    print(
        f"{kernel:>8}: sigma {facts['sigma_median_hu']:5.1f} HU, peak {facts['peak_frequency']:.2f}, "
        f"mean {facts['mean_frequency']:.2f} / mm"
    )
    scans = save_repeats(folder / f"{kernel}.npz", repeats)
    outcome = audit_model("ct-bodysite", repeats=str(scans), levels=[3.0, 6.25, 12.5], n=96, out=folder / kernel)
    for row in outcome.summary["sar"]:
        if row["n"]:
            print(f"          {row['k']:3d} of {row['n']} answers changed at {row['level']:g} mAs")
    return outcome.run_dir


def main(folder: Path) -> None:
    runs = [audit_on(kernel, folder) for kernel in ("smooth", "sharp")]
    found = compare_runs(*runs, margin="10%")
    print(found["sentence"])


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/compare-scanners")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
