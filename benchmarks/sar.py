"""How far SAR simulated from 20 scans is from SAR of true scans: models of a recipe, on its central slices.

python benchmarks/sar.py RUN --recipe ct-bodysite-stress

RUN is the folder of `robustkit reproduce` or of `robustkit variability --keep-models`; its models are scored on as
many simulated images as scans, at 25 mAs, around either clean image. Counted are models and slices of which 0.5 to
99.5 % of the scans change the answer. The error is the root mean square of the difference of the two rates, binomial
errors subtracted; models of one slice share its images, so their errors are not independent.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

from robustkit import bank, engine, recipes
from robustkit.bank import CENTRES, MEASURED, Ask
from robustkit.judge import score_stack

MAS = 25.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--recipe", default="ct-bodysite-stress")
    parser.add_argument("-n", type=int, default=2000)
    asked = parser.parse_args()
    recipe = recipes.refer(asked.recipe).load()
    part = asked.run / "retrainings"
    paths = sorted(((part if part.is_dir() else asked.run) / "models").glob("*.model"))
    models = [recipes.load(recipe, path) for path in paths]
    items = [(item, recipes.every(recipe, item)) for item in recipe.cases()]
    print("| clean image | models x slices | rms error, points | mean difference, points |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for centre in CENTRES:
            ask = Ask(levels=(MAS,), n=asked.n, measured=(MAS,), scans=asked.n, centre=centre)
            stacks = bank.stacks(items, ask, Path(folder))
            bank.fill(stacks, engine.choose(os.cpu_count(), None))
            found = []
            for model in models:
                scorer, rates = recipes.scorer(recipe, model), {}
                for stack in stacks:
                    told = score_stack(scorer, stack)
                    changed = sum(cell[3] for cell in told["cells"] if cell[1] != told["clean"])
                    rates[stack.slice.id, stack.noise == MEASURED] = changed / asked.n
                found += [(rates[item.id, True], rates[item.id, False]) for item, _ in items]
            pairs = [(q, p) for q, p in found if 0.005 <= q <= 0.995]
            squares = [(q - p) ** 2 - (q * (1 - q) + p * (1 - p)) / (asked.n - 1) for q, p in pairs]
            rms = math.sqrt(max(0.0, sum(squares) / len(pairs)))
            mean = sum(q - p for q, p in pairs) / len(pairs)
            print(f"| {centre} | {len(pairs)} | {100 * rms:.1f} | {100 * mean:+.1f} |", flush=True)


if __name__ == "__main__":
    main()
