# %% [markdown]
# # How noise changes an answer
# A notebook-style script: open it as cells in an editor that knows `# %%`, or run it whole with
# `python examples/notebook.py [FOLDER]`. Figures are written to the folder. Needs robustkit[report] for matplotlib.

# %%
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from robustkit_ct_bodysite.phantom import phantom_slice

from robustkit import draws, metrics
from robustkit.noise import fit_nps, fit_white
from robustkit.run import audit_model
from robustkit.scanner import VirtualScanner
from robustkit.scans import save_repeats

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/notebook")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Twenty scans of one slice
# The phantom's chest, scanned at 25 mAs by the virtual scanner. Their mean is the clean image.

# %%
scanner = VirtualScanner()
item = phantom_slice("C")
repeats = scanner.repeats(item, mas=25.0, k=20, seed=1)
print(repeats.pixels.shape, f"{repeats.residuals.std():.1f} HU over the whole image")

# %% [markdown]
# ## The scanner's noise, ours, and white noise
# All three are as loud over the body. The first is a scan that the fit has not seen.

# %%
fresh = draws(7, "audit", item.id, range(1))
measured = scanner.repeats(item, mas=25.0, k=2, seed=99).pixels[0] - repeats.clean
fitted = fit_nps(repeats).sample(repeats.clean, [25.0], fresh)[0, 0]
white = fit_white(repeats).sample(repeats.clean, [25.0], fresh)[0, 0]
figure = Figure(figsize=(12, 4.2), layout="constrained")
for axis, image, title in zip(
    figure.subplots(1, 3), (measured, fitted, white), ("scanner", "fitted to 20 scans", "white"), strict=True
):
    axis.imshow(image[128:384, 96:416], cmap="gray", vmin=-80, vmax=80)
    axis.set(title=title, xticks=[], yticks=[])
figure.savefig(folder / "noise.png", dpi=120)

# %% [markdown]
# ## Which answers change

# %%
scans = save_repeats(folder / "repeats.npz", repeats)
outcome = audit_model("ct-bodysite", repeats=str(scans), levels=[2.0, 4.0, 8.0, 16.0, 32.0], n=96, out=folder / "audit")
sar = metrics.sar(outcome.table)
print(sar[["class", "level", "k", "n", "low", "high"]].to_string(index=False))

# %% [markdown]
# ## SAR on the dose axis

# %%
figure = Figure(figsize=(6, 4), layout="constrained")
axis = figure.subplots()
for name, rows in sar.groupby("class"):
    below, above = np.maximum(rows["rate"] - rows["low"], 0), np.maximum(rows["high"] - rows["rate"], 0)
    axis.errorbar(
        rows["level"], 100 * rows["rate"], yerr=100 * np.array([below, above]), marker="o", capsize=3, label=name
    )
axis.set(xscale="log", xlabel="virtual-scanner mAs", ylabel="answers changed, %", ylim=(-2, 102))
axis.legend(title="answer without noise")
figure.savefig(folder / "sar.png", dpi=120)
print(outcome.summary["verdict_sentence"])
