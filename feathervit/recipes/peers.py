"""Recipes of the baseline models: a CIFAR ResNet, ConvMixer, and compact transformers.

`resnet_cifar100` follows arXiv 1512.03385, section 4.2. It replaces the step schedule with a cosine, and uses the weight decay
of later work on CIFAR-100, 5e-4. `convmixer_cifar100` follows github.com/locuslab/convmixer-cifar10: crops of at least 75 % of
the area, one operation of RandAugment, erasing. Our deviations are warm-up and cosine in place of its triangular schedule, no
colour jitter, and the statistics of CIFAR-100. `cct_cifar100` follows the short script of
github.com/SHI-Labs/Compact-Transformers: AutoAugment, flips, no crops.

Command: feathervit train --recipe cct_cifar100 --model cct_2_3x2 --out RUN
"""

from __future__ import annotations

from ..config import Augmentation, ImageConfig, LossConfig, OptimConfig, RunConfig
from .base import Recipe

_CIFAR100 = ImageConfig(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
_COST = "200 epochs; a GPU"

resnet_cifar100 = Recipe(
    RunConfig(
        recipe="resnet_cifar100",
        model="timm:resnet_56",
        data="cifar100",
        img_size=32,
        epochs=200,
        batch_size=128,
        lr=0.1,
        images=_CIFAR100,
        augment=Augmentation(flip="random", crop="pad"),
        optim=OptimConfig(name="sgd", lr_batch=0, weight_decay=5e-4, warmup_epochs=2),
    ),
    source="arXiv 1512.03385, with a cosine schedule",
    needs="cifar100 (downloaded)",
    expected="arXiv 2104.05704, ResNet-56 (0.85 M): 74.81 % top-1 with its usual recipe; not run here",
    cost=_COST,
)

convmixer_cifar100 = Recipe(
    RunConfig(
        recipe="convmixer_cifar100",
        model="timm:convmixer_xxs",
        data="cifar100",
        img_size=32,
        epochs=100,
        batch_size=128,
        lr=0.01,
        images=_CIFAR100,
        augment=Augmentation(
            flip="random",
            crop="resized",
            crop_scale=(0.75, 1.0),
            crop_ratio=(1.0, 1.0),
            policy="rand",
            rand_ops=1,
            rand_magnitude=8,
            rand_std=0.0,
            erasing=0.25,
            erasing_scale=(0.02, 0.33),
        ),
        optim=OptimConfig(name="adamw", lr_batch=0, weight_decay=0.01, warmup_epochs=20),
    ),
    source="arXiv 2201.09792 and github.com/locuslab/convmixer-cifar10",
    needs="cifar100 (downloaded)",
    expected="not run here",
    cost="100 epochs; a GPU",
)

cct_cifar100 = Recipe(
    RunConfig(
        recipe="cct_cifar100",
        model="cct_2_3x2",
        data="cifar100",
        epochs=200,
        batch_size=128,
        lr=5e-4,
        images=_CIFAR100,
        augment=Augmentation(flip="random", policy="cifar10"),
        optim=OptimConfig(name="adamw", lr_batch=0, weight_decay=0.03, warmup_epochs=5),
        loss=LossConfig(label_smoothing=0.1),
    ),
    source="arXiv 2104.05704, the short script of its repository",
    needs="cifar100 (downloaded)",
    expected="its repository, CCT-2/3x2 and CCT-4/3x2: 66.90 and 70.46 % top-1; not run here",
    cost=_COST,
)

PEERS = (resnet_cifar100, convmixer_cifar100, cct_cifar100)
