"""Compares the defaults for folders with other models on small sets of images, in three minutes on one thread.

The data is sign-digits, and 2,000 images of CIFAR-10, 200 per class. The defaults start from the weights of the package. The
other models start from random weights, because their published weights are on a hub. Trials on validation images select the
learning rate of the ResNets. They see sign-digits at 32 px, because the recipe's choice of 64 px costs four times as much.
"""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Stage, Study
from ..trials import rates, trials_of
from .transfer import CIFAR10, WEIGHTS

_DATA: dict[str, Stage] = {
    "sign-digits": {"data": "sign-digits"},
    "2000 of cifar10": {**CIFAR10, "split.train_per_class": 200, "batch_size": 32},  # as for a folder of 2,000 images
}
_OURS: dict[str, Stage] = {
    "the defaults": {"start_from": WEIGHTS},
    "feather_xxs from scratch": {"start_from": "none", "model": "feather_xxs"},
    "feather_nano from scratch": {"start_from": "none", "model": "feather_nano"},
}
_RESNETS: dict[str, Stage] = {
    "ResNet-18 a quarter as wide": {"start_from": "none", "model": "timm:resnet18_xxs", "img_size": 32},
    "resnet10t": {"start_from": "none", "model": "timm:resnet10t", "img_size": 32},
}

defaults = Study(
    name="defaults",
    question="On a small folder of images: are the defaults as good as the best other model in the same time?",
    base=recipe("folder"),
    arms={
        f"{name} on {data}": {**stage, **change}
        for data, stage in _DATA.items()
        for name, change in {**_OURS, **_RESNETS}.items()
    },
    sizes={"cpu": Size(minutes=3)},
    candidates={f"{name} on {data}": rates(recipe("folder").lr) for data in _DATA for name in _RESNETS},
    trials=Size((0,), minutes=1),
)
defaults_trials = trials_of(defaults)
