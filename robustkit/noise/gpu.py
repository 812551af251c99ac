"""The filter bank on a GPU, through torch: the same white field, the same kernels, the same noise but for rounding.

The sum of `robustkit.noise.kernel` in another order: with D the blending weights of patch rows (H, Py) and C_t the
weights of one tap along x (Py, W), each tap adds (D C_t) times the white field shifted by the tap. Every field differs
from the numba engine's by some 1e-5 sigma, so an answer that hangs by less may differ too: a run that is to be repeated
bit for bit is repeated on the engine it was made with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from robustkit.noise.kernel import FilterBank

_MASK = 0xFFFFFFFF
_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85  # Salmon et al. 2011


def check_device(device: str) -> str:
    """Return a torch device that is there; UsageError or MissingExtraError, with the cure, otherwise."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("noise on a GPU", "torch") from error
    kind = str(device).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"setting device={device!r} is unknown; there is: cuda, cuda:N, cpu; leave it out for numba")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("setting device=cuda: torch finds no CUDA device here; leave it out to use the processor")
    return str(device)


def synthesise(bank: FilterBank, words: NDArray[np.uint32], device: str) -> NDArray[np.float32]:
    """Return noise (B, H, W) float32 in HU, as `kernel.synthesise` does, computed on a torch device."""
    import torch

    with torch.inference_mode():
        field: NDArray[np.float32] = _field(torch, bank, words, device, 0).cpu().numpy()
    return field


def _field(torch: Any, bank: FilterBank, words: NDArray[np.uint32], device: str, level: int) -> Any:
    from robustkit.noise.kernel import NEXT_FIELD, interpolation

    height, width = bank.gain.shape
    rows, columns = bank.taps
    white = _white(torch, words, level * NEXT_FIELD, (height + rows - 1, width + columns - 1), device)
    down = np.zeros((height, len(bank.starts)), np.float32)
    for p, start in enumerate(bank.starts):
        down[start : start + bank.weights.shape[1], p] = bank.weights[p]
    blend = torch.from_numpy(down).to(device)
    taps = torch.from_numpy(bank.coefficients).to(device)[torch.from_numpy(bank.which).to(device)]
    out = torch.zeros((len(words), height, width), device=device)
    for u in range(columns):
        for v in range(rows):
            weight = blend @ taps[:, :, u, v].reshape(len(bank.starts), -1)[:, :width]
            out.addcmul_(weight, white[:, v : v + height, u : u + width])
    if bank.coarser is not None:
        coarse = _field(torch, bank.coarser, words, device, level + 1)
        along = [torch.from_numpy(interpolation(n).astype(np.float32)).to(device) for n in (height, width)]
        out += along[0] @ coarse @ along[1].T
    return out * torch.from_numpy(bank.gain).to(device)


def _white(torch: Any, words: NDArray[np.uint32], first: int, shape: tuple[int, int], device: str) -> Any:
    """Rows `first` on of the white fields of `robustkit.philox`, (B, H, W): Philox4x32-10 and Box-Muller."""
    blocks = -(-shape[1] // 64)
    key = torch.from_numpy(words.astype(np.int64)).to(device)[:, :, None, None]
    counter = torch.arange(16 * blocks, device=device)[None, None, :]
    row = torch.arange(first, first + shape[0], device=device)[None, :, None]
    zero = torch.zeros((len(words), shape[0], 16 * blocks), dtype=torch.int64, device=device)
    a, b, c, d = _philox(zero + counter, zero + row, zero + key[:, 2], zero + key[:, 3], key[:, 0], key[:, 1])
    normals = [*_normals(torch, a, b), *_normals(torch, c, d)]
    parts = torch.stack([n.reshape(len(words), shape[0], blocks, 16) for n in normals], dim=3)
    return parts.reshape(len(words), shape[0], 64 * blocks)[:, :, : shape[1]]


def _philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """Ten rounds on int64 tensors that hold 32-bit words; products wrap modulo 2^64, as they should."""
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def _normals(torch: Any, radius: Any, angle: Any) -> tuple[Any, Any]:
    r = torch.sqrt(-2 * torch.log(((radius >> 1).double() + 0.5) * 2.0**-31))
    turn = angle.double() * (2 * np.pi / 2.0**32)
    return (r * torch.cos(turn)).float(), (r * torch.sin(turn)).float()
