"""Defines the progress of a run, as stored in its state."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Progress:
    """The progress of a run: next step, best epoch so far, seconds of training, processed images, skipped steps."""

    step: int = 0
    best_epoch: int = 0
    best_top1: float = -1.0
    best_loss: float = math.inf
    seconds: float = 0.0
    images: int = 0
    skipped: int = 0

    def check(self, epochs: int, steps_per_epoch: int) -> None:
        """Raises ValueError for values that are impossible in a run of this many epochs."""
        most = {"step": epochs * steps_per_epoch, "best_epoch": epochs, "seconds": math.inf, "images": math.inf}
        for name, limit in {**most, "skipped": epochs * steps_per_epoch}.items():
            value = getattr(self, name)
            if not (0 <= value <= limit and value < math.inf):
                raise ValueError(
                    f"progress.{name} cannot be {value} in a run of {epochs} epochs of {steps_per_epoch} steps"
                )
