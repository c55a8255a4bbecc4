"""Trains our models from scratch: `feather_nano`, `feather_xxs`, `feather_xs`, `feather_s`.

The methods come from speed records of training: alternating flip, padded crop, label smoothing, Muon, averaged weights.
The settings are those of the first stage of the weights feather_xxs.cifar100, which was planned for 62 epochs and shortened to
50. Runs of a few minutes need other settings: see the study `peers`.

Command: feathervit train --recipe feather_cifar100 --model feather_xxs --out RUN
"""

from __future__ import annotations

from ..config import Augmentation, LossConfig, OptimConfig, RunConfig
from .base import Recipe

REACHED = {
    "cifar100": "71.7 % test top-1 after 50 epochs in 2.0 core-hours (feather_xxs, one seed, ours)",
    "cifar10": "91.3 % test top-1 after 28 epochs in 0.9 core-hours (feather_xxs, one seed, ours)",
}


def _feather(data: str) -> Recipe:
    return Recipe(
        RunConfig(
            recipe=f"feather_{data}",
            model="feather_xxs",
            data=data,
            patch_size=4,
            epochs=50,
            batch_size=64,
            lr=0.02,
            augment=Augmentation(
                flip="alternating", crop="pad", policy="rand", rand_ops=1, rand_magnitude=9, rand_std=0.5
            ),
            optim=OptimConfig(
                name="muon",
                betas=(0.9, 0.95),
                lr_batch=0,
                warmup_epochs=2.5,
                ema=0.999,
                matrix_rate=0.15,
                weight_decay=0.02,
            ),
            loss=LossConfig(label_smoothing=0.1),
        ),
        source="ours",
        needs=f"{data} (downloaded)",
        expected=REACHED[data],
        cost="about two hours of one CPU thread in bfloat16",
    )


FEATHER = tuple(map(_feather, REACHED))
