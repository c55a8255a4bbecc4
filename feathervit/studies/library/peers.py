"""Compares our model with peers of about the same size at equal training time, with their usual recipes and with ours.

The data is 10,000 images, 100 per class; 5,000 other images are used for validation. Each cell trains for nine minutes on one
thread, or 36 minutes at the size `long`. Trials of three minutes select one of three learning rates per arm.
"""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Stage, Study
from ..trials import rates, trials_of

FIELDS = {"img_size": 32, "split.val_fraction": 0.1, "split.train_per_class": 100}
# Our recipe for a few minutes. TrivialAugment and the weight decay were chosen on 5,000 validation images, after 27 epochs
# on 10,000 other images (one seed).
_OURS: Stage = {
    "recipe": "feather_cifar100",
    "augment.policy": "trivial",
    "optim.ema": 0.99,
    "optim.weight_decay": 0.05,
}
RESNET: Stage = {"model": "timm:resnet18_xxs"}
PEERS: dict[str, tuple[Stage, str]] = {  # name: (model, usual recipe)
    "ResNet-18, a quarter as wide": (RESNET, "resnet_cifar100"),
    "ResNet-20, wider": ({"model": "timm:resnet20_xxs"}, "resnet_cifar100"),
    "ConvMixer": ({"model": "timm:convmixer_xxs"}, "convmixer_cifar100"),
    "CCT-2 3x2": ({"model": "cct_2_3x2", "patch_size": 4}, "cct_cifar100"),
    "timm ViT": ({"model": "timm:vit_twin_xxs", "patch_size": 4}, "cct_cifar100"),
    "mlit_xxs": ({"model": "mlit_xxs", "patch_size": 4}, "mlit_cifar100"),
}
_ARMS: dict[str, Stage] = {
    "feather_xxs": {**_OURS, "model": "feather_xxs", "patch_size": 8},
    "feather_attn_xxs": {**_OURS, "model": "feather_attn_xxs", "patch_size": 8},
    **{f"{name}, recipe of feather_xxs": {**_OURS, **model} for name, (model, _) in PEERS.items()},
    **{f"{name}, its usual recipe": {"recipe": usual, **model} for name, (model, usual) in PEERS.items()},
}
_LIGHT = "ResNet-18, a quarter as wide, recipe of feather_xxs without TrivialAugment"  # fewer views of each image
_ARMS[_LIGHT] = {**_OURS, **RESNET, "augment.policy": "none"}
_CANDIDATES = {arm: rates(recipe(stage["recipe"]).lr) for arm, stage in _ARMS.items()}
_CANDIDATES["ResNet-18, a quarter as wide, its usual recipe"] |= rates(0.3)  # 0.3 was the best of the first three

peers = Study(
    name="peers",
    question="In the same time: which model of at most 0.67 million parameters is best, ours or a peer?",
    base=recipe("feather_cifar100"),
    arms=_ARMS,
    sizes={
        "cpu": Size(minutes=9, fields=FIELDS),
        "long": Size(minutes=36, fields=FIELDS, arms=("feather_xxs", "feather_attn_xxs", _LIGHT)),
    },
    candidates=_CANDIDATES,
    trials=Size((0,), FIELDS, minutes=3),
    flip=True,
)
peers_trials = trials_of(peers)
