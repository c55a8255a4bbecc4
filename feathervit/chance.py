"""Seeds every random draw of a run by an address: (seed, step, rank) and the purpose of the draw.

A run can therefore stop anywhere and continue exactly. Evaluation or a plot between two steps changes nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Chance:
    """Holds the address of a step's randomness. `step` counts optimiser steps from 0 over the whole run."""

    seed: int
    step: int = 0
    rank: int = 0

    def number(self, purpose: str) -> int:
        """Returns a 63-bit integer that belongs to this address and `purpose`."""
        text = f"{self.seed}/{self.step}/{self.rank}/{purpose}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def generator(self, purpose: str) -> torch.Generator:
        """Returns a new generator on the CPU, seeded with `number(purpose)`."""
        return torch.Generator().manual_seed(self.number(purpose))
