"""Make a small Torch model robust by adaptive training, and judge it on noise that it never trained on.

    python examples/harden.py [FOLDER]

Needs robustkit[torch] and robustkit-ct-bodysite. `robustkit harden RECIPE` does the same at full size, with a guard on
clean accuracy, measured scans, resume and a report.
"""

import sys
from itertools import islice
from pathlib import Path

from robustkit_ct_bodysite.phantom import phantom_slice

from robustkit.hardening import adaptive
from robustkit.noise import fit_nps
from robustkit.run import audit_model
from robustkit.scanner import VirtualScanner
from robustkit.scans import save_repeats

SITES = ("BN", "C", "AP", "LF")
MAS = 6.25


def small_network(seed: int):
    import torch
    from torch import nn

    torch.manual_seed(seed)
    first = [nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.MaxPool2d(3)]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(8 * 10 * 10, 4))


def main(folder: Path) -> None:
    from robustkit.adapters.torch import from_module

    train = [phantom_slice(site, offset) for site in SITES for offset in (-60.0, -40.0, -20.0, 20.0, 40.0, 60.0)]
    spec = {"window": "-160,240", "size": "64,64", "interpolation": "nearest", "classes": ",".join(SITES)}
    model = from_module(small_network(0), spec).fit(train, seed=0, epochs=30, lr=3e-3, batch=8)

    # attacked and judged: the middles, each with the noise of its own twenty scans
    scanner = VirtualScanner()
    repeats = [scanner.repeats(phantom_slice(site), 25.0, 20, seed=1) for site in SITES]
    scans = save_repeats(folder / "scans", repeats)
    cases = [(phantom_slice(site), fit_nps(one)) for site, one in zip(SITES, repeats, strict=True)]

    rounds = adaptive(model, train, cases, levels=[MAS], n=24, seed=0, epochs=10)
    for number, candidate in enumerate([model, *islice(rounds, 2)]):
        outcome = audit_model(candidate, repeats=str(scans), levels=[MAS], n=48, out=folder / f"round-{number}")
        changed = sum(row["k"] for row in outcome.summary["sar"])
        scored = sum(row["n"] for row in outcome.summary["sar"])
        print(f"round {number}: {changed} of {scored} answers changed at {MAS:g} mAs")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/harden")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
