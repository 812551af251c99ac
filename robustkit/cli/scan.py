"""`robustkit scan`: the virtual scanner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustkit.cli import options as opt
from robustkit.cli import show


@opt.takes_workers
def scan(
    out: Annotated[str, typer.Option("-o", "--out", help=".npz file, or a folder of DICOM.")],
    mas: Annotated[float, typer.Option("--mas", help="Tube-current-time product of each scan.")],
    image: Annotated[str | None, typer.Argument(help="A phantom site (phantom/C) or a slice of yours.")] = None,
    k: Annotated[int, typer.Option("-k", help="Repeats.")] = 20,
    kernel: Annotated[str, typer.Option("--kernel", help="smooth, standard or sharp.")] = "standard",
    seed: opt.SeedOption = 0,
    *,
    workers: opt.Flags,
    json_: opt.JsonOption = False,
) -> None:
    """Scan IMAGE (the four phantom slices without it) K times at one mAs and write the repeats."""
    from robustkit.cases import find_images
    from robustkit.scanning import scanned
    from robustkit.scans import save_repeats

    made = scanned(find_images(image), mas, k, kernel=kernel, seed=seed, out=Path(out), **workers)
    written = save_repeats(out, made)
    told = [{"slice": r.id, "label": r.label, "mas": r.mas, "k": len(r.pixels), "kernel": r.kernel} for r in made]
    if json_:
        show.print_json({"out": str(written), "repeats": told})
    else:
        print(f"{len(made)} slices x {k} scans at {mas:g} mAs, kernel {kernel}, in {written}")
