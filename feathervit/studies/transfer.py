"""What weights of the package are worth on a small set that they never saw."""

from __future__ import annotations

from ..recipes import recipe
from .base import Size, Study

_FROM = {"start_from": "feather_xxs.cifar100"}

transfer = Study(
    name="transfer",
    question="On a small set of other pictures: what do weights trained on CIFAR-100 add to training from scratch?",
    base=recipe("feather_cifar100"),
    arms={
        "scratch": {},
        "from CIFAR-100": _FROM,
        "from CIFAR-100, a quarter of the rate": {**_FROM, "lr": 0.005},
    },
    sizes={
        "cpu": Size(epochs=10, fields={"img_size": 32, "patch_size": 4}),
        "gpu": Size(epochs=100, fields={"img_size": 64, "patch_size": 4}),
    },
)
