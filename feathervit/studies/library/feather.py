"""Our models compared with the paper's."""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Study
from .sizes import FEW

_OURS = {"recipe": "feather_cifar100"}

feather = Study(
    name="feather",
    question="From scratch, at an equal budget: what do our model and our recipe each add to the paper's?",
    base=recipe("mlit_cifar100"),
    arms={
        "mlit_xxs": {"model": "mlit_xxs"},
        "feather_xxs": {**_OURS, "model": "feather_xxs", "patch_size": 8},
        "mlit_xxs, recipe of feather_xxs": {**_OURS, "model": "mlit_xxs"},
    },
    sizes={
        "cpu": Size(epochs=10, fields=FEW),
        "gpu": Size(epochs=100, fields={"img_size": 32, "patch_size": 4}),
    },
)
