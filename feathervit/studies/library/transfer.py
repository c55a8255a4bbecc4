"""What weights of the package are worth on a small set that they never saw."""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Study

_FIELDS = {"patch_size": 8, "batch_size": 32}

transfer = Study(
    name="transfer",
    question="On few pictures of another kind: what do weights trained on CIFAR-100 add to training from scratch?",
    base=recipe("feather_cifar100"),
    arms={
        "scratch": {},
        "from feather_xxs.cifar100": {"start_from": "feather_xxs.cifar100"},
    },
    sizes={
        "cpu": Size(epochs=20, fields={"img_size": 32, "split.train_per_class": 20, **_FIELDS}),
        "gpu": Size(epochs=100, fields={"img_size": 64, **_FIELDS}),
    },
)
