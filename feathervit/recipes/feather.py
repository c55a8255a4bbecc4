"""Trains our models from scratch: `feather_nano`, `feather_xxs`, `feather_xs`, `feather_s`.

The methods come from speed records of training: alternating flip, padded crop, label smoothing, Muon, averaged weights.
TrivialAugment and the weight decay were chosen on 5,000 validation images, after 27 epochs on 10,000 other images (one seed).

Command: feathervit train --recipe feather_cifar100 --model feather_xxs --out RUN
"""

from __future__ import annotations

from ..config import Augmentation, LossConfig, OptimConfig, RunConfig
from .base import Recipe


def _feather(data: str) -> Recipe:
    return Recipe(
        RunConfig(
            recipe=f"feather_{data}",
            model="feather_xxs",
            data=data,
            epochs=100,
            batch_size=64,
            lr=0.02,
            augment=Augmentation(flip="alternating", crop="pad", policy="trivial"),
            optim=OptimConfig(
                name="muon",
                betas=(0.9, 0.95),
                lr_batch=0,
                warmup_epochs=5,
                ema=0.99,
                matrix_rate=0.15,
                weight_decay=0.05,
            ),
            loss=LossConfig(label_smoothing=0.1),
        ),
        source="ours",
        needs=f"{data} (downloaded)",
        expected="not run at this length"
        + (
            "; the card of the weights feather_xxs.cifar100 has runs of 50, 58 and 27 epochs"
            if data == "cifar100"
            else ""
        ),
        cost="100 epochs; hours on a CPU",
    )


FEATHER = tuple(map(_feather, ("cifar100", "cifar10")))
