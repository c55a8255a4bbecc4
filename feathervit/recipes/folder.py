"""One's own pictures: everything chosen from the pictures themselves, each choice printed with its reason.

Command: feathervit train --data FOLDER --out RUN
"""

from __future__ import annotations

from typing import Any

from ..config import Augmentation, LossConfig, OptimConfig, RunConfig, with_fields
from .base import Recipe

folder = Recipe(
    RunConfig(
        recipe="folder",
        model="mlit_xxs",
        batch_size=64,
        lr=1e-3,
        augment=Augmentation(flip="random", crop="resized", crop_scale=(0.5, 1.0), policy="trivial", mixup=0.2),
        optim=OptimConfig(lr_batch=0),
        loss=LossConfig(label_smoothing=0.1),
    ),
    source="ours",
    needs="a folder of class folders, or of train/ and val/ and test/ with class folders in each",
    expected="depends on the pictures",
    cost="epochs are chosen for about 15 minutes on two cores with some thousand pictures",
)

IMBALANCE = 3.0  # largest class over smallest, from which class weights are offered


def adapt(config: RunConfig, source: Any, fixed: set[str]) -> tuple[RunConfig, list[str]]:
    """The recipe fitted to the pictures of `source`, and the reason of each choice. Fields in `fixed` are left alone."""
    return config, []
