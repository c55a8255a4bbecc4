"""Ours, ours trained in other ways, and peers of the same size; the CPU size is ten thousand pictures."""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Study
from .pretraining import PRETRAIN
from .sizes import FEW

_OURS = {"recipe": "feather_cifar100", "model": "feather_xxs", "patch_size": 8}
_RESNET = {"recipe": "feather_cifar100", "model": "timm:resnet18_xxs", "patch_size": None}

peers = Study(
    name="peers",
    question="In the same time: which model of about 0.66 million parameters, ours or a peer, and which way of training it?",
    base=recipe("mlit_cifar100"),
    arms={
        "mlit_xxs": {"model": "mlit_xxs"},
        "mlit_xxs, pre-trained first": [
            {**PRETRAIN, "model": "mlit_xxs", "share": 0.5},
            {"model": "mlit_xxs", "start_from": "{previous}", "share": 0.5},
        ],
        "mlit_xxs, joint": {"model": "mlit_xxs", "objective": "joint"},
        "feather_xxs": _OURS,
        "feather_xxs, distilled from the ResNet": [
            {**_RESNET, "share": 0.4},
            {**_OURS, "objective": "distillation", "teacher": "{previous}", "share": 0.6},
        ],
        "timm ViT": {"model": "timm:vit_twin_xxs"},
        "timm ResNet-18, a quarter as wide": _RESNET,
    },
    sizes={
        "cpu": Size(minutes=5, fields={**FEW, "split.train_per_class": 100}),
        "gpu": Size(epochs=100, fields={"img_size": 32, "patch_size": 4}),
    },
)
