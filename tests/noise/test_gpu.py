"""The torch path against the numba engine: on the processor always, on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from robustkit.errors import UsageError
from robustkit.noise import fit_nps
from robustkit.seeding import draws

torch = pytest.importorskip("torch")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("method", ["regional", "paper"])
def test_same_noise_as_the_numba_engine(make_repeats, method, device) -> None:
    repeats = make_repeats(6, (61, 72))
    keys = draws(3, "audit", repeats.id, [0, 5, 2**33])
    ours, theirs = (
        fit_nps(repeats, method=method, device=d).sample(repeats.clean, [25.0, 100.0], keys) for d in (None, device)
    )
    assert ours.shape == theirs.shape == (3, 2, 61, 72)
    assert np.abs(ours - theirs).max() < 1e-4 * ours.std()


def test_a_device_that_is_not_there_is_refused(make_repeats) -> None:
    with pytest.raises(UsageError, match="device='tpu' is unknown"):
        fit_nps(make_repeats(3, (40, 40)), device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="finds no CUDA device"):
            fit_nps(make_repeats(3, (40, 40)), device="cuda")
