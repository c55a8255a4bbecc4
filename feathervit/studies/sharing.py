"""What the experts of a layer share: Table 9 of arXiv 2407.17783."""

from __future__ import annotations

from ..recipes import recipe
from .base import Size, Study

sharing = Study(
    name="sharing",
    question="Which two of the three matrices of a SwiGLU expert should the experts of a layer share (paper, Table 9)?",
    base=recipe("mlit_cifar100"),
    arms={name: {"arch.feedforward.sharing": name} for name in ("v_w2", "v_w", "w_w2")},
    sizes={
        "cpu": Size(
            minutes=5,
            fields={
                "model": "mlit_xxs",
                "img_size": 32,
                "patch_size": 4,
                "split.val_fraction": 0.02,
                "split.train_per_class": 50,
            },
        ),
        "gpu": Size(epochs=100, fields={"model": "mlit_s"}),
    },
)
