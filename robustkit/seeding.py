"""Randomness is an argument: the key of one realization, and nothing else, decides its noise.

A realization is named by (seed, stream, slice id, realization). The first three are hashed to a 64-bit key; key and
realization together address a counter-based generator (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405),
so any realization of any slice is reached at once: no batch size, order, worker or mAs level takes part.
Streams ("scan", "fit", "audit", "train") never meet.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

Stream: TypeAlias = Literal["scan", "fit", "audit", "train"]
STREAMS: tuple[str, ...] = get_args(Stream)


@dataclass(frozen=True)
class Draw:
    """One realization: `seed` >= 0, `stream` one of `STREAMS`, the slice's id, `realization` in 0 .. 2**63-1."""

    seed: int
    stream: str
    slice_id: str
    realization: int

    def __post_init__(self) -> None:
        for name in ("seed", "realization"):
            object.__setattr__(self, name, operator.index(getattr(self, name)))  # numpy integers become int
        if self.stream not in STREAMS:
            raise ValueError(f"unknown stream {self.stream!r}; streams are {', '.join(STREAMS)}")
        if not 0 <= self.realization < 2**63:
            raise ValueError(f"realization must lie in 0 .. 2**63-1, got {self.realization}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    @property
    def key(self) -> int:
        """64-bit key of (seed, stream, slice id): BLAKE2b of their text."""
        text = f"{self.seed}|{self.stream}|{self.slice_id}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"robustkit").digest(), "little")

    @property
    def words(self) -> tuple[int, int, int, int]:
        """(key low, key high, realization low, realization high), each 32 bits, for a Philox4x32 counter."""
        mask = 0xFFFFFFFF
        key = self.key
        return key & mask, key >> 32, self.realization & mask, self.realization >> 32

    def generator(self) -> np.random.Generator:
        """Return a fresh numpy Generator (Philox4x64) keyed by this realization: the same bits whenever it is asked."""
        key = np.array([self.key, self.realization], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def draws(seed: int, stream: str, slice_id: str, realizations: Iterable[int]) -> list[Draw]:
    """Return the draws of `realizations` of one slice."""
    return [Draw(seed, stream, slice_id, r) for r in realizations]
