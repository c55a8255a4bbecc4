"""Seeds every random draw of a run by (seed, step, rank) and the purpose of the draw.

A run can therefore stop at any step and resume bit for bit. Evaluation or plots between two steps do not change the run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Chance:
    """Identifies the random draws of a step. `step` counts optimiser steps of the run from 0."""

    seed: int
    step: int = 0
    rank: int = 0

    def number(self, purpose: str) -> int:
        """Returns a 63-bit integer for this step and `purpose`."""
        text = f"{self.seed}/{self.step}/{self.rank}/{purpose}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def generator(self, purpose: str) -> torch.Generator:
        """Returns a new generator on the CPU, seeded with `number(purpose)`."""
        return torch.Generator().manual_seed(self.number(purpose))
