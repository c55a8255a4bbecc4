"""Fine-tuning a pre-trained mLiT: Table 4 of arXiv 2407.17783 (CIFAR-100, 300 epochs).

The weight beta of the balance losses is given for pre-training only and kept at 0.5 (ours).

Command: feathervit train --recipe mmlit_cifar100 --from PRETRAINED --out RUN
"""

from __future__ import annotations

from ..config import Augmentation, OptimConfig, RunConfig
from .base import Recipe

table_4 = Recipe(
    RunConfig(
        recipe="mmlit_cifar100",
        model="mlit_xxs",
        data="cifar100",
        epochs=300,
        batch_size=448,
        lr=5e-3,
        augment=Augmentation(flip="random", crop="resized", crop_scale=(0.8, 1.0), policy="cifar10"),
        optim=OptimConfig(weight_decay=0.05, layer_decay=0.9, warmup_epochs=20),
    ),
    source="arXiv 2407.17783, Table 4",
    needs="cifar100 (downloaded) and pre-trained weights, --from",
    expected="paper, mmLiT-S / XS / XXS: 79.15 / about 76.8 / 74.95 % top-1; not run here",
    cost="300 epochs; a GPU",
)
