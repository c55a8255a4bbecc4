"""Joint training on labels and reconstruction: the auxiliary task of arXiv 2310.20704 (WACV 2024), with mLiT encoders.

These settings are from the paper's code (github.com/dominickrei/Limited-data-vits): weights 0.1 (labels) and 0.9 (masked
patches only), mask ratio 0.75, 100 epochs, 5 warm-up epochs, and label smoothing. The optimiser is AdamW with a base learning
rate of 1e-3, down to 1e-6. The augmentation is that of timm: bicubic crops of 8 to 100 % of the area, `rand-m9-mstd0.5-inc1`,
and erasing with noise. Mean and standard deviation are those of ImageNet (on CIFAR-10, those of CIFAR-10).

These settings are ours: the encoder, its decoder, the weight of the experts' balance losses, a warm-up that starts above
zero, and evaluation of the full image. The paper's code enlarges the image by 8/7 and crops the centre.

Command: feathervit train --recipe joint_cifar100 --out RUN
"""

from __future__ import annotations

from ..config import Augmentation, ImageConfig, LossConfig, OptimConfig, RunConfig
from .base import Recipe

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

joint_cifar100 = Recipe(
    RunConfig(
        recipe="joint_cifar100",
        objective="joint",
        model="mlit_xxs",
        data="cifar100",
        epochs=100,
        batch_size=256,
        lr=1e-3,
        images=ImageConfig(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=Augmentation(
            flip="random",
            crop="resized",
            crop_scale=(0.08, 1.0),
            crop_filter="bicubic",
            policy="rand",
            rand_magnitude=9,
            rand_std=0.5,
            fill="mean",
            erasing=0.25,
            erasing_scale=(0.02, 1 / 3),
            erasing_fill="noise",
        ),
        optim=OptimConfig(warmup_epochs=5, min_lr=1e-6),
        loss=LossConfig(label_smoothing=0.1, label_share=0.1),
    ),
    source="arXiv 2310.20704 (recipe), arXiv 2407.17783 (encoder)",
    needs="cifar100 (downloaded)",
    expected="paper, ViT-T (5.4 M): 69.64 % top-1 against 55.11 % without; not run here",
    cost="100 epochs; a GPU",
    trained_in="float16",
)
