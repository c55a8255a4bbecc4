"""Labels and reconstruction at once: the self-supervised auxiliary task of arXiv 2310.20704 (WACV 2024), around mLiT.

From that paper's code: weights 0.1 (labels) and 0.9 (masked patches only), mask ratio 0.75, AdamW with base learning rate
1e-3, 5 warm-up epochs, RandAugment of magnitude 9, erasing, label smoothing, 100 epochs. Ours: the encoder, its decoder,
and the weight of the experts' balance losses.

Command: feathervit train --recipe joint_cifar100 --out RUN
"""

from __future__ import annotations

from ..config import Augmentation, LossConfig, OptimConfig, RunConfig
from .base import Recipe

joint_cifar100 = Recipe(
    RunConfig(
        recipe="joint_cifar100",
        objective="joint",
        model="mlit_xxs",
        data="cifar100",
        epochs=100,
        batch_size=256,
        lr=1e-3,
        augment=Augmentation(flip="random", crop="resized", policy="rand", erasing=0.25),
        optim=OptimConfig(warmup_epochs=5),
        loss=LossConfig(label_smoothing=0.1, label_share=0.1),
    ),
    source="arXiv 2310.20704 (recipe), arXiv 2407.17783 (encoder)",
    needs="cifar100 (downloaded)",
    expected="paper, ViT-T (5.4 M): 69.64 % top-1 against 55.11 % without; not run here",
    cost="100 epochs; a GPU",
)
