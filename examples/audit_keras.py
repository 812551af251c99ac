"""Train a small Keras model on slices of the phantom, save it, and audit the file as a stranger would.

    python examples/audit_keras.py [FOLDER]

Needs robustkit[tensorflow] (or robustkit[keras] with another backend) and robustkit-ct-bodysite.
"""

import sys
from pathlib import Path

from robustkit_ct_bodysite.phantom import phantom_slice

from robustkit.run import audit_model

SITES = ("BN", "C", "AP", "LF")


def small_network():
    import keras

    return keras.Sequential(
        [
            keras.Input((64, 64, 1)),
            keras.layers.Conv2D(8, 5, strides=2, activation="relu"),
            keras.layers.MaxPooling2D(3),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


def main(folder: Path) -> None:
    from robustkit.adapters.keras import from_model

    # every 20 mm of each site, but not the middles, which are audited
    slices = [phantom_slice(site, offset) for site in SITES for offset in (-60.0, -40.0, -20.0, 20.0, 40.0, 60.0)]
    spec = {"window": (-1000.0, 1000.0), "classes": SITES, "interpolation": "nearest"}
    model = from_model(small_network(), spec).fit(slices, seed=0, epochs=30, lr=3e-3, batch=8)
    path = model.save(folder / "site.keras")  # its window and classes are in the file

    outcome = audit_model(
        path,
        images="phantom",
        noise="white",
        settings={"sigma": 60.0, "reference_mas": 25.0},
        levels=[6.25, 25.0, 100.0],
        n=50,
        out=folder / "audit",
    )
    for row in outcome.summary["sar"]:
        if row["n"]:
            print(f"{row['class']:>3} at {row['level']:6g} mAs: {row['k']:3d} of {row['n']} answers changed")
    print(outcome.summary["verdict_sentence"])
    print(outcome.run_dir / "report.html")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/audit-keras")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
